"""Scores without a truth: measured frames against those that object and probe predict, on held-out and on test frames."""

from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from ptychoflow.frames import Canvas
from ptychoflow.metrics.consistency import (
    contrast_correlation,
    illuminated_coverage,
    poisson_deviance,
    predict_frames,
    r_factor,
)
from ptychoflow.metrics.score import Score
from ptychoflow.records import Recon, Scan, View

COVERED = 1e-3
"""Share of the largest weight above which a pixel counts as covered."""

FRAME_COVERED = 0.5
"""Share of the probe's intensity that must fall on covered pixels for a frame to be predicted."""

CONSISTENCY_FRAMES = 512
"""At most this many frames of a set are compared, evenly spaced."""

EMPTY = {
    "contrast": Score(None, "1", "higher"),
    "r_factor": Score(None, "1", "lower"),
    "deviance": Score(None, "1/photon", "lower"),
}


def covered_pixels(recon: Recon) -> Bool[np.ndarray, "h w"]:
    """Return which pixels of its canvas a reconstruction knows."""
    return recon.weight > COVERED * recon.weight.max()


def consistency(recon: Recon, scan: Scan, view: View) -> dict[str, Any]:
    """Return contrast correlation, R-factor and Poisson deviance on the held-out and on the test frames of a view.

    The reconstruction's own probe is used where it has one, else the scan's.
    """
    if recon.probe is not None and recon.probe.shape[-1] != scan.n:
        return {
            "not_applicable": f"the reconstruction's probe has {recon.probe.shape[-1]} px a side, the scan's frames "
            f"have {scan.n}: it predicts no frame of this scan"
        }
    return {
        "heldout": frames_block(recon, scan, view.heldout, name="heldout"),
        "test": frames_block(recon, scan, view.test.frames, name="test"),
    }


def reference_consistency(scan: Scan, view: View) -> dict[str, Any]:
    """Return the same block for the scan's own object and probe: what a reconstruction could reach."""
    if scan.object is None:
        return {"not_applicable": "no object in the scan"}
    shape = (scan.object.shape[0], scan.object.shape[1])
    own = Recon(scan.object, np.ones(shape, dtype=np.float32), Canvas((0, 0), shape))
    return consistency(own, scan, view)


def frames_block(recon: Recon, scan: Scan, frames: Int64[np.ndarray, "m"], *, name: str) -> dict[str, Any]:
    """Return the consistency scores on one set of frames, and how many of them were compared."""
    chosen = evenly(frames, CONSISTENCY_FRAMES)
    modes = scan.probe[None] if recon.probe is None else recon.probe
    positions = scan.positions_rc_px[chosen]
    kept = illuminated_coverage(covered_pixels(recon), recon.canvas, modes, positions) >= FRAME_COVERED
    scored = chosen[kept]
    counts = {"available": len(frames), "chosen": len(chosen), "uncovered": int((~kept).sum()), "scored": len(scored)}
    extra: dict[str, Any] = {"frames": counts, "probe": "scan" if recon.probe is None else "reconstruction"}
    scores = dict(EMPTY)
    if len(scored) == 0:
        reason = f"no {name} frames" if len(chosen) == 0 else f"no {name} frame is covered by the reconstruction"
        scores = {key: replace(score, reason=reason) for key, score in scores.items()}
        return {key: score.record() for key, score in scores.items()} | extra
    predicted = predict_frames(recon.object, recon.canvas, modes, positions[kept])
    measured = scan.amplitude[scored]
    try:
        scores["contrast"] = replace(EMPTY["contrast"], value=contrast_correlation(measured, predicted))
    except ValueError as error:
        scores["contrast"] = replace(EMPTY["contrast"], reason=str(error))
    try:
        value, extra["scale"] = r_factor(measured, predicted)
        scores["r_factor"] = replace(EMPTY["r_factor"], value=value)
    except ValueError as error:
        scores["r_factor"] = replace(EMPTY["r_factor"], reason=str(error))
    scores["deviance"] = _deviance(scan, measured, predicted)
    return {key: score.record() for key, score in scores.items()} | extra


def _deviance(scan: Scan, measured: np.ndarray, predicted: np.ndarray) -> Score:
    if scan.photons_per_intensity is None:
        return replace(EMPTY["deviance"], reason="the file does not say how many photons a unit of intensity is")
    try:
        found = poisson_deviance(measured, predicted, photons_per_intensity=scan.photons_per_intensity)
    except ValueError as error:
        return replace(EMPTY["deviance"], reason=str(error))
    return replace(EMPTY["deviance"], value=found.value)


def evenly(frames: Int64[np.ndarray, "m"], limit: int) -> Int64[np.ndarray, "k"]:
    """Return at most `limit` of the frames, evenly spaced over the list."""
    if len(frames) <= limit:
        return frames
    return frames[np.linspace(0, len(frames) - 1, limit).round().astype(int)]
