"""Tiling: the object of a raster scan put together from one tile a patch, edge to edge, without blending (physics 12.1).

A raster of step s is a grid of s x s tiles. Each N-pixel patch gives the square [left, left + s) of both axes,

    border = N - s,   left = ceil(border / 2),   right = floor(border / 2);   a border of zero keeps the whole patch (D39)

Patch pixel i lies at c - N // 2 + i (frames.py), so the canvas begins at the first position - N // 2 + left, and, with its
tiles, always holds the rectangle between the outermost positions. A tile goes where its position says, not by its number.
"""

import numpy as np
from jaxtyping import Complex64, Float32, Float64, Int64

from ptychoflow.errors import ContractError, NumericalError
from ptychoflow.frames import Canvas

EXACT_PX = 1e-6
"""How far a position may be from a whole pixel."""


def why_no_raster(
    positions_rc_px: Float64[np.ndarray, "m 2"], scan_index: Int64[np.ndarray, "m"], n: int
) -> str | None:
    """Return in words why positions cannot be tiled; None for a full regular raster of whole pixels over one object.

    Args:
        positions_rc_px: (M, 2) patch centres, px.
        scan_index: (M,) object of each of them.
        n: side of a patch, px.
    """
    if (objects := len(np.unique(scan_index))) > 1:
        return f"the positions belong to {objects} objects, and a raster has one"
    if (off := float(np.abs(positions_rc_px - np.rint(positions_rc_px)).max())) > EXACT_PX:
        return f"positions lie up to {off:.2g} px off the whole pixels"
    places = np.rint(positions_rc_px).astype(np.int64)
    rows, cols = (np.unique(axis) for axis in places.T)
    if min(len(rows), len(cols)) < 2:
        return f"{len(rows)} x {len(cols)} places have no step along both axes"
    steps = np.unique(np.concatenate([np.diff(rows), np.diff(cols)]))
    if len(steps) > 1:
        return f"the steps of the raster differ: {', '.join(map(str, steps[:5]))} px"
    if len(places) != len(rows) * len(cols) or len(np.unique(places, axis=0)) != len(places):
        return f"{len(places)} positions do not fill the {len(rows)} x {len(cols)} places of the raster once each"
    if steps[0] > n:
        return f"the step of {steps[0]} px is larger than a patch of {n} px: tiles would leave gaps"
    return None


def kept_span(n: int, step_px: int) -> slice:
    """Return which pixels of a patch its tile keeps, the same on both axes."""
    left = -(-(n - step_px) // 2)
    return slice(left, left + step_px)


class Tiler:
    """Collects batches of patches of one raster; the counterpart of `Stitcher`, with the same methods."""

    def __init__(self, positions_rc_px: Float64[np.ndarray, "m 2"], n: int) -> None:
        """Prepare the canvas.

        Args:
            positions_rc_px: (M, 2) patch centres for which `why_no_raster` has nothing to say, px.
            n: side of a patch, px.
        """
        rows, cols = (np.unique(axis) for axis in np.rint(positions_rc_px).astype(np.int64).T)
        self._n, self._step = n, int(rows[1] - rows[0])
        self._kept = kept_span(n, self._step)
        origin = (int(rows[0]) - n // 2 + self._kept.start, int(cols[0]) - n // 2 + self._kept.start)
        self.canvas = Canvas(origin, (len(rows) * self._step, len(cols) * self._step))
        self._object = np.zeros(self.canvas.shape, dtype=np.complex64)
        self._weight = np.zeros(self.canvas.shape, dtype=np.float32)

    def add(self, patches: Complex64[np.ndarray, "b n n"], positions_rc_px: Float64[np.ndarray, "k 2"]) -> None:
        """Place the tiles of patches centred on positions of the raster.

        Raises:
            ContractError: numbers of patches and positions differ (D15), a position is not of the raster, or it has its
                tile already: patches of groups overlap and go by `Stitcher` (D40).
            NumericalError: a patch is not finite.
        """
        if len(patches) != len(positions_rc_px):
            raise ContractError(f"{len(patches)} patches came with {len(positions_rc_px)} positions")
        if not np.isfinite(patches).all():
            raise NumericalError("a predicted patch holds NaN or infinity; it is not stitched")
        first = self.canvas.to_local(positions_rc_px) - self._n // 2 + self._kept.start
        corners = np.rint(first).astype(np.int64)
        last = np.subtract(self.canvas.shape, self._step)
        outside = (corners < 0) | (corners > last) | (corners % self._step != 0)
        if outside.any() or (np.abs(first - corners) > EXACT_PX).any():
            raise ContractError("a position is none of the raster that the tiles were laid out for")
        for (row, col), patch in zip(corners.tolist(), patches, strict=True):
            place = slice(row, row + self._step), slice(col, col + self._step)
            if self._weight[place].any():
                raise ContractError(
                    "a second patch came for a tile: tiling takes one patch a position (gridsize 1); groups go by position"
                )
            self._object[place], self._weight[place] = patch[self._kept, self._kept], 1

    def result(self) -> tuple[Complex64[np.ndarray, "h w"], Float32[np.ndarray, "h w"]]:
        """Return object and weight: 1 where a tile lies, 0 elsewhere."""
        return self._object, self._weight
