"""COLLECT: tables and report from files under arbitrary names."""

import base64
import csv
import json

import numpy as np
import pytest
import yaml

import report_sample as sample
from ptychoflow.commands import collect
from ptychoflow.report.figures import compare_amp_phase

PICTURE = np.exp(1j * np.linspace(0, 1, 35)).reshape(5, 7).astype(np.complex64)
CONDITION = "lines_d1e9"


WEIGHTS = {"nll_weight": 1.0, "mae_weight": 0.0, "realspace_weight": 0.0}
PLAN = {
    **sample.PLAN,
    "views": [
        {
            **{"id": f"{condition}__gs1", "condition": condition, "folder": "gs1", "gridsize": 1, "file": None},
            **{"train": train, "test": test, "config": {"split": split, "guard_px": None, "heldout": [3, 11]}},
        }
        for condition, train, test, split in (
            (CONDITION, "lines-train", "lines-test", "scans"),
            ("star", "star", "star", "none"),
        )
    ],
    "runs": [
        {
            **run,
            "train": "lines-train",
            "test": "lines-test",
            "backend": "torch",
            "supervised": False,
            "config": {"model": {}, "train": WEIGHTS},
            "evaluate": {},
        }
        for run in sample.PLAN["runs"]
    ],
}


def train_manifest(run):
    facts = {"final_loss": 0.5 + run["seed"], "final_validation_loss": 0.6, "epochs": 50, "bundle_sha256": "b0"}
    run_id = {"run_id": run["run_id"]}
    inputs = {"view": {"sha256": "71"}}
    return {
        "command": "train",
        "parameters": {"run": run_id},
        "facts": facts,
        "inputs": inputs,
        "versions": {"torch": "2"},
    }


def dataset_manifest(name):
    facts = {"n_frames": 40, "dose_measured_mean": 1.001e9}
    named = {"command": "simulate", "parameters": {"dataset": name}, "versions": {"numpy": f"1.{len(name)}"}}
    return {**named, "facts": facts, "outputs": {"scan.npz": "5c"}}


def read(folder, name):
    return json.loads((folder / name).read_text())


@pytest.fixture
def files(tmp_path):
    """Everything that arrived, called as a workflow calls it: numbered folders, names that tell nothing."""
    kinds = ("statuses", "metrics", "comparisons", "histories", "manifests")
    given = {name: [] for name in kinds}

    def add(kind, name, text=None):
        path = tmp_path / kind / str(len(given[kind])) / name
        path.parent.mkdir(parents=True)
        if text is not None:
            path.write_text(text)
        given[kind].append(path)
        return path

    for document in sample.STATUSES:
        add("statuses", "status.json", json.dumps(document))
    for document in sample.METRICS:
        add("metrics", "metrics.json", json.dumps(document))
    visuals = tmp_path / "comparisons" / "0" / "visuals"
    compare_amp_phase([], PICTURE, visuals / "compare_amp_phase.png", title=f"{CONDITION}: arms")
    (visuals / "comparison.json").write_text(json.dumps(sample.COMPARISONS[CONDITION]))
    given["comparisons"].append(visuals)
    add("histories", f"{sample.LSQML['run_id']}.history.csv", "epoch,loss,seconds\n0,2.0,0.1\n1,,0.1\n2,1.0,0.1\n")
    for run in (*sample.PINN, *sample.TWIN):
        add("manifests", "manifest.json", json.dumps(train_manifest(run)))
    for name in ("lines-train", "lines-test"):
        add("manifests", "manifest.json", json.dumps(dataset_manifest(name)))
    (tmp_path / "plan.json").write_text(json.dumps(PLAN))
    return {"plan": tmp_path / "plan.json", **given}


def read_status(folder):
    with (folder / "run_status.tsv").open(newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def test_every_planned_run_is_in_the_table_and_the_ok_ones_are_counted(files, tmp_path):
    n_ok = collect.run(**files, min_success=1, out_dir=tmp_path / "out")
    rows = read_status(tmp_path / "out")
    assert [row["run_id"] for row in rows] == [run["run_id"] for run in (*sample.PLAN["runs"], *sample.PLAN["skipped"])]
    assert n_ok == sum(row["state"] == "ok" for row in rows) == 6
    assert {row["state"] for row in rows} == {"ok", "failed", "missing", "skipped"}
    assert all(row["reason"] for row in rows if row["state"] != "ok")


def test_files_are_known_by_what_is_in_them(files, tmp_path):
    collect.run(**files, min_success=1, out_dir=tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    embedded = base64.b64encode((files["comparisons"][0] / "compare_amp_phase.png").read_bytes()).decode()
    assert embedded in page
    assert "is left out" not in page
    with (tmp_path / "out" / "metrics.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["run_id"] for row in rows} == {"", *(document["run_id"] for document in sample.METRICS)}
    own = next(row for row in rows if row["run_id"] == "")
    assert (own["condition"], own["model"], own["value"]) == (CONDITION, "truth", "0.99")


def test_order_of_arrival_changes_no_byte(files, tmp_path):
    collect.run(**files, min_success=1, out_dir=tmp_path / "a")
    turned = {name: value[::-1] if isinstance(value, list) else value for name, value in files.items()}
    collect.run(**turned, min_success=1, out_dir=tmp_path / "b")
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_nothing_arrived(files, tmp_path):
    empty = {name: [] if isinstance(value, list) else value for name, value in files.items()}
    assert collect.run(**empty, min_success=1, out_dir=tmp_path / "out") == 0
    states = [row["state"] for row in read_status(tmp_path / "out")]
    assert states == ["missing"] * len(sample.PLAN["runs"]) + ["skipped"]
    assert "fewer than the 1 asked for" in (tmp_path / "out" / "report.html").read_text()


def test_what_cannot_be_assigned_is_said(files, tmp_path):
    history = tmp_path / "history.csv"
    history.write_text("epoch,loss\n")
    files["histories"].append(history)
    other = tmp_path / "visuals"
    other.mkdir()
    (other / "comparison.json").write_text(json.dumps({**sample.COMPARISONS[CONDITION], "condition": "elsewhere"}))
    files["comparisons"].append(other)
    stranger = tmp_path / "strange.json"
    stranger.write_text(json.dumps(sample.status(sample.planned("other", "lsqml", 0), "lsqml")))
    files["statuses"].append(stranger)
    collect.run(**files, min_success=1, out_dir=tmp_path / "out")
    text = (tmp_path / "out" / "summary.md").read_text()
    assert "- history.csv is left out: expected" in text
    assert "- the pictures of 'elsewhere' are left out" in text
    assert "- other__lsqml__n64__s0 reported, but the plan does not know it" in text


def test_statistics_and_comparisons_are_tables_too(files, tmp_path):
    collect.run(**files, min_success=1, out_dir=tmp_path / "out")
    rows = {}
    for name in ("statistics", "comparisons"):
        with (tmp_path / "out" / f"{name}.csv").open(newline="") as stream:
            rows[name] = list(csv.DictReader(stream))
    wanted = ("pinn_tf_gs1", "phase", "pearson")
    one = next(row for row in rows["statistics"] if (row["model"], row["part"], row["metric"]) == wanted)
    assert (one["n"], one["method"]) == ("3", "student")
    assert float(one["low"]) < float(one["mean"]) < float(one["high"])
    assert {row["verdict"] for row in rows["comparisons"]} >= {"no difference shown"}


def test_the_sheets_for_reentry_list_what_is_there(files, tmp_path):
    """Oracle: the statuses, manifests and metrics of the sample, read by hand."""
    collect.run(**files, min_success=1, given={"views": {"star__gs1": "unused"}}, out_dir=tmp_path / "out")
    rows = {}
    for name in ("scans", "views", "models", "recons"):
        with (tmp_path / "out" / f"{name}.csv").open(newline="") as stream:
            rows[name] = list(csv.DictReader(stream))
    assert {(row["label"], row["seed"]) for row in rows["recons"]} == {
        (d["label"], str(d["seed"])) for d in sample.METRICS
    }
    assert [(row["id"], row["role"], row["heldout"]) for row in rows["scans"]] == [
        ("lines-train", "train", ""), ("lines-test", "test", "[3, 11]"),
    ]  # fmt: skip
    ok = {
        stage: {s["run_id"] for s in sample.STATUSES if (s["stage"], s["state"]) == (stage, "ok")}
        for stage in ("prepare", "train")
    }
    assert {row["condition"] for row in rows["views"]} == {view.split("__")[0] for view in ok["prepare"]}
    assert {row["model"] for row in rows["models"]} - {""} == {
        f"../conditions/{CONDITION}/runs/{run['label']}/s{run['seed']}/train/model"
        for run in sample.PLAN["runs"]
        if run["run_id"] in ok["train"]
    }


def test_versions_are_told_process_by_process(files, tmp_path):
    collect.run(**files, min_success=1, out_dir=tmp_path / "out")
    found = yaml.safe_load((tmp_path / "out" / "versions.yml").read_text())["processes"]
    assert found.keys() == {"TRAIN", "SIMULATE", "COLLECT"}
    assert found["TRAIN"] == {"torch": "2"}
    assert found["SIMULATE"] == {"numpy": ["1.10", "1.11"]}
    assert found["COLLECT"]["numpy"] == np.__version__


def test_histories_go_to_the_longest_matching_id(tmp_path):
    path = tmp_path / "run.a.1.history.csv"
    path.write_text("epoch,loss\n0,1\n1,0.5\n")
    notes = []
    assert list(collect._curves([path], ["run", "run.a", "run.a.1"], notes)) == ["run.a.1"]
    assert notes == []


def test_the_manifests_of_the_study_tell_every_run(files, tmp_path):
    collect.run(**files, min_success=1, out_dir=tmp_path / "out")
    jobs = read(tmp_path / "out", "training_manifest.json")["jobs"]
    states = [(job["arm"], job["seed"], job["status"]) for job in jobs]
    assert states == [
        *(("pinn_torch", seed, "success") for seed in range(4)), *(("pinn_tf", seed, "success") for seed in range(3)),
        ("baseline_torch", 0, "missing"), ("baseline_torch", 0, "skipped"),
    ]  # fmt: skip
    assert [job["final_loss"] for job in jobs] == [0.5, 1.5, 2.5, 3.5, 0.5, 1.5, 2.5, None, None]
    reasons = [row["reason"] for row in read(tmp_path / "out", "skip_summary.json")["skipped_views"]]
    assert reasons == ["3 frames are too few", sample.SKIPPED["reason"]]
    scans = read(tmp_path / "out", "run_manifest.json")["datasets"]
    assert scans["dose_1000000000"]["scans"]["test"]["dose_measured_photons"] == 1.001e9
    assert scans["star"]["scans"]["test"]["status"] == "missing"
    compared = read(tmp_path / "out", "comparison_manifest.json")
    assert (compared["n_jobs"], compared["n_success"], compared["n_failed"], compared["n_skipped"]) == (2, 1, 0, 1)
    listed = read(tmp_path / "out", "manifest.json")
    names = ("training_manifest.json", "skip_summary.json", "run_manifest.json", "comparison_manifest.json")
    assert {*names} <= listed["outputs"].keys()
    assert {"manifest_0", "manifest_8"} <= listed["inputs"].keys()
    assert "loss_check.json" not in listed["outputs"]


def test_manifests_are_there_when_nothing_arrived_and_when_nothing_was_planned(files, tmp_path):
    empty = {name: [] if isinstance(value, list) else value for name, value in files.items()}
    collect.run(**empty, min_success=1, out_dir=tmp_path / "lost")
    assert {job["status"] for job in read(tmp_path / "lost", "training_manifest.json")["jobs"]} == {
        "missing",
        "skipped",
    }
    nothing = {**PLAN, "datasets": [], "conditions": [], "views": [], "runs": [], "skipped": []}
    files["plan"].write_text(json.dumps(nothing))
    collect.run(**empty, min_success=0, out_dir=tmp_path / "empty")
    assert read(tmp_path / "empty", "training_manifest.json")["jobs"] == []
    assert read(tmp_path / "empty", "comparison_manifest.json")["n_jobs"] == 0


@pytest.mark.parametrize(("tolerance", "passes"), [(0.25, False), (2.1, True)])
def test_losses_are_checked_where_a_reference_is_given(files, tmp_path, caplog, tolerance, passes):
    """The reference has this run's losses, but for seed 2 a third of it: 2.5 is within 2.5/3 (1 + T) from T = 2 on."""
    head = {
        "dose": "1e9",
        "view": "all",
        "gridsize": 1,
        "arm": "pinn_torch",
        "train_data": "other",
        "status": "success",
    }
    losses = enumerate((0.5, 1.5, 2.5 / 3, 3.5))
    jobs = [{**head, "seed": n, "final_loss": x, "loss_name": "deviance", "loss_unit": "1"} for n, x in losses]
    reference = tmp_path / "reference.json"
    reference.write_text(json.dumps({"schema_version": 1, "jobs": jobs}))
    caplog.set_level("INFO")
    given = {"loss_reference": reference, "loss_tolerance": tolerance}
    assert collect.run(**files, min_success=1, **given, out_dir=tmp_path / "out") == 6
    check = read(tmp_path / "out", "loss_check.json")
    assert check["passed"] is passes
    assert [row["passed"] for row in check["results"][0]["checks"]] == [True, True, passes, True]
    assert [row["arm"] for row in check["not_checked"]] == ["pinn_tf", "baseline_torch"]
    failed = "1 of 1 failed: dose 1e9, view all, gridsize 1, pinn_torch: lines-train, seed 2: 2.5 exceeds"
    text = f"loss guardrail: {'1 of 1 passed' if passes else failed}"
    assert f"- {text}" in (tmp_path / "out" / "summary.md").read_text()
    levels = [record.levelname for record in caplog.records if text in record.message]
    assert levels == ["INFO" if passes else "ERROR"]


def test_a_loss_reference_that_cannot_be_used_fails_the_check_and_keeps_the_tables(files, tmp_path):
    reference = tmp_path / "reference.json"
    reference.write_text('{"schema_version": 1}')
    collect.run(**files, min_success=1, loss_reference=reference, out_dir=tmp_path / "out")
    check = read(tmp_path / "out", "loss_check.json")
    assert (check["passed"], check["results"]) == (False, [])
    assert "is not a training manifest" in check["verdict"]
    assert (tmp_path / "out" / "report.html").exists()
