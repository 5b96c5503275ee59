"""The cpu image, really built and run by a Docker engine: `make test-machines`, after tests/infra/docker-ready.sh."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ptychoflow import __version__
from ptychoflow.provenance import code_revision

pytestmark = pytest.mark.docker

ROOT = Path(__file__).parents[2]
# Debian's own client comes first where it is: a newer one elsewhere on PATH may lack BuildKit.
DOCKER = "/usr/bin/docker" if Path("/usr/bin/docker").exists() else shutil.which("docker")
IMAGE = f"ptychoflow/cpu:{__version__}"
LOCAL_BASE = "base:bookworm"
ENTRY = json.dumps({"id": "tiny", "config": {"size": 100, "size_cols": 116, "step_px": 16.0}})
HARDENED = ("--read-only", "--network", "none", "--cap-drop", "ALL")


def docker(*arguments, check=True, **options):
    return subprocess.run([DOCKER, *map(str, arguments)], capture_output=True, text=True, check=check, **options)


def script(checkout, name, *arguments, **environment):
    command = ["bash", checkout / "containers" / name, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"DOCKER": DOCKER, **environment}
    )


def build(checkout, **environment):
    """Build the cpu image, on the local base where there is one, with the host's network: the engine may have no bridge."""
    local = docker("image", "inspect", LOCAL_BASE, check=False).returncode == 0
    base = {"BASE_IMAGE": LOCAL_BASE, "BUILD_NETWORK": "host"} if local else {}
    done = script(checkout, "build.sh", "cpu", **{**base, **environment})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    sys.stdout.write(done.stdout.splitlines()[-1] + "\n")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of what the images are made from, which nobody edits meanwhile."""
    root = tmp_path_factory.mktemp("images") / "checkout"
    for part in ("containers", "bin", "requirements", "python/ptychoflow"):
        shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
    return root


@pytest.fixture(scope="module")
def revision(checkout):
    return code_revision(checkout / "python" / "ptychoflow")


@pytest.fixture(scope="module")
def image(checkout):
    if DOCKER is None or docker("info", check=False).returncode:
        pytest.skip("no Docker engine answers: run tests/infra/docker-ready.sh as root")
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
