"""Scan positions of simulated scans: patch centres (row, col) in object pixels, every patch inside its object.

A patch of side N centred on c covers the pixels c - N//2 .. c - N//2 + N - 1, so inside the rectangle rows r0 <= r < r1 its
centre lies between r0 + N//2 and r1 - N + N//2, both included; for even N that is [N/2, size - N/2].
"""

import numpy as np
from jaxtyping import Bool, Float64

from ptychoflow.frames import Positions, Region


def centre_limits(region: Region, n: int) -> tuple[Float64[np.ndarray, "2"], Float64[np.ndarray, "2"]]:
    """Return the lowest and highest centre (row, col) of a patch inside the rectangle.

    Raises:
        ValueError: when the rectangle is smaller than a patch.
    """
    if min(region.shape) < n:
        raise ValueError(f"an object of {region.shape[0]} x {region.shape[1]} px cannot hold a patch of N = {n} px")
    low = np.array([region.r0 + n // 2, region.c0 + n // 2], dtype=np.float64)
    high = np.array([region.r1 - n + n // 2, region.c1 - n + n // 2], dtype=np.float64)
    return low, high


def raster(region: Region, n: int, step_px: float) -> Positions:
    """Return a raster from the rectangle's first corner, rows slow, (M, 2).

    Along an axis of `size` px there are floor((size - N) / step) + 1 positions. Source: physics section 13.
    """
    low, high = centre_limits(region, n)
    counts = np.floor((high - low) / step_px).astype(int) + 1
    rows, cols = (np.minimum(low[axis] + step_px * np.arange(counts[axis]), high[axis]) for axis in (0, 1))
    return np.stack(np.meshgrid(rows, cols, indexing="ij"), axis=-1).reshape(-1, 2)


def jittered(
    positions_rc_px: Positions, region: Region, n: int, jitter_px: float, rng: np.random.Generator
) -> Positions:
    """Return positions moved by uniform random amounts, at most `jitter_px` along each axis, (M, 2).

    Near an edge the interval is cut so that the patch stays inside: no position piles up on the edge.
    """
    low, high = centre_limits(region, n)
    lowest = np.maximum(positions_rc_px - jitter_px, low)
    highest = np.minimum(positions_rc_px + jitter_px, high)
    return lowest + (highest - lowest) * rng.random(positions_rc_px.shape)


def uniform(region: Region, n: int, n_frames: int, rng: np.random.Generator) -> Positions:
    """Return independent positions, uniform over all centres whose patch is inside the rectangle, (n_frames, 2)."""
    low, high = centre_limits(region, n)
    return low + (high - low) * rng.random((n_frames, 2))


def inside(positions_rc_px: Positions, region: Region, n: int) -> Bool[np.ndarray, "n"]:
    """Return which patches lie wholly inside the rectangle, (M,)."""
    low, high = centre_limits(region, n)
    return np.all((positions_rc_px >= low) & (positions_rc_px <= high), axis=1)
