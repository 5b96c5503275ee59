"""How far numbers can be trusted: spread over seeds, paired differences between two arms, differences within one image.

    interval of a mean, 95 %:  none for n < 2,  Student's t for 2 <= n < 8,  percentile bootstrap (10,000 resamples) for n >= 8
    difference d = first - second on the same seeds;  a verdict only where the interval of its mean leaves out zero, and with
    m scores looked at, only where its interval of level 1 - 0.05 / m does (Bonferroni)

The bootstrap draws from a fixed seed, so that the same values always give the same interval. With few values a percentile
interval is somewhat narrow (for 8 normal values it covers the mean in about 90 % of cases, for 16 in 92 %, for 30 in 94 %).
Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 13 and 8; Cochran, Sampling Techniques (1977), 6.4.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64, Real
from scipy.special import stdtrit

from ptychoflow.metrics.score import Direction

Method = Literal["none", "student", "bootstrap"]
Judgement = Literal["first", "second", "no difference shown", "one run each"]

LEVEL = 0.95
"""Coverage that the intervals aim at."""

RESAMPLES = 10_000
BOOTSTRAP_SEED = 1979
"""Seed of every bootstrap; fixed, so that an interval can be computed again."""

FEWEST_TO_RESAMPLE = 8
"""With fewer values Student's interval is taken."""

ROUNDING = 1e-12
"""Two values whose difference is below this share of the larger one are the same but for float64 rounding."""


@dataclass(frozen=True)
class Spread:
    """What several values of one score look like.

    Attributes:
        n: number of values.
        mean, median, minimum, maximum: in the unit of the values; None for n = 0.
        std: sample standard deviation (n - 1 in the denominator); None for n < 2.
        low, high: ends of the 95 % interval of the mean; None for n < 2.
        method: where the interval comes from.
    """

    n: int
    mean: float | None
    std: float | None
    median: float | None
    minimum: float | None
    maximum: float | None
    low: float | None
    high: float | None
    method: Method


@dataclass(frozen=True)
class Paired:
    """Difference of two arms, or of two reconstructions of one image.

    Attributes:
        n: number of pairs (seeds, or blocks of an image).
        mean: mean of first - second, in the unit of the score; None without a pair.
        low, high: ends of its 95 % interval; None for n < 2.
        method: where the interval comes from.
        verdict: the better one where the interval leaves out zero, also at the level that several scores ask for;
            `one run each` where n < 2 allows no interval.
        seeds: the seeds of the pairs; empty within one image.
    """

    n: int
    mean: float | None
    low: float | None
    high: float | None
    method: Method
    verdict: Judgement
    seeds: tuple[int, ...] = ()


def spread(values: Sequence[float]) -> Spread:
    """Return location, spread and the 95 % interval of the mean of some finite values; of none, n = 0 and None."""
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        return Spread(0, None, None, None, None, None, None, None, "none")
    low, high, method = interval(array)
    return Spread(
        n=array.size,
        mean=float(array.mean()),
        std=float(array.std(ddof=1)) if array.size > 1 else None,
        median=float(np.median(array)),
        minimum=float(array.min()),
        maximum=float(array.max()),
        low=low,
        high=high,
        method=method,
    )


def paired(first: Mapping[int, float], second: Mapping[int, float], *, direction: Direction, scores: int = 1) -> Paired:
    """Return the mean of first - second over the seeds that both have, and whether it is a difference.

    Args:
        first: finite score by seed.
        second: the same of the other arm.
        direction: which values are better; with `one` the distances |x - 1| are compared, and lower ones are better.
        scores: in how many scores these two arms are compared; more of them ask for more certainty in each.
    """
    seeds = tuple(sorted(first.keys() & second.keys()))
    a, b = (np.array([arm[seed] for seed in seeds], dtype=np.float64) for arm in (first, second))
    difference = np.abs(a - 1) - np.abs(b - 1) if direction == "one" else a - b
    same = np.abs(difference) <= ROUNDING * np.maximum(np.abs(a), np.abs(b))
    return _judged(np.where(same, 0.0, difference), higher_is_better=direction == "higher", seeds=seeds, scores=scores)


def spatial(
    first_error: Real[np.ndarray, "h w"],
    second_error: Real[np.ndarray, "h w"],
    *,
    block_px: int = 32,
    scores: int = 1,
) -> Paired:
    """Return the difference of the mean errors of two reconstructions of one image, with its spatial uncertainty.

    The image is cut into blocks that do not overlap, and the paired difference of their mean errors is resampled by block:
    neighbouring pixels err together, so a block, not a pixel, counts as one value. Blocks should be at least four periods of
    the FRC's crossing at 0.5. A remainder at the lower or right edge is a block of its own when it is at least half a block
    wide (or all there is), else it is left out. Blocks weigh as their areas: with weights w_i and block means d_i of the
    difference, the estimate is the ratio r = sum(w_i d_i) / sum(w_i), and the interval is that of the mean of
    r + (d_i - r) w_i / mean(w), its linearization (Cochran 6.4); for blocks of one size these are the d_i themselves.

    Says nothing about other seeds or objects.

    Args:
        first_error: (H, W) error map, lower is better, e.g. absolute phase errors, rad.
        second_error: (H, W) the same of the other reconstruction.
        block_px: side of a block, px.
        scores: in how many scores the two are compared, as in `paired`.
    """
    difference = first_error.astype(np.float64) - second_error.astype(np.float64)
    row_starts, n_rows = _cuts(difference.shape[0], block_px)
    col_starts, n_cols = _cuts(difference.shape[1], block_px)
    kept = difference[:n_rows, :n_cols]
    sums = np.add.reduceat(np.add.reduceat(kept, row_starts, axis=0), col_starts, axis=1)
    areas = np.outer(np.diff([*row_starts, n_rows]), np.diff([*col_starts, n_cols]))
    ratio = float(kept.mean())
    return _judged(
        (ratio + (sums - ratio * areas) / areas.mean()).ravel(), higher_is_better=False, seeds=(), scores=scores
    )


def interval(values: Float64[np.ndarray, "n"], level: float = LEVEL) -> tuple[float | None, float | None, Method]:
    """Return low and high end of the interval of the mean, and its method; (None, None, `none`) for n < 2."""
    n = values.size
    if n < 2:
        return None, None, "none"
    if n < FEWEST_TO_RESAMPLE:
        half = float(stdtrit(n - 1, (1 + level) / 2) * values.std(ddof=1) / np.sqrt(n))
        return float(values.mean()) - half, float(values.mean()) + half, "student"
    low, high = np.quantile(_resampled_means(values), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high), "bootstrap"


def _resampled_means(values: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "resamples"]:
    """Return the means of `RESAMPLES` resamples; each is a vector of counts, so memory stays small for many blocks."""
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    per_batch = max(1, 2**22 // values.size)
    means = np.empty(RESAMPLES)
    for start in range(0, RESAMPLES, per_batch):
        size = min(per_batch, RESAMPLES - start)
        means[start : start + size] = values[rng.integers(0, values.size, (size, values.size))].mean(axis=1)
    return means


def _judged(
    difference: Float64[np.ndarray, "n"], *, higher_is_better: bool, seeds: tuple[int, ...], scores: int
) -> Paired:
    low, high, method = interval(difference)
    sure_low, sure_high, _ = interval(difference, 1 - (1 - LEVEL) / scores)
    mean = float(difference.mean()) if difference.size else None
    verdict: Judgement = "one run each"
    if sure_low is not None and sure_high is not None:
        verdict = "no difference shown"
        if sure_low > 0 or sure_high < 0:
            verdict = "first" if (sure_low > 0) == higher_is_better else "second"
    return Paired(difference.size, mean, low, high, method, verdict, seeds)


def _cuts(length: int, block_px: int) -> tuple[list[int], int]:
    """Return where the blocks along one axis start, and where the last one ends, px."""
    n_full, rest = divmod(length, block_px)
    if n_full == 0 or 2 * rest >= block_px:
        return list(range(0, length, block_px)), length
    return list(range(0, n_full * block_px, block_px)), n_full * block_px
