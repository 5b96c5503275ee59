"""Scores of one complex image R against a truth or reference T of the same shape: amplitude, phase, complex.

Both are cut to the scored rectangle and aligned before (imaging/align.py); nothing here moves or scales anything.

    a = |R|, b = |T|,  p = arg(R conj(T)) in [-pi, pi],  D = data range of the formula, stored with the score

Phase maps are arg(R e^{-i t}) and arg(T e^{-i t}) with one t for both, the truth's circular mean phase, so that no wrap
lies in the middle of the truth's values. Source: evaluation reference 2.3. What each score means: docs/metrics.md.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from jaxtyping import Complex, Complex128, Float, Float64

from ptychoflow.metrics.checks import check_pair
from ptychoflow.metrics.score import Score
from ptychoflow.metrics.ssim import Pair, ssim_scores

CONSTANT_PHASE_RAD = 1e-6
"""Truth phases within this range are constant: phase scores would compare noise with nothing (D57)."""

CONSTANT_AMPLITUDE = 1e-6
"""The same for the amplitude, as a share of its maximum."""

ROUNDING = 1e-12
"""An image that varies by less than this share of its largest modulus varies by rounding only."""

Scores = dict[str, Score]
Similarity = Callable[[Sequence[Pair], float], Scores]


@dataclass(frozen=True)
class _Polar:
    """An image as amplitude and phase, the phase both as an angle and as the unit number it belongs to."""

    amplitude: Float64[np.ndarray, "h w"]
    unit: Complex128[np.ndarray, "h w"]
    phase: Float64[np.ndarray, "h w"]


def image_scores(
    recon: Complex[np.ndarray, "h w"],
    truth: Complex[np.ndarray, "h w"],
    *,
    ms_ssim_sigma: float = 0.0,
    ms_ssim_levels: int = 5,
) -> dict[str, Scores]:
    """Return the scores of `recon` against `truth`, keyed `amp`, `phase`, `complex`, then by name.

    Args:
        recon: (H, W) aligned reconstruction.
        truth: (H, W) truth or reference.
        ms_ssim_sigma: Gaussian blur of both images before MS-SSIM, px, of the amplitude and of the phase's cosine and sine.
        ms_ssim_levels: scales of MS-SSIM, 1 to 5.

    Raises:
        ValueError: when the images are empty, a single pixel, of different shapes, or not finite.
    """
    r, t = _polar_pair(recon, truth)
    similarity = partial(ssim_scores, ms_ssim_sigma=ms_ssim_sigma, ms_ssim_levels=ms_ssim_levels)
    return {
        "amp": _amplitude_scores(r, t, similarity),
        "phase": _phase_scores(r, t, similarity),
        "complex": {"nrmse": _nrmse(recon, truth)},
    }


def pearson_scores(recon: Complex[np.ndarray, "h w"], truth: Complex[np.ndarray, "h w"]) -> Scores:
    """Return the scores `pearson` of `image_scores` alone, keyed `amp` and `phase`.

    Raises:
        ValueError: as `image_scores`.
    """
    r, t = _polar_pair(recon, truth)
    scores = {"amp": _pearson(r.amplitude, t.amplitude), "phase": _pearson(r.phase, t.phase)}
    if _is_amplitude_constant(t):
        scores |= _without_value(scores, ("amp",), "truth_amplitude_constant")
    if _is_phase_constant(t):
        scores |= _without_value(scores, ("phase",), "truth_phase_constant")
    return scores


def phase_maps(
    recon: Complex[np.ndarray, "h w"], truth: Complex[np.ndarray, "h w"]
) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    """Return the phases of both images in rad after the truth's circular mean phase was taken from each.

    Raises:
        ValueError: when the images are empty, of different shapes, or not finite.
    """
    check_pair(recon, truth, what="phase maps")
    back = np.exp(-1j * np.angle(_modulus_and_unit(truth)[1].mean()))
    return np.angle(recon * back), np.angle(truth * back)


def is_phase_constant(truth: Complex[np.ndarray, "h w"]) -> bool:
    """Return whether the phase of an image varies by less than 1e-6 rad.

    Raises:
        ValueError: as `phase_maps`.
    """
    return float(np.ptp(phase_maps(truth, truth)[1])) < CONSTANT_PHASE_RAD


def circular_std(phase: Float[np.ndarray, "h w"]) -> float:
    """Return the circular standard deviation sqrt(-2 ln |mean exp(i phase)|), rad; at most that of one part in 1e300.

    Raises:
        ValueError: when there is no phase, or one that is not finite.
    """
    check_pair(phase, phase, what="circular standard deviation")
    return _circular_std(np.exp(1j * phase.astype(np.float64)))


def psnr(mse: float, data_range: float) -> Score:
    """Return 10 log10(D^2 / MSE) in dB; null with a reason when the images are identical (infinite) or D is 0."""
    score = Score(None, "dB", "higher", data_range)
    if mse == 0:
        return replace(score, reason="identical")
    if data_range == 0:
        return replace(score, reason="range_zero")
    return replace(score, value=10 * math.log10(data_range**2 / mse))


def _polar_pair(recon: Complex[np.ndarray, "h w"], truth: Complex[np.ndarray, "h w"]) -> tuple[_Polar, _Polar]:
    """Return both images, their phases from the truth's circular mean phase."""
    check_pair(recon, truth, what="image scores")
    if truth.size < 2:
        raise ValueError(f"the scored region has shape {truth.shape}; scores need at least 2 px")
    (a, u), (b, v) = (_modulus_and_unit(image.astype(np.complex128)) for image in (recon, truth))
    back = np.exp(-1j * np.angle(v.mean()))
    u *= back
    v *= back
    return _Polar(a, u, np.angle(u)), _Polar(b, v, np.angle(v))


def _amplitude_scores(recon: _Polar, truth: _Polar, similarity: Similarity) -> Scores:
    """Return mae, mse, psnr, ssim, ms_ssim, pearson and contrast_ratio of the amplitudes; D = truth max - min (D54)."""
    a, b = recon.amplitude, truth.amplitude
    data_range = float(np.ptp(b))
    flat = _is_amplitude_constant(truth)
    difference = a - b
    mse = float(np.vdot(difference, difference)) / difference.size
    scores = {
        "mae": Score(float(np.mean(np.abs(difference))), "1", "lower"),
        "mse": Score(mse, "1", "lower"),
        "psnr": psnr(mse, data_range),
        **similarity([(a, b)], 0.0 if flat else data_range),
        "pearson": _pearson(a, b),
        "contrast_ratio": Score(None if flat else float(a.std() / b.std()), "1", "one"),
    }
    if flat:
        needing = ("psnr", "ssim", "ms_ssim", "pearson", "contrast_ratio")
        return scores | _without_value(scores, needing, "truth_amplitude_constant")
    return scores


def _phase_scores(recon: _Polar, truth: _Polar, similarity: Similarity) -> Scores:
    """Return mae, mse, psnr, ssim, ms_ssim, pearson and contrast_ratio of the phases.

    MAE, MSE and PSNR (D = 2 pi) take the wrapped difference; SSIM and MS-SSIM are the means of those of the cosine and of the
    sine of the phase maps (D = 2, no wrapping); `contrast_ratio` is that of circular standard deviations. All are null when
    the truth has no phase.
    """
    difference = recon.phase - truth.phase
    difference -= 2 * math.pi * np.rint(difference / (2 * math.pi))
    mse = float(np.vdot(difference, difference)) / difference.size
    flat = _is_phase_constant(truth)
    waves = [(recon.unit.real, truth.unit.real), (recon.unit.imag, truth.unit.imag)]
    scores = {
        "mae": Score(float(np.mean(np.abs(difference))), "rad", "lower"),
        "mse": Score(mse, "rad^2", "lower"),
        "psnr": psnr(mse, 2 * math.pi),
        **similarity(waves, 2.0),
        "pearson": _pearson(recon.phase, truth.phase),
        "contrast_ratio": Score(None if flat else _circular_std(recon.unit) / _circular_std(truth.unit), "1", "one"),
    }
    return _without_value(scores, tuple(scores), "truth_phase_constant") if flat else scores


def _modulus_and_unit(
    image: Complex[np.ndarray, "h w"],
) -> tuple[Float[np.ndarray, "h w"], Complex[np.ndarray, "h w"]]:
    """Return |x| and exp(i arg x) of an image; the latter is 1 where x is 0."""
    modulus = np.abs(image)
    return modulus, np.divide(image, modulus, out=np.ones_like(image), where=modulus > 0)


def _circular_std(unit: Complex128[np.ndarray, "h w"]) -> float:
    resultant = float(np.abs(unit.mean()))
    return math.sqrt(-2 * math.log(min(max(resultant, 1e-300), 1.0)))


def _is_amplitude_constant(image: _Polar) -> bool:
    return float(np.ptp(image.amplitude)) <= CONSTANT_AMPLITUDE * float(image.amplitude.max())


def _is_phase_constant(image: _Polar) -> bool:
    return float(np.ptp(image.phase)) < CONSTANT_PHASE_RAD


def _pearson(recon: Float[np.ndarray, "h w"], truth: Float[np.ndarray, "h w"]) -> Score:
    score = Score(None, "1", "higher")
    if any(float(np.ptp(image)) <= ROUNDING * max(float(image.max()), -float(image.min())) for image in (recon, truth)):
        return replace(score, reason="image_constant")
    r, t = recon - recon.mean(), truth - truth.mean()
    return replace(score, value=float(np.vdot(r, t)) / math.sqrt(float(np.vdot(r, r)) * float(np.vdot(t, t))))


def _nrmse(recon: Complex[np.ndarray, "h w"], truth: Complex[np.ndarray, "h w"]) -> Score:
    r, t = recon.astype(np.complex128), truth.astype(np.complex128)
    energy = float(np.vdot(t, t).real)
    if energy == 0:
        return Score(None, "1", "lower", reason="truth_zero")
    return Score(math.sqrt(float(np.sum(np.abs(r - t) ** 2)) / energy), "1", "lower")


def _without_value(scores: Scores, names: tuple[str, ...], reason: str) -> Scores:
    """Return the named scores, each without value, for one reason."""
    return {name: replace(scores[name], value=None, reason=reason) for name in names}
