"""External programs: what they see, where their streams go, and that nothing of them is left. Oracle: /proc."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ptychoflow.arms.ptychovit.bridge import environment, run_program
from ptychovit_cases import alive

WITH_CHILD = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
"""
DEAF = """
import signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(600)
"""
BRIDGE = """
import signal, sys
from pathlib import Path
from ptychoflow.arms.ptychovit.bridge import run_program, stopped_by_signals
folder = Path(sys.argv[1])
for signum in (signal.SIGINT, signal.SIGHUP):  # whatever started the tests may ignore them
    signal.signal(signum, signal.SIG_DFL)
if len(sys.argv) > 3:
    signal.signal(int(sys.argv[3]), signal.SIG_IGN)
with stopped_by_signals():
    run_program([sys.executable, "-c", sys.argv[2]], cwd=folder, env={}, stdout=folder / "out", stderr=folder / "err", limit_s=60)
"""


def run(folder: Path, text: str, *, limit_s: float = 30.0, env: dict | None = None):
    return run_program(
        [sys.executable, "-S", "-c", text], cwd=folder, env=env or {}, stdout=folder / "out", stderr=folder / "err", limit_s=limit_s
    )  # fmt: skip


def waited(path: Path, text: str = "\n") -> str:
    """Return what a file holds once some text is in it."""
    for _ in range(400):
        if path.exists() and text in path.read_text():
            return path.read_text()
        time.sleep(0.02)
    raise AssertionError(f"{text!r} never came")


def gone(pid: int) -> bool:
    for _ in range(100):
        if not alive(pid):
            return True
        time.sleep(0.02)
    return False


def test_streams_are_kept_apart_and_appended(tmp_path):
    (tmp_path / "out").write_text("before\n")
    ended = run(tmp_path, "import sys; print('one'); print('two', file=sys.stderr); sys.exit(7)")
    assert (ended.returncode, ended.timed_out) == (7, False)
    assert (tmp_path / "out").read_text() == "before\none\n"
    assert (tmp_path / "err").read_text() == "two\n"


def test_streams_come_while_the_program_runs(tmp_path):
    text = "import time\nprint('early', flush=True)\nwhile not __import__('os').path.exists('go'): time.sleep(0.01)\nprint('late')"
    thread = threading.Thread(target=run, args=(tmp_path, text))
    thread.start()
    try:
        assert waited(tmp_path / "out", "early") == "early\n"
    finally:
        (tmp_path / "go").touch()
        thread.join()
    assert (tmp_path / "out").read_text() == "early\nlate\n"


def test_at_the_limit_the_whole_group_goes(tmp_path):
    started = time.monotonic()
    ended = run(tmp_path, WITH_CHILD + "time.sleep(600)", limit_s=0.5)
    assert ended.timed_out
    assert ended.returncode is None
    assert 0.5 <= ended.seconds <= time.monotonic() - started < 8
    assert gone(int((tmp_path / "out").read_text()))


def test_a_program_that_does_not_listen_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr("ptychoflow.arms.ptychovit.bridge.GRACE_S", 0.2)
    started = time.monotonic()
    ended = run(tmp_path, DEAF, limit_s=0.5)
    assert ended.timed_out
    assert time.monotonic() - started < 5
    assert (tmp_path / "out").read_text() == "deaf\n"


def test_what_a_program_leaves_behind_goes_with_it(tmp_path):
    """A program that ends by itself takes its workers along: they would hold the GPU."""
    ended = run(tmp_path, WITH_CHILD)
    assert ended.returncode == 0
    assert gone(int((tmp_path / "out").read_text()))


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_stopped_bridge_leaves_nothing(tmp_path, signum, code):
    """Oracle: /proc, after a signal to a bridge in a process of its own whose program has a child."""
    command = [sys.executable, "-c", BRIDGE, str(tmp_path), WITH_CHILD + "time.sleep(600)"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "python")}
    bridge = subprocess.Popen(command, env=env, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        child = int(waited(tmp_path / "out"))
        program = int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1])
        assert os.getpgid(program) == program != os.getpgid(bridge.pid)
        bridge.send_signal(signum)
        assert bridge.wait(timeout=20) == code
    finally:
        bridge.kill()
        bridge.wait()
    assert gone(program)
    assert gone(child)


def test_a_signal_that_is_ignored_stays_so(tmp_path):
    """Under nohup a hang-up stops nothing."""
    text = "import os, signal; os.kill(os.getppid(), signal.SIGHUP); print('done')"
    command = [sys.executable, "-c", BRIDGE, str(tmp_path), text, str(int(signal.SIGHUP))]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "python")}
    assert subprocess.run(command, env=env, check=False, timeout=30).returncode == 0
    assert (tmp_path / "out").read_text() == "done\n"


def test_signals_mean_what_they_meant_afterwards(tmp_path):
    before = [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    run(tmp_path, "pass")
    assert [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)] == before


def test_a_program_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        run_program(
            [str(tmp_path / "no")], cwd=tmp_path, env={}, stdout=tmp_path / "o", stderr=tmp_path / "e", limit_s=1
        )


INHERITED = {
    "PATH": "/bin", "OMP_NUM_THREADS": "3", "SLURM_PROCID": "2", "SLURM_NTASKS": "4", "MASTER_ADDR": "node7", "RANK": "2",
    "WORLD_SIZE": "4", "PYTHONPATH": "/ptychoflow", "PYTHONHOME": "/x", "CUDA_VISIBLE_DEVICES": "5,6", "HOME": "/home/me",
}  # fmt: skip


def test_the_environment_is_clean(tmp_path):
    """Oracle: the reference page, section 7."""
    found = environment(INHERITED, home=tmp_path, device="cpu")
    assert not [name for name in found if name.startswith(("SLURM_", "MASTER_"))]
    assert not {"PYTHONPATH", "PYTHONHOME", "PYTHONSAFEPATH"} & found.keys()
    expected = {
        "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "CUDA_VISIBLE_DEVICES": "", "WANDB_MODE": "disabled",
        "MPLBACKEND": "Agg", "HDF5_USE_FILE_LOCKING": "FALSE", "PYTHONNOUSERSITE": "1", "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "3", "PATH": "/bin", "HOME": str(tmp_path), "MPLCONFIGDIR": str(tmp_path),
    }  # fmt: skip
    assert expected.items() <= found.items()


def test_a_gpu_run_sees_one_gpu_and_the_driver_sees_the_checkout(tmp_path):
    found = environment(INHERITED, home=tmp_path, device="cuda", import_path=tmp_path / "vit")
    assert found["CUDA_VISIBLE_DEVICES"] == "5"
    assert found["PYTHONPATH"] == str(tmp_path / "vit")
    assert found["PYTHONSAFEPATH"] == "1"
    assert environment({}, home=tmp_path, device="cuda")["CUDA_VISIBLE_DEVICES"] == "0"
