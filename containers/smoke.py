"""What an image must be able to do; started inside of it by smoke.sh, with the image's own Python and in an empty folder.

Tools of the workflow, who and where this is, every module of the package, every framework on the device, and the way from a
simulated scan to a scored recon.npz. One line for each; the first that fails ends it, with the command's own exit code.
"""

# ruff: noqa: T201

import argparse
import importlib.util
import json
import os
import pkgutil
import pwd
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

TOOLS = ("awk", "bash", "date", "grep", "ps", "ptychoflow", "sed", "tail", "tee")
FRAMEWORKS = ("keras", "ptychi", "tensorflow", "torch", "torchvision")
IMPORT = """
import importlib, sys
for name in sys.argv[2:]:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in sys.argv[1].split(","):
            raise
"""
ENTRY = {
    "id": "smoke",
    "config": {"size": 120, "size_cols": 136, "step_px": 16.0, "phase": "independent", "dose": "1e7"},
}
RUN = {
    "run_id": "smoke__oracle__n64__s0", "condition": "smoke", "label": "oracle", "arm": "imported", "kind": "imported",
    "gridsize": 1, "n": 64, "seed": 0, "supervised": False,
}  # fmt: skip


def main() -> None:
    """Run all checks, each after a line with its time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    device = parser.parse_args().device
    for check in (tools, place, modules):
        timed(check.__name__, check)
    # Before anything that takes long: a GPU that is absent is told at once.
    timed(f"one step on {device}", lambda: call("ptychoflow", "check-device", "--device", device))
    timed("scan to recon.npz", lambda: round_trip(device))


def timed(what: str, work: Callable[[], str]) -> None:
    """Do something and print what it says with its seconds."""
    started = time.perf_counter()
    said = work()
    print(f"smoke: {what}: {said.strip()} ({time.perf_counter() - started:.1f} s)", flush=True)


def call(*command: str) -> str:
    """Return a command's output; end with its message and its exit code when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"smoke: {' '.join(command)[:200]} ended with {done.returncode}\n{done.stderr[-4000:]}", file=sys.stderr)
        sys.exit(done.returncode if done.returncode > 0 else 70)
    return done.stdout


def need(holds: bool, otherwise: str) -> None:
    """End with 70 and a sentence unless something holds."""
    if not holds:
        print(f"smoke: {otherwise}", file=sys.stderr)
        sys.exit(70)


def tools() -> str:
    """The commands that Nextflow and its metrics call."""
    absent = [name for name in TOOLS if shutil.which(name) is None]
    need(not absent, f"not in the image: {', '.join(absent)}")
    return call("ptychoflow", "--version")


def place() -> str:
    """An unknown user on a read-only root without network: else the checks below would prove less."""
    uid = os.getuid()
    need(uid != 0 and uid not in {entry.pw_uid for entry in pwd.getpwall()}, f"user {uid} is known to the image")
    home = package_folder()
    need(home.is_relative_to("/opt/ptychoflow"), f"the package is taken from {home}, not from the image")
    need(not any(os.access(folder, os.W_OK) for folder in ("/", "/tmp", home)), "the root is writable")
    need({name for _, name in socket.if_nameindex()} <= {"lo"}, "there is a network")
    return f"user {uid}, {home}"


def modules() -> str:
    """Every module; those of TensorFlow in another process than PyTorch's."""
    lacking = ",".join(name for name in FRAMEWORKS if importlib.util.find_spec(name) is None)
    names = [
        module.name for module in pkgutil.walk_packages([str(package_folder())], "ptychoflow.", onerror=lambda _: None)
    ]
    apart = [name for name in names if name.startswith("ptychoflow.models.tf")]
    rest = [name for name in names if name not in apart]
    for group in (rest, apart):
        call(sys.executable, "-P", "-c", IMPORT, lacking, *group)
    code = "import json; from ptychoflow.provenance import versions; print(json.dumps(versions()))"
    found = json.loads(call(sys.executable, "-P", "-c", code))
    return f"{len(names)} imported, without {lacking or 'none'}; " + ", ".join(
        f"{name} {found[name]}" for name in sorted(found)
    )


def package_folder() -> Path:
    """Where the package lies."""
    package = importlib.util.find_spec("ptychoflow")
    need(package is not None, "there is no package ptychoflow")
    return Path(str(package and package.origin)).parent


def round_trip(device: str) -> str:
    """Simulate, prepare, take the truth as reconstruction (and LSQML's where pty-chi is), score, and write the report."""
    call("ptychoflow", "simulate", "--entry", json.dumps(ENTRY), "--out", "scan")
    view_entry = json.dumps({"id": "smoke", "config": {"split": "none"}})
    call("ptychoflow", "prepare", "--view-entry", view_entry, *scans("train", "test"), "--out", "view")
    Path("oracle").mkdir()
    recons = {"oracle": oracle()}
    if importlib.util.find_spec("ptychi"):
        run = json.dumps(RUN | {"arm": "lsqml", "label": "lsqml", "config": {"lsqml": {"lsqml_epochs": 3}}})
        call(
            "ptychoflow",
            "lsqml",
            "--run",
            run,
            *scans("test"),
            "--view",
            "view/view.npz",
            "--device",
            device,
            "--out",
            "lsqml",
        )
        recons["lsqml"] = "lsqml/recon.npz"
    for label, recon in recons.items():
        run = json.dumps(RUN | {"label": label})
        call(
            "ptychoflow",
            "evaluate",
            "--run",
            run,
            "--recon",
            recon,
            *scans("test"),
            "--view",
            "view/view.npz",
            "--out",
            label,
        )
    error = json.loads(Path("oracle/metrics.json").read_text())["stitched"]["complex"]["nrmse"]["value"]
    need(error < 1e-5, f"the truth differs from itself by {error}")
    call("ptychoflow", "compare", *recons.values(), "--truth", "scan/scan.npz", "--out", "compared")
    return f"{', '.join(recons)} scored, report.html of {Path('compared/report.html').stat().st_size // 1000} kB"


def scans(*parts: str) -> Sequence[str]:
    """The options that name the one scan as train and test scan."""
    return [word for part in parts for word in (f"--{part}-scan", "scan/scan.npz")]


def oracle() -> str:
    """Write the true object of the scan as a reconstruction."""
    import numpy as np

    from ptychoflow.data.storage import load_scan, save_recon
    from ptychoflow.frames import canvas_for
    from ptychoflow.records import Recon

    scan = load_scan(Path("scan/scan.npz"))
    canvas = canvas_for(scan.positions_rc_px, scan.n)
    (row, col), (rows, cols) = canvas.origin_rc_px, canvas.shape
    seen = np.asarray(scan.object)[row : row + rows, col : col + cols]
    save_recon(
        Path("oracle/recon.npz"), Recon(seen, np.ones(seen.shape, np.float32), canvas, metadata={"arm": "oracle"})
    )
    return "oracle/recon.npz"


if __name__ == "__main__":
    main()
