"""From the external model's predicted patches to one object: each patch at its own scan position, sub-pixel, by occupancy.

Amplitude and phase go separately, as the external test picture has them. With patch middles p (row, col) in object pixels:

    patch' = patch[64:-64, 64:-64],   start = p - (128 - 1) / 2,   i = floor(start),   f = start - i
    shifted = Re ifft2( fft2(patch') exp(-2 pi i (f_row k_row + f_col k_col)) )[32:-32, 32:-32]
    image = sum of shifted at i + 32, over max(occupancy, 1),   occupancy = the same sum of ones, an integer count

Where nothing was placed the image is 0 and counts as unseen. A mean over the scan axis is no reconstruction and does not exist
here, nor does placement at whole pixels. Sums run patch by patch in the order of the scan, on the CPU, in float64: the same
predictions in another order give the same bytes. Source: PtychoViT bridge reference, sections 8, 11 and 14.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from jaxtyping import Complex64, Float32, Float64, Int32, Integer, Real

from ptychoflow.arms.ptychovit.contract import (
    AMPLITUDE_RANGE,
    FOOTPRINT,
    SIDE,
    STITCH_PAD,
    STITCH_TRIM,
    Violation,
    refuse_violations,
    violation,
)
from ptychoflow.frames import Positions, centre_from_topleft
from ptychoflow.physics.patches import scatter

BLOCK = 32
"""Patches placed at a time."""
ROUNDING_PX = 1e-6
"""Positions come through metres; this much below a whole pixel is that pixel."""
NO_SHIFT_PX = 1e-7
"""Fractions below this are not worth a transform."""
FLAT = 1e-6
"""Standard deviation over the covered pixels below which a part is flat."""
AT_BOUND, SATURATED_SHARE = 1e-3, 0.5
"""Covered amplitudes within this of a bound of the model's range are saturated; beyond this share it is told."""


@dataclass(frozen=True)
class Assembled:
    """An object assembled from predictions, on the grid of the pair's object.

    Attributes:
        amplitude: (H, W) float32; 0 where unseen.
        phase_rad: (H, W) float32 as the model gave it, not wrapped; 0 where unseen.
        occupancy: (H, W) int32, how many patches cover each pixel.
        phase_spread_rad: root mean variance of overlapping phases about their mean; large where plain means broke at wraps.
    """

    amplitude: Float32[np.ndarray, "h w"]
    phase_rad: Float32[np.ndarray, "h w"]
    occupancy: Int32[np.ndarray, "h w"]
    phase_spread_rad: float

    @property
    def object(self) -> Complex64[np.ndarray, "h w"]:
        """The complex object; 0 where unseen."""
        return (self.amplitude * np.exp(1j * self.phase_rad)).astype(np.complex64)


def check_predictions(
    amplitude: Real[np.ndarray, "b n n"],
    phase_rad: Real[np.ndarray, "b n n"],
    scan_index: Integer[np.ndarray, "b"],
    *,
    n_positions: int,
) -> list[Violation]:
    """Return what is wrong with predictions: every scan point must have exactly one, of 256 px, finite."""
    found = []
    shapes = {"amplitude": amplitude.shape, "phase": phase_rad.shape}
    for name, shape in shapes.items():
        if shape != (len(scan_index), SIDE, SIDE):
            expected = (len(scan_index), SIDE, SIDE)
            found.append(violation("PV-COUNT", f"predicted {name} has shape {shape}, expected {expected}"))
    times = np.bincount(scan_index[(scan_index >= 0) & (scan_index < n_positions)], minlength=n_positions)
    if len(scan_index) != n_positions or (times != 1).any():
        problem = f"{len(scan_index)} predictions for {n_positions} scan points"
        if (times != 1).any():
            first = int(np.argmax(times != 1))
            problem += f": scan point {first} has {times[first]}, each must have one"
        found.append(violation("PV-COUNT", problem))
    for name, patches in (("amplitude", amplitude), ("phase", phase_rad)):
        bad = [place for place, patch in enumerate(patches) if not np.isfinite(patch).all()]
        if bad:
            problem = (
                f"predicted {name} is not finite for {len(bad)} scan points, first at index {int(scan_index[bad[0]])}"
            )
            found.append(violation("PV-NAN", problem))
    return found


def assemble(
    amplitude: Real[np.ndarray, "b n n"],
    phase_rad: Real[np.ndarray, "b n n"],
    scan_index: Integer[np.ndarray, "b"],
    *,
    centres_rc_px: Positions,
    shape: tuple[int, int],
) -> Assembled:
    """Return the object that predicted patches make, each placed where its scan point lies.

    Args:
        amplitude: (B, 256, 256) predicted amplitude patches, in any order; may be memory-mapped.
        phase_rad: (B, 256, 256) predicted phase patches, rad.
        scan_index: (B,) row of the pair that each patch belongs to.
        centres_rc_px: (B, 2) patch middles as the loader has them (contract.py), pixels of the pair's object.
        shape: (H, W) of the pair's object.

    Raises:
        ContractError: what `check_predictions` finds.
    """
    problems = check_predictions(amplitude, phase_rad, scan_index, n_positions=len(centres_rc_px))
    refuse_violations(problems, what="predictions of the external model")
    sums = {name: np.zeros(shape) for name in ("amplitude", "phase", "phase squared", "occupancy")}
    order = np.argsort(scan_index)
    for first in range(0, len(order), BLOCK):
        part = order[first : first + BLOCK]
        centres = centres_rc_px[scan_index[part]]
        place(amplitude[part], centres, sums["amplitude"])
        phases = place(phase_rad[part], centres, sums["phase"])
        add(phases**2, centres, sums["phase squared"])
        add(np.ones((len(part), FOOTPRINT, FOOTPRINT)), centres, sums["occupancy"])
    count = np.maximum(sums["occupancy"], 1)
    mean = sums["phase"] / count
    several = sums["occupancy"] > 1
    variance = np.maximum(sums["phase squared"] / count - mean**2, 0)[several]
    return Assembled(
        amplitude=(sums["amplitude"] / count).astype(np.float32),
        phase_rad=mean.astype(np.float32),
        occupancy=sums["occupancy"].astype(np.int32),
        phase_spread_rad=float(np.sqrt(variance.mean())) if several.any() else 0.0,
    )


def place(
    patches: Real[np.ndarray, "b n n"], centres_rc_px: Positions, out: Float64[np.ndarray, "h w"]
) -> Float64[np.ndarray, "b m m"]:
    """Add 256-px patches to `out` at their sub-pixel positions; return what was added, (B, 64, 64)."""
    trimmed = np.asarray(patches, dtype=np.float64)[:, STITCH_TRIM:-STITCH_TRIM, STITCH_TRIM:-STITCH_TRIM]
    _, fraction = _corners(centres_rc_px)
    shifted = fourier_shift(trimmed, fraction)[:, STITCH_PAD:-STITCH_PAD, STITCH_PAD:-STITCH_PAD]
    add(shifted, centres_rc_px, out)
    return shifted


def add(patches: Real[np.ndarray, "b m m"], centres_rc_px: Positions, out: Float64[np.ndarray, "h w"]) -> None:
    """Add shifted 64-px patches to `out` at the whole pixels of their positions; what falls outside is dropped."""
    corner, _ = _corners(centres_rc_px)
    # At whole pixels the bilinear scatter is plain placement.
    scatter(patches, centre_from_topleft(corner + STITCH_PAD, FOOTPRINT), out.shape, out=out)


def _corners(centres_rc_px: Positions) -> tuple[Float64[np.ndarray, "b 2"], Float64[np.ndarray, "b 2"]]:
    """Return whole-pixel corners of the trimmed patches, and how far beyond them these start, px."""
    start = centres_rc_px - (SIDE - 2 * STITCH_TRIM - 1) / 2
    corner = np.floor(start + ROUNDING_PX)
    return corner, start - corner


def fourier_shift(
    patches: Float64[np.ndarray, "b h w"], shift_rc_px: Float64[np.ndarray, "b 2"]
) -> Float64[np.ndarray, "b h w"]:
    """Return periodic real images whose content lies `shift_rc_px` further down and right."""
    if (np.abs(shift_rc_px) < NO_SHIFT_PX).all():
        return patches
    rows, cols = (np.fft.fftfreq(length) for length in patches.shape[1:])
    turns = shift_rc_px[:, 0, None, None] * rows[:, None] + shift_rc_px[:, 1, None, None] * cols
    return scipy.fft.ifft2(scipy.fft.fft2(patches, workers=1) * np.exp(-2j * np.pi * turns), workers=1).real


def diagnose(assembled: Assembled) -> list[Violation]:
    """Return why an assembled object must not be believed: flat, or (a warning) at the bounds of the model's range."""
    covered = assembled.occupancy > 0
    share = float(covered.mean())
    if not share:
        return [violation("PV-FLAT", "no pixel is covered: occupancy > 0 on 0 % of the object")]
    found = []
    for name, image in (("amplitude", assembled.amplitude), ("phase", assembled.phase_rad)):
        deviation = float(np.std(image[covered], dtype=np.float64))
        if deviation < FLAT:
            problem = (
                f"{name} is flat: standard deviation {deviation:.2g} over occupancy > 0, {share:.1%} of the object"
            )
            found.append(violation("PV-FLAT", problem))
    saturated = saturated_share(assembled)
    if saturated > SATURATED_SHARE:
        low, high = AMPLITUDE_RANGE
        problem = f"{saturated:.1%} of the covered amplitude lies within {AT_BOUND:g} of {low:.3f} or {high:.3f}"
        found.append(violation("PV-SAT", problem))
    return found


def saturated_share(assembled: Assembled) -> float:
    """Return the share of covered pixels whose amplitude is at a bound of the model's range."""
    covered = assembled.amplitude[assembled.occupancy > 0]
    distance = np.min([np.abs(covered - bound) for bound in AMPLITUDE_RANGE], axis=0)
    return float(np.mean(distance < AT_BOUND)) if covered.size else 0.0


def facts(assembled: Assembled) -> dict[str, Any]:
    """Return what the manifest says of an assembled object."""
    covered = assembled.occupancy > 0
    return {
        "covered_share": float(covered.mean()),
        "occupancy_min": int(assembled.occupancy[covered].min()) if covered.any() else 0,
        "occupancy_max": int(assembled.occupancy.max()),
        "phase_spread_rad": assembled.phase_spread_rad,
        "saturated_share": saturated_share(assembled),
    }
