"""How a reconstruction lies against its truth, whatever is then done about it: shift and whether to believe it, orientation,
rotation, magnification. Estimated on low-passed copies (register.py), with the phase ramp taken off where that helps.
"""

from dataclasses import dataclass, replace
from functools import partial
from math import ceil, sqrt

import numpy as np
from jaxtyping import Complex64

from ptychoflow.frames import Canvas
from ptychoflow.imaging.distortion import Distortion, find_distortion
from ptychoflow.imaging.harmonize import Grid, first_sample, overhang
from ptychoflow.imaging.orientation import Orientation, find_orientation
from ptychoflow.imaging.ramp import estimate_ramp
from ptychoflow.imaging.register import (
    NO_PEAK,
    SIDE,
    SMALLEST_SIDE,
    Pair,
    find_peak,
    find_shift,
    has_structure,
    thinned,
)

MIN_CORRELATION = 0.5
"""A shift is believed when R correlates at least this well with T there; noise of few speckles reaches 0.4."""

SURE_CORRELATION = 0.9
"""Where the image as it is fits this well, other orientations need no second look."""

MAX_RUNNER_UP = 0.9
"""A shift is ambiguous when another peak within the limit is at least this high, relative to the highest."""

SHIFT_TOLD_PX = 0.05
"""A shift below this on both axes is neither told nor taken out: interpolating for it would cost more than it mends."""

RAMP_LEFT_RAD = 5e-3
"""Shift and ramp are estimated in turn until the ramp changes the phase over the region by less than this: on a smooth object each
hides a little of the other."""

LOOKS = 4
"""... but at most this often."""


@dataclass(frozen=True)
class Registration:
    """The shift that was looked for.

    Attributes:
        shift_rc_px: how far R's content lies from where it should be (row, col), truth px; None where none was looked for.
        correlation: normalized correlation at that shift, low-passed and windowed.
        runner_up: the highest other peak within the limit, relative to the highest.
        on_limit: the correlation still rises at the limit.
        max_shift_px: the limit per axis, truth px.
        believed: whether `register` would take it out.
        reason: why not, in words; None where it is believed.
    """

    shift_rc_px: Pair | None
    correlation: float
    runner_up: float
    on_limit: bool
    max_shift_px: float
    believed: bool
    reason: str | None

    @property
    def matters(self) -> bool:
        """Whether the shift is large enough to be told."""
        return self.shift_rc_px is not None and max(abs(value) for value in self.shift_rc_px) >= SHIFT_TOLD_PX


@dataclass(frozen=True)
class Survey:
    """What was found.

    Attributes:
        registration: the shift.
        orientation: the best of 16.
        distortion: rotation and magnification; None where they could not be measured.
        coherence: of R with T at the shift and without the ramp found, means included, in [0, 1].
        ramp_rad_per_px: the ramp with which R fits best at that shift.
    """

    registration: Registration
    orientation: Orientation
    distortion: Distortion | None
    coherence: float
    ramp_rad_per_px: Pair


@dataclass(frozen=True)
class _Thin:
    """Both images on the thinned samples: T once, R anew at every shift and ramp."""

    image: Complex64[np.ndarray, "h w"]
    truth: Complex64[np.ndarray, "rows cols"]
    start_rc: Pair
    spacing: float
    step_px: float
    ratio: float

    def read(self, ramp_rad_per_px: Pair, shift: Pair) -> Complex64[np.ndarray, "rows cols"]:
        """Return R with a ramp put on it, displaced by a shift in samples, its largest modulus 1."""
        start = (self.start_rc[0] + shift[0] * self.spacing, self.start_rc[1] + shift[1] * self.spacing)
        ramp = (ramp_rad_per_px[0] / self.ratio, ramp_rad_per_px[1] / self.ratio)
        return _unit(thinned(self.image, start, self.spacing, (self.truth.shape[0], self.truth.shape[1]), ramp_rc=ramp))


def survey(
    recon_image: Complex64[np.ndarray, "h w"],
    recon_canvas: Canvas,
    truth: Complex64[np.ndarray, "rows cols"],
    grid: Grid,
    *,
    max_shift_px: float,
    pixel_ratio: float,
    ramp_rad_per_px: Pair,
) -> Survey:
    """Return shift, orientation and distortion of a reconstruction.

    A ramp decorrelates the complex correlation and is taken off first. A wrong ramp does so as well (on a periodic object a
    shift can look like one of whole turns), so beyond half a turn the shift is looked for with and without it and the better
    fit goes on.

    Args:
        recon_image: (H, W) reconstruction, whole.
        recon_canvas: where its pixel [0, 0] lies.
        truth: (rows, cols) truth on the samples of `grid`.
        grid: samples that are compared.
        max_shift_px: largest shift per axis, truth px.
        pixel_ratio: truth pixel over reconstruction pixel.
        ramp_rad_per_px: ramp that R was found to lack.
    """
    thin = _thin(recon_image, recon_canvas, truth, grid, pixel_ratio)
    limit = max_shift_px / thin.step_px
    plain = thin.read((0.0, 0.0), (0.0, 0.0))
    nothing = _nothing_to_register(plain, thin.truth, grid)
    if nothing is not None:
        registration = Registration(None, 0.0, 0.0, False, max_shift_px, believed=False, reason=nothing)
        orientation, coherence = find_orientation(plain, thin.truth), _coherence(plain, thin.truth)
        return Survey(registration, orientation, None, coherence, (0.0, 0.0))

    ramp = ramp_rad_per_px
    if _across(ramp, grid.region.shape) > np.pi:
        box = (-limit, -limit), (limit, limit)
        with_it, without = (
            find_peak(image, thin.truth, *box).correlation for image in (thin.read(ramp, (0.0, 0.0)), plain)
        )
        ramp = ramp if with_it > without else (0.0, 0.0)
    peak, moved = NO_PEAK, plain
    for _ in range(LOOKS):
        peak = find_shift(partial(thin.read, ramp), thin.truth, limit=limit, start=peak.shift)
        moved = thin.read(ramp, peak.shift)
        rest = estimate_ramp(moved, thin.truth)
        if _across(rest, thin.truth.shape) < RAMP_LEFT_RAD:
            break
        ramp = (ramp[0] + rest[0] / thin.step_px, ramp[1] + rest[1] / thin.step_px)

    orientation = find_orientation(moved, thin.truth)
    if orientation.upright < SURE_CORRELATION:
        # A twin need not share the ramp and the shift that were found for the image as it is.
        orientation = max(orientation, find_orientation(plain, thin.truth), key=lambda found: found.correlation)
    shift_px = (peak.shift[0] * thin.step_px, peak.shift[1] * thin.step_px)
    found = Registration(shift_px, peak.correlation, peak.runner_up, peak.on_limit, max_shift_px, True, None)
    doubt = _doubt(found, orientation)
    if doubt is None and found.matters:
        outside = overhang(recon_canvas, grid, shift_rc_px=shift_px, pixel_ratio=pixel_ratio)
        sides = ", ".join(f"{value:.2f} px at the {name}" for name, value in outside.items())
        doubt = f"the shifted window would leave the reconstruction by {sides}" if outside else None
    return Survey(
        registration=replace(found, believed=doubt is None, reason=doubt),
        orientation=orientation,
        distortion=find_distortion(moved, thin.truth, limit=limit),
        coherence=_coherence(moved, thin.truth),
        ramp_rad_per_px=ramp,
    )


def _doubt(found: Registration, orientation: Orientation) -> str | None:
    """Return why a shift is not believed, in words; None where nothing speaks against it."""
    if orientation.warning:
        return f"the reconstruction fits better when it counts as {orientation.name}"
    if found.correlation < MIN_CORRELATION:
        return f"the images correlate by {found.correlation:.2f} there, less than {MIN_CORRELATION:g}"
    if found.on_limit:
        return f"it is at the limit of {found.max_shift_px:g} px"
    if found.runner_up > MAX_RUNNER_UP:
        return f"another shift within {found.max_shift_px:g} px fits {found.runner_up:.0%} as well"
    return None


def _thin(
    image: Complex64[np.ndarray, "h w"],
    canvas: Canvas,
    truth: Complex64[np.ndarray, "rows cols"],
    grid: Grid,
    ratio: float,
) -> _Thin:
    """Return both images thinned to at most `SIDE` samples a side, as far as that leaves enough along the shorter one."""
    rows, cols = truth.shape
    factor = max(1, min(ceil(max(rows, cols) / SIDE), min(rows, cols) // SMALLEST_SIDE))
    inset = (factor - 1) / 2
    small = _unit(thinned(truth, (inset, inset), float(factor), (rows // factor, cols // factor)))
    coarse = Grid(grid.region, grid.step_px * factor)
    start = first_sample(canvas, coarse, pixel_ratio=ratio)
    return _Thin(image, small, start, coarse.step_px * ratio, coarse.step_px, ratio)


def _unit(image: Complex64[np.ndarray, "rows cols"]) -> Complex64[np.ndarray, "rows cols"]:
    """Return an image scaled to a largest modulus of 1, so that no energy leaves single precision; zeros stay."""
    size = float(np.abs(image).max())
    return image / np.float32(size) if size > 0 else image


def _across(ramp: Pair, shape: tuple[int, ...]) -> float:
    """Return the largest change of phase that a ramp makes from one side of a rectangle to the other, rad."""
    return max(abs(slope) * side for slope, side in zip(ramp, shape, strict=True))


def _nothing_to_register(
    recon: Complex64[np.ndarray, "rows cols"], truth: Complex64[np.ndarray, "rows cols"], grid: Grid
) -> str | None:
    """Return why no shift can be looked for, None where one can."""
    if min(truth.shape) < SMALLEST_SIDE:
        return f"{grid.shape[0]} x {grid.shape[1]} samples are too few, at least {SMALLEST_SIDE} a side are needed"
    flat = [name for name, image in (("reconstruction", recon), ("truth", truth)) if not has_structure(image)]
    return f"the {' and the '.join(flat)} has no structure" if flat else None


def _coherence(recon: Complex64[np.ndarray, "rows cols"], truth: Complex64[np.ndarray, "rows cols"]) -> float:
    """Return |sum conj(R) T| over the root of both energies; 0 where one is zero."""
    energy = float(np.vdot(recon, recon).real) * float(np.vdot(truth, truth).real)
    return float(np.abs(np.vdot(recon, truth)) / sqrt(energy)) if energy > 0 else 0.0
