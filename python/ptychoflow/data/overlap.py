"""Spacing and overlap of a view: which groups keep a least distance, how many could, and how much neighbours overlap.

The study's knobs (reference/study.md sections 3 and 4). A spacing rule keeps groups whose centres lie at least S px apart.
How many can is bounded by the field and not by the number of frames, so the bound is proven first (Oler) and a share that
exceeds it is refused, never lowered (D64, D65). The overlap measures read the group table that is stored (D67).

Points are (row, col) in object px; `objects` says which object a point lies on: two objects never see each other.
"""

from math import ceil, floor, sqrt
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from scipy.spatial import KDTree

from ptychoflow.data.splits import spacing_facts
from ptychoflow.errors import ContractError

TOLERANCE_PX = 1e-9
"""Two centres that are this much closer than S still count as S apart: the mean of members is rounded."""

LEAST_GROUPS = 16
"""Fewest groups of a spaced view; fewer are no training set and no picture."""

AVERAGED_NEIGHBOURS = 6
"""K of the overlap measures: neighbours that a frame's overlap is averaged over. Not the K of the grouping."""


def keep_share(frames: Int64[np.ndarray, "m"], share: float, rng: np.random.Generator) -> Int64[np.ndarray, "k"]:
    """Return this share of the frames, at least one, sorted, drawn without replacement; all of them for 1."""
    if share == 1:
        return frames
    return np.sort(rng.choice(frames, size=max(1, round(share * len(frames))), replace=False))


def group_centres(
    positions_rc_px: Float64[np.ndarray, "m 2"], groups: Int64[np.ndarray, "b c"]
) -> Float64[np.ndarray, "b 2"]:
    """Return the mean position of each group's members, px."""
    return positions_rc_px[groups].mean(axis=1)


def apart(
    points_rc_px: Float64[np.ndarray, "n 2"], objects: Int64[np.ndarray, "n"], *, reach_px: float = 0.0
) -> Float64[np.ndarray, "n 2"]:
    """Return the points with the objects side by side; those of a single object are untouched.

    Two objects then lie further apart than `reach_px` and than all points reach now.
    """
    extent = np.ptp(points_rc_px, axis=0)
    place = np.unique(objects, return_inverse=True)[1]
    return points_rc_px + np.outer(place * (extent[1] + extent.sum() + reach_px + 1), [0.0, 1.0])


def greedy_spacing(centres_rc_px: Float64[np.ndarray, "n 2"], min_spacing_px: float) -> Int64[np.ndarray, "k"]:
    """Return indices of centres that keep their distance, ascending: in (row, col) order, each one that all kept ones allow.

    A centre exactly `min_spacing_px` away is kept; of coincident ones the first is.
    """
    tree = KDTree(centres_rc_px)
    free = np.ones(len(centres_rc_px), dtype=bool)
    kept = []
    for index in np.lexsort((centres_rc_px[:, 1], centres_rc_px[:, 0])):
        if free[index]:
            kept.append(index)
            free[tree.query_ball_point(centres_rc_px[index], min_spacing_px - TOLERANCE_PX)] = False
    return np.sort(np.array(kept, dtype=np.int64))


def closest_pair(points_rc_px: Float64[np.ndarray, "n 2"]) -> tuple[int, int, float]:
    """Return the two points (indices) that lie nearest to each other, and their distance in px; needs two points."""
    distance, found = map(np.asarray, KDTree(points_rc_px).query(points_rc_px, k=2))
    first = int(np.argmin(distance[:, 1]))
    # Where points coincide, the point itself may come second.
    second = next(int(index) for index in found[first] if index != first)
    return first, second, float(distance[first, 1])


def oler_bound(
    height_px: float | Float64[np.ndarray, "o"], width_px: float | Float64[np.ndarray, "o"], min_spacing_px: float
) -> int:
    """Return a number of points that no set with this least distance can exceed in a rectangle (or several, together).

    n_max = floor(2 W H / (sqrt(3) S^2) + (W + H) / S + 1), N. Oler, Acta Math. 105, 19 (1961).
    """
    height, width = np.atleast_1d(height_px), np.atleast_1d(width_px)
    s = min_spacing_px
    return floor(float(np.sum(2 * width * height / (sqrt(3) * s**2) + (width + height) / s + 1)) + 1e-9)


def largest_spacing_for(
    height_px: float | Float64[np.ndarray, "o"], width_px: float | Float64[np.ndarray, "o"], n_points: int
) -> float:
    """Return the largest spacing for which `oler_bound` is still n_points, px: its formula solved for S.

    Args:
        height_px: heights of the rectangles, px.
        width_px: their widths, px.
        n_points: more than there are rectangles (a single point in each keeps any distance).
    """
    height, width = np.atleast_1d(height_px), np.atleast_1d(width_px)
    area, edge = float(np.sum(2 / sqrt(3) * height * width)), float(np.sum(height + width))
    more = n_points - len(height)
    return (edge + sqrt(edge**2 + 4 * area * more)) / (2 * more)


def space_groups(
    centres_rc_px: Float64[np.ndarray, "n 2"],
    objects: Int64[np.ndarray, "n"],
    *,
    min_spacing_px: float | None,
    n_members: int,
    max_groups: int | None = None,
    min_acceptance: float = 0.0,
) -> tuple[Int64[np.ndarray, "k"], dict[str, Any]]:
    """Return the groups (indices, ascending) that keep their distance, and the report: the rule, its outcome, the spacing.

    Args:
        centres_rc_px: (n, 2) centres of all groups of one side, px.
        objects: (n,) object of each group.
        min_spacing_px: S, least distance between two centres, px; None keeps every group, and is reported alike.
        n_members: C, frames of a group.
        max_groups: most groups, those nearest to the middle of the centres' bounding box (ties by index).
        min_acceptance: least share of the groups that the spacing must leave, 0..1; reported as it was asked for.

    Raises:
        ContractError: the share cannot be met (with the bound), is not met, or too few groups are left.
    """
    n = len(centres_rc_px)
    side_by_side = apart(centres_rc_px, objects, reach_px=min_spacing_px or 0.0)
    passed = kept = np.arange(n)
    bound = n
    if min_spacing_px is not None:
        height, width, middle = _fields(centres_rc_px, objects)
        bound = min(n, oler_bound(height, width, min_spacing_px))
        wanted = ceil(min_acceptance * n - 1e-9)
        field = " + ".join(f"{h:.1f} x {w:.1f}" for h, w in zip(height, width, strict=True))
        where = f"S = min_spacing_px = {min_spacing_px:g} px in a field of {field} px"
        if wanted > bound:
            largest = floor(100 * largest_spacing_for(height, width, wanted)) / 100
            raise ContractError(
                f"infeasible: at most {bound} of {n} ({100 * bound / n:.3g} %) can pass {where}, min_acceptance = "
                f"{min_acceptance:g} asks for {wanted}; the largest S that would meet it is {largest:.2f} px"
            )
        passed = greedy_spacing(side_by_side, min_spacing_px)
        off_middle = np.linalg.norm(centres_rc_px - middle, axis=1)[passed].round(9)
        kept = np.sort(passed[np.argsort(off_middle, kind="stable")[:max_groups]])
        found = f"{len(passed)} of n = {n} groups pass {where} (proven bound {bound})"
        if len(passed) < wanted:
            raise ContractError(f"{found}, min_acceptance = {min_acceptance:g} asks for {wanted}; lower one of the two")
        if len(kept) < (least := max(n_members, LEAST_GROUPS)):
            cut = "" if len(kept) == len(passed) else f", max_groups leaves {len(kept)}"
            raise ContractError(f"{found}{cut}; a view needs at least {least}: lower S or give a larger field")
    report = {
        "threshold_px": min_spacing_px,
        "n_groups_before": n,
        "n_accepted": len(passed),
        "n_rejected": n - len(passed),
        "acceptance_rate": len(passed) / n,
        "geometry_acceptance_bound": bound / n,
        "effective_min_acceptance": min_acceptance,
        **spacing_facts(side_by_side[kept]),
    }
    return kept, report


def _fields(
    centres_rc_px: Float64[np.ndarray, "n 2"], objects: Int64[np.ndarray, "n"]
) -> tuple[Float64[np.ndarray, "o"], Float64[np.ndarray, "o"], Float64[np.ndarray, "n 2"]]:
    """Return height and width of each object's bounding box of centres, and for each centre the middle of its box, px."""
    numbers, place = np.unique(objects, return_inverse=True)
    low = np.stack([centres_rc_px[place == k].min(axis=0) for k in range(len(numbers))])
    high = np.stack([centres_rc_px[place == k].max(axis=0) for k in range(len(numbers))])
    return high[:, 0] - low[:, 0], high[:, 1] - low[:, 1], ((low + high) / 2)[place]


def disc_overlap(distance_px: Float64[np.ndarray, "*shape"], diameter_px: float) -> Float64[np.ndarray, "*shape"]:
    """Return the shared share of two discs of one diameter: 1 for coincident ones, 0 from a diameter on.

    f(d) = [2 R^2 arccos(d / 2R) - (d / 2) sqrt(4 R^2 - d^2)] / (pi R^2), written in x = d / 2R.
    """
    x = np.minimum(distance_px / diameter_px, 1.0)
    return 2 / np.pi * (np.arccos(x) - x * np.sqrt(1 - x**2))


def overlap_measures(
    positions_rc_px: Float64[np.ndarray, "m 2"],
    groups: Int64[np.ndarray, "b c"],
    objects: Int64[np.ndarray, "m"],
    *,
    probe_diameter_px: float,
    n_neighbors: int = AVERAGED_NEIGHBOURS,
) -> dict[str, Any]:
    """Return the three overlap averages of a stored group table (study section 4); they describe and do not gate.

    Args:
        positions_rc_px: (M, 2) patch centres of the whole scan, px.
        groups: (B, C) the table that arms read.
        objects: (M,) object of each frame.
        probe_diameter_px: D, diameter of the discs, px.
        n_neighbors: K, most neighbours that metrics 1 and 2 average over.

    Returns:
        `metric_1_group_based_avg` (left out for C = 1), `metric_2_image_based_avg`, `metric_3_group_to_group_avg`, counts.
    """
    points = apart(positions_rc_px, objects, reach_px=probe_diameter_px)
    images = np.unique(points[np.unique(groups)], axis=0)
    first = {"metric_1_group_based_avg": _within_groups(points[groups], probe_diameter_px, n_neighbors)}
    return {
        **(first if groups.shape[1] > 1 else {}),
        "metric_2_image_based_avg": _to_nearest(images, probe_diameter_px, n_neighbors),
        "metric_3_group_to_group_avg": _between_groups(points[groups].mean(axis=1), probe_diameter_px),
        "n_unique_images": len(images),
        "n_groups_actual": len(groups),
    }


def _within_groups(members_rc_px: Float64[np.ndarray, "b c 2"], diameter_px: float, k: int) -> float:
    """Return the mean overlap of a member with its (at most k nearest) fellow members."""
    distance = np.linalg.norm(members_rc_px[:, :, None] - members_rc_px[:, None], axis=-1)
    itself = np.eye(members_rc_px.shape[1], dtype=bool)
    others = np.sort(np.where(itself, np.inf, distance), axis=-1)[..., :-1][..., :k]
    return float(disc_overlap(others, diameter_px).mean()) if others.size else 0.0


def _to_nearest(images_rc_px: Float64[np.ndarray, "n 2"], diameter_px: float, k: int) -> float:
    """Return the mean overlap of different positions with their k nearest others; 0 for a single one."""
    if len(images_rc_px) < 2:
        return 0.0
    distance = np.asarray(KDTree(images_rc_px).query(images_rc_px, k=min(k + 1, len(images_rc_px)))[0])[:, 1:]
    return float(disc_overlap(distance, diameter_px).mean())


def _between_groups(centres_rc_px: Float64[np.ndarray, "b 2"], diameter_px: float) -> float:
    """Return the mean overlap of a group's disc with those of the groups it touches; a group that touches none counts 0."""
    tree, n = KDTree(centres_rc_px), len(centres_rc_px)
    total = 0.0
    # In pieces: in a dense scan every group touches thousands of others.
    for start in range(0, n, 256):
        piece = centres_rc_px[start : start + 256]
        pairs = KDTree(piece).sparse_distance_matrix(tree, diameter_px, output_type="ndarray")
        other = (pairs["i"] + start != pairs["j"]) & (pairs["v"] < diameter_px)
        own, distance = pairs["i"][other], pairs["v"][other]
        count = np.bincount(own, minlength=len(piece))
        shared = np.bincount(own, weights=disc_overlap(distance, diameter_px), minlength=len(piece))
        total += float(np.sum(shared / np.maximum(count, 1)))
    return total / n
