"""A `nextflow` that runs while the test goes on, to be killed or watched; for finished ones there is the fixture `nextflow`."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).parents[1]
Value = TypeVar("Value")


def environment_of(folder: Path) -> dict[str, str]:
    """Return the environment of a Nextflow that needs no network and keeps its own files in the launch folder."""
    return os.environ | {
        "NXF_HOME": str(folder / ".nxf_home"),
        "NXF_OFFLINE": "true",
        "NXF_PLUGINS_DEFAULT": "false",
        "NXF_DISABLE_CHECK_LATEST": "true",
        "NXF_ANSI_LOG": "false",
        "PTYCHOFLOW_PYTHON": sys.executable,
    }


def heed_interrupts() -> None:
    """Let this process end by Ctrl-C. What a shell started in the background ignores it, and what that starts does."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(folder: Path, *arguments: object) -> subprocess.Popen:
    """Return a running Nextflow whose launch folder is `folder`; its process is the JVM itself, its output in `launch.log`."""
    command = [os.environ.get("NEXTFLOW", ROOT / ".nextflow-dist" / "nextflow"), *arguments]
    with (folder / "launch.log").open("w") as log:
        return subprocess.Popen(
            list(map(str, command)), cwd=folder, env=environment_of(folder), start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            preexec_fn=heed_interrupts,
        )  # fmt: skip


def wait_for(what: Callable[[], Value], seconds: float) -> Value:
    """Return the first true value of what()."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := what():
            return value
        time.sleep(0.2)
    raise AssertionError(f"nothing after {seconds} s")


def working_in(folder: Path) -> list[str]:
    """Return the command lines of all processes whose working folder lies in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink().is_relative_to(folder):
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:  # ended meanwhile
            continue
    return found
