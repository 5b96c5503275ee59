"""Alignment of a reconstruction R to a truth T on one grid: what ptychography leaves undetermined, removed and recorded.

    R' = g R(x + shift) exp(i (a_row row + a_col col)),   g = sum conj(R) T / sum |R|^2   (R shifted, with the ramp on it)

Order: cut to the region, shift, phase ramp, complex factor; the factor comes last because the least-squares factor depends on
the others. Only R changes, T never does, and nothing is turned, mirrored or conjugated. Everything is estimated and told,
whatever is applied. Scores are taken elsewhere (metrics/image.py). Source: evaluation reference 2.2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Complex64, Complex128

from ptychoflow.frames import Canvas
from ptychoflow.imaging.distortion import Distortion
from ptychoflow.imaging.harmonize import Grid, sample
from ptychoflow.imaging.orientation import TWIN_MARGIN, Orientation
from ptychoflow.imaging.ramp import estimate_ramp, ramp_phasor
from ptychoflow.imaging.survey import MIN_CORRELATION, Registration, Survey, survey

Mode = Literal["none", "gauge", "register"]

RAMP_TOLD_RAD = 0.05
"""A ramp is told when it changes the phase by more than this from one side of the region to the other."""

FACTOR_TOLD = 1e-3
"""A factor is told when it differs from 1 by more than this."""

DISTORTION_TOLD_PX = 0.1
"""Rotation and magnification are told when they move a corner of the region by more than this."""

DISTORTION_ERRORS = 5
"""... and by more than this many standard errors."""


@dataclass(frozen=True)
class Alignment:
    """What was done to a reconstruction, and what was found on the way.

    Attributes:
        mode: `none` left the reconstruction as it is; `gauge` applied the factor; `register` also a shift that is believed.
        shift_rc_px: shift (row, col) that was taken out, truth px; None when none was.
        ramp_rad_per_px: phase ramp (row, col) that was put on R, rad per truth px; None when none was asked for.
        ramp_found_rad_per_px: the ramp that R lacks, after the shift; None for a reconstruction that is zero.
        gauge_abs: modulus of the least-squares factor g; None for a reconstruction that is zero.
        gauge_arg_rad: phase of g.
        scale_error: |g| - 1.
        correlation: largest circular cross-correlation of R and T without their means, over all shifts (orientation.py).
        twin_correlation: the same for the conjugated, point-mirrored R.
        twin_warning: the twin image fits better; nothing was flipped.
        registration: the shift that was found, and whether it is believed.
        orientation: the best of 16 orientations.
        distortion: rotation and magnification; None where they could not be measured.
        corrected: what was taken out, in sentences.
        not_corrected: what was found and left, in sentences.
    """

    mode: Mode
    shift_rc_px: tuple[float, float] | None
    ramp_rad_per_px: tuple[float, float] | None
    ramp_found_rad_per_px: tuple[float, float] | None
    gauge_abs: float | None
    gauge_arg_rad: float | None
    scale_error: float | None
    correlation: float
    twin_correlation: float
    twin_warning: bool
    registration: Registration
    orientation: Orientation
    distortion: Distortion | None
    corrected: tuple[str, ...] = ()
    not_corrected: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """Return the alignment as strict JSON holds it."""
        return {"order": ["crop", "shift", "phase ramp", "complex factor"], **_listed(asdict(self))}


def align(
    recon_image: Complex64[np.ndarray, "h w"],
    recon_canvas: Canvas,
    truth_on_grid: Complex64[np.ndarray, "rows cols"],
    grid: Grid,
    *,
    mode: Mode,
    phase_ramp: bool,
    max_shift_px: float,
    pixel_ratio: float = 1.0,
) -> tuple[Complex64[np.ndarray, "rows cols"], Alignment]:
    """Return the reconstruction on the grid without what was asked to be removed, and the record.

    Args:
        recon_image: (H, W) reconstruction, whole: registration reads beyond the region.
        recon_canvas: where its pixel [0, 0] lies.
        truth_on_grid: (rows, cols) truth or reference on the samples of `grid`.
        grid: samples that are compared.
        mode: `none`, `gauge` (complex factor) or `register` (also a shift that is believed).
        phase_ramp: also remove a linear phase.
        max_shift_px: largest shift per axis that is looked for, truth px.
        pixel_ratio: truth pixel over reconstruction pixel.

    Raises:
        ContractError: the grid reaches outside the canvas.
        ValueError: R or T has another shape than the grid, or values that are not finite.
    """
    if truth_on_grid.shape != grid.shape:
        raise ValueError(
            f"the truth has shape {truth_on_grid.shape}, the grid {grid.shape}; sample it on the grid first"
        )
    base = sample(recon_image, recon_canvas, grid, pixel_ratio=pixel_ratio)
    for name, image in (("reconstruction", recon_image), ("truth", truth_on_grid)):
        if not np.isfinite(image).all():
            raise ValueError(f"the {name} has {int((~np.isfinite(image)).sum())} values that are NaN or infinite")
    ramp = _ramp_per_px(base, truth_on_grid, grid)
    found = survey(
        recon_image, recon_canvas, truth_on_grid, grid,
        max_shift_px=max_shift_px, pixel_ratio=pixel_ratio, ramp_rad_per_px=ramp,
    )  # fmt: skip
    shift = found.registration.shift_rc_px if mode == "register" and found.registration.believed else None
    if shift is not None and found.registration.matters:
        base = sample(recon_image, recon_canvas, grid, shift_rc_px=shift, pixel_ratio=pixel_ratio)
        ramp = _ramp_per_px(base, truth_on_grid, grid)
    else:
        shift = None
    zero = not base.any()
    applied_ramp = ramp if phase_ramp and not zero else None
    factor = gauge_factor(_with_ramp(base, applied_ramp, grid), truth_on_grid.astype(np.complex128))
    alignment = Alignment(
        mode=mode,
        shift_rc_px=shift,
        ramp_rad_per_px=applied_ramp,
        ramp_found_rad_per_px=None if zero else ramp,
        gauge_abs=None if factor is None else abs(factor),
        gauge_arg_rad=None if factor is None else float(np.angle(factor)),
        scale_error=None if factor is None else abs(factor) - 1,
        correlation=found.orientation.upright,
        twin_correlation=found.orientation.twin,
        twin_warning=found.orientation.twin > found.orientation.upright + TWIN_MARGIN,
        registration=found.registration,
        orientation=found.orientation,
        distortion=found.distortion,
        **_sentences(mode, shift, applied_ramp, ramp, factor, found, grid),
    )
    return _finished(base, grid, alignment.record()), alignment


def apply(
    recon_image: Complex64[np.ndarray, "h w"],
    recon_canvas: Canvas,
    grid: Grid,
    record: Mapping[str, Any],
    *,
    pixel_ratio: float = 1.0,
) -> Complex64[np.ndarray, "rows cols"]:
    """Return the reconstruction as a recorded alignment left it, bit by bit.

    Args:
        recon_image: (H, W) reconstruction, whole.
        recon_canvas: where its pixel [0, 0] lies.
        grid: samples that were compared.
        record: what `Alignment.record` returned, as it is or read back from JSON.
        pixel_ratio: truth pixel over reconstruction pixel.

    Raises:
        ContractError: the grid, shifted as recorded, reaches outside the canvas.
    """
    row, col = record["shift_rc_px"] or (0.0, 0.0)
    base = sample(recon_image, recon_canvas, grid, shift_rc_px=(row, col), pixel_ratio=pixel_ratio)
    return _finished(base, grid, record)


def _finished(
    base: Complex64[np.ndarray, "rows cols"], grid: Grid, record: Mapping[str, Any]
) -> Complex64[np.ndarray, "rows cols"]:
    """Return samples with the recorded ramp and factor on them."""
    aligned = _with_ramp(base, record["ramp_rad_per_px"], grid)
    if record["mode"] != "none" and record["gauge_abs"] is not None:
        aligned = aligned * (record["gauge_abs"] * np.exp(1j * record["gauge_arg_rad"]))
    return aligned.astype(np.complex64)


def gauge_factor(
    recon: Complex128[np.ndarray, "rows cols"], truth: Complex128[np.ndarray, "rows cols"]
) -> complex | None:
    """Return g = sum conj(R) T / sum |R|^2, the factor that brings R closest to T; None when R is zero."""
    energy = float(np.vdot(recon, recon).real)
    return complex(np.vdot(recon, truth)) / energy if energy > 0 else None


def _ramp_per_px(
    recon: Complex64[np.ndarray, "rows cols"], truth: Complex64[np.ndarray, "rows cols"], grid: Grid
) -> tuple[float, float]:
    row, col = estimate_ramp(recon, truth)
    return row / grid.step_px, col / grid.step_px


def _with_ramp(
    base: Complex64[np.ndarray, "rows cols"], ramp_rad_per_px: Sequence[float] | None, grid: Grid
) -> Complex128[np.ndarray, "rows cols"]:
    """Return samples in double precision, with the ramp on them where there is one."""
    if ramp_rad_per_px is None:
        return base.astype(np.complex128)
    row, col = ramp_rad_per_px
    return base * ramp_phasor(grid.shape, (row * grid.step_px, col * grid.step_px))


def _sentences(
    mode: Mode,
    shift: tuple[float, float] | None,
    applied_ramp: tuple[float, float] | None,
    ramp: tuple[float, float],
    factor: complex | None,
    found: Survey,
    grid: Grid,
) -> dict[str, tuple[str, ...]]:
    """Return what was taken out (`corrected`) and what was found and left (`not_corrected`), with numbers and units."""
    done, left = [], []
    registration = found.registration
    words = "shift" if registration.shift_rc_px is None else _shift_words(registration.shift_rc_px)
    if shift is not None:
        done.append(words)
    elif registration.shift_rc_px is None:
        left.append(f"{words} not looked for: {registration.reason}")
    elif registration.matters:
        left.append(
            f"{words}: registration was not asked for"
            if registration.believed
            else f"{words} not believed: {registration.reason}"
        )
    if _ramp_across(ramp, grid) > RAMP_TOLD_RAD:
        words = f"phase ramp of ({ramp[0]:.3g}, {ramp[1]:.3g}) rad/px (row, column)"
        if applied_ramp is not None:
            done.append(words)
        elif (
            found.coherence >= MIN_CORRELATION
            and not found.orientation.warning
            and _same_ramp(ramp, found.ramp_rad_per_px, grid)
        ):
            left.append(f"{words}: its removal was not asked for")
    if factor is None:
        left.append("complex factor: there is none, the reconstruction is zero")
    elif abs(factor - 1) > FACTOR_TOLD:
        words = f"complex factor {abs(factor):.4g} exp({np.angle(factor):.4g} i)"
        (left if mode == "none" else done).append(words + (": none was asked for" if mode == "none" else ""))
    orientation = found.orientation
    if orientation.warning:
        left.append(
            f"{orientation.name}: undone, it fits better ({orientation.correlation:.2f} against {orientation.upright:.2f})"
        )
    left += _distortion_sentences(found.distortion, grid)
    return {"corrected": tuple(done), "not_corrected": tuple(left)}


def _distortion_sentences(distortion: Distortion | None, grid: Grid) -> list[str]:
    if distortion is None:
        return []
    corner_px = float(np.hypot(*grid.region.shape)) / 2
    angle, angle_error = np.radians(distortion.rotation_deg), np.radians(distortion.rotation_error_deg)
    growth, growth_error = distortion.magnification - 1, distortion.magnification_error
    sentences = []
    if abs(angle) > max(DISTORTION_TOLD_PX / corner_px, DISTORTION_ERRORS * angle_error):
        sentences.append(
            f"rotation of {distortion.rotation_deg:.2f} deg is not corrected "
            f"(it moves the corners by {abs(angle) * corner_px:.1f} px)"
        )
    if abs(growth) > max(DISTORTION_TOLD_PX / corner_px, DISTORTION_ERRORS * growth_error):
        sentences.append(
            f"magnification of {distortion.magnification:.4f} is not corrected "
            f"(it moves the corners by {abs(growth) * corner_px:.1f} px)"
        )
    return sentences


def _shift_words(shift: tuple[float, float]) -> str:
    row, col = (round(value, 2) + 0.0 for value in shift)
    return f"shift of ({row:.2f}, {col:.2f}) px (row, column)"


def _ramp_across(ramp: tuple[float, float], grid: Grid) -> float:
    """Return the largest change of phase from one side of the region to the other, rad."""
    return max(abs(slope) * side for slope, side in zip(ramp, grid.region.shape, strict=True))


def _same_ramp(first: tuple[float, float], second: tuple[float, float], grid: Grid) -> bool:
    """Return whether two ramps differ by less than half a turn over the region."""
    return _ramp_across((first[0] - second[0], first[1] - second[1]), grid) < np.pi


def _listed(value: Any) -> Any:
    """Return a record with lists in place of tuples."""
    if isinstance(value, dict):
        return {name: _listed(item) for name, item in value.items()}
    return list(value) if isinstance(value, tuple) else value
