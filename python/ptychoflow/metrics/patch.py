"""Patch metrics: single predicted patches against the true object patches, a diagnostic beside the stitched scores."""

from typing import Any

import numpy as np
from jaxtyping import Complex64, Float64

from ptychoflow.physics.patches import gather

LIT = 0.1
"""Pixels count where the probe intensity is at least this share of its largest value: elsewhere nothing was measured."""


def patch_scores(
    patches: Complex64[np.ndarray, "s n n"],
    positions_rc_px: Float64[np.ndarray, "s 2"],
    truth: Complex64[np.ndarray, "h w"] | None,
    probe: Complex64[np.ndarray, "n n"],
    *,
    role: str | None,
) -> dict[str, Any]:
    """Return mae_amp, mse_amp, mae_phase, mse_phase over the lit pixels, after one complex factor for all patches.

    Labels are object patches, never illuminated ones (D23). Phase differences are wrapped.

    Args:
        patches: (S, N, N) predicted object patches.
        positions_rc_px: (S, 2) their centres, px.
        truth: (H, W) object of the scan, or None.
        probe: (N, N) probe.
        role: `truth` or `reference`; patch metrics are only taken against a truth.
    """
    if truth is None or role != "truth":
        return {"not_applicable": f"patch metrics need a true object; this scan has {role or 'none'}"}
    lit = np.abs(probe) ** 2 >= LIT * float((np.abs(probe) ** 2).max())
    predicted = patches[:, lit].astype(np.complex128)
    labels = gather(truth, positions_rc_px, patches.shape[-1])[:, lit].astype(np.complex128)
    energy = float(np.sum(np.abs(predicted) ** 2))
    if energy == 0:
        return {"not_applicable": "every predicted patch is 0"}
    factor = np.sum(predicted.conj() * labels) / energy
    predicted = predicted * factor
    amplitude = np.abs(predicted) - np.abs(labels)
    phase = np.angle(predicted * labels.conj())

    def score(value: float, unit: str) -> dict[str, Any]:
        return {
            "value": value,
            "unit": unit,
            "direction": "lower",
            "range": None,
            "region": "probe intensity >= 10 % of its maximum",
        }

    return {
        "n_patches": len(patches),
        "gauge": {"modulus": float(abs(factor)), "phase_rad": float(np.angle(factor))},
        "mae_amp": score(float(np.abs(amplitude).mean()), "1"),
        "mse_amp": score(float((amplitude**2).mean()), "1"),
        "mae_phase": score(float(np.abs(phase).mean()), "rad"),
        "mse_phase": score(float((phase**2).mean()), "rad^2"),
    }
