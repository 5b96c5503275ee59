"""Fourier ring correlation of two images, where it falls below a threshold, and the resolution that stands for.

    FRC_q = Re(sum_q F1 conj(F2)) / sqrt(sum_q |F1|^2 sum_q |F2|^2)

The real part, not the modulus: anti-correlated images score negative, and noise averages to zero (D56). Each image loses its
window-weighted mean (so nothing of a constant leaks out of ring 0) and is multiplied by a Hann window, so that the frame's
edges do not correlate. Ring q holds the frequencies f with round(f L) = q, f in cycles/px and L the shorter side in px, from
q = 1 to Nyquist, floor(L/2); on a non-square image a ring is thereby the same band of frequencies on both axes.
Of two real images half the spectrum is computed: the other half is its conjugate and counts by a weight of two.
Thresholds: van Heel, Schatz, J. Struct. Biol. 151, 250 (2005).
"""

from dataclasses import dataclass, replace

import numpy as np
import scipy.fft
from jaxtyping import Float64, Inexact, Int64

from ptychoflow.metrics.checks import check_pair
from ptychoflow.metrics.score import Score

ROUNDING = 1e-28
"""A ring with less than this share of the image's energy (mean included) holds rounding errors only."""

SETTINGS = {"window": "hann"}

AREA_NYQUIST = 0.5
"""`frc_area` is the mean of the curve up to here."""


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
        ValueError: when a side is shorter than 4 px (no two rings), the shapes differ, or a value is not finite.
    """
    check_pair(first, second, what="Fourier ring correlation", least_side_px=4)
    real = not (np.iscomplexobj(first) or np.iscomplexobj(second))
    side = min(first.shape)
    last = side // 2
    rows = scipy.fft.fftfreq(first.shape[0])
    cols = scipy.fft.rfftfreq(first.shape[1]) if real else scipy.fft.fftfreq(first.shape[1])
    stands_for = np.where((cols == 0) | (cols == 0.5), 1.0, 2.0) if real else np.ones(cols.shape)
    ring = np.rint(np.hypot(rows[:, None], cols) * side).astype(np.intp).ravel()

    def ring_sums(values: Float64[np.ndarray, "h columns"]) -> Float64[np.ndarray, "q"]:
        """Return the sums in rings 1 to `last`; what lies beyond is dropped."""
        return np.bincount(ring, weights=(values * stands_for).ravel() if real else values.ravel(), minlength=last + 1)[
            1 : last + 1
        ]

    f1, f2 = (_spectrum(image, real=real) for image in (first, second))
    cross = ring_sums(f1.real * f2.real + f1.imag * f2.imag)
    power = [ring_sums(f.real**2 + f.imag**2) for f in (f1, f2)]
    # In the FFT's unit, an image's energy is its sum of squares times its number of pixels.
    floors = [ROUNDING * image.size * float(np.vdot(image, image).real) for image in (first, second)]
    known = (power[0] > floors[0]) & (power[1] > floors[1])
    correlation = np.full(last, np.nan)
    correlation[known] = cross[known] / np.sqrt(power[0][known] * power[1][known])
    counts = ring_sums(np.ones(f1.shape))
    return FrcCurve(
        frequency_nyquist=2 * np.arange(1, last + 1) / side,
        correlation=correlation,
        n_samples=np.ceil(counts / (2 if real else 1)).astype(np.int64),
    )


def half_bit(n_samples: Int64[np.ndarray, "q"]) -> Float64[np.ndarray, "q"]:
    """Return the correlation at which a ring of `n_samples` independent samples carries half a bit per sample.

    Source: van Heel, Schatz (2005): a signal-to-noise ratio of 0.2071 in each image, 0.4142 in their sum.
    """
    root = np.sqrt(n_samples.astype(np.float64))
    return (0.2071 + 1.9102 / root) / (1.2071 + 0.9102 / root)


def frc_scores(curve: FrcCurve) -> dict[str, Score]:
    """Return the scores of a curve.

    `frc50`, `frc1over7` and `frc_halfbit` are crossings, `frc_area` the mean over the rings up to half Nyquist (ring 0 is no
    part of a curve), `resolution_px` and `resolution_1over7_px` the full periods at the crossings of 0.5 and 1/7.
    """
    half, seventh = crossing(curve, 0.5), crossing(curve, 1 / 7)
    return {
        "frc50": half,
        "frc1over7": seventh,
        "frc_halfbit": crossing(curve, half_bit(curve.n_samples)),
        "frc_area": _area(curve),
        "resolution_px": _resolution(half),
        "resolution_1over7_px": _resolution(seventh),
    }


def crossing(curve: FrcCurve, threshold: float | Float64[np.ndarray, "q"]) -> Score:
    """Return where the curve first falls below a threshold, as a fraction of Nyquist, linearly interpolated.

    A crossing needs two consecutive rings below the threshold; rings without energy are passed over. `status` tells
    `crossed`; `never`, with value 1 as a lower bound; or `starts_below`, with value 0. The two have values and not nulls, so
    that a mean over objects cannot leave out its best or worst members.

    Args:
        curve: Fourier ring correlation.
        threshold: one for all rings, or (Q,) one for each.
    """
    score = Score(None, "Nyquist", "higher", settings=SETTINGS)
    known = np.isfinite(curve.correlation)
    frequency, above = curve.frequency_nyquist[known], (curve.correlation - threshold)[known]
    if len(above) < 2:
        return replace(score, reason="no_energy")
    below = above < 0
    first = np.flatnonzero(below[:-1] & below[1:])
    if len(first) == 0:
        return replace(score, value=1.0, status="never")
    index = int(first[0])
    if index == 0:
        return replace(score, value=0.0, status="starts_below")
    share = above[index - 1] / (above[index - 1] - above[index])
    place = frequency[index - 1] + share * (frequency[index] - frequency[index - 1])
    return replace(score, value=float(place), status="crossed")


def _area(curve: FrcCurve) -> Score:
    score = Score(None, "1", "higher", settings=SETTINGS)
    used = np.isfinite(curve.correlation) & (curve.frequency_nyquist <= AREA_NYQUIST)
    if not used.any():
        return replace(score, reason="no_energy")
    return replace(score, value=float(curve.correlation[used].mean()))


def _resolution(crossed: Score) -> Score:
    """Return the full period at a crossing in px: 2 px at Nyquist, as an upper bound where the curve never crosses."""
    score = Score(None, "px", "lower", settings=SETTINGS, status=crossed.status, reason=crossed.reason)
    if crossed.value is None:
        return score
    if crossed.status == "starts_below":
        return replace(score, reason="curve_starts_below_the_threshold")
    return replace(score, value=2 / crossed.value)


def _spectrum(image: Inexact[np.ndarray, "h w"], *, real: bool) -> Inexact[np.ndarray, "h columns"]:
    """Return the spectrum of an image without its weighted mean, under a Hann window (zero just outside the edges)."""
    rows, cols = (0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(length) + 0.5) / length) for length in image.shape)
    mean = rows @ image @ cols / (rows.sum() * cols.sum())
    windowed = image - mean
    windowed *= rows[:, None]
    windowed *= cols
    return (scipy.fft.rfft2 if real else scipy.fft.fft2)(windowed, overwrite_x=True, workers=1)
