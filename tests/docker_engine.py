"""The image cpu, built by the machine's Docker engine for the tests of images and of Slurm; with the layers there, in seconds."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from background_launch import ROOT
from ptychoflow import __version__

# Debian's own client comes first where it is: a newer one elsewhere on PATH may lack BuildKit.
DOCKER = "/usr/bin/docker" if Path("/usr/bin/docker").exists() else shutil.which("docker")
IMAGE = f"ptychoflow/cpu:{__version__}"
LOCAL_BASE = "base:bookworm"
ONE_IMAGE = f"""process {{ withLabel: process_gpu {{ container = '{IMAGE}' }} }}
docker.runOptions = '-u $(id -u):$(id -g) --read-only --network none'
"""
"""Settings of a run without network whose arms get the image cpu as well: with the frameworks an image has 10 GB."""


def docker(*arguments, check=True, **options):
    return subprocess.run([DOCKER, *map(str, arguments)], capture_output=True, text=True, check=check, **options)


def skip_without_engine():
    if DOCKER is None or docker("info", check=False).returncode:
        pytest.skip("no Docker engine answers: run tests/infra/docker-ready.sh as root")


def script(checkout, name, *arguments, **environment):
    """Return a finished script of containers/."""
    command = ["bash", checkout / "containers" / name, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"DOCKER": DOCKER, **environment}
    )


def copy_checkout(target):
    """Return a copy of the workflow and of what its images are made from."""
    for part in ("containers", "bin", "requirements", "python/ptychoflow", "modules", "conf"):
        shutil.copytree(ROOT / part, target / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("main.nf", "nextflow.config", "nextflow_schema.json"):
        shutil.copy(ROOT / name, target / name)
    return target


def build(checkout, **environment):
    """Build the cpu image, on the local base where there is one, with the host's network: the engine may have no bridge."""
    local = docker("image", "inspect", LOCAL_BASE, check=False).returncode == 0
    base = {"BASE_IMAGE": LOCAL_BASE, "BUILD_NETWORK": "host"} if local else {}
    done = script(checkout, "build.sh", "cpu", **{**base, **environment})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    sys.stdout.write(done.stdout.splitlines()[-1] + "\n")
