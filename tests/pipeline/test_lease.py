"""bin/gpu_lease.sh: many local tasks share the GPUs of a machine, one task a GPU, whatever ends a task.

Devices are logical slots: the lease hands out names and never touches a card. Tasks write when they begin and end; that no
two on one device overlap is read from these times.
"""

import itertools
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from background_launch import heed_interrupts

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LEASE = ROOT / "bin" / "gpu_lease.sh"
STAMP = 'echo "$(date +%s%N) {event} $CUDA_VISIBLE_DEVICES $$"'
TASK = f"set -e; {{lease}}; {STAMP.format(event='begin')}; sleep {{seconds}}; {STAMP.format(event='end')}"


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Return an environment with a lease folder of its own and no GPU of this machine in sight."""
    (folder / "bin").mkdir(exist_ok=True)
    smi = folder / "bin" / "nvidia-smi"
    if not smi.exists():
        smi.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed because it could not talk to the driver'; exit 9\n")
        smi.chmod(0o755)
    inherited = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    return (
        inherited
        | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PTYCHOFLOW_LEASE_DIR": str(folder / "leases")}
        | more
    )


def start(folder: Path, lease: str, seconds: float = 0.2, **more: str) -> subprocess.Popen:
    script = TASK.format(lease=lease, seconds=seconds)
    return subprocess.Popen(
        ["bash", "-c", script], env=environment(folder, **more), text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heed_interrupts,
    )  # fmt: skip


def begun(task: subprocess.Popen) -> str:
    """Return the device of a task that has begun, and whose `sleep` has: bash forks in between."""
    _, word, device, _ = task.stdout.readline().split()
    assert word == "begin"
    time.sleep(0.3)
    return device


def taken(folder: Path, lease: str, **more: str) -> tuple[str, str]:
    """Return the device that one task is given, and what it is told."""
    script = f'set -e; {lease}; echo "${{CUDA_VISIBLE_DEVICES-unset}}"'
    done = subprocess.run(
        ["bash", "-c", script], env=environment(folder, **more), text=True, capture_output=True, timeout=20
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr.strip()


def intervals(tasks: list[subprocess.Popen]) -> dict[str, list[tuple[int, int]]]:
    """Return the times between begin and end of the tasks on each device."""
    found: dict[str, list[tuple[int, int]]] = {}
    for task in tasks:
        out, err = task.communicate(timeout=60)
        assert task.returncode == 0, err
        (begin, _, device, _), (end, *_) = (line.split() for line in out.splitlines())
        found.setdefault(device, []).append((int(begin), int(end)))
    return found


def overlaps(times: list[tuple[int, int]]) -> int:
    return sum(one[0] < other[1] and other[0] < one[1] for one, other in itertools.combinations(times, 2))


def source(ids: str = "") -> str:
    return f"source '{LEASE}' '{ids}'"


@pytest.mark.parametrize("slots", ["0", "GPU-a,MIG-b/3"])
def test_many_tasks_never_share_a_device(tmp_path, slots):
    used = intervals([start(tmp_path, source(slots)) for _ in range(6)])
    assert sorted(used) == slots.split(",")
    assert sum(map(len, used.values())) == 6
    assert {device: overlaps(times) for device, times in used.items()} == dict.fromkeys(slots.split(","), 0)


def test_control_without_the_lease_overlaps(tmp_path):
    used = intervals([start(tmp_path, "export CUDA_VISIBLE_DEVICES=0") for _ in range(4)])
    assert overlaps(used["0"]) > 0


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_lease_ends_with_the_task_whatever_ends_it(tmp_path, how):
    first = start(tmp_path, source("0"), seconds=60)
    assert begun(first) == "0"
    os.killpg(first.pid, how)
    first.communicate(timeout=10)
    since = time.monotonic()
    assert taken(tmp_path, source("0"))[0] == "0"
    assert time.monotonic() - since < 5


def test_a_lease_lasts_as_long_as_anything_that_the_task_started(tmp_path):
    """A killed wrapper may leave a program behind that still computes on the card."""
    first = start(tmp_path, source("0"), seconds=60)
    assert begun(first) == "0"
    first.kill()
    second = start(tmp_path, source("0"), seconds=0)
    assert second.stderr.readline() == "gpu_lease: waiting for one of 0\n"
    time.sleep(0.6)
    assert second.poll() is None
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    assert intervals([second]).keys() == {"0"}


def test_a_task_that_is_stopped_while_it_waits_never_runs(tmp_path):
    """Nextflow's wrapper has a trap that does not end it; the lease must, and must hand the trap back to a task that got one."""
    trap = "trap 'echo trapped' TERM; trap 'echo left' EXIT"
    holder = start(tmp_path, f"{trap}; {source('0')}", seconds=1)
    assert begun(holder) == "0"
    waiting = start(tmp_path, f"{trap}; {source('0')}")
    time.sleep(0.6)
    waiting.terminate()
    out, _ = waiting.communicate(timeout=10)
    assert (out, waiting.returncode) == ("left\n", 143)
    holder.terminate()
    out, _ = holder.communicate(timeout=10)
    assert "trapped" in out


def test_devices_come_from_the_argument_then_from_the_environment_then_from_the_driver(tmp_path):
    (tmp_path / "bin").mkdir()
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.write_text("#!/bin/sh\nprintf '0, GPU-aaa\\n1, GPU-bbb\\n'\n")
    smi.chmod(0o755)
    assert taken(tmp_path, source())[0] == "GPU-aaa"
    # One card has one name, whoever calls it how: index 1 and its UUID are one lock.
    assert taken(tmp_path, source(), CUDA_VISIBLE_DEVICES="1,0")[0] == "GPU-bbb"
    assert taken(tmp_path, source("MIG-5"), CUDA_VISIBLE_DEVICES="1")[0] == "MIG-5"
    holder = start(tmp_path, source("1"), seconds=60)
    assert begun(holder) == "GPU-bbb"
    assert taken(tmp_path, source("GPU-bbb,0"))[0] == "GPU-aaa"
    os.killpg(holder.pid, signal.SIGKILL)
    holder.communicate()


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_without_a_gpu_the_task_goes_on_and_says_itself_what_is_missing(tmp_path, hidden):
    assert taken(tmp_path, source()) == ("unset", "gpu_lease: no GPU found")
    assert taken(tmp_path, source(), CUDA_VISIBLE_DEVICES=hidden) == (
        hidden,
        "gpu_lease: CUDA_VISIBLE_DEVICES hides every GPU",
    )
    assert not (tmp_path / "leases").exists()


def test_every_user_of_the_machine_can_take_every_lease(tmp_path):
    taken(tmp_path, f"umask 077; {source('0')}")
    assert (tmp_path / "leases").stat().st_mode & 0o7777 == 0o777
    assert (tmp_path / "leases" / "0.lock").stat().st_mode & 0o777 == 0o666
