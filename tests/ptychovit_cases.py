"""Scans, pairs and checkpoints for the tests of the external arm: small, non-square, without symmetry, off the raster."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from doubles.ptychovit import Double
from ptychoflow.arms.ptychovit.checkout import Way
from ptychoflow.arms.ptychovit.restore import PtychoVitConfig
from ptychoflow.commands import export_pair, ptychovit_fresh, ptychovit_run
from ptychoflow.config import parse
from ptychoflow.data.storage import save_scan
from ptychoflow.records import Scan

N = 256
SHAPES = ((301, 330), (322, 291))
"""Objects, px."""
GAP = 17
"""Between two objects of one scan, px; the second one lies below and to the right."""
META = {"condition": "case", "label": "pinn_ptychovit", "arm": "pinn_ptychovit", "gridsize": 1, "n": N, "seed": 3}
MAKE_CHECKPOINT = """
import sys, torch, yaml
from model.model import PtychoViT
torch.manual_seed(7)
model = PtychoViT(config=yaml.safe_load(open(sys.argv[1]))["model"])
torch.save(model.state_dict(), sys.argv[2])
"""


def write_scan(path: Path, *, n_objects: int = 1, n_frames: int = 5, seed: int = 0, brightness: float = 1.0) -> Scan:
    """Write a scan whose frames are plain `numpy.fft` of whole-pixel patches, and return it; positions differ per axis."""
    rng = np.random.default_rng(seed)
    origins = [(0, 0), (SHAPES[0][0] + GAP, SHAPES[0][1] + 2 * GAP)][:n_objects]
    rectangles = [(r, r + rows, c, c + cols) for (r, c), (rows, cols) in zip(origins, SHAPES, strict=False)]
    row, col = np.mgrid[: rectangles[-1][1], : rectangles[-1][3]].astype(float)
    image = (
        brightness
        * (0.97 + 0.03 * np.sin(row / 17 + seed) * np.cos(col / 23))
        * np.exp(1j * (np.sin(row / 31) - 0.6 * np.cos(col / 19)))
    )
    axis = np.arange(N) - N // 2
    probe = 4 * np.exp(-((axis[:, None] + 5) ** 2 + 1.3 * axis**2) / 900) * np.exp(1j * axis[:, None] * axis / 3000)
    positions, index, frames = [], [], []
    for number, (r0, r1, c0, c1) in enumerate(rectangles):
        for _ in range(n_frames):
            top, left = rng.integers(r0 + 1, r1 - N - 1), rng.integers(c0 + 1, c1 - N - 1)
            wave = np.fft.fft2(probe * image[top : top + N, left : left + N], norm="ortho")
            frames.append(np.abs(np.fft.fftshift(wave)))
            positions.append((top + N // 2, left + N // 2))
            index.append(number)
    scan = Scan(
        amplitude=np.array(frames, dtype=np.float32),
        positions_rc_px=np.array(positions, dtype=np.float64),
        probe=probe.astype(np.complex64),
        scan_index=np.array(index, dtype=np.int64),
        object=image.astype(np.complex64),
        metadata={"object_role": "truth", "photons_per_intensity": 1.0, "objects": [list(one) for one in rectangles]},
    )
    save_scan(path, scan)
    return scan


def make_pairs(folder: Path, name: str, **options: Any) -> tuple[Path, Scan]:
    """Write a scan and its pairs as EXPORT_PAIR does; return the folder of the pairs, and the scan."""
    folder.mkdir(parents=True)
    scan = write_scan(folder / "scan.npz", **options)
    export_pair.run(scan=folder / "scan.npz", view=None, object_file=None, name=name, out_dir=folder / "pairs")
    return folder / "pairs", scan


def make_checkpoint(folder: Path, checkout: Path) -> Path:
    """Write best_model.pth of random weights, and the checkout's config.yaml beside it; return the folder."""
    folder.mkdir()
    shutil.copyfile(checkout / "config.yaml", folder / "config.yaml")
    env = {**os.environ, "PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", MAKE_CHECKPOINT, str(folder / "config.yaml"), str(folder / "best_model.pth")]
    subprocess.run(command, env=env, check=True, cwd=folder)
    return folder


def start(double: Double, out: Path, *, test: Path, mode: str = "inference", **given: Any) -> str | None:
    """Run `ptychovit run` on a double, options of the configuration among the others; return the reason of a failed run."""
    inputs = {name: given.pop(name, None) for name in ("train", "checkpoint", "base_config")}
    out.mkdir(exist_ok=True)
    return ptychovit_run.run(
        parse(PtychoVitConfig, {"mode": mode, **given}, what="ptychovit"),
        run_meta={**META, "run_id": f"case__{out.name}"},
        way=Way(double.path, Path(sys.executable), None),
        test_pairs=test,
        train_pairs=inputs["train"],
        checkpoint=inputs["checkpoint"],
        base_config=inputs["base_config"],
        digest=None,
        allow_double=double.tree_sha256,
        device="cpu",
        attempt=1,
        inherited={
            "PATH": os.environ["PATH"],
            "OMP_NUM_THREADS": "1",
            "RANK": "3",
            "SLURM_PROCID": "2",
            "WORLD_SIZE": "4",
        },
        search_path=sys.path,
        out_dir=out,
    )


def alive(pid: int) -> bool:
    """Return whether a process runs; one that ended and was not collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def users_of(folder: Path) -> list[int]:
    """Return the processes whose command line names a folder: what a run left behind."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if str(folder).encode() in (entry / "cmdline").read_bytes() and alive(int(entry.name)):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


SMALL = {"nimgs_test": 2, "set_phi": True, "size": 320, "step_px": 32.0, "report_object": 1}
"""A fresh baseline of two objects and nine frames each; the second one is reported."""


def fresh(double: Double, out: Path, checkpoint: Path, **given: Any) -> str:
    """Run `ptychovit fresh` on a double; return what it prints."""
    options = {name: given.pop(name) for name in list(given) if name not in ("force_clean", "reuse_recons")}
    return ptychovit_fresh.run(
        parse(ptychovit_fresh.FreshConfig, {**SMALL, **options}, what="fresh"),
        way=Way(double.path, Path(sys.executable), None),
        checkpoint=checkpoint,
        base_config=None,
        digest=None,
        allow_double=double.tree_sha256,
        device="cpu",
        force_clean=given.get("force_clean", False),
        reuse_recons=given.get("reuse_recons", False),
        inherited={"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"},
        search_path=sys.path,
        out_dir=out,
    )
