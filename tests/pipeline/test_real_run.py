"""The flow with its science, on two tiny simulated scans: outputs, caching, and exact re-runs."""

import csv
import json

import pytest

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]

ARMS = ["baseline_torch_gs1", "lsqml", "pinn_torch_gs1"]


def test_every_arm_ends_ok_with_a_score(real_launch):
    assert real_launch.returncode == 0, real_launch.text
    assert set(real_launch.states().values()) <= {"ok", "failed"}  # one epoch may end flat: that is data, not an error
    assert "ok" in real_launch.states().values()
    (condition,) = (real_launch.results / "conditions").iterdir()
    comparison = json.loads((condition / "visuals" / "comparison.json").read_text())
    for label in ARMS:
        assert (condition / f"{label}_frc.csv").is_file()
        assert (condition / "visuals" / comparison["pictures"]["arms"][label]).is_file()
        assert (condition / "recons" / label / "s0" / "recon.npz").is_file()
        assert (condition / "visuals" / f"amp_phase_{label}_s0.png").is_file()
        metrics = json.loads((condition / "runs" / label / "s0" / "evaluate" / "metrics.json").read_text())
        assert metrics["stitched"]["phase"]
    by_model = json.loads((condition / "metrics_by_model.json").read_text())
    assert sorted(by_model) == ARMS
    report = (real_launch.results / "summary" / "report.html").read_text()
    assert report.count("data:image/png;base64,") >= len(ARMS)


def roles(launch):
    """Return the names of the files that each process made, with `<label>` in place of the arm's."""
    found = {}
    for process, names in launch.made().items():
        for label in ARMS:
            names = {name.replace(label, "<label>") for name in names}
        found[process] = names
    return found


def test_stub_and_real_tasks_make_the_same_files(real_launch, stub_launch):
    assert roles(real_launch) == roles(stub_launch)


def test_a_finished_run_is_scored_again_with_other_options(nextflow, project, real_launch, tmp_path):
    sheet = real_launch.results / "sheets" / "recons.csv"
    with sheet.open(newline="") as stream:
        assert [row["label"] for row in csv.DictReader(stream)] == ["pinn_torch_gs1", "baseline_torch_gs1", "lsqml"]
    options = ["--from", "evaluate", "--input", sheet, "--align", "register", "--min_success", "0"]
    again = nextflow(tmp_path, "run", project, *options)
    assert again.returncode == 0, again.text
    assert set(again.tasks("COMPLETED")) == {"PLAN", "EVALUATE", "COMPARE", "COLLECT"}
    assert again.states().keys() == real_launch.states().keys()
    assert "missing" not in again.states().values()
    (condition,) = (again.results / "conditions").iterdir()
    before = real_launch.results / "conditions" / condition.name
    for label in ARMS:
        name = f"runs/{label}/s0/evaluate/metrics.json"
        new, old = (json.loads((folder / name).read_text()) for folder in (condition, before))
        # Which pixels are scored, and how well frames are predicted, does not depend on the registration.
        assert new["grid"] == old["grid"]
        assert new["consistency"] == old["consistency"]
        assert {record["mode"] for record in new["alignment"]["by_object"]} == {"register"}
        assert new["arm"] == "imported"


def test_exact_reruns(nextflow, own_project, tmp_path):
    project = own_project(tmp_path / "project")
    # So short a training ends flat: that is a failed row, and here no reason for a return code of 1.
    options = ["run", project, "-profile", "test", "--models", "pinn_torch", "--n_groups", "16", "--min_success", "0"]
    first = nextflow(tmp_path / "launch", *options)
    assert first.returncode == 0, first.text
    everything = {"PLAN", "SIMULATE", "PREPARE", "TRAIN", "RECONSTRUCT", "EVALUATE", "COMPARE", "COLLECT"}
    assert set(first.tasks("COMPLETED")) == everything

    same = nextflow(tmp_path / "launch", *options, "-resume")
    assert set(same.tasks("CACHED")) == everything
    assert same.tasks("COMPLETED") == {}

    scoring = nextflow(tmp_path / "launch", *options, "--phase_ramp", "--infer_batch_size", "8", "-resume")
    assert set(scoring.tasks("CACHED")) == {"SIMULATE", "PREPARE", "TRAIN"}

    epochs = nextflow(tmp_path / "launch", *options, "--epochs", "3", "-resume")
    assert set(epochs.tasks("COMPLETED")) == everything - {"SIMULATE", "PREPARE"}
    assert set(epochs.tasks("CACHED")) == {"SIMULATE", "PREPARE"}

    seeds = nextflow(tmp_path / "launch", *options, "--epochs", "3", "--seeds", "0,1", "-resume")
    for process in ("TRAIN", "RECONSTRUCT", "EVALUATE"):
        (new,) = seeds.tasks("COMPLETED")[process]
        (old,) = seeds.tasks("CACHED")[process]
        assert (new[-4:], old[-4:]) == ("__s1", "__s0")
    assert set(seeds.tasks("COMPLETED")) == everything - {"SIMULATE", "PREPARE"}

    # One revision stands for the whole package: an edit anywhere in it reruns all that runs it.
    with (project / "python" / "ptychoflow" / "report" / "__init__.py").open("a") as stream:
        stream.write("# edited\n")
    edited = nextflow(tmp_path / "launch", *options, "--epochs", "3", "--seeds", "0,1", "-resume")
    assert edited.returncode == 0, edited.text
    assert edited.tasks("CACHED") == {}
    assert set(edited.tasks("COMPLETED")) == everything
