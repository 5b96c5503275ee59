"""Spread, paired differences and spatial uncertainty against scipy, and their coverage by simulation."""

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats

from ptychoflow.metrics.statistics import BOOTSTRAP_SEED, RESAMPLES, Paired, Spread, interval, paired, spatial, spread

SKEWED = (0.11, 0.35, 0.13, 0.12, 0.9, 0.2, 0.17, 0.14, 0.31)


def test_nothing_has_no_spread():
    assert spread([]) == Spread(0, None, None, None, None, None, None, None, "none")


def test_one_value_has_no_deviation_and_no_interval():
    assert spread([0.3]) == Spread(1, 0.3, None, 0.3, 0.3, 0.3, None, None, "none")


@pytest.mark.parametrize("n", [2, 3, 7])
def test_few_values_have_students_interval(n):
    """Oracle: scipy.stats.t.interval, scipy.stats.describe."""
    values = SKEWED[:n]
    found, told = spread(values), scipy.stats.describe(values)
    low, high = scipy.stats.t.interval(0.95, n - 1, loc=told.mean, scale=scipy.stats.sem(values))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert (found.n, found.method) == (n, "student")
    assert (found.mean, found.std) == (pytest.approx(told.mean), pytest.approx(told.variance**0.5))
    assert (found.minimum, found.maximum) == told.minmax
    assert found.median == pytest.approx(np.percentile(values, 50))


@pytest.mark.parametrize("n", [8, 9])
def test_many_values_have_the_percentile_bootstrap(n):
    """Oracle: scipy.stats.bootstrap; the ends lie 2 % of the width apart at most, four times the noise of 10,000 resamples."""
    values = SKEWED[:n]
    told = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(BOOTSTRAP_SEED + 1)
    ).confidence_interval
    found = spread(values)
    assert found.method == "bootstrap"
    assert (found.low, found.high) == pytest.approx((told.low, told.high), abs=0.02 * (told.high - told.low))


def test_the_same_values_give_the_same_interval():
    assert spread(SKEWED) == spread(SKEWED)


def test_equal_values_have_an_interval_of_no_width():
    found = spread([0.25] * 4)
    assert (found.std, found.low, found.high) == (0.0, 0.25, 0.25)


@pytest.mark.parametrize(("n", "expected"), [(4, 0.95), (8, 0.8923), (30, 0.9427)])
def test_intervals_cover_the_mean_as_often_as_said(n, expected):
    """Of normal values; for the bootstrap expected is P(|t| < 1.96 sqrt((n - 1) / n)), its normal limit.

    Three standard errors of 600 trials are 2 to 4 %.
    """
    rng = np.random.default_rng(5)
    ends = [interval(rng.normal(size=n))[:2] for _ in range(600)]
    covered = np.mean([low <= 0 <= high for low, high in ends])
    assert covered == pytest.approx(expected, abs=3 * np.sqrt(expected * (1 - expected) / 600))


def test_pairs_are_the_seeds_that_both_have():
    found = paired({0: 1.0, 1: 2.0, 2: 3.5, 7: 99.0}, {2: 1.0, 1: 0.5, 0: -1.0, 8: -99.0}, direction="higher")
    low, high = scipy.stats.t.interval(0.95, 2, loc=2.0, scale=scipy.stats.sem([2.0, 1.5, 2.5]))
    assert (found.n, found.mean, found.verdict, found.seeds) == (3, 2.0, "first", (0, 1, 2))
    assert (found.low, found.high, found.method) == (pytest.approx(low), pytest.approx(high), "student")


@pytest.mark.parametrize(("direction", "better"), [("lower", "second"), ("higher", "first")])
def test_direction_decides_who_is_better(direction, better):
    first, second = {0: 2.0, 1: 2.1, 2: 2.2}, {0: 1.0, 1: 1.15, 2: 1.2}
    other = {"first": "second", "second": "first"}[better]
    assert paired(first, second, direction=direction).verdict == better
    assert paired(second, first, direction=direction).verdict == other


def test_ratios_are_compared_by_their_distance_from_one():
    far, near = {0: 0.5, 1: 1.52, 2: 0.49}, {0: 1.1, 1: 0.9, 2: 1.12}
    assert paired(far, near, direction="one").verdict == "second"
    assert paired(far, near, direction="one").mean == pytest.approx((0.50 + 0.52 + 0.51 - 0.1 - 0.1 - 0.12) / 3)


def test_ratios_as_far_from_one_on_either_side_do_not_differ():
    assert paired({0: 1.1, 1: 1.3}, {0: 0.9, 1: 0.7}, direction="one").verdict == "no difference shown"


def test_noise_shows_no_difference():
    found = paired({0: 0.90, 1: 0.91, 2: 0.89}, {0: 0.91, 1: 0.89, 2: 0.90}, direction="higher")
    assert (found.verdict, found.n) == ("no difference shown", 3)
    assert found.low < 0 < found.high


def test_one_pair_allows_no_verdict():
    assert paired({0: 0.5, 3: 1.0}, {0: 0.25}, direction="lower") == Paired(
        1, 0.25, None, None, "none", "one run each", (0,)
    )


def test_no_seed_in_common():
    assert paired({0: 0.5}, {1: 0.25}, direction="lower") == Paired(0, None, None, None, "none", "one run each", ())


@pytest.mark.parametrize("n", [2, 9])
def test_equal_values_on_all_seeds_do_not_differ(n):
    same = {seed: 0.1 * seed for seed in range(n)}
    found = paired(same, dict(same), direction="lower")
    assert (found.mean, found.low, found.high, found.verdict) == (0.0, 0.0, 0.0, "no difference shown")


def test_rounding_is_no_difference():
    assert 0.1 + 0.2 != 0.3
    assert paired({0: 0.1 + 0.2, 1: 0.1 + 0.2}, {0: 0.3, 1: 0.3}, direction="lower").verdict == "no difference shown"


@pytest.mark.parametrize("n", [2, 9])
def test_the_same_difference_on_all_seeds_is_one(n):
    found = paired({seed: seed + 0.5 for seed in range(n)}, {seed: float(seed) for seed in range(n)}, direction="lower")
    assert (found.mean, found.low, found.high, found.verdict) == (0.5, 0.5, 0.5, "second")


def noise(rng, shape=(67, 83)):
    """Absolute errors whose neighbours err together, over about 3 px."""
    return np.abs(scipy.ndimage.gaussian_filter(rng.normal(size=shape), 1.0))


@pytest.mark.slow
def test_maps_that_differ_by_noise_show_no_difference_as_often_as_said():
    """63 blocks: 94.5 % of cases are expected of the bootstrap; three standard errors of 400 are 3.4 %."""
    rng = np.random.default_rng(11)
    found = [spatial(noise(rng), noise(rng), block_px=9) for _ in range(400)]
    assert found[0].n == 63
    assert np.mean([result.verdict == "no difference shown" for result in found]) == pytest.approx(0.945, abs=0.035)


@pytest.mark.slow
def test_pixels_taken_for_independent_would_show_differences_that_are_not_there():
    rng = np.random.default_rng(12)
    found = [spatial(noise(rng, (17, 23)), noise(rng, (17, 23)), block_px=1) for _ in range(40)]
    assert np.mean([result.verdict == "no difference shown" for result in found]) < 0.8


def test_a_real_difference_within_an_image_is_found():
    rng = np.random.default_rng(13)
    good, bad = noise(rng), 1.25 * noise(rng)
    assert spatial(good, bad, block_px=9).verdict == "first"
    found = spatial(bad, good, block_px=9)
    assert found.verdict == "second"
    assert 0 < found.low < found.mean < found.high
    assert found.seeds == ()


def test_blocks_of_one_size_are_plain_values():
    """Oracle: the block means by reshape, then the spread of plain values."""
    rng = np.random.default_rng(14)
    first, second = rng.random((15, 20)), rng.random((15, 20))
    means = (first - second).reshape(3, 5, 4, 5).mean(axis=(1, 3)).ravel()
    found = spatial(first, second, block_px=5)
    told = spread(means.tolist())
    assert (found.n, found.mean) == (12, pytest.approx(told.mean))
    assert (found.low, found.high) == (pytest.approx(told.low), pytest.approx(told.high))


def test_few_blocks_have_students_interval():
    rng = np.random.default_rng(15)
    first, second = rng.random((10, 15)), rng.random((10, 15))
    means = (first - second).reshape(2, 5, 3, 5).mean(axis=(1, 3)).ravel()
    low, high = scipy.stats.t.interval(0.95, 5, loc=means.mean(), scale=scipy.stats.sem(means))
    found = spatial(first, second, block_px=5)
    assert (found.n, found.method) == (6, "student")
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


@pytest.mark.parametrize(
    ("shape", "blocks", "rows", "cols"),
    [((64, 96), 6, 64, 96), ((79, 112), 8, 64, 112), ((80, 111), 9, 80, 96), ((20, 70), 2, 20, 64), ((5, 7), 1, 5, 7)],
)
def test_narrow_remainders_are_left_out(shape, blocks, rows, cols):
    difference = np.arange(np.prod(shape), dtype=float).reshape(shape)
    found = spatial(difference, np.zeros(shape))
    assert found.n == blocks
    assert found.mean == pytest.approx(difference[:rows, :cols].mean())


def test_unequal_blocks_weigh_as_their_areas():
    """Oracle: the linearized ratio estimator written out (Cochran 6.4), Student's interval."""
    rng = np.random.default_rng(16)
    first, second = rng.random((8, 23)), rng.random((8, 23))
    parts = np.split(first - second, [8, 16], axis=1)
    areas, means = np.array([64, 64, 56]), np.array([part.mean() for part in parts])
    ratio = (areas * means).sum() / areas.sum()
    error = np.sqrt((areas**2 * (means - ratio) ** 2).sum() / 2 / 3) / areas.mean()
    found = spatial(first, second, block_px=8)
    assert found.mean == pytest.approx(ratio)
    assert found.high - found.low == pytest.approx(2 * scipy.stats.t.ppf(0.975, 2) * error)


def test_one_block_allows_no_verdict():
    found = spatial(np.full((9, 13), 2.0), np.ones((9, 13)))
    assert found == Paired(1, 1.0, None, None, "none", "one run each", ())


def test_equal_maps_do_not_differ():
    image = np.random.default_rng(17).random((70, 99)).astype(np.float32)
    assert spatial(image, image).verdict == "no difference shown"


def test_more_scores_ask_for_more_certainty_and_leave_the_interval_alone():
    """t(2, 0.975) = 4.30 and t(2, 0.995) = 9.92 half widths: one verdict of a single score is none among five."""
    first, second = {0: 1.00, 1: 1.02, 2: 1.04}, {0: 0.90, 1: 0.95, 2: 0.93}
    alone = paired(first, second, direction="higher")
    among = paired(first, second, direction="higher", scores=5)
    assert (alone.verdict, among.verdict) == ("first", "no difference shown")
    assert (alone.low, alone.high) == (among.low, among.high)
