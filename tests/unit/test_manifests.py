"""The study's four manifests. Oracles: coreutils for the checksum of a model, the plan's own rows, numbers written out."""

import json
import shutil
import subprocess

import pytest

import plan_cases as cases
from ptychoflow.data.storage import write_json
from ptychoflow.provenance import sha256_file
from ptychoflow.study.manifests import (
    COMPARISONS,
    DATA,
    SKIPS,
    TRAINING,
    bundle_path,
    bundle_sha256,
    documents,
    dose_key,
    training_loss,
)

VERSIONS = {"python": "3.11.7", "ptychoflow": "0.1.0"}
ASKED = {"doses": "1e4,1000", "gridsizes": "2,1", "seeds": "3,5", "models": "pinn_torch,baseline_torch,lsqml"}
PLAN = cases.lines(**ASKED).as_json()
DENSE = next(run for run in PLAN["runs"] if run["kind"] == "train" and run["gridsize"] == 2 and run["seed"] == 5)


def status(run_id, stage, state="ok", *, reason=None, attempt=1):
    return {"run_id": run_id, "stage": stage, "state": state, "reason": reason, "attempt": attempt}


def trained(run, loss=0.75):
    facts = {
        "weights_sha256": "0f", "resumed_from_step": 0, "final_loss": loss, "final_validation_loss": loss + 0.125,
        "loss_name": "mae", "epochs": 7, "bundle_sha256": "b0" + run["run_id"],
    }  # fmt: skip
    inputs = {"train_scan": {"name": "scan.npz", "sha256": "5c"}, "view": {"name": "view.npz", "sha256": "71"}}
    return {"parameters": {"run": {"run_id": run["run_id"]}}, "facts": facts, "inputs": inputs}


def made(dataset, measured):
    facts = {"n_frames": 35, "dose_measured_mean": measured}
    return {"parameters": {"dataset": dataset}, "facts": facts, "outputs": {"scan.npz": "ab" + dataset}}


def manifests(plan=PLAN, **arrived):
    found = documents(plan, versions=VERSIONS, **arrived)
    assert list(found) == [DATA, TRAINING, SKIPS, COMPARISONS]
    json.dumps(found, allow_nan=False)
    return found


def jobs_of(found):
    return {job["run_id"]: job for job in found[TRAINING]["jobs"]}


def trainings(plan=PLAN):
    return [run for run in plan["runs"] if run["kind"] == "train"]


def test_a_bundle_has_the_checksum_that_coreutils_give(tmp_path):
    """Oracle: find, sort and sha256sum as the docstring writes them."""
    model = tmp_path / "model"
    for name, text in (("weights.pt", "w"), ("card.json", "{}"), ("snapshots/epoch_00002.pt", "s"), ("Zeta", "z")):
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_text(text)
    (tmp_path / "status.json").write_text("outside")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    outputs = {path.relative_to(tmp_path).as_posix(): sha256_file(path) for path in files}
    shell = "find * -type f | LC_ALL=C sort | xargs sha256sum | sha256sum"
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run([bash, "-c", shell], cwd=model, capture_output=True, text=True, check=True)
    assert bundle_sha256(outputs) == done.stdout.split()[0]
    assert bundle_sha256(dict(reversed(outputs.items()))) == bundle_sha256(outputs)
    assert bundle_sha256({**outputs, "model/card.json": "00"}) != bundle_sha256(outputs)


def test_every_planned_training_is_a_job_with_its_names_and_results():
    found = manifests(statuses=[status(DENSE["run_id"], "train")], train_manifests=[trained(DENSE)])
    jobs = jobs_of(found)
    assert list(jobs) == [run["run_id"] for run in trainings()]
    assert len(jobs) == 2 * 2 * 2 * 2  # arms, doses, gridsizes, seeds
    job = jobs[DENSE["run_id"]]
    assert (job["dose"], job["view"], job["gridsize"], job["seed"]) == ("1e4", "all", 2, 5)
    assert (job["arm"], job["backend"]) == ("pinn_torch", "torch")
    assert (job["train_data"], job["test_data"]) == (DENSE["train"], DENSE["test"])
    assert (job["status"], job["reason"], job["epochs_completed"]) == ("success", None, 7)
    assert (job["final_loss"], job["final_validation_loss"]) == (0.75, 0.875)
    assert job["bundle_path"] == f"conditions/{DENSE['condition']}/runs/pinn_torch_gs2/s5/train/model"
    assert job["bundle_sha256"] == "b0" + DENSE["run_id"]
    assert job["inputs"] == {"train_scan": "5c", "view": "71"}
    assert job["parameters"] == {name: DENSE["config"][name] for name in ("model", "train")}


@pytest.mark.parametrize(
    ("statuses", "state", "reason"),
    [
        ([], "missing", "no status arrived"),
        ([status(DENSE["run_id"], "train", "failed", reason="the loss is nan")], "failed", "the loss is nan"),
        ([status(DENSE["view"], "prepare", "skipped", reason="infeasible: 3 of 90")], "skipped", "infeasible: 3 of 90"),
        ([status(DENSE["view"], "prepare")], "missing", "no status arrived"),
        ([status(DENSE["run_id"], "train")], "success", "did not arrive"),
    ],
)  # fmt: skip
def test_a_training_without_a_result_keeps_its_entry_with_the_reason(statuses, state, reason):
    """D61, T10: numbers are null, never NaN; a loss is told only of a training that ended with success."""
    arrived = [trained(DENSE)] if state == "failed" else []
    job = jobs_of(manifests(statuses=statuses, train_manifests=arrived))[DENSE["run_id"]]
    assert job["status"] == state
    assert reason in job["reason"]
    nothing = ("final_loss", "final_validation_loss", "epochs_completed", "bundle_path", "bundle_sha256")
    assert [job[name] for name in nothing] == [None] * 5
    assert job["loss_name"] is not None


def test_the_last_try_counts():
    tries = [status(DENSE["run_id"], "train", attempt=2), status(DENSE["run_id"], "train", "failed", reason="x")]
    for statuses in (tries, tries[::-1]):
        assert jobs_of(manifests(statuses=statuses))[DENSE["run_id"]]["status"] == "success"


def test_a_reconstruction_that_failed_leaves_the_training_a_success():
    statuses = [status(DENSE["run_id"], "train"), status(DENSE["run_id"], "reconstruct", "failed", reason="flat")]
    job = jobs_of(manifests(statuses=statuses, train_manifests=[trained(DENSE)]))[DENSE["run_id"]]
    assert (job["status"], job["final_loss"]) == ("success", 0.75)


@pytest.mark.parametrize(
    ("weights", "supervised", "expected"),
    [
        ((1.0, 0.0, 0.0), False, ("deviance", "1")),
        ((0.0, 1.0, 0.0), False, ("mae", "photon^(1/2)")),
        ((1.0, 0.05, 0.0), False, ("deviance + 0.05 mae", "1 + photon^(1/2)")),
        ((2.0, 0.0, 0.25), False, ("2 deviance + 0.25 tv", "1")),
        ((1.0, 0.0, 0.0), True, ("label_mae", "1 + rad")),
    ],
)
def test_a_loss_is_named_by_its_terms_and_factors(weights, supervised, expected):
    fields = dict(zip(("nll_weight", "mae_weight", "realspace_weight"), weights, strict=True))
    assert training_loss({**fields, "epochs": 3}, supervised=supervised) == expected


def test_skipped_views_have_their_reason_and_are_counted():
    """A view that the data cannot give, and an arm that the plan refused: once, whatever the number of seeds."""
    plan = cases.siemens(models="baseline_torch,pinn_torch", seeds="0,1").as_json()
    assert {row["arm"] for row in plan["skipped"]} == {"baseline_torch"}
    (view,) = plan["views"]
    plan["skipped"] = [{**row, "kind": "train", "backend": "torch", "gridsize": 1} for row in plan["skipped"]]
    found = manifests(plan, statuses=[status(view["id"], "prepare", "skipped", reason="2 groups are too few")])
    rows = found[SKIPS]["skipped_views"]
    assert [(row["view"], row["gridsize"], row["arm"]) for row in rows] == [
        ("all", 1, None),
        ("all", 1, "baseline_torch"),
    ]
    assert rows[0]["reason"] == "2 groups are too few"
    assert "supervised" in rows[1]["reason"]
    assert all(row["dose"] == plan["conditions"][0]["dose"] for row in rows)
    assert found[SKIPS]["skipped_count"] == found[TRAINING]["skipped_count"] == 2
    assert found[TRAINING]["skip_summary_path"] == SKIPS
    assert found[TRAINING]["skipped_views"] == rows
    assert [(job["arm"], job["seed"], job["status"]) for job in found[TRAINING]["jobs"]] == [
        ("pinn_torch", 0, "skipped"), ("pinn_torch", 1, "skipped"),
        ("baseline_torch", 0, "skipped"), ("baseline_torch", 1, "skipped"),
    ]  # fmt: skip


def test_a_condition_that_the_plan_refused_as_a_whole_keeps_dose_and_view():
    row = {
        "run_id": "odd_d1e3__pinn_gs1__n63__s0", "condition": "odd_d1e3", "label": "pinn_gs1", "arm": "pinn", "seed": 0,
        "kind": "train", "backend": "tensorflow", "gridsize": 1, "train": "odd-a", "test": "odd-b", "dose": "1e3",
        "view_name": "dense", "reason": "N = 63 is not supported",
    }  # fmt: skip
    plan = {**PLAN, "datasets": [], "conditions": [], "views": [], "runs": [], "skipped": [row]}
    found = manifests(plan)
    (job,) = found[TRAINING]["jobs"]
    assert (job["dose"], job["view"], job["train_data"], job["test_data"]) == ("1e3", "dense", "odd-a", "odd-b")
    (skip,) = found[SKIPS]["skipped_views"]
    assert (skip["dose"], skip["view"], skip["gridsize"]) == ("1e3", "dense", 1)


def test_scans_go_by_an_integer_dose_and_state_the_measured_one():
    names = [dataset["id"] for dataset in PLAN["datasets"]]
    found = manifests(dataset_manifests=[made(name, 1000.5 + place) for place, name in enumerate(names[:-1])])
    data = found[DATA]["datasets"]
    assert set(data) == {"dose_1000", "dose_10000"}
    condition = next(one for one in PLAN["conditions"] if one["dose"] == "1e3")
    entry = data["dose_1000"]
    assert entry["dose"] == "1e3"
    assert entry["train"] == f"datasets/{condition['train']}/scan.npz"
    assert entry["test"] == f"datasets/{condition['test']}/scan.npz"
    assert entry["intermediate_dir"] == f"datasets/{condition['train']}"
    for part in ("train", "test"):
        scan, name = entry["scans"][part], condition[part]
        arrived = name in names[:-1]
        assert scan["dataset"] == name
        assert scan["status"] == ("ok" if arrived else "missing")
        assert scan["dose_measured_photons"] == (1000.5 + names.index(name) if arrived else None)
        assert scan["sha256"] == ("ab" + name if arrived else None)


@pytest.mark.parametrize(
    ("dose", "key"), [("1e3", "dose_1000"), ("1.5e3", "dose_1500"), ("5e2", "dose_500"), ("2.5e0", "dose_2.5")]
)
def test_names_of_doses(dose, key):
    assert dose_key(dose) == key


def test_scans_of_one_dose_or_of_none_are_told_apart():
    rows = [{"id": name, "scan": f"{name}.npz", "N": "64"} for name in ("leaf", "chip")]
    plain = cases.sheet_plan(*rows, models="lsqml").as_json()
    assert list(manifests(plain)[DATA]["datasets"]) == ["leaf", "chip"]
    dosed = cases.sheet_plan(*({**row, "dose": "2e3"} for row in rows), models="lsqml").as_json()
    assert list(manifests(dosed)[DATA]["datasets"]) == ["dose_2000_leaf", "dose_2000_chip"]


def test_comparisons_are_ordered_by_dose_then_view_and_counted():
    """Study reference 2.1: dose ascending, dense before sparse. The plan here names them the other way round."""
    names = [("b", "1e4", "sparse"), ("a", "1e4", "dense"), ("c", "1e3", "sparse"), ("d", "1e3", "dense")]
    conditions = [{"id": i, "train": i, "test": i, "dose": dose, "view": view} for i, dose, view in names]
    runs = [
        {"run_id": f"{i}__r", "condition": i, "kind": "imported", "evaluate": {"ms_ssim_sigma": 1.0}}
        for i, _, _ in names
    ]
    datasets = [{"id": i, "kind": "ready"} for i, _, _ in names]
    plan = {**PLAN, "conditions": conditions, "runs": runs, "datasets": datasets, "views": [], "skipped": []}
    document = manifests(plan, compared={"c", "a"}, scored={"c__r", "a__r", "b__r"})[COMPARISONS]
    assert [(job["dose"], job["view"], job["split"]) for job in document["jobs"]] == [
        ("1e3", "dense", "test"), ("1e3", "sparse", "test"), ("1e4", "dense", "test"), ("1e4", "sparse", "test"),
    ]  # fmt: skip
    assert document["jobs"][0]["runs"] == ["d__r"]
    assert document["jobs"][0]["evaluate"] == {"ms_ssim_sigma": 1.0}
    results = document["execution_results"]
    assert [(row["condition"], row["state"], row["returncode"], row["log_path"]) for row in results] == [
        ("d", "skipped", None, None), ("c", "ok", 0, None), ("a", "ok", 0, None), ("b", "missing", None, None),
    ]  # fmt: skip
    counts = {name: document[name] for name in ("n_jobs", "n_success", "n_failed", "n_skipped")}
    assert counts == {"n_jobs": 4, "n_success": 2, "n_failed": 1, "n_skipped": 1}


def test_filters_are_what_was_asked_for_in_canonical_form():
    wanted = {
        "dose": ["1e4", "1e3"],
        "view": None,
        "gridsize": [2, 1],
        "arm": ASKED["models"].split(","),
        "seed": [3, 5],
    }
    assert all(document["filters"] == wanted for document in manifests().values())
    assert set(manifests(cases.lines().as_json())[TRAINING]["filters"].values()) == {None}


def test_a_dry_run_plans_everything_and_has_made_nothing():
    found = manifests(dry_run=True)
    assert {job["status"] for job in found[TRAINING]["jobs"]} == {"planned"}
    assert {job["reason"] for job in found[TRAINING]["jobs"]} == {None}
    assert {row["state"] for row in found[COMPARISONS]["execution_results"]} == {"planned"}
    assert (found[COMPARISONS]["n_success"], found[COMPARISONS]["n_failed"]) == (0, 0)
    scans = [scan for entry in found[DATA]["datasets"].values() for scan in entry["scans"].values()]
    assert {scan["status"] for scan in scans} == {"planned"}
    assert all(document["dry_run"] for document in found.values())


def test_a_plan_without_runs_gives_manifests_without_jobs():
    """D73, T10."""
    found = manifests({**PLAN, "datasets": [], "conditions": [], "views": [], "runs": [], "skipped": []})
    assert found[TRAINING]["jobs"] == found[SKIPS]["skipped_views"] == found[COMPARISONS]["jobs"] == []
    assert found[DATA]["datasets"] == {}
    assert (found[SKIPS]["skipped_count"], found[COMPARISONS]["n_jobs"]) == (0, 0)


def test_order_of_arrival_changes_no_byte(tmp_path):
    arrived = {
        "statuses": [status(run["run_id"], "train") for run in trainings()],
        "train_manifests": [trained(run, place / 8) for place, run in enumerate(trainings())],
        "dataset_manifests": [made(dataset["id"], 1e3) for dataset in PLAN["datasets"]],
    }
    for name, order in (("a", 1), ("b", -1)):
        for file, document in manifests(**{kind: values[::order] for kind, values in arrived.items()}).items():
            write_json(tmp_path / name / file, document)
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_one_path_per_bundle():
    assert len({bundle_path(run) for run in trainings()}) == len(trainings())
