"""Fourier ring correlation of two images, and where it falls below a threshold.

    FRC_q = Re(sum_q F1 conj(F2)) / sqrt(sum_q |F1|^2 sum_q |F2|^2)

The real part, not the modulus: anti-correlated images score negative, and noise averages to zero (D56). Each image loses its
window-weighted mean (so nothing of a constant leaks out of ring 0) and is multiplied by a Hann window, so that the frame's
edges do not correlate. Ring q holds the frequencies f with round(f L) = q, f in cycles/px and L the shorter side in px, from
q = 1 to Nyquist, floor(L/2); on a non-square image a ring is thereby the same band of frequencies on both axes.
Thresholds: van Heel, Schatz, J. Struct. Biol. 151, 250 (2005).
"""

from dataclasses import dataclass

import numpy as np
import scipy.fft
from jaxtyping import Float64, Inexact, Int64

from ptychoflow.metrics.score import Score

THRESHOLDS = {"frc50": 0.5, "frc1over7": 1 / 7}

ROUNDING = 1e-28
"""A ring with less than this share of the image's energy (mean included) holds rounding errors only."""


@dataclass(frozen=True)
class FrcCurve:
    """One curve, rings from the lowest frequency to Nyquist.

    Attributes:
        frequency_nyquist: (Q,) frequency of the ring as a fraction of Nyquist (0.5 cycles/px).
        correlation: (Q,) FRC, -1 to 1; NaN where one of the images has no energy in the ring.
        n_samples: (Q,) independent samples of the ring: its pixels, half of them (rounded up) when both images are real.
    """

    frequency_nyquist: Float64[np.ndarray, "q"]
    correlation: Float64[np.ndarray, "q"]
    n_samples: Int64[np.ndarray, "q"]


def frc(first: Inexact[np.ndarray, "h w"], second: Inexact[np.ndarray, "h w"]) -> FrcCurve:
    """Return the Fourier ring correlation of two images, real or complex.

    Args:
        first: (H, W) image.
        second: (H, W) image.

    Raises:
        ValueError: when a side is shorter than 4 px (no two rings).
    """
    if min(first.shape) < 4:
        raise ValueError(f"a Fourier ring correlation needs sides of at least 4 px, got {first.shape}")
    side = min(first.shape)
    last = side // 2
    rows, cols = (scipy.fft.fftfreq(length) for length in first.shape)
    ring = np.rint(np.hypot(rows[:, None], cols[None, :]) * side).astype(np.int64).ravel()
    counts = _ring_sums(ring, np.ones(ring.shape), last)
    f1, f2 = (_spectrum(image) for image in (first, second))
    cross = _ring_sums(ring, f1.real * f2.real + f1.imag * f2.imag, last)
    power = [_ring_sums(ring, f.real**2 + f.imag**2, last) for f in (f1, f2)]
    # In the FFT's unit, an image's energy is its sum of squares times its number of pixels.
    floors = [ROUNDING * image.size * float(np.sum(np.abs(image) ** 2)) for image in (first, second)]
    known = (power[0] > floors[0]) & (power[1] > floors[1])
    correlation = np.full(last, np.nan)
    correlation[known] = cross[known] / np.sqrt(power[0][known] * power[1][known])
    both_real = not (np.iscomplexobj(first) or np.iscomplexobj(second))
    return FrcCurve(
        frequency_nyquist=2 * np.arange(1, last + 1) / side,
        correlation=correlation,
        n_samples=np.ceil(counts / (2 if both_real else 1)).astype(np.int64),
    )


def crossing(curve: FrcCurve, threshold: float) -> Score:
    """Return where the curve first falls below a threshold, as a fraction of Nyquist, linearly interpolated.

    A crossing needs two consecutive rings below the threshold; rings without energy are passed over. `status` tells
    `crossed`; `never`, with value 1 as a lower bound; or `starts_below`, with value 0. The two have values and not nulls, so
    that a mean over objects cannot leave out its best or worst members.
    """
    score = Score(None, "Nyquist", "higher")
    known = np.isfinite(curve.correlation)
    frequency, value = curve.frequency_nyquist[known], curve.correlation[known]
    if len(value) < 2:
        return Score(None, score.unit, score.direction, reason="no_energy")
    below = value < threshold
    first = np.flatnonzero(below[:-1] & below[1:])
    if len(first) == 0:
        return Score(1.0, score.unit, score.direction, status="never")
    index = int(first[0])
    if index == 0:
        return Score(0.0, score.unit, score.direction, status="starts_below")
    share = (value[index - 1] - threshold) / (value[index - 1] - value[index])
    place = frequency[index - 1] + share * (frequency[index] - frequency[index - 1])
    return Score(float(place), score.unit, score.direction, status="crossed")


def crossings(curve: FrcCurve) -> dict[str, Score]:
    """Return `frc50` and `frc1over7` of a curve."""
    return {name: crossing(curve, threshold) for name, threshold in THRESHOLDS.items()}


def _spectrum(image: Inexact[np.ndarray, "h w"]) -> Inexact[np.ndarray, "pixels"]:
    """Return the flat spectrum of an image without its weighted mean, under a Hann window (zero just outside the edges)."""
    rows, cols = (0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(length) + 0.5) / length) for length in image.shape)
    mean = rows @ image @ cols / (rows.sum() * cols.sum())
    return scipy.fft.fft2((image - mean) * rows[:, None] * cols, workers=1).ravel()


def _ring_sums(
    ring: Int64[np.ndarray, "pixels"], values: Float64[np.ndarray, "pixels"], last: int
) -> Float64[np.ndarray, "q"]:
    """Return the sum of `values` in rings 1 to `last`; what lies beyond is dropped."""
    return np.bincount(ring, weights=values, minlength=last + 1)[1 : last + 1]
