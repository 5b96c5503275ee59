"""Scan positions of simulated scans (physics section 13)."""

import numpy as np
import pytest

from ptychoflow.frames import Region
from ptychoflow.physics import scans


@pytest.mark.parametrize(
    ("n", "step", "side"), [(64, 10, 33), (128, 10, 27), (256, 10, 14), (64, 4, 83), (128, 4, 67), (256, 4, 35),
                            (64, 8, 42), (64, 16, 21), (64, 30, 11)]
)  # fmt: skip
def test_raster_counts_are_the_published_ones(n: int, step: int, side: int) -> None:
    """Independent source: the table of physics section 13 for a 392-px object (1764, 441, 121 at outer offset 16, 32, 60)."""
    assert len(scans.raster(Region(0, 392, 0, 392), n, step)) == side**2


@pytest.mark.parametrize("n", [8, 9])
def test_raster_is_row_major_and_reaches_both_ends(n: int) -> None:
    """First patch at the rectangle's first pixel, last one ending on its last where the step divides; rows slow."""
    region = Region(10, 10 + n + 12, 100, 100 + n + 20)
    grid = scans.raster(region, n, 4.0)
    assert len(grid) == 4 * 6
    np.testing.assert_array_equal(grid[0], [10 + n // 2, 100 + n // 2])
    np.testing.assert_array_equal(grid[1] - grid[0], [0, 4])
    np.testing.assert_array_equal(grid[6] - grid[0], [4, 0])
    np.testing.assert_array_equal(grid[-1] - n // 2 + n, [region.r1, region.c1])


def test_jitter_stays_in_its_interval_and_inside() -> None:
    region, n = Region(0, 90, 30, 100), 16
    grid = scans.raster(region, n, 5.0)
    moved = scans.jittered(grid, region, n, 2.5, np.random.default_rng(0))
    assert scans.inside(moved, region, n).all()
    assert np.abs(moved - grid).max() <= 2.5
    assert np.abs(moved - grid).std() > 0.5
    low, high = scans.centre_limits(region, n)
    assert not np.any((moved == low) | (moved == high)), "nothing piles up on the edge"


def test_random_positions_fill_the_field_uniformly() -> None:
    """Independent source: mean and variance of a uniform distribution; [N/2, size - N/2] for even N."""
    region, n = Region(0, 200, 50, 180), 32
    positions = scans.uniform(region, n, 4000, np.random.default_rng(1))
    assert scans.inside(positions, region, n).all()
    low, width = np.array([16.0, 66.0]), np.array([168.0, 98.0])
    np.testing.assert_allclose(positions.mean(axis=0), low + width / 2, atol=3 * 168 / np.sqrt(12 * 4000))
    np.testing.assert_allclose(positions.std(axis=0), width / np.sqrt(12), rtol=0.03)


def test_inside_is_exact_at_the_border() -> None:
    region = Region(0, 20, 0, 30)
    positions = np.array([[4.0, 4.0], [16.0, 26.0], [3.999, 10.0], [16.001, 10.0], [10.0, 26.5]])
    np.testing.assert_array_equal(scans.inside(positions, region, 8), [True, True, False, False, False])


def test_too_small_an_object_is_named() -> None:
    with pytest.raises(ValueError, match=r"10 x 30 px cannot hold a patch of N = 16"):
        scans.raster(Region(0, 10, 0, 30), 16, 4.0)
