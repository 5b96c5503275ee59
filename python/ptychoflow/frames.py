"""Coordinates: one convention, and the conversions at its borders.

Every position inside ptychoflow is a **patch centre** `(row, col)` in object pixels, counted from pixel centres: an integer is
the centre of a pixel. The centre `c` of an N-pixel patch is the object pixel that lies under patch pixel `N // 2`
(0-based), so patch pixel `i` lies at object coordinate `c - N // 2 + i` (reference: physics section 1.1).

Other programs count differently: pty-chi from the patch's top-left pixel, tike likewise, ptychodus from pixel edges.
Each adapter converts with the functions here and has a delta-image test.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

Positions = Float64[np.ndarray, "points 2"]


def topleft_from_centre(positions_rc_px: Positions, n: int) -> Positions:
    """Return the object coordinate of patch pixel (0, 0) for patch centres; both (n, 2) in px."""
    return positions_rc_px - n // 2


def centre_from_topleft(topleft_rc_px: Positions, n: int) -> Positions:
    """Return patch centres for the object coordinates of patch pixel (0, 0); both (n, 2) in px."""
    return topleft_rc_px + n // 2


@dataclass(frozen=True)
class Canvas:
    """A rectangle of whole object pixels: its pixel [0, 0] is the object pixel `origin_rc_px`."""

    origin_rc_px: tuple[int, int]
    shape: tuple[int, int]

    def to_local(self, positions_rc_px: Positions) -> Positions:
        """Return positions counted from this canvas' own pixel [0, 0], (n, 2) in px."""
        return positions_rc_px - np.asarray(self.origin_rc_px, dtype=np.float64)

    def slices_of(self, region: "Region") -> tuple[slice, slice]:
        """Return the slices that cut `region` out of an array on this canvas.

        Raises:
            ValueError: when the region reaches outside the canvas.
        """
        r0, c0 = region.r0 - self.origin_rc_px[0], region.c0 - self.origin_rc_px[1]
        r1, c1 = region.r1 - self.origin_rc_px[0], region.c1 - self.origin_rc_px[1]
        if r0 < 0 or c0 < 0 or r1 > self.shape[0] or c1 > self.shape[1]:
            raise ValueError(
                f"region rows {region.r0}..{region.r1}, cols {region.c0}..{region.c1} is not inside the canvas "
                f"that starts at {self.origin_rc_px} with shape {self.shape}"
            )
        return slice(r0, r1), slice(c0, c1)


@dataclass(frozen=True)
class Region:
    """A rectangle of object pixels, rows `r0 <= r < r1`, columns `c0 <= c < c1`, in the scan's frame."""

    r0: int
    r1: int
    c0: int
    c1: int

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols) in px."""
        return self.r1 - self.r0, self.c1 - self.c0

    def as_array(self) -> Int64[np.ndarray, "4"]:
        """The four bounds (r0, r1, c0, c1)."""
        return np.array([self.r0, self.r1, self.c0, self.c1], dtype=np.int64)

    def central(self, side_px: int) -> "Region":
        """Return the centred square of `side_px`, cut to this region where it is larger."""
        rows, cols = min(side_px, self.shape[0]), min(side_px, self.shape[1])
        r0 = self.r0 + (self.shape[0] - rows) // 2
        c0 = self.c0 + (self.shape[1] - cols) // 2
        return Region(r0, r0 + rows, c0, c0 + cols)


def canvas_for(positions_rc_px: Positions, n: int) -> Canvas:
    """Return the smallest canvas that holds every bilinear (N + 1)-pixel footprint of the patches, nothing cut (D42)."""
    topleft = topleft_from_centre(positions_rc_px, n)
    first = np.floor(topleft.min(axis=0)).astype(int)
    last = np.floor(topleft.max(axis=0)).astype(int) + n
    rows, cols = last - first + 1
    return Canvas((int(first[0]), int(first[1])), (int(rows), int(cols)))
