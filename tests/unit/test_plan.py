"""The plan: snapshots of the built-in studies, expansion, lists and doses, skips, and the command."""

import json
import re
import runpy

import pytest

from plan_cases import REGISTRY, ROOT, lines, only, sheet_plan, siemens, usage_error
from ptychoflow.commands import plan as command
from ptychoflow.config import SimulateConfig, parse
from ptychoflow.study.parameters import canonical_dose
from ptychoflow.study.plan import make_plan, table

GOLDEN = ROOT / "tests" / "golden"


# --- snapshots: no default is hidden (D34) ---


@pytest.mark.parametrize("name", ["lines", "siemens"])
def test_the_resolved_configuration_of_a_study_is_the_stored_one(name):
    """After a wanted change: run tests/golden/make_plans.py and read the difference."""
    fresh = runpy.run_path(str(GOLDEN / "make_plans.py"))["plan_of"](name)
    assert fresh == json.loads((GOLDEN / f"plan_{name}.json").read_text())


def test_the_lines_study_draws_different_objects_and_noise_for_train_and_test():
    train, test = (dataset["config"] for dataset in lines().datasets)
    assert (train["object_stream"], test["object_stream"]) == (1, 2)
    assert (train["step_px"], test["step_px"]) == (4.0, 10.0)
    assert (train["n_objects"], test["n_objects"]) == (2, 2)


def test_the_siemens_demo_is_a_few_hundred_frames():
    config = parse(SimulateConfig, only(siemens().datasets)["config"], what="siemens")
    assert 300 <= (int((config.size - config.n) // config.step_px) + 1) ** 2 <= 500


# --- expansion ---


def test_runs_are_the_product_of_arms_and_seeds_and_lsqml_runs_once():
    plan = lines(seeds="0,1,2")
    assert [run["run_id"] for run in plan.runs] == [
        *(f"lines__pinn_torch_gs1__n64__s{seed}" for seed in range(3)),
        *(f"lines__baseline_torch_gs1__n64__s{seed}" for seed in range(3)),
        "lines__lsqml__n64__s0",
    ]
    assert {run["view"] for run in plan.runs} == {"lines__gs1"}
    assert only(plan.views)["config"]["split"] == "scans"


def test_lsqml_takes_the_first_seed_asked_for():
    assert only(lines(models="lsqml", seeds="7,1").runs)["seed"] == 7


def test_every_id_refers_to_an_entry_of_the_plan():
    plan = lines(doses="1e3,1e4", seeds="0,1", gridsizes="1,2")
    datasets, conditions, views = (
        {entry["id"] for entry in part} for part in (plan.datasets, plan.conditions, plan.views)
    )
    for entry in [*plan.conditions, *plan.views, *plan.runs]:
        assert {entry["train"], entry["test"]} <= datasets
    assert {view["condition"] for view in plan.views} <= conditions
    assert {run["view"] for run in plan.runs} == views
    ids = [run["run_id"] for run in [*plan.runs, *plan.skipped]]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in [*ids, *datasets, *conditions, *views])


def test_several_doses_mark_conditions_and_datasets():
    plan = lines(doses="1E3,10000", models="lsqml")
    assert [condition["id"] for condition in plan.conditions] == ["lines_d1e3", "lines_d1e4"]
    assert [condition["dose"] for condition in plan.conditions] == ["1e3", "1e4"]
    names = ["lines-train_d1e3", "lines-test_d1e3", "lines-train_d1e4", "lines-test_d1e4"]
    assert [dataset["id"] for dataset in plan.datasets] == names
    assert [dataset["config"]["dose"] for dataset in plan.datasets] == ["1e3", "1e3", "1e4", "1e4"]


@pytest.mark.parametrize(("value", "seeds"), [(1, [1]), ("3", [3]), ("0, 2", [0, 2]), ([4, 5], [4, 5])])
def test_lists_arrive_as_numbers_texts_or_lists(value, seeds):
    assert [run["seed"] for run in siemens(seeds=value, models="pinn_torch").runs] == seeds


@pytest.mark.parametrize("value", ["10000", "1.0E+4", "1E4", "1e4", 10000, 1e4, "10000.0", " 1e4 "])
def test_a_dose_has_one_spelling(value):
    assert canonical_dose(value) == "1e4"


@pytest.mark.parametrize(("value", "text"), [("1", "1e0"), ("500", "5e2"), ("15000", "1.5e4"), ("1.25e3", "1.25e3")])
def test_canonical_doses_keep_their_value(value, text):
    assert canonical_dose(value) == text
    assert float(text) == float(value)
    parse(SimulateConfig, {"dose": text}, what="dose")


def test_parameters_overrule_the_study_and_reach_their_configurations():
    given = {
        **{"N": 128, "size": 300, "epochs": 3, "step_test_px": 7.5, "nimgs_train": 1, "set_phi": True, "data_seed": 9},
        **{"lsqml_epochs": 4, "phase_ramp": True, "heldout": "0.2", "n_groups": 100, "model_output": "full"},
        **{"infer_batch_size": 5},
    }
    plan = lines(**given)
    train, test = (dataset["config"] for dataset in plan.datasets)
    assert (train["n"], train["size"], train["n_objects"], train["phase"], train["data_seed"]) == (
        128,
        300,
        1,
        "amplitude",
        9,
    )
    assert test["step_px"] == 7.5
    pinn, _, lsqml = plan.runs
    assert (pinn["n"], pinn["config"]["train"]["epochs"], pinn["config"]["model"]["output"]) == (128, 3, "full")
    assert pinn["config"]["reconstruct"]["infer_batch_size"] == 5
    assert lsqml["config"]["lsqml"]["lsqml_epochs"] == 4
    assert lsqml["evaluate"]["phase_ramp"] is True
    view = only(plan.views)["config"]
    assert (view["heldout"], view["n_groups"], view["data_seed"]) == (0.2, 100, 9)
    assert plan.parameters == given


def test_null_means_not_given():
    assert lines(epochs=None, doses=None).as_json() == lines().as_json()


def test_n_frames_makes_a_random_scan_without_jitter():
    config = only(siemens(n_frames=200).datasets)["config"]
    assert (config["scan"], config["n_frames"], config["jitter_px"]) == ("random", 200, 0.0)


def test_a_base_file_is_simulated_from_its_own_positions():
    plan = make_plan({"base": "data/fly.npz", "doses": "1e3,1e5"}, None, None, REGISTRY)
    assert [dataset["id"] for dataset in plan.datasets] == ["fly_d1e3", "fly_d1e5"]
    first = plan.datasets[0]
    assert (first["kind"], first["file"]) == ("simulate", "data/fly.npz")
    assert [first["config"][name] for name in ("kind", "probe", "scan")] == ["base"] * 3
    random = make_plan({"base": "my file.npz", "n_frames": 50}, None, None, REGISTRY)
    assert (only(random.datasets)["id"], only(random.datasets)["config"]["scan"]) == ("base", "random")


# --- skips are rows, not errors ---


def test_what_an_arm_cannot_take_is_skipped_with_the_reason():
    plan = lines(gridsizes="3,1", n_neighbors=9, models="pinn_torch,lsqml", seeds="0,1")
    assert [row["run_id"] for row in plan.skipped] == [f"lines__pinn_torch_gs3__n64__s{seed}" for seed in (0, 1)]
    assert "gridsize 3 is not supported" in plan.skipped[0]["reason"]
    assert [run["gridsize"] for run in plan.runs] == [1, 1, 1]


def test_a_supervised_arm_is_skipped_without_truth_or_split():
    assert "split is 'none'" in only(siemens(models="baseline_torch").skipped)["reason"]
    assert not siemens(models="baseline_torch", split="region").skipped
    pair = (
        {"id": "a", "scan": "a.npz", "role": "train", "object": "o"},
        {"id": "b", "scan": "b.npz", "role": "test", "object": "o"},
    )
    assert "true object" in only(sheet_plan(*pair, models="baseline_torch").skipped)["reason"]


def test_a_plan_without_any_run_is_still_a_plan():
    plan = lines(N=96, models="pinn_torch")
    assert plan.runs == plan.views == plan.datasets == plan.conditions == []
    assert "N = 96" in only(plan.skipped)["reason"]
    assert "0 runs, 1 skipped" in table(plan)


# --- the command ---


def test_the_command_writes_plan_and_table(tmp_path):
    arms, sheet = ROOT / "conf" / "arms.json", ROOT / "assets" / "samplesheet.csv"
    command.run('{"models": "all", "seeds": 0}', sheet, None, arms, tmp_path)
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["schema_version"] == 1
    text = (tmp_path / "plan.txt").read_text()
    assert text.splitlines()[0].split() == ["run_id", "arm", "N", "gs", "dose", "seed", "datasets"]
    assert re.search(r"^grain__lsqml__n64__s0 +lsqml +64 +- +- +0 +grain-a, grain-b$", text, re.M)
    assert "skipped\n  star64__baseline_torch_gs1__n64__s0: " in text
    assert text.endswith("9 runs, 6 skipped, 3 conditions, 4 datasets\n")
    again = tmp_path / "again"
    command.run('{"models": "all", "seeds": 0}', sheet, None, arms, again)
    assert (again / "plan.json").read_bytes() == (tmp_path / "plan.json").read_bytes()


@pytest.mark.parametrize(("text", "expected"), [("{", "not JSON"), ("[]", "expected a JSON object")])
def test_the_command_refuses_parameters_that_are_no_object(tmp_path, text, expected):
    assert expected in usage_error(command.run, text, None, None, ROOT / "conf" / "arms.json", tmp_path)


@pytest.mark.parametrize(("text", "expected"), [("", "expected a study"), ("a: [", "not YAML")])
def test_the_command_refuses_a_file_that_is_no_study(tmp_path, text, expected):
    path = tmp_path / "study.yml"
    path.write_text(text)
    assert expected in usage_error(command.run, "{}", None, path, ROOT / "conf" / "arms.json", tmp_path)
