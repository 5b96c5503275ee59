"""Frames per second of the simulation, drawing of the object apart: `python benchmarks/simulate.py [N ...]`."""

import sys
import time
from dataclasses import replace

import numpy as np

from ptychoflow.config import SimulateConfig
from ptychoflow.physics import objects, probe, scans
from ptychoflow.physics.diffraction import expose

CONFIG = SimulateConfig(n_objects=2)
DOSES = (1e4, 1e9)


def measure(config: SimulateConfig, dose: float) -> str:
    shape = (config.size, config.size)
    start = time.perf_counter()
    drawn = [objects.lines_amplitude(shape, np.random.default_rng(i)).astype(complex) for i in range(config.n_objects)]
    drawing = time.perf_counter() - start
    start, start_cpu = time.perf_counter(), time.process_time()
    image, regions = objects.side_by_side(drawn, config.n)
    positions = np.concatenate([scans.raster(region, config.n, config.step_px) for region in regions])
    wave = probe.smooth(probe.ideal_disk(config.n), config.probe_smoothing_sigma_px)
    exposure = expose(image, wave, positions, dose_photons=dose, rng=np.random.default_rng(0))
    wall, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    n_frames = len(exposure.amplitude)
    return (
        f"N={config.n} dose={dose:.0e}: {n_frames} frames, {n_frames / wall:.0f} frames/s, {cpu:.2f} CPU-s "
        f"({n_frames / cpu:.0f} frames/CPU-s); object {drawing / config.n_objects:.2f} s each"
    )


if __name__ == "__main__":
    for side in [int(text) for text in sys.argv[1:]] or [64, 128]:
        for photons in DOSES:
            print(measure(replace(CONFIG, n=side), photons))
