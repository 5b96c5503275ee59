"""The cpu image, really built and run by a Docker engine: `make test-machines`, after tests/infra/docker-ready.sh."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from background_launch import ROOT, start
from docker_engine import DOCKER, IMAGE, ONE_IMAGE, build, copy_checkout, docker, script, skip_without_engine
from ptychoflow import __version__
from ptychoflow.provenance import code_revision

pytestmark = pytest.mark.docker

ENTRY = json.dumps({"id": "tiny", "config": {"size": 100, "size_cols": 116, "step_px": 16.0}})
HARDENED = ("--read-only", "--network", "none", "--cap-drop", "ALL")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the workflow and of what its images are made from, which nobody edits meanwhile."""
    return copy_checkout(tmp_path_factory.mktemp("images") / "checkout")


@pytest.fixture(scope="module")
def revision(checkout):
    return code_revision(checkout / "python" / "ptychoflow")


@pytest.fixture(scope="module")
def image(checkout):
    skip_without_engine()
    build(checkout, DOCKER_BUILDKIT="0")
    return IMAGE


@pytest.fixture
def task(tmp_path):
    """A folder for the task of another user, and nothing above it that this user could list."""
    tmp_path.chmod(0o711)
    for parent in tmp_path.parents[:2]:
        parent.chmod(parent.stat().st_mode | 0o011)
    folder = tmp_path / "task"
    folder.mkdir()
    folder.chmod(0o777)
    return folder


def inside(image, task, *command, uid=31415, flags=()):
    """Run a command in the image as the workflow does, on a read-only root and for a user that the image does not know."""
    mounts = ("--volume", f"{task}:{task}", "--workdir", task, "--user", f"{uid}:{uid}")
    return docker("run", "--rm", *HARDENED, *mounts, *flags, image, *command, check=False)


def test_the_smoke_test_passes(image, checkout):
    done = script(checkout, "smoke.sh", image)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "oracle scored" in done.stdout
    assert "without keras,ptychi,tensorflow,torch,torchvision" in done.stdout


def test_the_image_is_small_labelled_and_keeps_nothing_of_its_build(image, revision):
    (found,) = json.loads(docker("image", "inspect", image).stdout)
    assert found["Size"] < 1e9
    labels = found["Config"]["Labels"]
    assert labels["code_rev"] == revision
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.revision"]
    assert not found["Config"]["Entrypoint"]
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image).stdout
    assert "PIP_" not in history
    assert "ca.crt" not in history
    listing = "ls -A /tmp; find /opt -name '*.crt'; type -P uv pip || true"
    assert docker("run", "--rm", "--network", "none", image, "bash", "-c", listing).stdout == ""


def test_a_stale_image_is_refused(image, task, revision):
    done = inside(image, task, "ptychoflow", "simulate", "--entry", ENTRY, "--code-rev", "0123456789abcdef")
    assert done.returncode == 69
    assert f"code revision 0123456789abcdef, the installed package {revision}" in done.stderr
    assert not list(task.glob("scan.npz"))


def test_files_belong_to_whoever_runs_it_and_hold_what_the_host_computes(image, task, tmp_path, checkout, revision):
    """Oracle: the same command on the host. Arrays and not bytes: Python 3.11.2 and 3.11.4 write other zip headers."""
    done = inside(image, task, "ptychoflow", "simulate", "--entry", ENTRY, "--code-rev", revision, uid=27182)
    assert done.returncode == 0, done.stderr
    assert {path.stat().st_uid for path in task.rglob("*")} == {27182}
    (tmp_path / "host").mkdir()
    subprocess.run(
        [checkout / "bin" / "ptychoflow", "simulate", "--entry", ENTRY, "--out", tmp_path / "host"],
        check=True, capture_output=True, env=os.environ | {"PTYCHOFLOW_PYTHON": sys.executable},
    )  # fmt: skip
    made, host = np.load(task / "scan.npz"), np.load(tmp_path / "host" / "scan.npz")
    assert made.files == host.files
    for name in host.files:
        np.testing.assert_array_equal(made[name], host[name], err_msg=name)


def test_a_gpu_that_is_absent_is_69_and_never_a_cpu_run(image, task, checkout):
    done = inside(image, task, "ptychoflow", "check-device", "--device", "cuda")
    assert done.returncode == 69
    assert "no NVIDIA driver (libcuda.so.1)" in done.stderr
    assert not (task / "device.json").exists()
    if shutil.which("nvidia-smi") is None:
        assert script(checkout, "smoke.sh", image, "cuda").returncode == 69


def test_the_hosts_tree_does_not_shadow_the_images(image, task):
    """As Nextflow starts it: the project's bin/ comes first on PATH, and packages of the host lie around."""
    shutil.copytree(ROOT / "bin", task / "project" / "bin")
    for decoy in (task / "ptychoflow", task / "project" / "python" / "ptychoflow"):
        decoy.mkdir(parents=True)
        (decoy / "__init__.py").write_text("raise RuntimeError('the package of the host')")
    path = f"{task}/project/bin:/opt/ptychoflow/venv/bin:/usr/local/bin:/usr/bin:/bin"
    flags = ("--env", f"PATH={path}", "--env", f"PYTHONPATH={task}/project/python")
    done = inside(image, task, "ptychoflow", "--version", flags=flags)
    assert (done.returncode, done.stdout) == (0, f"ptychoflow {__version__}\n"), done.stderr


@pytest.fixture
def flow(image, checkout, tmp_path, monkeypatch):
    """Return `run(name, *options)`: the folder of a finished run, with its exit code in `code` and its text in `launch.log`.

    Containers have no network. What an arm says without its framework can be seen: the image with them is too large here.
    """
    monkeypatch.setenv("PATH", f"{Path(DOCKER).parent}:{os.environ['PATH']}")

    def run(name, *options):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "here.config").write_text(ONE_IMAGE)
        with start(folder, "run", checkout, "-c", "here.config", *options) as process:
            try:
                (folder / "code").write_text(str(process.wait(timeout=300)))
            finally:
                process.kill()
        return folder

    return run


def table(path, key):
    with path.open(newline="") as stream:
        return {row[key].split(":")[-1]: row for row in csv.DictReader(stream, delimiter="\t")}


def test_the_workflow_runs_in_the_image_and_arms_without_their_framework_say_so(flow, checkout):
    """-profile docker,test, then its own scans with a reconstruction from elsewhere: every process but the inference of an arm.

    Oracle of the versions: the image's Python, asked directly.
    """
    made = flow("made", "-profile", "docker,test", "--models", "pinn_torch,lsqml", "--min_success", "0")
    text = (made / "launch.log").read_text()
    assert (made / "code").read_text() == "0", text
    rows = table(made / "results" / "summary" / "run_status.tsv", "run_id")
    assert {row["state"] for row in rows.values()} == {"missing"}
    tasks = table(made / "results" / "pipeline_info" / "trace.tsv", "process")
    assert {name: (tasks[name]["exit"], tasks[name]["attempt"]) for name in ("TRAIN", "LSQML")} == {
        "TRAIN": ("69", "1"),
        "LSQML": ("69", "1"),
    }
    said = {name: (Path(tasks[name]["workdir"]) / ".command.err").read_text() for name in ("TRAIN", "LSQML")}
    assert "arms of back end torch need torch, which is not installed here" in said["TRAIN"]
    assert "the lsqml arm needs ptychi" in said["LSQML"]
    ran = [(Path(row["workdir"]) / ".command.run").read_text() for row in tasks.values()]
    assert all("docker run -i --cpu-shares" in script and IMAGE in script for script in ran)

    scan = made / "results" / "datasets" / "lines-test" / "scan.npz"
    truth = np.load(scan)["objectGuess"]
    facts = {
        "object": truth,
        "weight": np.ones(truth.shape, np.float32),
        "origin_rc_px": np.zeros(2, np.int64),
        "metadata": np.array("{}"),
    }
    np.savez(made / "mine.npz", **facts)
    (made / "sheet.csv").write_text(f"recon,scan,label,object,N\nmine.npz,{scan},mine,lines,64\n")
    scored = flow("scored", "-profile", "docker", "--from", "evaluate", "--input", made / "sheet.csv")
    assert (scored / "code").read_text() == "0", (scored / "launch.log").read_text()
    rows = table(scored / "results" / "summary" / "run_status.tsv", "run_id")
    assert {run: row["state"] for run, row in rows.items()} == {"lines__mine__n64__s0": "ok"}
    tasks = table(scored / "results" / "pipeline_info" / "trace.tsv", "process")
    assert set(tasks) == {"PLAN", "INGEST", "PREPARE", "EVALUATE", "COMPARE", "COLLECT"}
    manifest = json.loads((scored / "results" / "conditions" / "lines" / "manifest.json").read_text())
    version = docker(
        "run", "--rm", "--network", "none", IMAGE, "python3", "-c", "import platform; print(platform.python_version())"
    )
    assert manifest["versions"]["python"] == version.stdout.strip()
    owners = {path.stat().st_uid for path in (scored / "results").rglob("*")}
    assert owners == {os.getuid()}


def test_buildkit_builds_the_same_packages(image, checkout):
    """The other of the engine's two builders; `pip list` has no pip to ask, so the metadata are compared."""
    listing = "import importlib.metadata as m; print(sorted((d.name, d.version) for d in m.distributions()))"
    classic = docker("run", "--rm", "--network", "none", image, "python3", "-P", "-c", listing).stdout
    build(checkout, DOCKER_BUILDKIT="1", IMAGE_PREFIX="ptychoflow-buildkit")
    other = f"ptychoflow-buildkit/cpu:{__version__}"
    try:
        assert docker("run", "--rm", "--network", "none", other, "python3", "-P", "-c", listing).stdout == classic
    finally:
        docker("image", "rm", "--force", other)
