"""The recipes of the images, without an engine: what build.sh and smoke.sh tell a double of docker, and what the files hold."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ptychoflow.provenance import code_revision

ROOT = Path(__file__).parents[2]
IMAGES = {"cpu": "light", "cuda": "cuda"}
DOCKER = """#!/usr/bin/env bash
printf '%s\\n' "$@" '--' >>"$CALLS"
case $1 in
  build) cp -r "${@: -1}" "$CALLS.context" ;;
  image) if [[ $* == *Size* ]]; then echo 723456789; else echo "$REPOSITORY@sha256:0123abcd"; fi ;;
  run) exit "${RUN_STATUS:-0}" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
    """A copy of what build.sh reads, with what it must leave behind, and a double of docker."""
    root = tmp_path / "checkout"
    for part in ("containers", "bin", "requirements", "python/ptychoflow"):
        shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "python/ptychoflow/__pycache__").mkdir()
    (root / "python/ptychoflow/__pycache__/cli.cpython-311.pyc").write_bytes(b"\0")
    (root / "python/ptychoflow/study/zeta one.py").write_text("é = 1")
    docker = tmp_path / "docker"
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    return root


def call(checkout, script, *arguments, **environment):
    calls = checkout.parent / "calls"
    calls.write_text("")
    done = subprocess.run(
        ["bash", checkout / "containers" / script, *arguments], capture_output=True, text=True, check=False,
        env={"PATH": os.environ["PATH"], "DOCKER": str(checkout.parent / "docker"), "CALLS": str(calls), **environment},
    )  # fmt: skip
    return done, [call.splitlines() for call in calls.read_text().split("--\n") if call]


def names_of(lock):
    """Return name -> version for x86-64 Linux."""
    found = {}
    for line in (ROOT / "requirements" / f"{lock}.lock").read_text().splitlines():
        match = re.match(r"(\S+)==(\S+?)(?: ; (.*?))? \\", line)
        if match and not re.search(r"!= 'x86_64'|'win32'|python_full_version >= '3.12'", match[3] or ""):
            found[match[1]] = match[2]
    return found


def test_an_image_is_built_from_what_it_needs_and_with_its_revision(checkout, tmp_path):
    """Oracle of the revision: provenance.code_revision, which Groovy's is tested against too."""
    bundle = tmp_path / "bundle.pem"
    bundle.write_text("certificate")
    environment = {
        "PIP_CERT": str(bundle),
        "PIP_FIND_LINKS": "/folder/of/wheels",
        "PIP_INDEX_URL": "https://index.invalid/simple",
    }
    done, calls = call(checkout, "build.sh", "cpu", BUILD_NETWORK="host", **environment)
    assert done.returncode == 0, done.stderr
    revision = code_revision(checkout / "python/ptychoflow")
    assert f"code revision {revision}, 723 MB" in done.stdout
    (build,) = (words for words in calls if words[0] == "build")
    assert f"CODE_REV={revision}" in build
    assert "PIP_CERT=/tmp/build/ca.crt" in build
    assert "PIP_INDEX_URL=https://index.invalid/simple" in build
    assert build[build.index("--network") + 1] == "host"
    assert not any("/folder/of/wheels" in word or "BASE_IMAGE" in word for word in build)
    context = Path(f"{tmp_path / 'calls'}.context")
    assert {path.name for path in context.iterdir()} == {"Dockerfile", "bin", "ca.crt", "python", "requirements"}
    assert code_revision(context / "python/ptychoflow") == revision
    assert not list(context.rglob("*.pyc"))
    assert list(context.rglob("report.html.j2"))


def test_the_commit_is_labelled_and_edits_after_it(checkout):
    """Oracle: git itself."""

    def git(*arguments):
        options = ("-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "commit.gpgsign=false")
        return subprocess.run(
            ["git", *options, *arguments], cwd=checkout, check=True, capture_output=True, text=True
        ).stdout

    def labelled():
        (build,) = (words for words in call(checkout, "build.sh", "cpu")[1] if words[0] == "build")
        shutil.rmtree(checkout.parent / "calls.context")
        return next(word.removeprefix("REVISION=") for word in build if word.startswith("REVISION="))

    assert labelled() == "unknown"
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    head = git("rev-parse", "HEAD").strip()
    assert labelled() == head
    (checkout / "bin/ptychoflow").write_text("edited")
    assert labelled() == f"{head}-modified"


def test_a_pushed_image_is_recorded_by_its_digest_and_the_other_stays(checkout):
    done, calls = call(
        checkout, "build.sh", "cuda", "--push", IMAGE_PREFIX="registry/lab", REPOSITORY="registry/lab/cuda"
    )
    assert done.returncode == 0, done.stderr
    assert ["push", "registry/lab/cuda:0.1.0"] in calls
    images = json.loads((checkout / "containers/containers.lock.json").read_text())["images"]
    revision = code_revision(checkout / "python/ptychoflow")
    assert images["cuda"] == {"image": "registry/lab/cuda:0.1.0", "digest": "sha256:0123abcd", "code_rev": revision}
    assert images["cpu"] == json.loads((ROOT / "containers/containers.lock.json").read_text())["images"]["cpu"]


def test_bad_usage_is_64_and_no_engine_69(checkout):
    done, calls = call(checkout, "build.sh", "gpu")
    assert (done.returncode, calls) == (64, [])
    assert "got 'gpu'" in done.stderr
    for script, arguments in (("build.sh", ()), ("smoke.sh", ("image",))):
        done, _ = call(checkout, script, *arguments, DOCKER="/nowhere/docker")
        assert done.returncode == 69
        assert "reaches no engine" in done.stderr
    for arguments in ((), ("image", "gpu"), ("image", "cpu", "cuda")):
        assert call(checkout, "smoke.sh", *arguments)[0].returncode == 64


def test_the_smoke_test_takes_everything_away_and_asks_for_a_gpu_only_when_told(checkout):
    done, calls = call(checkout, "smoke.sh", "ptychoflow/cpu:1")
    assert done.returncode == 0, done.stderr
    (run,) = (words for words in calls if words[0] == "run")
    assert {"--read-only", "no-new-privileges", "HOME=/nonexistent", "ptychoflow/cpu:1"} <= set(run)
    assert run[run.index("--network") + 1] == "none"
    assert run[run.index("--cap-drop") + 1] == "ALL"
    uid, gid = run[run.index("--user") + 1].split(":")
    assert uid == gid
    assert int(uid) >= 20000
    assert "--gpus" not in run
    run = call(checkout, "smoke.sh", "ptychoflow/cuda:1", "cuda")[1][-1]
    assert run[run.index("--gpus") + 1] == "all"
    run = call(checkout, "smoke.sh", "ptychoflow/cuda:1", "cuda", GPU_FLAGS="--device nvidia.com/gpu=all")[1][-1]
    assert run[run.index("--device") + 1] == "nvidia.com/gpu=all"


@pytest.mark.parametrize(
    ("device", "status", "expected"), [("cuda", 125, 69), ("cpu", 125, 125), ("cuda", 69, 69), ("cpu", 70, 70)]
)
def test_an_engine_without_gpus_is_69_and_every_other_code_is_handed_on(checkout, device, status, expected):
    done, _ = call(checkout, "smoke.sh", "image", device, RUN_STATUS=str(status))
    assert done.returncode == expected
    assert ("NVIDIA container toolkit" in done.stderr) == (status == 125 and device == "cuda")


def test_locks_have_one_version_of_everything_and_only_hashes():
    cpu, light, cuda = names_of("cpu"), names_of("light"), names_of("cuda")
    assert light.items() <= cpu.items()
    assert light.items() <= cuda.items()
    frameworks = {"torch", "torchvision", "triton", "tensorflow", "tensorflow-cpu", "keras", "ptychi"}
    assert not frameworks & set(light)
    assert {name: version for name, version in cpu.items() if name not in cuda} == {
        "tensorflow-cpu": cuda["tensorflow"]
    }
    assert set(cuda) - set(cpu) == {"tensorflow", "nvidia-cuda-nvcc-cu12"}
    assert cuda["nvidia-cuda-nvcc-cu12"].startswith("12.8.")
    assert cuda["nvidia-cuda-runtime-cu12"].startswith("12.8.")
    for lock in IMAGES.values():
        text = (ROOT / "requirements" / f"{lock}.lock").read_text()
        assert "://" not in text
        for entry in re.split(r"\n(?=\S)", text.strip()):
            assert "--hash=sha256:" in entry, entry


def test_both_recipes_are_one_but_for_names():
    def steps(name):
        text = (ROOT / "containers" / name / "Dockerfile").read_text()
        body = text[text.index("ARG BASE_IMAGE") :]
        return body.replace(f"{IMAGES[name]}.lock", "LOCK").replace(f"ptychoflow/{name}", "NAME")

    assert steps("cpu") == steps("cuda")
    assert "--mount" not in steps("cpu")
    assert "syntax=" not in steps("cpu")
    build, final = re.split(r"\nFROM .*", steps("cpu"))[1:]
    assert "PIP_CERT" in build
    assert "PIP_" not in final


@pytest.mark.parametrize("writable", [True, False])
def test_in_an_image_the_images_own_python_is_used_and_caches_go_to_the_task(tmp_path, writable):
    """The host's bin/ comes first on PATH inside a container, beside the host's package, which must not be taken."""
    python = tmp_path / "bin" / "python3"
    python.parent.mkdir()
    python.write_text('#!/bin/bash\nprintf "%s\\n" "$*" "$HOME" "${TMPDIR:-}" "${PYTHONPATH-unset}" "$USER"\n')
    python.chmod(0o755)
    task = tmp_path / "task" if writable else Path("/proc")
    task.mkdir(exist_ok=True)
    environment = {
        "PATH": f"{python.parent}:/usr/bin:/bin", "PTYCHOFLOW_IN_IMAGE": "1", "PTYCHOFLOW_PYTHON": "/host/python",
        "PYTHONPATH": "/host", "HOME": "/nonexistent",
    }  # fmt: skip
    command = [ROOT / "bin" / "ptychoflow", "plan", "--out", "a b"]
    done = subprocess.run(command, cwd=task, env=environment, capture_output=True, text=True, check=True)
    scratch = (str(task / ".scratch"),) * 2 if writable else ("/nonexistent", "")
    assert tuple(done.stdout.splitlines()) == ("-P -m ptychoflow.cli plan --out a b", *scratch, "unset", "ptychoflow")
