"""The flow with its science, on two tiny simulated scans: outputs, caching, and exact re-runs."""

import csv
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys

import pytest
import yaml

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


def cores(launch, *processes):
    """Return the numbers of cores that tasks of these processes were given."""
    return {int(row["cpus"]) for row in launch.trace() if row["process"] in processes}


def test_a_run_takes_half_of_the_machine(real_launch):
    assert cores(real_launch, "TRAIN", "RECONSTRUCT", "LSQML") == {min(4, max(1, len(os.sched_getaffinity(0)) // 2))}
    assert cores(real_launch, "SIMULATE", "PREPARE", "EVALUATE", "COMPARE", "COLLECT") == {1}


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


# What -profile test and `real_launch` say of training.
TRAINED = (
    *("--study", "lines", "--epochs", "2", "--batch_size", "4", "--learning_rate", "4e-4"),
    *("--n_filters_scale", "1"),
)


@pytest.mark.parametrize(
    ("start", "sheet", "options", "labels", "processes"),
    [
        ("prepare", "scans", ("--models", "lsqml"), ["lsqml"], {"PREPARE", "LSQML"}),
        ("train", "views", ("--models", "pinn_torch", *TRAINED), ["pinn_torch_gs1"], {"TRAIN", "RECONSTRUCT"}),
        ("recon", "models", (), ARMS, {"RECONSTRUCT", "LSQML"}),
    ],
)
def test_a_run_goes_on_from_its_sheets_to_the_same_scores(
    nextflow, project, real_launch, tmp_path, start, sheet, options, labels, processes
):
    """Oracle: the scores of the run that wrote the sheets. Every arm repeats its numbers on the same machine and threads."""
    sheets = real_launch.results / "sheets"
    epochs = [] if labels == ["pinn_torch_gs1"] else ["--lsqml_epochs", "5"]
    asked = ["--from", start, "--input", sheets / f"{sheet}.csv", *options, *epochs, "--min_success", "0"]
    again = nextflow(tmp_path, "run", project, *asked)
    assert again.returncode == 0, again.text
    assert set(again.tasks("COMPLETED")) == processes | {"PLAN", "EVALUATE", "COMPARE", "COLLECT"}
    assert again.states().items() <= real_launch.states().items()
    assert len(again.states()) == len(labels)
    (condition,) = (again.results / "conditions").iterdir()
    before = real_launch.results / "conditions" / condition.name
    for label in labels:
        name = f"runs/{label}/s0/evaluate/metrics.json"
        new, old = (json.loads((folder / name).read_text()) for folder in (condition, before))
        for block in ("stitched", "patch", "consistency"):
            assert new[block] == old[block]
    # What was given lies in the first run's folder, and is named as seen from this one's sheets.
    with (again.results / "sheets" / "recons.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            scan = (again.results / "sheets" / row["scan"]).resolve()
            assert scan == (real_launch.results / "datasets" / "lines-test" / "scan.npz").resolve()
            assert (again.results / "sheets" / row["view"]).is_file()


def verified(project, folder):
    """Return exit code and text of verify-outputs."""
    command = [str(project / "bin" / "ptychoflow"), "verify-outputs", str(folder)]
    environment = os.environ | {"PTYCHOFLOW_PYTHON": sys.executable}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_every_checksum_of_a_finished_run_is_rechecked(project, real_launch, tmp_path):
    """Every published file but those that the head of the run writes is recorded, and one flipped byte is found."""
    code, text = verified(project, real_launch.results)
    assert code == 0, text
    files = [path.relative_to(real_launch.results) for path in real_launch.results.rglob("*") if path.is_file()]
    own = {"manifest.json", "trace.tsv", "report.html", "timeline.html", "dag.mmd", "params.json", "versions.yml"}
    by_task = [
        path for path in files if not (path.name in own and path.parts[0] != "summary") and path.parts[0][0] != "."
    ]
    count = len([path for path in by_task if path.name != "manifest.json"])
    assert f"{count} files are what" in text
    copy = tmp_path / "results"
    shutil.copytree(real_launch.results, copy)
    (recon,) = copy.glob("conditions/*/recons/lsqml/s0/recon.npz")
    data = bytearray(recon.read_bytes())
    data[len(data) // 2] ^= 1
    recon.write_bytes(data)
    code, text = verified(project, copy)
    assert code == 65
    assert f"{recon.relative_to(copy)}: changed" in text


def test_versions_are_those_of_the_processes_that_ran(real_launch):
    found = yaml.safe_load((real_launch.results / "pipeline_info" / "versions.yml").read_text())
    processes = found["processes"]
    assert processes.keys() == set(real_launch.tasks())
    assert processes["TRAIN"]["torch"] == importlib.metadata.version("torch")
    assert "torch" not in processes["SIMULATE"]
    assert processes["LSQML"]["ptychi"] == importlib.metadata.version("ptychi")
    assert {one["code_rev"] for one in processes.values()} == {processes["PLAN"]["code_rev"]}


def test_exact_reruns(nextflow, own_project, tmp_path):
    project = own_project(tmp_path / "project")
    # So short a training ends flat: that is a failed row, and here no reason for a return code of 1.
    tiny = ["--size", "128", "--step_train_px", "8", "--n_groups", "16", "--min_success", "0"]
    options = ["run", project, "-profile", "test", "--models", "pinn_torch", *tiny]
    first = nextflow(tmp_path / "launch", *options)
    assert first.returncode == 0, first.text
    everything = {"PLAN", "SIMULATE", "PREPARE", "TRAIN", "RECONSTRUCT", "EVALUATE", "COMPARE", "COLLECT"}
    assert set(first.tasks("COMPLETED")) == everything

    same = nextflow(tmp_path / "launch", *options, "-resume")
    assert set(same.tasks("CACHED")) == everything
    assert same.tasks("COMPLETED") == {}

    all_cores = ("--cpus_per_run", str(len(os.sched_getaffinity(0)) + 1))
    scoring = nextflow(tmp_path / "launch", *options, "--phase_ramp", "--infer_batch_size", "8", *all_cores, "-resume")
    assert set(scoring.tasks("CACHED")) == {"SIMULATE", "PREPARE", "TRAIN"}
    assert cores(scoring, "RECONSTRUCT") == {len(os.sched_getaffinity(0))}

    epochs = nextflow(tmp_path / "launch", *options, "--epochs", "2", "-resume")
    assert set(epochs.tasks("COMPLETED")) == everything - {"SIMULATE", "PREPARE"}
    assert set(epochs.tasks("CACHED")) == {"SIMULATE", "PREPARE"}

    seeds = nextflow(tmp_path / "launch", *options, "--epochs", "2", "--seeds", "0,1", "-resume")
    for process in ("TRAIN", "RECONSTRUCT", "EVALUATE"):
        (new,) = seeds.tasks("COMPLETED")[process]
        (old,) = seeds.tasks("CACHED")[process]
        assert (new[-4:], old[-4:]) == ("__s1", "__s0")
    assert set(seeds.tasks("COMPLETED")) == everything - {"SIMULATE", "PREPARE"}

    # One revision stands for the whole package: an edit anywhere in it reruns all that runs it.
    with (project / "python" / "ptychoflow" / "report" / "__init__.py").open("a") as stream:
        stream.write("# edited\n")
    edited = nextflow(tmp_path / "launch", *options, "--epochs", "2", "--seeds", "0,1", "-resume")
    assert edited.returncode == 0, edited.text
    assert edited.tasks("CACHED") == {}
    assert set(edited.tasks("COMPLETED")) == everything
