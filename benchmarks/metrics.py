"""CPU seconds to score a pair of images, FRC included, and to align it: `python benchmarks/metrics.py [side ...]`.

On a machine that others use, the CPU time is the one to compare; wall time is printed beside it.
"""

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter

from ptychoflow.frames import Canvas, Region
from ptychoflow.imaging.align import align
from ptychoflow.imaging.harmonize import grid_for
from ptychoflow.metrics.frc import frc, frc_scores
from ptychoflow.metrics.image import image_scores, phase_maps

REPEATS = 5


def picture(side: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    amplitude = 1 + gaussian_filter(rng.normal(size=(side, side)), 2)
    return (amplitude * np.exp(3j * gaussian_filter(rng.normal(size=(side, side)), 3))).astype(np.complex64)


def seconds(work: Callable[[], object]) -> str:
    """Median CPU and wall time; the first call, which fills caches, is left out."""
    wall, cpu = [], []
    for _ in range(REPEATS + 1):
        start, start_cpu = time.perf_counter(), time.process_time()
        work()
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - start_cpu)
    return f"{statistics.median(cpu[1:]):.3f} CPU-s ({statistics.median(wall[1:]):.3f} s)"


def measure(side: int) -> None:
    truth = picture(side, 0)
    recon = truth + 0.1 * picture(side, 1)
    canvas, grid = Canvas((0, 0), (side, side)), grid_for(Region(0, side, 0, side), canonical=None)

    def images() -> None:
        image_scores(recon, truth)

    def rings() -> None:
        for pair in ((recon, truth), (np.abs(recon), np.abs(truth)), phase_maps(recon, truth)):
            frc_scores(frc(*pair))

    def both() -> None:
        images()
        rings()

    def aligned(*, ramp: bool) -> None:
        align(recon, canvas, truth, grid, mode="gauge", phase_ramp=ramp, max_shift_px=5.0)

    parts = {
        "scores with three FRC curves": both,
        "of these, image scores": images,
        "of these, FRC": rings,
        "align, gauge": lambda: aligned(ramp=False),
        "align, gauge and ramp": lambda: aligned(ramp=True),
    }
    print(f"{side} x {side}")
    for name, work in parts.items():
        print(f"  {name}: {seconds(work)}", flush=True)


if __name__ == "__main__":
    for text in sys.argv[1:] or ["512", "2048"]:
        measure(int(text))
