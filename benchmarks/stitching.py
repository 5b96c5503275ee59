"""Patches per CPU-second of the streaming stitcher at N = 64 (target 5,000), and its peak memory at N = 128.

The memory part reconstructs 10,000 frames of 128 px with an untrained network from a memory-mapped scan: below 2 GiB.
"""

import resource
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ptychoflow.imaging.stitch import Stitcher

N, PATCHES = 64, 4000


def stitching() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(40, 400, (PATCHES, 2))
    probe = (rng.normal(size=(N, N)) + 1j).astype(np.complex64)
    patches = (rng.normal(size=(256, N, N)) + 1j).astype(np.complex64)
    rates = []
    for _ in range(5):
        stitcher = Stitcher(points, probe)
        clock = time.process_time()
        for start in range(0, PATCHES, 256):
            batch = points[start : start + 256]
            stitcher.add(patches[: len(batch)], batch)
        rates.append(PATCHES / (time.process_time() - clock))
    print(f"stitching: {np.median(rates):,.0f} patches per CPU-second at N = {N} (median of 5)")


def memory(frames: int = 10_000, n: int = 128) -> None:
    from ptychoflow.arms.neural import reconstruct
    from ptychoflow.config import ModelConfig
    from ptychoflow.data.storage import load_scan, write_npz
    from ptychoflow.models.spec import network_spec
    from ptychoflow.models.torch.backend import build_network, choose_runtime, save_weights
    from ptychoflow.records import FrameSet, Normalization, View

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        rng = np.random.default_rng(0)
        points = rng.uniform(n, n + 700, (frames, 2))
        probe = np.ones((n, n), dtype=np.complex64)
        frame = rng.random((n, n), dtype=np.float32)
        stack = np.broadcast_to(frame, (frames, n, n))
        write_npz(root / "scan.npz", {"diff3d": stack, "xcoords": points[:, 1], "ycoords": points[:, 0],
                                      "probeGuess": probe})  # fmt: skip
        scan = load_scan(root / "scan.npz")
        model = ModelConfig()
        save_weights(
            build_network(network_spec(n, 1, model), model, choose_runtime("cpu", "fp32"), seed=0), root / "weights.pt"
        )
        np.save(root / "probe.npy", probe)
        everything = np.arange(frames)
        view = View(FrameSet(everything, everything[:, None]), FrameSet(everything, everything[:, None]), everything[:0],
                    Normalization(1.0, 1.0, 1.0, 1.0, photons_known=True), (), {})  # fmt: skip
        card = {
            "n": n, "gridsize": 1, "model": asdict(model), "normalization": asdict(view.normalization),
            "backend": "torch", "weights": "weights.pt", "snapshots": [],
        }  # fmt: skip
        clock = time.monotonic()
        reconstruct(scan, view, card=card, model_dir=root, device="cpu", precision="auto", infer_batch_size=32)
        seconds = time.monotonic() - clock
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"reconstruct: {frames:,} frames of {n} px in {seconds:.0f} s, peak {peak:.2f} GiB (memory-mapped frames included)"
    )


if __name__ == "__main__":
    stitching()
    if "--memory" in sys.argv:
        memory()
