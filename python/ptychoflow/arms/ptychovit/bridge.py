"""Starts programs of the external environment: a clean environment, both streams to files, a time limit, and no survivors.

Each program gets a session and a process group of its own. Its group is ended whatever happens: on its own exit (a worker left
behind would hold the GPU), at the time limit, and when this process is told to stop (SIGTERM, SIGINT, SIGHUP). Nothing external
is ever imported here. Source: PtychoViT bridge reference, sections 7 and 15.
"""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

POLL_S = 0.05
GRACE_S = 3.0
"""Time between SIGTERM and SIGKILL, and how long the end of a killed group is awaited."""
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

KEPT = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "NVIDIA_VISIBLE_DEVICES")
"""Variables that go through. Ranks, Slurm's variables and import paths do not: upstream would wait for peers that are not there."""


@dataclass(frozen=True)
class Ended:
    """How a program ended.

    Attributes:
        returncode: its exit code, negative for a signal; None when it was stopped at the time limit.
        seconds: wall time, s.
        limit_s: the limit that it ran under, s.
    """

    returncode: int | None
    seconds: float
    limit_s: float

    @property
    def timed_out(self) -> bool:
        """Whether it was stopped at the time limit."""
        return self.returncode is None


def environment(
    inherited: Mapping[str, str], *, home: Path, device: str, import_path: Path | None = None
) -> dict[str, str]:
    """Return the environment of an external program.

    Args:
        inherited: variables of this process; only those of `KEPT` go through, and the first of the visible GPUs.
        home: writable folder for caches.
        device: `cpu` hides every GPU, `cuda` shows one.
        import_path: the checkout, for our own driver; None for upstream's programs, which lie in it.
    """
    visible = (inherited.get("CUDA_VISIBLE_DEVICES") or "0").split(",")[0] if device == "cuda" else ""
    own = {
        "HOME": str(home),
        "MPLBACKEND": "Agg",
        "MPLCONFIGDIR": str(home),
        "WANDB_MODE": "disabled",
        "HDF5_USE_FILE_LOCKING": "FALSE",
        "OMP_NUM_THREADS": str(os.cpu_count() or 1),
        "PYTHONUNBUFFERED": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "CUDA_VISIBLE_DEVICES": visible,
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
    }
    if import_path is not None:
        # Without the second one the driver's own folder comes first, and what lies in it hides modules of the same name.
        own |= {"PYTHONPATH": str(import_path), "PYTHONSAFEPATH": "1"}
    return own | {name: inherited[name] for name in KEPT if name in inherited}


def run_program(
    command: Sequence[str], *, cwd: Path, env: Mapping[str, str], stdout: Path, stderr: Path, limit_s: float
) -> Ended:
    """Run a program to its end, its streams appended to files as they come, and leave nothing of it running.

    Args:
        command: program and arguments.
        cwd: its working folder.
        env: its whole environment.
        stdout: file that its standard output is appended to.
        stderr: file that its standard error is appended to.
        limit_s: wall time after which its whole group is killed, s.

    Raises:
        OSError: the program cannot be started at all.
    """
    started = time.monotonic()
    with stdout.open("ab") as out, stderr.open("ab") as err:
        # A signal in the moment of starting would find nothing to stop yet.
        with _signals_held():
            process = subprocess.Popen(
                list(command), cwd=cwd, env=dict(env), stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                start_new_session=True, close_fds=True,
            )  # fmt: skip
        try:
            ended = _wait(process, started + limit_s)
        finally:
            end_group(process)
    return Ended(process.returncode if ended else None, time.monotonic() - started, limit_s)


def _wait(process: subprocess.Popen[bytes], deadline: float) -> bool:
    """Return whether the program ended by itself before the deadline; it is not reaped, so its group keeps its number."""
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End every process of a program's group: asked first while the program itself still runs, killed then; reap the program."""
    with _signals_held():
        running = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        if running:
            _signal_group(process.pid, signal.SIGTERM)
            _wait(process, time.monotonic() + GRACE_S)
        # Until it is reaped the number is its own: nobody else can be hit.
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + GRACE_S
        while _signal_group(process.pid, 0) and time.monotonic() < deadline:
            time.sleep(POLL_S)


def _signal_group(group: int, signum: int) -> bool:
    """Send a signal to a group; return whether it had any process."""
    try:
        os.killpg(group, signum)
    except ProcessLookupError:
        return False
    return True


def _handle(handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Give the stopping signals a handler and return those before; one that is ignored (nohup) stays so."""
    heard = [signum for signum in STOPPING if signal.getsignal(signum) not in (signal.SIG_IGN, None)]
    return {signum: signal.signal(signum, handler) for signum in heard}


@contextmanager
def _signals_held() -> Iterator[None]:
    """Let the stopping signals wait meanwhile. Blocked in the kernel they would be blocked in the started program too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    before = _handle(lambda signum, _: arrived.append(signum))
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        for signum in dict.fromkeys(arrived):
            signal.raise_signal(signum)


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Turn stopping signals into SystemExit(128 + number) meanwhile, so that programs are ended on the way out.

    Outside of the main thread, where Python takes no signals, it changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum: int, frame: FrameType | None) -> None:
        del frame
        raise SystemExit(128 + signum)

    before = _handle(stop)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
