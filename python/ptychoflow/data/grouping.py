"""Groups of neighbouring frames that enter a model together, as index tables (physics section 3).

A group has C = gridsize^2 members. Member 0 is its seed frame; the others are C - 1 different frames out of the
seed's K nearest, sorted by (row, col) so that the order has a geometric meaning. Neighbours are found per object
(`scan_index`), ties by distance are broken by frame index, so a table is a function of positions, options and seed.
"""

import logging
from dataclasses import dataclass
from math import comb

import numpy as np
from jaxtyping import Float64, Int64
from scipy.spatial import KDTree

from ptychoflow.errors import ContractError, UsageError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Grouping:
    """A group table and the branch that made it: `single`, `plain` or `k_choose_c`."""

    groups: Int64[np.ndarray, "b c"]
    branch: str


def nearest_neighbours(
    positions_rc_px: Float64[np.ndarray, "m 2"], scan_index: Int64[np.ndarray, "m"], k: int
) -> Int64[np.ndarray, "m k"]:
    """Return for each frame its k nearest other frames of the same object, nearest first, ties by frame index.

    The frame itself is left out by index, not by rank, so coincident positions are handled (D9).

    Raises:
        ContractError: an object has fewer than k + 1 frames.
    """
    table = np.empty((len(positions_rc_px), k), dtype=np.int64)
    for number in np.unique(scan_index):
        members = np.flatnonzero(scan_index == number)
        if len(members) <= k:
            raise ContractError(
                f"object {number} has {len(members)} frames, but {k} neighbours per frame are asked for; "
                "lower n_neighbors or gridsize, or give more frames"
            )
        points = positions_rc_px[members]
        # Two more than needed: one for the frame itself, one to see a tie at the border of the neighbourhood.
        query = min(k + 2, len(members))
        distance, found = KDTree(points).query(points, k=query)
        distance = np.where(found == np.arange(len(members))[:, None], np.inf, np.round(distance, 9))
        order = np.lexsort((found, distance), axis=1)[:, :k]
        table[members] = members[np.take_along_axis(found, order, axis=1)]
    return table


def group_frames(
    frames: Int64[np.ndarray, "f"],
    positions_rc_px: Float64[np.ndarray, "m 2"],
    scan_index: Int64[np.ndarray, "m"],
    *,
    gridsize: int,
    rng: np.random.Generator,
    n_groups: int | None = None,
    n_neighbors: int = 7,
    seed_sampling: str = "random",
    include_seed: bool = True,
    oversample: bool = False,
) -> Grouping:
    """Return the group table of a set of frames.

    Args:
        frames: frames that may be used, indices into the scan.
        positions_rc_px: (M, 2) patch centres of the whole scan, px.
        scan_index: (M,) object of each frame; no group spans two objects.
        gridsize: groups have gridsize^2 members.
        rng: draws seeds and combinations.
        n_groups: number of groups; one per frame when None.
        n_neighbors: K, at least C.
        seed_sampling: `random` without replacement, or `sequential` (the first ones) when there are fewer groups than frames.
        include_seed: member 0 is the seed; False draws all C members from the neighbours.
        oversample: allow several groups per seed (K choose C).

    Returns:
        (B, C) frame indices into the scan, and the branch taken.

    Raises:
        UsageError: K < C, or more groups than the options allow.
        ContractError: fewer frames than members or neighbours.
    """
    c = gridsize**2
    n_frames = len(frames)
    wanted = n_frames if n_groups is None else n_groups
    if n_frames < c:
        raise ContractError(f"{n_frames} frames cannot form groups of {c}; give more frames or a smaller gridsize")
    if c == 1:
        if wanted > n_frames:
            logger.warning(
                "n_groups = %d is more than the %d frames; gridsize 1 uses each frame once", wanted, n_frames
            )
        return Grouping(_seeds(frames, min(wanted, n_frames), seed_sampling, rng)[:, None], "single")
    if n_neighbors < c:
        raise UsageError(f"n_neighbors = {n_neighbors} is less than the {c} members of a group; use at least {c}")
    neighbours = frames[nearest_neighbours(positions_rc_px[frames], scan_index[frames], n_neighbors)]
    drawn = c - 1 if include_seed else c
    combinations = comb(n_neighbors, drawn)
    if wanted <= n_frames:
        seeds = _seeds(np.arange(n_frames), wanted, seed_sampling, rng)
        choice = np.argsort(rng.random((wanted, n_neighbors)), axis=1)[:, :drawn]
        branch = "plain"
    else:
        _check_oversampling(wanted, n_frames, combinations, n_neighbors, c, oversample)
        picked = rng.choice(n_frames * combinations, size=wanted, replace=False)
        seeds = picked // combinations
        choice = _combinations(n_neighbors, drawn)[picked % combinations]
        branch = "k_choose_c"
    members = np.take_along_axis(neighbours[seeds], choice, axis=1)
    order = np.lexsort((members, positions_rc_px[members, 1], positions_rc_px[members, 0]), axis=1)
    members = np.take_along_axis(members, order, axis=1)
    groups = np.concatenate([frames[seeds][:, None], members], axis=1) if include_seed else members
    logger.info("%d groups of %d from %d frames, K = %d, branch %s", wanted, c, n_frames, n_neighbors, branch)
    return Grouping(groups, branch)


def _seeds(frames: Int64[np.ndarray, "f"], n: int, sampling: str, rng: np.random.Generator) -> Int64[np.ndarray, "b"]:
    """Return n of the frames, sorted: random without replacement, or the first ones."""
    if n == len(frames) or sampling == "sequential":
        return frames[:n]
    return np.sort(rng.choice(frames, size=n, replace=False))


def _combinations(k: int, drawn: int) -> Int64[np.ndarray, "combos drawn"]:
    """Return all ways to draw `drawn` of k, in lexicographic order."""
    from itertools import combinations

    return np.array(list(combinations(range(k), drawn)), dtype=np.int64)


def _check_oversampling(wanted: int, n_frames: int, combinations: int, k: int, c: int, allowed: bool) -> None:
    """Refuse more groups than frames unless it was asked for and enough different groups exist (OVERSAMPLING-001)."""
    if not allowed:
        raise UsageError(
            f"n_groups = {wanted} is more than the {n_frames} frames; set oversample to choose several groups per frame, "
            f"or ask for at most {n_frames}"
        )
    if k <= c:
        raise UsageError(f"oversampling needs n_neighbors > {c} (the members of a group), got {k}")
    if wanted > n_frames * combinations:
        raise UsageError(
            f"n_groups = {wanted}, but {n_frames} frames with {k} neighbours form only {n_frames * combinations} groups"
        )
