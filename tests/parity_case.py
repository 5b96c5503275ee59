"""What both child processes of the parity test compute, without either framework."""

from pathlib import Path
from typing import Any

import numpy as np

from ptychoflow.config import ModelConfig, TrainConfig
from ptychoflow.data.normalize import measure_normalization
from ptychoflow.models.forward import padding_px
from ptychoflow.models.spec import network_spec
from ptychoflow.physics.fourier import far_field_amplitude

BATCH = 2
STEPS = 3
RATE = 1e-3
CONFIG = TrainConfig(realspace_weight=0.01, mae_weight=1, nll_weight=1)

ALL_OPTIONS = {
    "trainable_probe": True, "trainable_scale": True, "per_channel_probe": True, "probe_mask": True,
    "extraction_jitter_px": 0.7, "exit_wave_sigma_px": 0.6, "output": "full", "amplitude_activation": "swish",
    "n_filters_scale": 1,
}  # fmt: skip

NARROW = {"n_filters_scale": 1}

CASES: dict[str, tuple[int, int, dict[str, Any]]] = {
    "n64_gs1": (64, 1, {}),
    "n64_gs2": (64, 2, {}),
    "n64_gs2_one_patch": (64, 2, {"object_big": False, **NARROW}),
    "n64_gs2_all_options": (64, 2, ALL_OPTIONS),
    "n128_gs1": (128, 1, NARROW),
    "n128_gs2": (128, 2, NARROW),
}
"""Side, gridsize and model options by name."""


def inputs(name: str) -> dict[str, Any]:
    """Return config, table, frames, offsets, labels and physics of a case, all drawn from one seed."""
    n, gridsize, options = CASES[name]
    config, members = ModelConfig(**options), gridsize**2
    spec = network_spec(n, gridsize, config)
    rng = np.random.default_rng(11)
    # A diffuser spreads the far field: where it is dark, the slope of the deviance multiplies rounding.
    axis = np.arange(n) - n / 2
    probe = 30 * np.exp(-(axis[:, None] ** 2 + (axis - 3) ** 2) / (n * n / 20) + 2j * np.pi * rng.uniform(size=(n, n)))
    wave = probe * np.exp(2j * rng.uniform(size=(BATCH * members, n, n)))
    frames, probe = far_field_amplitude(wave.astype(np.complex64)).astype(np.float32), probe.astype(np.complex64)
    norm = measure_normalization(frames, np.arange(len(frames)), probe, photons_per_intensity=2.5)
    offsets = rng.normal(0, 4, (BATCH, members, 2))
    offsets = (offsets - offsets.mean(axis=1, keepdims=True)).astype(np.float32)
    labels = rng.uniform(0.5, 1.5, (BATCH, spec.channels_out, n, n)) * np.exp(
        1j * rng.normal(size=(BATCH, spec.channels_out, n, n))
    )
    return {
        "spec": spec,
        "config": config,
        "x": (norm.alpha * frames).astype(np.float32).reshape(BATCH, members, n, n),
        "labels": labels.astype(np.complex64),
        "offsets": offsets,
        "physics": {
            "probe": probe,
            "normalization": norm,
            "pad_px": padding_px(offsets, jitter_px=config.extraction_jitter_px),
            "seed": 7,
        },
    }


def backends(module: Any, name: str, weights: dict[str, np.ndarray] | None, import_weights: Any) -> tuple[Any, Any]:
    """Return physics and supervised backend of a framework, each with its own network of the same weights."""
    case = inputs(name)
    runtime = module.choose_runtime("cpu", "fp32")
    networks = [module.build_network(case["spec"], case["config"], runtime, seed=3) for _ in range(2)]
    for network in networks:
        if weights is not None:
            import_weights(network, weights)
    x, offsets, labels = case["x"], case["offsets"], case["labels"]
    physics = module.PhysicsBackend(
        networks[0], runtime, CONFIG, lambda b: x[b], offsets_of=lambda b: offsets[b], **case["physics"]
    )
    supervised = module.SupervisedBackend(
        networks[1], runtime, CONFIG, lambda b: x[b], label_of=lambda b: labels[b], probe=case["physics"]["probe"]
    )
    return physics, supervised


def read(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file."""
    with np.load(path) as file:
        return dict(file)
