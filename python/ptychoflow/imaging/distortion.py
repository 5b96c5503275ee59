"""Rotation and magnification of a reconstruction against its truth, from local shifts. Only estimates; nothing is corrected."""

from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Complex64

from ptychoflow.imaging.register import Pair, find_shift, has_structure, thinned

TILES = 3
"""Local shifts are measured on this many tiles a side."""

SMALLEST_TILE = 32
"""Samples a side below which a tile is not measured."""

FEWEST_TILES = 6
"""Rotation and magnification need this many measured tiles."""

TILE_CORRELATION = 0.5
"""A tile counts when it correlates at least this well at its own shift."""


@dataclass(frozen=True)
class Distortion:
    """Rotation and magnification of R about the middle of the rectangle, with the standard errors of the fit.

    Attributes:
        rotation_deg: counter-clockwise as shown, rows downwards.
        rotation_error_deg: from the scatter of the local shifts around the fit.
        magnification: size of R's content over T's.
        magnification_error: likewise.
        n_tiles: local shifts in the fit.
    """

    rotation_deg: float
    rotation_error_deg: float
    magnification: float
    magnification_error: float
    n_tiles: int


def _read_tile(
    image: Complex64[np.ndarray, "h w"], corner: tuple[int, int], side: tuple[int, int], shift: Pair
) -> Complex64[np.ndarray, "rows cols"]:
    """Return a tile of an image, displaced by a shift."""
    return thinned(image, (corner[0] + shift[0], corner[1] + shift[1]), 1.0, side)


def find_distortion(
    recon: Complex64[np.ndarray, "rows cols"], truth: Complex64[np.ndarray, "rows cols"], *, limit: float
) -> Distortion | None:
    """Return rotation and magnification from the shifts of 3 x 3 tiles; None where too few tiles can be measured.

    The local shifts are fitted by `u(x) = t + (m Rot(angle) - 1) x`, least squares.

    Args:
        recon: (rows, cols) samples of R, read at the shift of the whole.
        truth: (rows, cols) samples of T.
        limit: largest local shift per axis, samples.
    """
    side = (truth.shape[0] // TILES, truth.shape[1] // TILES)
    if min(side) < SMALLEST_TILE:
        return None
    centres, shifts = [], []
    for row in range(TILES):
        for col in range(TILES):
            corner = (row * side[0], col * side[1])
            tile = truth[corner[0] : corner[0] + side[0], corner[1] : corner[1] + side[1]]
            if not has_structure(tile):
                continue
            peak = find_shift(partial(_read_tile, recon, corner, side), tile, limit=limit)
            if peak.correlation >= TILE_CORRELATION and not peak.on_limit:
                centres.append([at + (length - 1) / 2 for at, length in zip(corner, side, strict=True)])
                shifts.append(peak.shift)
    if len(shifts) < FEWEST_TILES:
        return None
    # A point displaced by (dr, dc) from the middle goes to (a dr - b dc, b dr + a dc), a = m cos(angle), b = m sin(angle).
    dr, dc = (np.array(centres) - (np.array(truth.shape) - 1) / 2).T
    one, zero = np.ones_like(dr), np.zeros_like(dr)
    design = np.concatenate([np.stack([dr, -dc, one, zero], axis=1), np.stack([dc, dr, zero, one], axis=1)])
    target = np.array(shifts).T.ravel()
    solution = np.linalg.lstsq(design, target, rcond=None)[0]
    scatter = np.sum((target - design @ solution) ** 2) / (len(target) - design.shape[1])
    error = float(np.sqrt(scatter * np.linalg.inv(design.T @ design)[0, 0]))
    a, b = 1 + solution[0], solution[1]
    size = float(np.hypot(a, b))
    return Distortion(float(np.degrees(np.arctan2(b, a))), float(np.degrees(error / size)), size, error, len(shifts))
