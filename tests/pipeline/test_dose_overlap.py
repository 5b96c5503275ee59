"""The dose x overlap study through the workflow: the tiny preset whole, and the iterative arm alone killed and extended."""

import csv
import json
import os
import signal
import time

import pytest

from background_launch import start, wait_for

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]

LSQML = (
    *("--study", "fly64_dose_overlap", "--preset", "tiny", "--models", "lsqml", "--views", "dense"),
    *("--lsqml_epochs", "4", "--min_success", "0"),
)
TABLES = ("metrics.csv", "statistics.csv", "training_manifest.json", "skip_summary.json", "comparison_manifest.json")


def test_the_tiny_study_accounts_for_every_cell(nextflow, project, tmp_path):
    launch = nextflow(tmp_path, "run", project, "--study", "fly64_dose_overlap", "--preset", "tiny")
    assert launch.returncode == 0, launch.text
    cells = [(f"1e{power}", view) for power in (4, 5) for view in ("dense", "sparse")]
    states = launch.states()
    labels = ("pinn_gs1", "pinn_gs2", "lsqml")
    assert states.keys() == {f"fly64_d{dose}_{view}__{arm}__n64__s0" for dose, view in cells for arm in labels}
    # Six epochs of training may end flat, ten of LSQML on sparse frames too: that is data. The dense LSQML is not.
    assert set(states.values()) <= {"ok", "failed"}
    assert all(state == "ok" for run_id, state in states.items() if "dense__lsqml" in run_id)
    summary = launch.results / "summary"
    training = json.loads((summary / "training_manifest.json").read_text())
    assert len(training["jobs"]) == 8
    for job in training["jobs"]:
        assert job["final_loss"] > 0
        assert (launch.results / job["bundle_path"]).is_dir()
        assert len(job["bundle_sha256"]) == 64
    comparison = json.loads((summary / "comparison_manifest.json").read_text())
    assert (comparison["n_jobs"], comparison["n_success"], comparison["n_failed"]) == (4, 4, 0)
    data = json.loads((summary / "run_manifest.json").read_text())["datasets"]
    assert data.keys() == {"dose_10000", "dose_100000"}
    for dose, view in cells:
        for gridsize in (1, 2):
            entry = json.loads(
                (summary / "metrics" / f"dose_{float(dose):.0f}" / f"{view}_gs{gridsize}.json").read_text()
            )
            for side in ("train", "test"):
                assert (launch.results / entry[side]["output_path"]).is_file()
                spacing = json.loads((launch.results / entry[side]["spacing_stats_path"]).read_text())
                assert spacing["min_px"] >= spacing["threshold_px"] or spacing["threshold_px"] is None
    assert {path.name for path in (summary / "study").iterdir()} >= {
        "fly64_dose_phase_ms_ssim.png",
        "fly64_overlap_phase_ms_ssim.png",
    }
    text = (summary / "summary.md").read_text()
    assert "## Dose and overlap" in text
    assert text.index("phase MS-SSIM") < text.index("amplitude MS-SSIM")


def test_a_killed_study_gives_the_same_tables_and_one_more_dose_reruns_nothing(nextflow, project, tmp_path):
    whole = nextflow(tmp_path / "whole", "run", project, *LSQML, "--doses", "1e5")
    assert whole.returncode == 0, whole.text
    folder = tmp_path / "killed"
    kill_at_first_reconstruction(project, folder)
    resumed = nextflow(folder, "run", project, *LSQML, "--doses", "1e5", "-resume")
    assert resumed.returncode == 0, resumed.text
    for name in TABLES:
        assert (resumed.results / "summary" / name).read_bytes() == (whole.results / "summary" / name).read_bytes(), (
            name
        )
    # run_status.tsv also holds seconds, which never repeat.
    assert resumed.states() == whole.states()
    more = nextflow(folder, "run", project, *LSQML, "--doses", "1e4,1e5", "-resume")
    assert more.returncode == 0, more.text
    done = [tag for tags in more.tasks("COMPLETED").values() for tag in tags]
    assert any("d1e4" in tag for tag in done)
    assert not any("d1e5" in tag for tag in done)
    with (more.results / "summary" / "metrics.csv").open(newline="") as stream:
        assert {row["condition"] for row in csv.DictReader(stream)} == {"fly64_d1e4_dense", "fly64_d1e5_dense"}


def kill_at_first_reconstruction(project, folder):
    """Kill Nextflow and everything it started once LSQML runs; SIGKILL, so that nobody can tidy up."""
    folder.mkdir()
    with start(folder, "run", project, *LSQML, "--doses", "1e5") as process:
        try:
            wait_for(lambda: any(":LSQML" in path.read_text() for path in folder.glob("work/*/*/.command.run")), 240)
            time.sleep(1)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
