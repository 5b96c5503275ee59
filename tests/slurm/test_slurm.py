"""The flow on a real Slurm: one node with two fake GPUs (tests/infra/slurm-up.sh), which schedules GPUs but hides none.

Every client call has a time limit: clients wait for minutes when the controller is gone.
"""

import csv
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from background_launch import ROOT, start, wait_for
from docker_engine import DOCKER, IMAGE, ONE_IMAGE, build, copy_checkout, docker, skip_without_engine

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

# Polling as often as a test wants it; a vanished job is believed after 10 s instead of 270.
QUICK = "executor { pollInterval = '1 sec'; queueStatInterval = '1 sec'; exitReadTimeout = '10 sec' }\n"
GPU_PROCESSES = {"CHECK_DEVICE", "TRAIN", "RECONSTRUCT", "LSQML"}
RECORD = "echo GPU=${CUDA_VISIBLE_DEVICES-unset} CPUS=$SLURM_CPUS_ON_NODE > .command.gpu"


def client(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout


@pytest.fixture(autouse=True, scope="module")
def slurm():
    try:
        nodes = client("timeout", "5", "sinfo", "-h", "-o", "%T %G")
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"no Slurm answers ({error}): as root, tests/infra/slurm-up.sh starts one")
    assert "gpu:fake:2" in nodes


@pytest.fixture
def queue(tmp_path):
    """Return `jobs(word)`: {job id: state} of this test's jobs whose name has the word. Ends them all afterwards."""
    held: list[str] = []

    def jobs(word: str = "") -> dict[str, str]:
        lines = client("timeout", "5", "squeue", "-h", "-a", "-o", "%i|%T|%Z|%j").splitlines()
        rows = [line.split("|") for line in lines]
        own = {
            job: state for job, state, folder, name in rows if word in name and Path(folder).is_relative_to(tmp_path)
        }
        held.extend(own)
        return own

    yield jobs
    jobs()
    for job in set(held):
        subprocess.run(["timeout", "5", "scancel", job], capture_output=True)


def attempts(folder: Path) -> list[dict[str, str]]:
    with (folder / "results" / "pipeline_info" / "trace.tsv").open(newline="") as stream:
        return [row | {"process": row["process"].split(":")[-1]} for row in csv.DictReader(stream, delimiter="\t")]


def states(folder: Path) -> set[str]:
    with (folder / "results" / "summary" / "run_status.tsv").open(newline="") as stream:
        return {row["state"] for row in csv.DictReader(stream, delimiter="\t")}


def test_gpus_are_asked_for_by_gres_and_a_job_cancelled_while_pending_is_tried_again(tmp_path, queue):
    """Both GPUs are taken before the arms want them, so these wait in the queue, where one of them is cancelled."""
    slow = "task.process.endsWith('SIMULATE') ? '; sleep 15' : ''"
    (tmp_path / "quick.config").write_text(QUICK + f"process.ext.before = {{ '{RECORD}' + ({slow}) }}\n")
    options = ["-stub-run", "-profile", "slurm,gpu", "--study", "lines", "-c", "quick.config"]
    with start(tmp_path, "run", ROOT, *options) as process:
        try:
            # CHECK_DEVICE wants a GPU as well, before everything else.
            log = tmp_path / "launch.log"
            wait_for(lambda: "PTYCHOFLOW:CHECK_DEVICE" in log.read_text() and not queue("CHECK_DEVICE"), 180)
            hold = ["sbatch", "--parsable", "--gres=gpu:2", "--mem=100M", f"--chdir={tmp_path}", "--output=/dev/null"]
            blocker = client("timeout", "5", *hold, "--wrap", "sleep 300").strip()
            (lost,) = wait_for(lambda: [job for job, state in queue("TRAIN").items() if state == "PENDING"], 180)
            assert re.search(r"TresPerNode=gres[:/]gpu:1", client("timeout", "5", "scontrol", "show", "job", lost))
            client("timeout", "5", "scancel", lost)
            wait_for(lambda: lost not in queue("TRAIN"), 20)
            client("timeout", "5", "scancel", blocker)
            assert process.wait(timeout=300) == 0, (tmp_path / "launch.log").read_text()
        finally:
            process.kill()
    assert states(tmp_path) == {"ok"}
    rows = attempts(tmp_path)
    # Integer.MAX_VALUE, the exit status of a job that vanished, is `-` in the trace.
    assert [(row["status"], row["exit"]) for row in rows if row["process"] == "TRAIN"] == [
        ("FAILED", "-"),
        ("COMPLETED", "0"),
    ]
    for row in rows:
        if row["status"] == "COMPLETED":
            seen = (Path(row["workdir"]) / ".command.gpu").read_text()
            assert seen.startswith("GPU=unset") is (row["process"] not in GPU_PROCESSES), (
                row["process"],
                seen,
            )
            assert "gpu_lease" not in (Path(row["workdir"]) / ".command.run").read_text()


def test_a_cancelled_training_continues_from_its_checkpoint(tmp_path, queue):
    """A real training, stopped by scancel: SIGTERM, and SIGKILL two seconds later (KillWait)."""
    (tmp_path / "quick.config").write_text(QUICK)
    options = [
        "-profile",
        "slurm,test",
        "--models",
        "pinn_torch",
        "--epochs",
        "4",
        "--min_success",
        "0",
        "-c",
        "quick.config",
    ]
    with start(tmp_path, "run", ROOT, *options) as process:
        try:
            (job,) = wait_for(lambda: [job for job, state in queue("TRAIN").items() if state == "RUNNING"], 240)
            wait_for(lambda: re.search(r"epoch 1/", told(tmp_path)), 180)
            client("timeout", "5", "scancel", job)
            assert process.wait(timeout=400) == 0, (tmp_path / "launch.log").read_text()
        finally:
            process.kill()
    rows = [row for row in attempts(tmp_path) if row["process"] == "TRAIN"]
    assert [row["status"] for row in rows] == ["FAILED", "COMPLETED"]
    # 75: the training saw the signal and said so; 143: the shell around it was quicker.
    assert rows[0]["exit"] in ("75", "143")
    step = re.search(r"resumed from step (\d+)", (Path(rows[1]["workdir"]) / ".command.err").read_text())
    assert int(step.group(1)) > 0
    assert states(tmp_path) <= {"ok", "failed"}  # so short a training may end flat


def test_a_task_in_a_job_runs_in_its_container_and_an_arm_without_its_framework_ends_there(
    tmp_path, queue, monkeypatch
):
    """-profile slurm,docker: every task of the flow in the image cpu, whose Python is not the one of this test.

    Oracle of the version: the image itself, asked directly.
    """
    skip_without_engine()
    monkeypatch.setenv("PATH", f"{Path(DOCKER).parent}:{os.environ['PATH']}")
    checkout = copy_checkout(tmp_path / "checkout")
    build(checkout, DOCKER_BUILDKIT="0")
    (tmp_path / "quick.config").write_text(QUICK + ONE_IMAGE)
    options = ["-profile", "slurm,docker,test", "--models", "lsqml", "--min_success", "0", "-c", "quick.config"]
    with start(tmp_path, "run", checkout, *options) as process:
        try:
            assert process.wait(timeout=300) == 0, (tmp_path / "launch.log").read_text()
        finally:
            process.kill()
        queue()
    rows = {row["process"]: row for row in attempts(tmp_path)}
    assert {name: (row["status"], row["exit"], row["attempt"]) for name, row in rows.items()} == {
        **dict.fromkeys(("PLAN", "SIMULATE", "PREPARE", "COLLECT"), ("COMPLETED", "0", "1")),
        "LSQML": ("FAILED", "69", "1"),
    }
    said = (Path(rows["LSQML"]["workdir"]) / ".command.err").read_text()
    assert "the lsqml arm needs ptychi" in said
    assert states(tmp_path) == {"missing"}
    ask = (
        "run",
        "--rm",
        "--network",
        "none",
        IMAGE,
        "python3",
        "-c",
        "import platform; print(platform.python_version())",
    )
    for name in ("SIMULATE", "PREPARE"):
        folder = Path(rows[name]["workdir"])
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest["versions"]["python"] == docker(*ask).stdout.strip()
        assert "#SBATCH" in (folder / ".command.run").read_text()


def told(folder: Path) -> str:
    """Return what all tasks have said so far."""
    return "".join(path.read_text(errors="replace") for path in folder.glob("work/*/*/.command.err"))
