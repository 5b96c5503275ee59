"""Training steps and inference against a bare loop: same network, batch, threads and precision; interleaved pairs.

The bare loop is what one would write by hand with everything in memory. Target: no slower than 1.1 times.
"""

import statistics
import time

import numpy as np
import torch

from ptychoflow.commands.simulate import simulate_scan
from ptychoflow.config import ModelConfig, SimulateConfig, TrainConfig
from ptychoflow.data.normalize import measure_normalization, network_input
from ptychoflow.models.spec import network_spec
from ptychoflow.models.torch.backend import PhysicsBackend, build_network, choose_runtime, predict_patches

BATCH, STEPS, PAIRS = 16, 6, 7
scan = simulate_scan(SimulateConfig(size=160, step_px=10, dose="1e6"), None)
norm = measure_normalization(scan.amplitude, np.arange(scan.n_frames), scan.probe, photons_per_intensity=1.0)
runtime, model, config = choose_runtime("cpu", "auto"), ModelConfig(), TrainConfig(mae_weight=1, nll_weight=0)
order = np.random.default_rng(0).integers(0, scan.n_frames, (STEPS, BATCH))


def network():
    return build_network(network_spec(64, 1, model), model, runtime, seed=0)


ours = network()
backend = PhysicsBackend(
    ours,
    runtime,
    config,
    lambda batch: network_input(scan.amplitude[batch], norm)[:, None],
    probe=scan.probe,
    normalization=norm,
)
bare = network()
optimizer = torch.optim.Adam(bare.parameters(), lr=1e-3, fused=True)
frames = torch.from_numpy(network_input(scan.amplitude, norm))[:, None]
probe = torch.from_numpy(scan.probe * np.float32(norm.object_scale))
shown = frames[: BATCH * STEPS].repeat(STEPS, 1, 1, 1)[: BATCH * STEPS]


def train_ours() -> None:
    for batch in order:
        backend.train_step(batch, 1e-3)


def train_bare() -> None:
    for batch in order:
        x = frames[batch].to(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=runtime.bf16):
            patches = bare(x)
        wave = torch.fft.fftshift(torch.fft.fft2(patches * probe, norm="ortho"), dim=(-2, -1))
        loss = (norm.intensity_scale * (norm.alpha * wave.abs() - x)).abs().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()


def infer_ours() -> None:
    for start in range(0, len(shown), BATCH):
        predict_patches(ours, shown[start : start + BATCH].numpy(), runtime)


def infer_bare() -> None:
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=runtime.bf16):
        for start in range(0, len(shown), BATCH):
            bare(shown[start : start + BATCH].to(memory_format=torch.channels_last)).numpy()


def seconds(call) -> float:
    clock = time.perf_counter()
    call()
    return time.perf_counter() - clock


for name, pair in (("training", (train_ours, train_bare)), ("inference", (infer_ours, infer_bare))):
    for call in pair:
        call()
    times = [(seconds(pair[0]), seconds(pair[1])) for _ in range(PAIRS)]
    ratio = statistics.median(a / b for a, b in times)
    rate = BATCH * STEPS / statistics.median(a for a, _ in times)
    what = f"median of {PAIRS} pairs, {runtime.precision}, {runtime.threads} threads"
    print(f"{name}: {rate:,.1f} frames/s, {ratio:.3f} times the bare loop ({what})")
