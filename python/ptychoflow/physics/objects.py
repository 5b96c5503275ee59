"""Objects of simulated scans: random lines, a Siemens star, phases, and several objects side by side in one frame.

Sizes may differ along rows and columns, and no object equals a flip or transpose of itself.
"""

from collections.abc import Sequence

import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Complex, Complex64, Complex128, Float64, Int64

from ptychoflow.frames import Region

N_SEGMENTS = 400
"""Segments of a lines object."""
BLURS = ((1.0, 1.0), (2.0, 5.0), (5.0, 10.0))
"""(factor, sigma in px) of the blurred copies that a lines object is the sum of."""
BLUR_REACH_PX = 40
"""Half width of the widest blur's kernel: SciPy cuts a Gaussian at four sigma."""
N_SPOKES = 24
"""Spokes of the Siemens star."""
SPOKE_AMPLITUDE, SPOKE_PHASE_RAD = 0.8, 0.8
"""Modulus and phase of the star's material; the empty field has 1 and 0."""
STAR_RADIUS, STAR_HOLE, DISC_RADIUS, DISC_DISTANCE = 0.40, 0.03, 0.045, 0.48
"""Star, central hole, landmark disc and the disc's distance from the centre, in units of the shorter side."""


def lines_amplitude(shape: tuple[int, int], rng: np.random.Generator) -> Float64[np.ndarray, "h w"]:
    """Return the modulus of a random lines object, (H, W), for 392 px about 0.7 to 5.5 with mean 2.8.

    400 segments with uniform whole-pixel end points are drawn with value 1 (no addition) on a canvas of twice the size;
    the modulus is the central part of G1 + 2 G5 + 5 G10, Gaussian blurs of 1, 5 and 10 px. Source: physics section 13.
    """
    rows, cols = shape
    ends = np.floor(rng.random((N_SEGMENTS, 4)) * [2 * rows, 2 * cols, 2 * rows, 2 * cols]).astype(np.int64)
    canvas = draw_segments((2 * rows, 2 * cols), ends).astype(np.float64)
    # Only what the widest kernel can carry into the central part is blurred: a third of the work, the same values.
    margins = (min(rows // 2, BLUR_REACH_PX), min(cols // 2, BLUR_REACH_PX))
    first = (rows // 2 - margins[0], cols // 2 - margins[1])
    last = (rows // 2 + rows + BLUR_REACH_PX, cols // 2 + cols + BLUR_REACH_PX)
    seen = canvas[first[0] : last[0], first[1] : last[1]]
    total = np.zeros_like(seen)
    for factor, sigma_px in BLURS:
        total += factor * scipy.ndimage.gaussian_filter(seen, sigma_px, mode="constant", truncate=4.0)
    return total[margins[0] : margins[0] + rows, margins[1] : margins[1] + cols].copy()


def draw_segments(shape: tuple[int, int], ends: Int64[np.ndarray, "s 4"]) -> Bool[np.ndarray, "h w"]:
    """Return an (H, W) mask of the pixels on straight segments, end points included.

    Args:
        shape: (H, W).
        ends: (S, 4) row and column of the first end, row and column of the second, inside the mask.
    """
    start, stop = ends[:, :2], ends[:, 2:]
    length = np.abs(stop - start).max(axis=1)
    segment = np.repeat(np.arange(len(ends)), length + 1)
    step = np.arange(len(segment)) - np.repeat(np.cumsum(length + 1) - (length + 1), length + 1)
    share = step / np.maximum(length, 1)[segment]
    pixels = np.rint(start[segment] + share[:, None] * (stop - start)[segment]).astype(np.int64)
    mask = np.zeros(shape, dtype=bool)
    mask[pixels[:, 0], pixels[:, 1]] = True
    return mask


def phase_from_amplitude(amplitudes: Sequence[Float64[np.ndarray, "h w"]]) -> list[Float64[np.ndarray, "h w"]]:
    """Return for each modulus Y its phase in rad (`--set_phi`), about -0.7 to 1 for lines objects.

    phi = pi tanh((Y - max / 2) / (3 mean)), max and mean over all objects of the scan. Source: physics section 13.
    """
    stack = np.stack(amplitudes)
    middle, scale = stack.max() / 2, 3 * stack.mean()
    return [np.pi * np.tanh((amplitude - middle) / scale) for amplitude in amplitudes]


def independent_phase(shape: tuple[int, int], rng: np.random.Generator) -> Float64[np.ndarray, "h w"]:
    """Return a phase in rad that says nothing about the modulus, (H, W), between -1 and 1.

    A second lines object D, drawn on its own: phi = tanh((D - mean) / (1.5 std)); the standard deviation is about 0.5 rad.
    """
    draw = lines_amplitude(shape, rng)
    return np.tanh((draw - draw.mean()) / (1.5 * draw.std()))


def siemens_star(shape: tuple[int, int], rng: np.random.Generator) -> Complex128[np.ndarray, "h w"]:
    """Return a Siemens star with landmarks, (H, W): modulus 1 to 0.8 and phase 0 to 0.8 rad with the share of material.

    24 spokes with anti-aliased edges, one of them missing, and a disc towards the corner of row 0, column 0: no flip or
    transpose of the picture equals the picture. The generator draws the star's rotation and the missing spoke.
    """
    side = min(shape)
    centre = ((shape[0] - 1) / 2, (shape[1] - 1) / 2)
    row = np.arange(shape[0])[:, None] - centre[0]
    col = np.arange(shape[1])[None, :] - centre[1]
    radius = np.hypot(row, col)
    rotation = rng.random()
    missing = int(rng.integers(N_SPOKES))
    # `turn` counts spokes round the star; the spoke itself is its first half, 0 to 0.5.
    turn = np.mod(np.arctan2(row, col) / (2 * np.pi) * N_SPOKES + rotation, N_SPOKES)
    inside = 0.25 - np.abs(np.mod(turn + 0.25, 1.0) - 0.5)
    spokes = _coverage(inside * 2 * np.pi / N_SPOKES * radius)
    # The gap reaches a quarter period past the spoke on each side, into the empty field between spokes.
    spokes[np.mod(turn - missing + 0.25, N_SPOKES) < 1.0] = 0.0
    ring = _coverage(STAR_RADIUS * side - radius) * _coverage(radius - STAR_HOLE * side)
    away = DISC_DISTANCE * side / np.sqrt(2)
    disc = _coverage(DISC_RADIUS * side - np.hypot(row + away, col + away))
    material = np.maximum(spokes * ring, disc)
    return (1 - (1 - SPOKE_AMPLITUDE) * material) * np.exp(1j * SPOKE_PHASE_RAD * material)


def side_by_side(
    objects: Sequence[Complex[np.ndarray, "h w"]], gap_px: int
) -> tuple[Complex64[np.ndarray, "h total"], tuple[Region, ...]]:
    """Return objects of equal shape in one frame, along columns with a gap of zeros, and the rectangle of each.

    Args:
        objects: the (H, W) objects.
        gap_px: columns of zeros between two objects; with N or more of them no frame sees two objects.

    Returns:
        The (H, n W + (n - 1) gap) array, and one Region per object.
    """
    rows, cols = objects[0].shape
    starts = [index * (cols + gap_px) for index in range(len(objects))]
    regions = tuple(Region(0, rows, start, start + cols) for start in starts)
    frame = np.zeros((rows, starts[-1] + cols), dtype=np.complex64)
    for region, image in zip(regions, objects, strict=True):
        frame[:, region.c0 : region.c1] = image
    return frame, regions


def _coverage(distance_px: Float64[np.ndarray, "h w"]) -> Float64[np.ndarray, "h w"]:
    """Return the share of a pixel inside a straight edge at this signed distance (positive: inside)."""
    return np.clip(0.5 + distance_px, 0.0, 1.0)
