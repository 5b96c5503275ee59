"""Train, test and held-out frames (design section 5; D53, T9).

A region split cuts one scan along an axis and leaves a guard band, so that no train patch overlaps a test patch.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.spatial import KDTree

from ptychoflow.errors import ContractError, UsageError


@dataclass(frozen=True)
class Split:
    """Frame sets of one condition, and the facts that are stored with them."""

    train: Int64[np.ndarray, "a"]
    test: Int64[np.ndarray, "b"]
    heldout: Int64[np.ndarray, "c"]
    facts: dict[str, Any]


def choose_heldout(
    heldout: str | float | list[int] | None,
    *,
    n_frames: int,
    column: Bool[np.ndarray, "m"] | Int64[np.ndarray, "k"] | None,
    rng: np.random.Generator,
) -> Int64[np.ndarray, "h"]:
    """Return the frames that no arm reads, sorted.

    Args:
        heldout: None, a fraction of the frames, a list of indices, or the name of the key that `column` was read from.
        n_frames: frames of the test scan.
        column: the array under that key: booleans per frame, or indices.
        rng: draws a fraction.

    Raises:
        UsageError: a fraction outside (0, 1).
        ContractError: an index outside the scan, or every frame held out.
    """
    if heldout is None:
        return np.zeros(0, dtype=np.int64)
    if isinstance(heldout, float | int):
        if not 0 < heldout < 1:
            raise UsageError(
                f"heldout = {heldout} must be a fraction between 0 and 1, a list of frames, or a key of the scan file"
            )
        n = max(1, round(heldout * n_frames))
        chosen = rng.choice(n_frames, size=n, replace=False)
    elif isinstance(heldout, list):
        chosen = np.asarray(heldout, dtype=np.int64)
    else:
        if column is None:
            raise ContractError(f"the scan file has no key '{heldout}' to take held-out frames from")
        if column.dtype == bool and len(column) != n_frames:
            raise ContractError(f"'{heldout}' has {len(column)} flags for {n_frames} frames")
        # A mask is often stored as integers: one 0 or 1 per frame is a mask, whatever its dtype.
        is_mask = column.dtype == bool or (len(column) == n_frames and np.isin(column, (0, 1)).all())
        chosen = np.flatnonzero(column) if is_mask else column
    chosen = np.unique(chosen).astype(np.int64)
    if len(chosen) and (chosen[0] < 0 or chosen[-1] >= n_frames):
        raise ContractError(f"held-out frames {chosen[0]}..{chosen[-1]} reach outside the scan's {n_frames} frames")
    if len(chosen) == n_frames:
        raise ContractError("every frame is held out; nothing is left to train on or to reconstruct")
    return chosen


def split_region(
    positions_rc_px: Float64[np.ndarray, "m 2"], *, axis: str, fraction: float, at: str, guard_px: float
) -> tuple[Int64[np.ndarray, "a"], Int64[np.ndarray, "b"], dict[str, Any]]:
    """Cut one scan along an axis: test from the threshold on, train below it by the guard band and more.

    Args:
        positions_rc_px: (M, 2) patch centres, px.
        axis: `y` (rows) or `x` (columns).
        fraction: train share, 0..1: of the extent, or as a quantile of the coordinate with `at = "median"`.
        at: `extent` or `median`.
        guard_px: least distance between train and test along the axis, px.

    Returns:
        Train frames (below the band), test frames (above it), facts.

    Raises:
        ContractError: a side is left without frames; says how wide the field is.
    """
    coordinate = positions_rc_px[:, 0 if axis == "y" else 1]
    low, high = float(coordinate.min()), float(coordinate.max())
    threshold = float(np.quantile(coordinate, fraction)) if at == "median" else low + (high - low) * fraction
    train = np.flatnonzero(coordinate < threshold - guard_px)
    test = np.flatnonzero(coordinate >= threshold)
    if not len(train) or not len(test):
        raise ContractError(
            f"a split at {axis} = {threshold:.1f} px with a guard band of {guard_px:g} px leaves {len(train)} train and "
            f"{len(test)} test frames of a field from {low:.1f} to {high:.1f} px; lower guard_px, or use separate scans"
        )
    facts = {
        "axis": axis,
        "threshold_px": threshold,
        "guard_px": guard_px,
        "n_dropped_by_guard": len(coordinate) - len(train) - len(test),
    }
    return train, test, facts


def train_test_distance(
    train_rc_px: Float64[np.ndarray, "a 2"], test_rc_px: Float64[np.ndarray, "b 2"]
) -> float | None:
    """Return the least distance between a train and a test position of the same scan, px; None when a set is empty."""
    if not len(train_rc_px) or not len(test_rc_px):
        return None
    return float(np.min(KDTree(train_rc_px).query(test_rc_px)[0]))


def spacing_facts(positions_rc_px: Float64[np.ndarray, "m 2"]) -> dict[str, Any]:
    """Return nearest-neighbour spacing of positions: min, median, mean, max in px, a histogram, exact duplicates."""
    if len(positions_rc_px) < 2:
        return {"n": len(positions_rc_px)}
    distance = np.asarray(KDTree(positions_rc_px).query(positions_rc_px, k=2)[0])[:, 1]
    counts, edges = np.histogram(distance, bins=20)
    return {
        "n": len(positions_rc_px),
        "n_duplicates": int(len(positions_rc_px) - len(np.unique(positions_rc_px, axis=0))),
        "min_px": float(distance.min()),
        "median_px": float(np.median(distance)),
        "mean_px": float(distance.mean()),
        "max_px": float(distance.max()),
        "histogram": {"edges_px": edges.tolist(), "counts": counts.tolist()},
    }
