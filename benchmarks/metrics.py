"""Seconds to align and score a pair of images, FRC included: `python benchmarks/metrics.py [side ...]`.

Wall and CPU time; on a machine that others use, the CPU time is the one to compare.
"""

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter

from ptychoflow.imaging.align import align
from ptychoflow.metrics.frc import crossings, frc
from ptychoflow.metrics.image import image_scores, phase_maps

REPEATS = 7


def picture(side: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    amplitude = 1 + gaussian_filter(rng.normal(size=(side, side)), 2)
    return (amplitude * np.exp(3j * gaussian_filter(rng.normal(size=(side, side)), 3))).astype(np.complex64)


def seconds(work: Callable[[], object]) -> str:
    """Median wall and CPU time; the first call, which fills caches, is left out."""
    wall, cpu = [], []
    for _ in range(REPEATS + 1):
        start, start_cpu = time.perf_counter(), time.process_time()
        work()
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - start_cpu)
    return f"{statistics.median(wall[1:]):.3f} s ({statistics.median(cpu[1:]):.3f} CPU-s)"


def measure(side: int) -> str:
    truth = picture(side, 0)
    recon = truth + 0.1 * picture(side, 1)

    def scores() -> None:
        image_scores(recon, truth)
        for pair in ((recon, truth), (np.abs(recon), np.abs(truth)), phase_maps(recon, truth)):
            crossings(frc(*pair))

    return (
        f"{side} x {side}: scores with FRC {seconds(scores)}; "
        f"align {seconds(lambda: align(recon, truth, mode='gauge', phase_ramp=False))}, "
        f"with ramp {seconds(lambda: align(recon, truth, mode='gauge', phase_ramp=True))}"
    )


if __name__ == "__main__":
    for text in sys.argv[1:] or ["512"]:
        print(measure(int(text)))
