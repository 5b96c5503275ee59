"""The rectangle on which every arm is scored: a function of scan, probe and truth only (design section 5)."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Complex64, Float64

from ptychoflow.frames import Region, canvas_for
from ptychoflow.physics.patches import scatter

Offset = Sequence[int]
"""Row and column, px."""

COVERED = 0.1
"""Share of the median coverage between the positions from which a pixel counts as fully covered."""


def score_region(
    positions_rc_px: Float64[np.ndarray, "m 2"],
    probe: Complex64[np.ndarray, "n n"],
    *,
    object_shape: tuple[int, int] | None,
    box_px: int | None = None,
) -> Region:
    """Return the largest rectangle of covered pixels between the outermost positions, in the scan's frame.

    Coverage is the sum of probe intensity over the positions. A pixel counts when it has at least a tenth of the median
    coverage between the positions.

    Args:
        positions_rc_px: (M, 2) patch centres of one object's test frames, px.
        probe: (N, N) probe.
        object_shape: shape of the truth or reference, whose outside is not scored; None without one.
        box_px: take the central square of this side instead of the whole rectangle.

    Raises:
        ValueError: no pixel is covered.
    """
    n = probe.shape[-1]
    canvas = canvas_for(positions_rc_px, n)
    intensity = (np.abs(probe) ** 2).astype(np.float32)
    copies = np.broadcast_to(intensity, (len(positions_rc_px), n, n))
    coverage = scatter(copies, canvas.to_local(positions_rc_px), canvas.shape)
    rows, cols = np.indices(canvas.shape, sparse=True)
    row, col = rows + canvas.origin_rc_px[0], cols + canvas.origin_rc_px[1]
    low, high = positions_rc_px.min(axis=0), positions_rc_px.max(axis=0)
    inside = (row >= low[0]) & (row <= high[0]) & (col >= low[1]) & (col <= high[1])
    if object_shape is not None:
        inside &= (row >= 0) & (row < object_shape[0]) & (col >= 0) & (col < object_shape[1])
    if not inside.any():
        raise ValueError("the positions enclose no pixel that could be scored")
    found = largest_rectangle(inside & (coverage >= COVERED * np.median(coverage[inside])))
    region = Region(
        found.r0 + canvas.origin_rc_px[0],
        found.r1 + canvas.origin_rc_px[0],
        found.c0 + canvas.origin_rc_px[1],
        found.c1 + canvas.origin_rc_px[1],
    )
    return region if box_px is None else region.central(box_px)


def common_regions(
    own: Sequence[Region], origins_rc_px: Sequence[Offset], others: Sequence[tuple[Sequence[Region], Sequence[Offset]]]
) -> tuple[Region, ...]:
    """Return the rectangles that scans of different N of the same objects all have, in the frame of the first scan.

    Args:
        own: one rectangle an object, in the first scan's frame.
        origins_rc_px: where pixel [0, 0] of each of these objects lies in that frame.
        others: the same of every other scan.

    Raises:
        ValueError: the scans have different numbers of objects, or share no pixel of one.
    """
    if any(len(regions) != len(own) for regions, _ in others):
        raise ValueError(
            f"scans of one condition must score the same objects, got {[len(own), *(len(r) for r, _ in others)]}"
        )
    common = list(own)
    for regions, origins in others:
        for place, (mine, other) in enumerate(zip(common, regions, strict=True)):
            rows, cols = (a - b for a, b in zip(origins_rc_px[place], origins[place], strict=True))
            common[place] = Region(
                max(mine.r0, other.r0 + rows), min(mine.r1, other.r1 + rows),
                max(mine.c0, other.c0 + cols), min(mine.c1, other.c1 + cols),
            )  # fmt: skip
            if min(common[place].shape) <= 0:
                raise ValueError(f"the scans of different N score no common pixel of object {place}")
    return tuple(common)


def largest_rectangle(mask: Bool[np.ndarray, "h w"]) -> Region:
    """Return the largest axis-parallel rectangle of true pixels (histogram method, one pass over the rows).

    Raises:
        ValueError: no pixel is true.
    """
    best, best_area = None, 0
    height = np.zeros(mask.shape[1], dtype=np.int64)
    for row, line in enumerate(mask):
        height = np.where(line, height + 1, 0)
        open_bars: list[tuple[int, int]] = []
        for col, bar in enumerate([*height.tolist(), 0]):
            start = col
            while open_bars and open_bars[-1][1] >= bar:
                start, tall = open_bars.pop()
                if tall * (col - start) > best_area:
                    best_area = tall * (col - start)
                    best = Region(row - tall + 1, row + 1, start, col)
            open_bars.append((start, bar))
    if best is None:
        raise ValueError("no pixel of the mask is true")
    return best
