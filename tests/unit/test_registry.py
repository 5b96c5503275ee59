"""The arm registry: the shipped file, selection, refusals."""

import json
from pathlib import Path

import pytest

from ptychoflow.arms.registry import load_registry
from ptychoflow.errors import UsageError

ARMS = Path(__file__).parents[2] / "conf" / "arms.json"


@pytest.fixture(scope="module")
def registry():
    return load_registry(ARMS)


def altered(tmp_path, change):
    content = json.loads(ARMS.read_text())
    change(content)
    path = tmp_path / "arms.json"
    path.write_text(json.dumps(content))
    return path


def test_the_shipped_arms_are_those_of_this_step(registry):
    assert registry.ids == ["pinn_torch", "baseline_torch", "lsqml", "pinn", "baseline", "pinn_ptychovit"]
    assert [arm.id for arm in registry.select(None)] == ["pinn_torch", "lsqml"]
    assert registry.imported.id == "imported"
    assert len({arm.colour for arm in registry.arms}) == len(registry.arms) == 7


def test_select_keeps_the_order_asked_for_and_knows_all(registry):
    assert [arm.id for arm in registry.select(("lsqml", "pinn_torch"))] == ["lsqml", "pinn_torch"]
    # An external arm needs code that the user supplies: it only runs by its name.
    assert [arm.id for arm in registry.select(("all",))] == [name for name in registry.ids if name != "pinn_ptychovit"]


def test_unknown_arms_are_named_together_with_the_nearest(registry):
    with pytest.raises(UsageError) as caught:
        registry.select(("pin_torch", "lsqlm", "lsqml", "zzz"))
    message = str(caught.value)
    assert caught.value.exit_code == 64
    assert "'pin_torch' (did you mean 'pinn_torch'?)" in message
    assert "'lsqlm' (did you mean 'lsqml'?)" in message
    assert "'zzz'" in message
    assert "known are pinn_torch, baseline_torch, lsqml, pinn, baseline, pinn_ptychovit, all (alone)" in message


def test_imported_is_no_model_and_the_error_says_what_to_do(registry):
    with pytest.raises(UsageError) as caught:
        registry.select(("imported", "lsqlm"))
    message = str(caught.value)
    assert "'imported' makes no reconstruction: give yours in a sheet with --from evaluate" in message
    assert "unknown 'lsqlm' (did you mean 'lsqml'?); known are pinn_torch, baseline_torch, lsqml, pinn" in message
    assert registry.imported.refusal(n=65, gridsize=3, has_truth=False, split="none", guard_px=0.0) is None


def test_a_registry_without_imported_cannot_start_at_the_scoring(tmp_path):
    registry = load_registry(altered(tmp_path, lambda c: c["arms"].pop()))
    with pytest.raises(UsageError, match=r"needs one arm of kind 'imported' in the registry, it has 0"):
        _ = registry.imported


@pytest.mark.parametrize(
    ("arm", "data", "expected"),
    [
        ("pinn_torch", {}, None),
        ("pinn_torch", {"n": 96}, "N = 96 is not supported by pinn_torch, which takes 64, 128, 256"),
        ("pinn_torch", {"gridsize": 3}, "gridsize 3 is not supported by pinn_torch, which takes 1, 2"),
        ("pinn_torch", {"has_truth": False, "split": "none"}, None),
        ("baseline_torch", {}, None),
        ("baseline_torch", {"has_truth": False}, "learns from the true object"),
        ("baseline_torch", {"split": "none"}, "needs a train set apart from the test set"),
        ("baseline_torch", {"split": "region", "guard_px": 64.0}, None),
        ("baseline_torch", {"split": "region", "guard_px": 63.0}, "its labels would show the test area"),
        ("lsqml", {"n": 96, "gridsize": 3, "has_truth": False, "split": "none"}, None),
        ("lsqml", {"n": 65}, "N = 65 is odd"),
    ],
)
def test_refusal_says_what_an_arm_cannot_take(registry, arm, data, expected):
    (entry,) = registry.select((arm,))
    reason = entry.refusal(**({"n": 64, "gridsize": 1, "has_truth": True, "split": "scans", "guard_px": 64.0} | data))
    assert (reason is None) if expected is None else (expected in reason)


def test_labels_carry_the_gridsize_of_trained_arms_only(registry):
    assert [arm.label(2) for arm in registry.selectable] == [
        *("pinn_torch_gs2", "baseline_torch_gs2", "lsqml", "pinn_gs2", "baseline_gs2", "pinn_ptychovit"),
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda c: c["arms"][0].update(kinds="train"), "arm 1 ('pinn_torch'): unknown option 'kinds'"),
        (lambda c: c["arms"][1].update(gpu="maybe"), "arm 2 ('baseline_torch'): option 'gpu'"),
        (lambda c: c["arms"][2].update(id="pinn_torch"), "arm ids occur twice: pinn_torch"),
        (lambda c: c["arms"].append("lsqml"), "arm 8: expected an object"),
        (lambda c: c.update(schema_version=2), "expected {'schema_version': 1"),
        (lambda c: c.update(arms=[]), "at least one arm"),
    ],
)
def test_a_wrong_registry_is_refused(tmp_path, change, expected):
    with pytest.raises(UsageError) as caught:
        load_registry(altered(tmp_path, change))
    assert expected in str(caught.value)


def test_a_registry_that_is_not_json_is_refused(tmp_path):
    path = tmp_path / "arms.json"
    path.write_text("{")
    with pytest.raises(UsageError, match=r"arms\.json: not JSON"):
        load_registry(path)
