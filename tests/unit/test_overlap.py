"""Spacing rule, its proven bound, and the overlap measures (study sections 3 and 4; D64, D65, D67)."""

import numpy as np
import pytest

from ptychoflow.data.overlap import (
    apart,
    closest_pair,
    disc_overlap,
    greedy_spacing,
    keep_share,
    largest_spacing_for,
    oler_bound,
    overlap_measures,
    space_groups,
)
from ptychoflow.errors import ContractError


def uniform(n: int, height: float, width: float, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).uniform((0, -17), (height, width - 17), (n, 2))


def one_object(points) -> np.ndarray:
    return np.zeros(len(points), dtype=np.int64)


def all_pairs(points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[:, None] - points[None], axis=-1)


def f(distance: float, diameter: float = 38.4) -> float:
    """Return the disc overlap as study section 4 writes it."""
    r = diameter / 2
    if distance >= diameter:
        return 0.0
    area = 2 * r**2 * np.arccos(distance / (2 * r)) - distance / 2 * np.sqrt(4 * r**2 - distance**2)
    return float(area / (np.pi * r**2))


# Frames


def test_a_share_is_drawn_without_replacement_and_sorted():
    """Study section 4: max(1, round(share n)). Oracle: set algebra."""
    frames = np.arange(40, 91, 2)
    kept = keep_share(frames, 0.3, np.random.default_rng(1))
    assert len(kept) == 8
    assert (np.diff(kept) > 0).all()
    assert np.isin(kept, frames).all()
    assert np.array_equal(kept, keep_share(frames, 0.3, np.random.default_rng(1)))
    assert not np.array_equal(kept, keep_share(frames, 0.3, np.random.default_rng(2)))
    assert len(keep_share(frames, 1e-3, np.random.default_rng(1))) == 1
    assert np.array_equal(keep_share(frames, 1.0, np.random.default_rng(1)), frames)


# Spacing


@pytest.mark.parametrize("spacing", [0.5, 4.0, 11.0, 80.0])
def test_greedy_selection_is_the_one_of_all_pairs(spacing):
    """Oracle: the plain double loop over points sorted by row, then column, then index."""
    points = np.concatenate([uniform(150, 61, 37), uniform(20, 61, 37), uniform(20, 61, 37)])  # some points twice
    kept: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: (*points[i], i)):
        if all(np.hypot(*(points[index] - points[other])) >= spacing for other in kept):
            kept.append(index)
    found = greedy_spacing(points, spacing)
    assert found.tolist() == sorted(kept)
    distances = all_pairs(points[found]) + 1e9 * np.eye(len(found))
    assert distances.min() >= spacing


def test_centres_exactly_a_spacing_apart_are_kept():
    """Oracle: a raster of 0.1 px steps, whose distances are not exact in floating point; every third point is 0.3 px away."""
    points = np.stack([np.full(31, 0.7), 0.1 * np.arange(31)], axis=1)
    assert greedy_spacing(points, 0.3).tolist() == list(range(0, 31, 3))


# Width, height, frames, S; least and most points that the table accepts or calls possible; its proven bound.
FIELDS = [
    (313, 156.5, 5088, 38.4, 36, 39, 51),
    (313, 156.5, 5088, 102.4, 7, 7, 10),
    (165, 82.9, 5172, 38.4, 11, 13, 18),
    (165, 82.9, 5172, 102.4, 2, 3, 4),
    (165, 165.8, 10304, 38.4, 23, 24, 31),
    (165, 165.8, 10304, 102.4, 4, 5, 7),
]


@pytest.mark.parametrize(("width", "height", "n", "spacing", "least", "most", "bound"), FIELDS)
def test_fields_of_the_study_hold_as_many_points_as_its_table_says(width, height, n, spacing, least, most, bound):
    """D65. Oracle: the table of study section 3, for the median of five draws; one draw may differ by one or two."""
    assert oler_bound(height, width, spacing) == bound
    counts = [len(greedy_spacing(uniform(n, height, width, seed), spacing)) for seed in range(5)]
    assert least <= np.median(counts) <= most
    assert max(counts) <= bound


def test_five_points_on_the_whole_field_are_within_the_bound():
    """D65: corners and centre of 165 x 165.8 px are 117 px apart; discs would allow 3.3 of them."""
    height, width, spacing = 165.0, 165.8, 102.4
    points = np.array([(0, 0), (0, width), (height, 0), (height, width), (height / 2, width / 2)])
    assert (all_pairs(points) + 1e9 * np.eye(5)).min() >= spacing
    assert len(greedy_spacing(points, spacing)) == 5
    assert height * width / (np.pi * (spacing / 2) ** 2) < 5 <= oler_bound(height, width, spacing)


def test_the_bound_is_met_by_points_on_a_line_and_by_one_point():
    """Oracle: counting. A line of length 3 S holds four points, although 0.3 / 0.1 is less than 3 in floating point."""
    assert oler_bound(0.0, 0.3, 0.1) == 4
    assert oler_bound(0.0, 0.0, 7.0) == 1
    assert oler_bound(np.array([0.0, 0.0]), np.array([0.4, 0.3]), 0.1) == 5 + 4


@pytest.mark.parametrize("n", [4, 19, 509])
def test_the_largest_spacing_is_the_one_where_the_bound_gives_way(n):
    """Oracle: `oler_bound` itself on both sides of it."""
    for height, width in ((165.0, 82.9), (0.0, 31.0), (np.array([40.0, 7.0]), np.array([9.0, 61.0]))):
        largest = largest_spacing_for(height, width, n)
        assert oler_bound(height, width, largest) == n
        assert oler_bound(height, width, largest * 1.0001) < n


def test_an_impossible_share_is_refused_with_the_bound():
    """D64: the study's own gate, 10 % of 5088 frames at 38.4 px. Oracle: bound 51 (table), S by bisection of the formula."""
    points = uniform(5088, 313, 156.5)
    with pytest.raises(ContractError, match=r"infeasible: at most 51 of 5088 \(1 %\) can pass.*38.4 px") as refusal:
        space_groups(points, one_object(points), min_spacing_px=38.4, n_members=1, min_acceptance=0.1)
    height, width = np.ptp(points, axis=0)
    low, high = 1.0, 38.4
    while high - low > 1e-6:
        middle = (low + high) / 2
        holds = 2 * height * width / (np.sqrt(3) * middle**2) + (height + width) / middle + 1 >= 509
        low, high = (middle, high) if holds else (low, middle)
    assert f"asks for 509; the largest S that would meet it is {np.floor(low * 100) / 100:.2f} px" in str(refusal.value)


def test_a_possible_share_that_is_not_met_is_refused_and_never_lowered():
    points = uniform(5088, 313, 156.5)
    with pytest.raises(
        ContractError, match=r"3\d of n = 5088 groups pass .* \(proven bound 51\), min_acceptance = 0.01"
    ):
        space_groups(points, one_object(points), min_spacing_px=38.4, n_members=1, min_acceptance=0.01)
    _, report = space_groups(points, one_object(points), min_spacing_px=38.4, n_members=1, min_acceptance=0.005)
    assert report["effective_min_acceptance"] == 0.005


def test_too_few_groups_are_refused_with_all_numbers():
    """Study section 3, rule 4: n, A, S and the bound are named."""
    points = uniform(5172, 165, 82.9)
    height, width = np.ptp(points, axis=0)
    with pytest.raises(ContractError) as refusal:
        space_groups(points, one_object(points), min_spacing_px=102.4, n_members=4)
    for text in ("n = 5172", "S = min_spacing_px = 102.4", f"{height:.1f} x {width:.1f}", "bound 4", "at least 16"):
        assert text in str(refusal.value)
    many = uniform(400, 165, 82.9)
    with pytest.raises(ContractError, match="max_groups leaves 15; a view needs at least 16"):
        space_groups(many, one_object(many), min_spacing_px=5.0, n_members=1, max_groups=15)
    with pytest.raises(ContractError, match="a view needs at least 25"):
        space_groups(many, one_object(many), min_spacing_px=5.0, n_members=25, max_groups=24)


def test_the_report_describes_the_groups_that_are_used():
    """Study section 3, rule 3. Oracle: all pairs."""
    points = uniform(700, 91, 133)
    kept, report = space_groups(points, one_object(points), min_spacing_px=9.5, n_members=1)
    nearest = (all_pairs(points[kept]) + 1e9 * np.eye(len(kept))).min(axis=1)
    assert report["min_px"] == pytest.approx(nearest.min())
    assert report["min_px"] >= 9.5
    assert report["max_px"] == pytest.approx(nearest.max())
    assert report["mean_px"] == pytest.approx(nearest.mean())
    assert report["median_px"] == pytest.approx(np.median(nearest))
    assert report["threshold_px"] == 9.5
    assert report["n_accepted"] == len(kept)
    assert report["n_accepted"] + report["n_rejected"] == report["n_groups_before"] == 700
    assert report["acceptance_rate"] == len(kept) / 700
    assert report["geometry_acceptance_bound"] == oler_bound(*np.ptp(points, axis=0), 9.5) / 700
    assert report["acceptance_rate"] <= report["geometry_acceptance_bound"] < 1
    assert sum(report["histogram"]["counts"]) == len(kept)


def test_without_a_rule_every_group_is_used_and_reported():
    points = uniform(90, 41, 133)
    kept, report = space_groups(points, one_object(points), min_spacing_px=None, n_members=1, max_groups=20)
    assert np.array_equal(kept, np.arange(90))
    assert report["threshold_px"] is None
    assert report["acceptance_rate"] == report["geometry_acceptance_bound"] == 1
    assert report["min_px"] == pytest.approx((all_pairs(points) + 1e9 * np.eye(90)).min())


def test_most_groups_are_those_nearest_to_the_middle():
    """Oracle: a raster about its middle; the ring of equal distances that is cut is taken in the order of its indices."""
    rows, cols = np.mgrid[0:7, 0:9]
    points = np.stack([5.0 * rows.ravel() + 100, 5.0 * cols.ravel() - 40], axis=1)
    kept, report = space_groups(points, one_object(points), min_spacing_px=5.0, n_members=1, max_groups=19)
    steps = np.hypot(rows.ravel() - 3, cols.ravel() - 4)
    assert kept.tolist() == sorted(sorted(range(63), key=lambda i: (round(steps[i], 6), i))[:19])
    assert (report["n_accepted"], report["n"]) == (63, 19)


def test_objects_do_not_see_each_other():
    """Two objects on the same coordinates: the same groups of each, and as many as both hold. Oracle: each object alone."""
    points = uniform(300, 51, 90)
    alone, report = space_groups(points, one_object(points), min_spacing_px=8.0, n_members=1)
    objects = np.repeat([4, 7], 300)
    both, together = space_groups(np.concatenate([points] * 2), objects, min_spacing_px=8.0, n_members=1)
    assert both.tolist() == [*alone, *(alone + 300)]
    assert together["min_px"] == pytest.approx(report["min_px"])
    assert together["geometry_acceptance_bound"] == pytest.approx(report["geometry_acceptance_bound"], rel=0.05)
    # Even where the spacing is far more than the objects: one group of each would pass.
    wide = apart(np.concatenate([points] * 2), objects, reach_px=500.0)
    assert all_pairs(wide)[:300, 300:].min() > 500
    assert np.array_equal(wide[:300], points)


def test_the_closest_pair_is_that_of_all_pairs():
    points = uniform(80, 31, 67)
    distances = all_pairs(points) + 1e9 * np.eye(80)
    first, second, distance = closest_pair(points)
    assert distances[first, second] == distances.min() == pytest.approx(distance)
    first, second, distance = closest_pair(np.concatenate([points, points[[5]], points[[5]]]))
    assert {first, second} <= {5, 80, 81}
    assert first != second
    assert distance == 0


# Overlap


def test_known_values_of_the_disc_overlap():
    """Study section 4, D = 38.4 px."""
    diameter = 38.4
    expected = {0: 1, 1: 0.9668, 4: 0.8676, 10: 0.6722, 30: 0.1187, 38: 0.0013, 38.4: 0, 50: 0}
    found = disc_overlap(np.array(list(expected), dtype=float), diameter)
    assert found == pytest.approx(np.array(list(expected.values())), abs=5e-5)
    middle = disc_overlap(np.array([diameter / 2]), diameter)[0]
    assert middle == pytest.approx(2 / 3 - np.sqrt(3) / (2 * np.pi), abs=1e-12)


@pytest.mark.parametrize(("gridsize", "k"), [(1, 6), (2, 6), (2, 2), (3, 6)])
def test_overlap_measures_are_those_of_all_pairs(gridsize, k):
    """D67: of the table that is given. Oracle: loops over all pairs, with the formula as the study writes it."""
    rng = np.random.default_rng(8)
    positions = rng.uniform(0, (61, 143), (70, 2))
    positions[11] = positions[3]  # one place seen twice
    groups = np.stack([rng.choice(60, gridsize**2, replace=False) for _ in range(23)])
    groups[9] = groups[2]  # one group twice
    found = overlap_measures(positions, groups, one_object(positions), probe_diameter_px=21.0, n_neighbors=k)

    images = sorted({tuple(positions[i]) for i in groups.ravel()})
    nearest = [sorted(np.hypot(a[0] - b[0], a[1] - b[1]) for b in images if b != a)[:k] for a in images]
    assert found["n_unique_images"] == len(images)
    assert found["n_groups_actual"] == 23
    expected = np.mean([np.mean([f(d, 21.0) for d in row]) for row in nearest])
    assert found["metric_2_image_based_avg"] == pytest.approx(expected)

    centres = [positions[group].mean(axis=0) for group in groups]
    shares = []
    for i, centre in enumerate(centres):
        touched = [d for j, other in enumerate(centres) if j != i and (d := np.hypot(*(centre - other))) < 21.0]
        shares.append(np.mean([f(d, 21.0) for d in touched]) if touched else 0.0)
    assert found["metric_3_group_to_group_avg"] == pytest.approx(np.mean(shares))

    if gridsize == 1:
        assert "metric_1_group_based_avg" not in found
        return
    members = []
    for group in groups:
        for i in range(gridsize**2):
            others = sorted(np.hypot(*(positions[group[i]] - positions[j])) for m, j in enumerate(group) if m != i)[:k]
            members.append(np.mean([f(d, 21.0) for d in others]))
    assert found["metric_1_group_based_avg"] == pytest.approx(np.mean(members))


def test_the_share_of_frames_is_the_knob_that_the_study_measured():
    """Study section 4: metric 2 of 5172 uniform points on 165 x 82.9 px against s_img. Oracle: its figures.

    Tolerance: three standard deviations over other draws (measured: .0002, .0004, .0019, .004, .024), and its rounding.
    """
    points = uniform(5172, 165, 82.9)
    figures = (
        (1, 0.947, 0.0011),
        (0.5, 0.924, 0.0017),
        (0.1, 0.825, 0.0062),
        (0.05, 0.753, 0.0125),
        (0.01, 0.458, 0.0725),
    )
    for share, expected, tolerance in figures:
        groups = keep_share(np.arange(5172), share, np.random.default_rng(456))[:, None]
        found = overlap_measures(points, groups, one_object(points), probe_diameter_px=38.4)
        assert found["metric_2_image_based_avg"] == pytest.approx(expected, abs=tolerance)


def test_more_groups_than_a_piece_are_summed_once_each():
    """Metric 3 works in pieces. Oracle: a raster whose inner points touch 4 others at distance 5, all others being too far."""
    rows, cols = np.mgrid[0:31, 0:23]
    points = 5.0 * np.stack([rows.ravel(), cols.ravel()], axis=1)
    found = overlap_measures(points, np.arange(len(points))[:, None], one_object(points), probe_diameter_px=7.0)
    assert found["metric_3_group_to_group_avg"] == pytest.approx(f(5.0, 7.0))


def test_discs_that_touch_nothing_overlap_by_nothing():
    points = np.array([(3.0, 5.0), (50.0, -90.0)])
    found = overlap_measures(points, np.array([[0], [1]]), one_object(points), probe_diameter_px=20.0)
    assert found["metric_2_image_based_avg"] == found["metric_3_group_to_group_avg"] == 0
    alone = overlap_measures(points, np.array([[1]]), one_object(points), probe_diameter_px=20.0)
    assert alone["metric_2_image_based_avg"] == alone["metric_3_group_to_group_avg"] == 0
    # Two objects on one place do not overlap.
    same = overlap_measures(points[[0, 0]], np.array([[0], [1]]), np.array([0, 1]), probe_diameter_px=20.0)
    assert same["metric_2_image_based_avg"] == same["metric_3_group_to_group_avg"] == 0
