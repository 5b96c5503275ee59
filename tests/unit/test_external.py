"""An external arm in the plan: frames of its own N, what the user must supply, and the sheets of such a run.

Oracles: the rule of the reference (the arm gets its own N = 256 bundle of the same object, ptychovit.md section 13), the restore
table of its section 9, and, of round trips, the plan of the run that wrote the sheets.
"""

import json

import pytest

from plan_cases import REGISTRY, ROOT, lines, only, sheet_of, sheet_plan, siemens, study, usage_error
from ptychoflow.commands import plan as command
from ptychoflow.study.plan import make_plan
from ptychoflow.study.resheet import Arrived, sheets
from ptychoflow.study.samplesheet import read_sheet

CONF = ROOT / "conf"
WAY = {"ptychovit_repo": "/a/checkout", "ptychovit_python": "/b/env/bin/python"}
TRAIN = {**WAY, "ptychovit_mode": "train"}
BOTH = {"models": "pinn_torch,pinn_ptychovit", **TRAIN}
INFER = {**WAY, "ptychovit_checkpoint": "runs/7"}


# --- frames of another N ---


def test_the_arm_gets_frames_of_its_own_n_of_the_same_objects():
    plan = lines(**BOTH, gridsizes="1,2", doses="1e3,1e4")
    by_id = {dataset["id"]: dataset for dataset in plan.datasets}
    assert len(by_id) == 8
    for name in ("lines-train_d1e3", "lines-test_d1e3", "lines-train_d1e4", "lines-test_d1e4"):
        own, other = by_id[name], by_id[f"{name}_n256"]
        assert (own["n"], other["n"]) == (64, 256)
        # Nothing but N differs: streams, seeds, size and step make the object and where it is scanned.
        assert other["config"] == {**own["config"], "n": 256}
        assert (own["dose"], own["truth"]) == (other["dose"], other["truth"])


def test_both_sides_are_one_condition_with_views_of_their_own():
    plan = lines(**BOTH)
    condition = only(plan.conditions)
    assert (condition["test"], condition["sides"]) == ("lines-test", [64, 256])
    assert {view["id"]: (view["folder"], view["test"]) for view in plan.views} == {
        "lines__gs1": ("gs1", "lines-test"),
        "lines__n256_gs1": ("n256_gs1", "lines-test_n256"),
    }
    run = next(run for run in plan.runs if run["arm"] == "pinn_ptychovit")
    names = ("run_id", "label", "condition", "view", "n", "train", "test", "kind")
    assert [run[name] for name in names] == [
        *("lines__pinn_ptychovit__n256__s0", "pinn_ptychovit", "lines", "lines__n256_gs1"),
        *(256, "lines-train_n256", "lines-test_n256", "external"),
    ]


def test_nothing_of_another_n_is_made_without_such_an_arm():
    plan = lines(models="pinn_torch")
    assert {dataset["n"] for dataset in plan.datasets} == {64}
    assert only(plan.conditions)["sides"] == [64]


def test_an_arm_that_is_alone_makes_no_frames_of_the_studys_n():
    plan = lines(models="pinn_ptychovit", **TRAIN)
    assert {dataset["n"] for dataset in plan.datasets} == {256}
    assert only(plan.conditions)["sides"] == [256]


def test_a_training_runs_for_every_seed_and_an_inference_once_whatever_the_gridsizes():
    trained = lines(models="pinn_ptychovit", seeds="3,5", gridsizes="1,2", **TRAIN)
    assert [(run["seed"], run["gridsize"], run["supervised"]) for run in trained.runs] == [(3, 1, True), (5, 1, True)]
    given = lines(models="pinn_ptychovit", seeds="3,5", gridsizes="1,2", **INFER)
    assert [(run["seed"], run["supervised"]) for run in given.runs] == [(3, False)]
    assert only(given.runs)["config"]["ptychovit"]["mode"] == "inference"


def test_other_arms_may_have_an_n_of_their_own_too():
    plan = lines(models="pinn_torch,lsqml", model_n="lsqml=128")
    assert [run["run_id"] for run in plan.runs] == ["lines__pinn_torch_gs1__n64__s0", "lines__lsqml__n128__s0"]
    # What is not named keeps its default.
    assert {run["n"] for run in lines(**BOTH, model_n="pinn_torch = 128").runs} == {128, 256}


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        (lambda: lines(**BOTH, size=200, size_cols=300), "an object of 200 px is smaller than a frame of N = 256 px"),
        (
            lambda: lines(**BOTH, model_n="pinn_ptychovit=128"),
            "N = 128 is not supported by pinn_ptychovit, which takes 256",
        ),
        (lambda: sheet_plan({"id": "a", "scan": "a.npz", "N": "64"}, **BOTH), "these are given, with N = 64"),
        (lambda: siemens(**BOTH, size=400), "needs a train set apart from the test set"),
        (
            lambda: make_plan({"base": "star.npz", **BOTH}, None, None, REGISTRY),
            "the probe of the base file has an N of its own",
        ),
    ],
)
def test_frames_that_cannot_be_had_are_a_skip_with_its_reason(plan, reason):
    made = plan()
    assert {run["arm"] for run in made.runs} == {"pinn_torch"}
    skipped = only(made.skipped)
    assert skipped["arm"] == "pinn_ptychovit"
    assert reason in skipped["reason"]


def test_a_measured_scan_of_its_n_is_reconstructed_with_given_weights():
    plan = sheet_plan({"id": "a", "scan": "a.npz", "N": "256"}, models="pinn_ptychovit", **INFER)
    assert only(plan.runs)["run_id"] == "a__pinn_ptychovit__n256__s0"


# --- what the user supplies ---


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"ptychovit_mode": "train"}, "--ptychovit_repo with --ptychovit_python (a checkout and the interpreter of"),
        ({**TRAIN, "ptychovit_image": "own/ptychovit"}, "exactly one way"),
        ({**TRAIN, "ptychovit_repo": "checkout"}, "must be an absolute path on this machine, got 'checkout'"),
        (WAY, "a training from random weights is asked for by --ptychovit_mode train"),
        ({**TRAIN, "ptychovit_checkpoint": "runs/7"}, "leave the checkpoint out"),
        ({**INFER, "ptychovit_mode": "finetune"}, "PV-FINETUNE"),
        (
            {**INFER, "ptychovit_mode": "resume", "finetune_policy": "progressive"},
            "one learning rate for the whole encoder",
        ),
        ({**WAY, "ptychovit_mode": "resume"}, "PV-RESUME"),
        ({**TRAIN, "allow_double": "abc"}, "allow_double"),
        ({**TRAIN, "model_n": "pinn_ptychovit"}, "expected ARM=N"),
        ({**TRAIN, "model_n": "lsqml=64,lsqml=128"}, "an arm is named twice"),
        ({**TRAIN, "model_n": "lsqlm=128"}, "unknown arm 'lsqlm' (did you mean 'lsqml'?)"),
        ({**TRAIN, "model_n": "lsqml=128"}, "--model_n lsqml=128 has no effect"),
    ],
)
def test_what_is_missing_or_contradictory_is_a_usage_error(given, expected):
    assert expected in usage_error(lines, models="pinn_ptychovit", **given)


def test_all_of_it_is_said_at_once():
    message = usage_error(lines, models="pinn_ptychovit", epochs=0, ptychovit_image="x", ptychovit_repo="y")
    assert message.startswith("3 problems\n")


def test_nothing_is_asked_for_when_the_arm_does_not_run():
    assert lines(models="lsqml", ptychovit_mode="train", ptychovit_repo="not absolute").runs
    assert lines(models="all").runs


def test_paths_of_this_machine_are_checked_and_not_kept(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    text = json.dumps({**BOTH, "ptychovit_base_config": "/c/config.yaml"})
    study_file = CONF / "studies" / "lines.yml"
    command.run(text, None, study_file, CONF / "arms.json", folder)
    written = "".join(path.read_text() for path in folder.rglob("*.*") if path.is_file())
    for name in ("/a/checkout", "/b/env", "/c/config.yaml"):
        assert name not in written
    assert "pinn_ptychovit" in written


# --- sheets ---


def everything(plan):
    return Arrived(
        [one["id"] for one in plan["datasets"]],
        [one["id"] for one in plan["views"]],
        [one["run_id"] for one in plan["runs"] if one["kind"] == "train"],
        [one["run_id"] for one in plan["runs"]],
    )


@pytest.fixture
def again(tmp_path):
    """Return `plan(start, **given)`: what the sheet of a run of both arms plans."""
    first = lines(**BOTH).as_json()

    def plan(start, **given):
        name = {"prepare": "scans.csv", "train": "views.csv", "recon": "models.csv", "evaluate": "recons.csv"}[start]
        (tmp_path / name).write_text(sheets(first, everything(first), {})[name])
        return make_plan({"from": start, **given}, read_sheet(tmp_path / name), None, REGISTRY)

    return plan


@pytest.mark.parametrize(("start", "given"), [("train", BOTH), ("recon", TRAIN)])
def test_views_of_both_sides_come_back_as_one_condition(again, start, given):
    plan = again(start, **given)
    assert [run["run_id"] for run in plan.runs] == [run["run_id"] for run in lines(**BOTH).runs]
    assert only(plan.conditions)["sides"] == [64, 256]
    assert [view["file"] for view in plan.views] == [
        "../conditions/lines/views/gs1/view.npz",
        "../conditions/lines/views/n256_gs1/view.npz",
    ]


def test_reconstructions_of_both_sides_are_scored_together_again(again):
    plan = again("evaluate")
    assert only(plan.conditions)["sides"] == [64, 256]
    assert [(run["label"], run["n"], run["test"]) for run in plan.runs] == [
        ("pinn_torch_gs1", 64, "lines"),
        ("pinn_ptychovit", 256, "lines_n256"),
    ]
    assert [view["id"] for view in plan.views] == ["lines__view1", "lines__view2"]


def test_scans_of_another_n_are_an_object_of_their_own(again):
    plan = again("prepare", models="pinn_ptychovit", **TRAIN)
    assert only(plan.runs)["run_id"] == "lines_n256__pinn_ptychovit__n256__s0"
    assert "these are given, with N = 64" in only(plan.skipped)["reason"]


def test_recon_rows_of_one_n_still_name_one_scan():
    rows = [
        {"recon": "a.npz", "scan": "a64.npz", "label": "a", "object": "o", "N": "64"},
        {"recon": "b.npz", "scan": "b64.npz", "label": "b", "object": "o", "N": "64"},
    ]
    message = usage_error(make_plan, {"from": "evaluate"}, sheet_of(*rows), None, REGISTRY)
    assert "'b64.npz', but row 2 of object 'o' has 'a64.npz'" in message


def test_a_study_may_set_the_frame_sides():
    content = study("lines")
    content["params"] |= {"model_n": "pinn_ptychovit=256,lsqml=128", **BOTH, "models": "lsqml,pinn_ptychovit"}
    assert {run["n"] for run in make_plan({}, None, content, REGISTRY).runs} == {128, 256}
