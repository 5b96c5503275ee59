"""Failures: each is seen, retried or not as it should be, costs no other run, and leaves a table; a killed Nextflow leaves nothing.

`-profile test_failures` (conf/test_failures.config) has one of each kind in one real run on tiny scans; the rest are stubs.
"""

import csv
import json
import os
import re
import signal
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from background_launch import start, wait_for, working_in

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]

TRAINING, LSQML = "lines_d1e9__pinn_torch_gs1__n64__s{}", "lines_d1e9__lsqml__n64__s0"
# seed: exit code as the trace has it, attempts. A time limit leaves no exit code (24.10.0).
INJECTED = {
    1: ("1", "1"), 2: ("137", "2"), 3: ("64", "1"), 4: ("65", "1"), 5: ("69", "1"), 6: ("70", "1"), 7: ("77", "2"), 8: ("-", "2"),
}  # fmt: skip


@pytest.fixture(scope="module")
def failing(nextflow, project, tmp_path_factory):
    """Return the run of -profile test_failures."""
    return nextflow(tmp_path_factory.mktemp("failures"), "run", project, "-profile", "test_failures")


def rows(launch):
    with (launch.results / "summary" / "run_status.tsv").open(newline="") as stream:
        return {row["run_id"]: row for row in csv.DictReader(stream, delimiter="\t")}


def test_a_run_full_of_failures_ends_with_a_row_for_every_run(failing):
    assert failing.returncode == 0, failing.text
    table = rows(failing)
    assert {run: row["state"] for run, row in table.items() if run.startswith("lines_d1e9")} == {
        LSQML: "ok", TRAINING.format(0): "failed", **{TRAINING.format(seed): "missing" for seed in INJECTED},
    }  # fmt: skip
    assert table[TRAINING.format(0)]["reason"].startswith("the loss is nan at epoch 1")
    lost = [row["state"] for run, row in table.items() if run.startswith("lines_d1e6")]
    assert lost == ["missing"] * 10


def test_what_can_heal_is_tried_once_more_and_nothing_else(failing):
    tried = {row["tag"]: (row["exit"], row["attempt"]) for row in failing.trace() if row["status"] == "FAILED"}
    scans = {tag: tried.pop(tag) for tag in ("lines-train_d1e6", "lines-test_d1e6")}
    assert set(scans.values()) == {("65", "1")}
    assert tried == {TRAINING.format(seed): end for seed, end in INJECTED.items()}
    healed = next(row for row in failing.trace() if row["process"] == "LSQML")
    assert (healed["status"], healed["attempt"]) == ("COMPLETED", "2")


def test_the_table_at_the_end_names_each_lost_task_with_its_folder(failing):
    for seed, (code, attempt) in INJECTED.items():
        line = next(
            line for line in failing.text.splitlines() if line.startswith("PTYCHOFLOW") and f"__s{seed}): exit" in line
        )
        assert f"exit {code}, attempt {attempt}, see {failing.folder}/work/" in line
    assert "Continue with -resume." in failing.text


def test_resume_runs_again_what_failed_and_nothing_else(nextflow, project, failing):
    options = ["-profile", "test_failures", "--outdir", "again/results", "-resume"]
    again = nextflow(failing.folder, "run", project, *options)
    again = replace(again, folder=failing.folder / "again")
    assert again.tasks("CACHED") == failing.tasks("COMPLETED")
    assert again.tasks("FAILED") == failing.tasks("FAILED")
    assert again.tasks("COMPLETED") == {}
    assert rows(again) == rows(failing)


def test_reconstructions_that_are_flat_or_not_finite_are_failed_rows(nextflow, project, failing, tmp_path):
    """The faults are in the data: a constant object, and an object of NaN, beside the sound one of the run above."""
    with (failing.results / "sheets" / "recons.csv").open(newline="") as stream:
        (sound,) = csv.DictReader(stream)
    sheet = failing.results / "sheets"
    entries = []
    for label, value in {"sound": None, "flat": 0.7 + 0.1j, "holes": complex(np.nan, np.nan)}.items():
        with np.load(sheet / sound["recon"]) as recon:
            members = dict(recon)
        if value is not None:
            members["object"] = np.full_like(members["object"], value)
        np.savez(tmp_path / f"{label}.npz", **members)
        scan, view = ((sheet / sound[name]).resolve() for name in ("scan", "view"))
        entries.append(sound | {"recon": f"{label}.npz", "label": label, "scan": scan, "view": view})
    with (tmp_path / "recons.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(sound))
        writer.writeheader()
        writer.writerows(entries)
    launch = nextflow(tmp_path, "run", project, "--from", "evaluate", "--input", "recons.csv")
    assert launch.returncode == 0, launch.text
    found = {run.split("__")[1]: row for run, row in rows(launch).items()}
    assert {label: row["state"] for label, row in found.items()} == {
        "sound": "ok",
        "flat": "failed",
        "holes": "missing",
    }
    assert found["flat"]["reason"].startswith("collapsed: ")
    assert {row["exit"] for row in launch.trace() if row["status"] == "FAILED"} == {"65"}


def test_a_bad_scan_alone_ends_with_a_table_and_one(nextflow, project, tmp_path):
    (tmp_path / "scan.npz").write_bytes(b"PK\x03\x04 not a zip file")
    (tmp_path / "sheet.csv").write_text("id,scan,N\nbroken,scan.npz,64\n")
    launch = nextflow(tmp_path, "run", project, "--input", "sheet.csv", "--models", "lsqml", "--seeds", "0")
    assert launch.returncode == 1
    (row,) = rows(launch).values()
    assert row["state"] == "missing"
    assert launch.tasks("FAILED")["INGEST"] == ["broken"]
    assert next(one["exit"] for one in launch.trace() if one["process"] == "INGEST") == "65"
    assert "0 runs ended ok, --min_success asks for 1" in launch.text


def test_without_collect_the_table_is_written_all_the_same_and_resume_needs_collect_alone(nextflow, project, tmp_path):
    (tmp_path / "fail.config").write_text("process { withName: COLLECT { ext.before = 'exit 70' } }\n")
    options = ["run", project, "-stub-run", "--study", "lines"]
    lost = nextflow(tmp_path, *options, "-c", "fail.config")
    assert lost.returncode == 1
    assert {row["reason"] for row in rows(lost).values()} == {"the workflow ended before its results were collected"}
    again = nextflow(tmp_path, *options, "-resume")
    assert again.returncode == 0, again.text
    assert again.tasks("COMPLETED") == {"COLLECT": ["-"]}
    assert set(again.states().values()) == {"ok"}


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_killed_nextflow_leaves_no_process_and_no_half_written_file(nextflow, project, tmp_path, how):
    """One arm has written half of a file and hangs; the other is done. The shells of tasks are no part of Nextflow's process.

    After SIGKILL, -resume goes on in the same task folder: what lies there must have another name than an output (data/storage.py).
    """
    # The first command of the stub hangs; one core a task, or the other arm would wait for it.
    hang = "touch() { echo half > .recon.npz.part; sleep 300; }; export -f touch"
    (tmp_path / "hang.config").write_text(
        f"process {{ withLabel: process_gpu {{ cpus = 1 }}\n withName: LSQML {{ ext.before = '{hang}' }} }}\n"
    )
    options = ["run", project, "-stub-run", "--study", "lines"]
    with start(tmp_path, *options, "-c", "hang.config") as process:
        done = (
            tmp_path
            / "results"
            / "conditions"
            / "stub"
            / "runs"
            / "pinn_torch_gs1"
            / "s0"
            / "evaluate"
            / "manifest.json"
        )
        try:
            wait_for(lambda: done.exists() and any("sleep 300" in line for line in working_in(tmp_path / "work")), 120)
            process.send_signal(how)
            process.wait(timeout=60)
        finally:
            process.kill()
    wait_for(lambda: not working_in(tmp_path / "work"), 15)
    assert not (tmp_path / "results" / "conditions" / "stub" / "recons" / "lsqml").exists()
    for path in (tmp_path / "results").rglob("*.json"):
        json.loads(path.read_text())

    again = nextflow(tmp_path, *options, "-resume")
    assert again.returncode == 0, again.text
    assert {"PLAN", "SIMULATE", "PREPARE", "TRAIN", "RECONSTRUCT"} <= set(again.tasks("CACHED"))
    assert again.tasks("COMPLETED")["LSQML"] == ["stub__lsqml__n64__s0"]
    assert set(again.states().values()) == {"ok"}
    files = [path.name for path in (tmp_path / "results" / "conditions" / "stub" / "recons" / "lsqml").rglob("*.*")]
    assert files == ["recon.npz"]


@pytest.fixture
def small_disk(tmp_path):
    """Return the mount point of a disk of 96 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", disk], capture_output=True).returncode
    ):
        pytest.skip("only root may mount a small disk")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_ends_in_one_message_that_names_it(nextflow, project, small_disk, tmp_path):
    """Files of many tasks cannot be copied; what Nextflow says of each is followed by what to do."""
    out = small_disk / "results"
    launch = nextflow(tmp_path, "run", project, "-stub-run", "--study", "lines", "--outdir", out)
    assert launch.returncode == 1
    assert launch.text.count("The disk is full") == 1
    assert f"\nThe disk is full: {out}. Free some of it, then continue with -resume.\n" in launch.text
    assert "onComplete" not in launch.text


@pytest.mark.parametrize("what", ["a file", "read-only"])
def test_an_output_folder_that_cannot_be_written_is_named_before_any_task(
    nextflow, project, small_disk, tmp_path, what
):
    out = small_disk / "folder" / "results"
    if what == "a file":
        out.parent.touch()
    else:
        subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    launch = nextflow(tmp_path, "run", project, "-stub-run", "--study", "lines", "--outdir", out)
    assert launch.returncode == 1
    (said,) = [line for line in launch.text.splitlines() if line.startswith("ERROR")]
    assert re.fullmatch(rf"ERROR ~ {small_disk}/folder(/results)?: (Not a directory|Read-only file system)", said)
    assert "Submitted process" not in launch.text
