"""Scores of one complex image R against a truth or reference T of the same shape: amplitude, phase, complex.

Both are cut to the scored rectangle and aligned before (imaging/align.py); nothing here moves or scales anything.

    a = |R|, b = |T|,  p = arg(R conj(T)) in (-pi, pi],  D = data range of the formula, stored with the score

Phase maps are arg(R e^{-i t}) and arg(T e^{-i t}) with one t for both, the truth's circular mean phase, so that no wrap
lies in the middle of the truth's values. Source: evaluation reference 2.3; SSIM: Wang et al., IEEE TIP 13, 600 (2004).
"""

import math
from dataclasses import replace

import numpy as np
from jaxtyping import Complex, Complex128, Float, Float64
from skimage.metrics import structural_similarity

from ptychoflow.metrics.score import Score

SSIM_SIGMA_PX = 1.5
SSIM_WINDOW_PX = 11
"""The Gaussian window cut at 3.5 sigma, as scikit-image does."""

CONSTANT_PHASE_RAD = 1e-6
"""Truth phases within this range are constant: phase scores would compare noise with nothing (D57)."""

CONSTANT_AMPLITUDE = 1e-6
"""The same for the amplitude, as a share of its maximum."""

Scores = dict[str, Score]


def image_scores(recon: Complex[np.ndarray, "h w"], truth: Complex[np.ndarray, "h w"]) -> dict[str, Scores]:
    """Return the scores of `recon` against `truth`, keyed `amp`, `phase`, `complex`, then by name.

    Args:
        recon: (H, W) aligned reconstruction.
        truth: (H, W) truth or reference.

    Raises:
        ValueError: when the images are empty or a single pixel.
    """
    if truth.size < 2:
        raise ValueError(f"the scored region has shape {truth.shape}; scores need at least 2 px")
    r, t = recon.astype(np.complex128), truth.astype(np.complex128)
    return {
        "amp": amplitude_scores(np.abs(r), np.abs(t)),
        "phase": phase_scores(r, t),
        "complex": {"nrmse": _nrmse(r, t)},
    }


def amplitude_scores(recon: Float64[np.ndarray, "h w"], truth: Float64[np.ndarray, "h w"]) -> Scores:
    """Return mae, mse, psnr, ssim, pearson and contrast_ratio of two amplitude images; D = truth max - min (D54)."""
    data_range = float(np.ptp(truth))
    mse = float(np.mean((recon - truth) ** 2))
    flat = data_range <= CONSTANT_AMPLITUDE * float(truth.max())
    scores = {
        "mae": Score(float(np.mean(np.abs(recon - truth))), "1", "lower"),
        "mse": Score(mse, "1", "lower"),
        "psnr": psnr(mse, data_range),
        "ssim": ssim([(recon, truth)], data_range),
        "pearson": _pearson(recon, truth),
        "contrast_ratio": Score(None, "1", "one") if flat else Score(float(recon.std() / truth.std()), "1", "one"),
    }
    if flat:
        return scores | _without_value(
            scores, ("psnr", "ssim", "pearson", "contrast_ratio"), "truth_amplitude_constant"
        )
    return scores


def phase_scores(recon: Complex128[np.ndarray, "h w"], truth: Complex128[np.ndarray, "h w"]) -> Scores:
    """Return mae, mse, psnr, ssim, pearson and contrast_ratio of the phases of two complex images.

    MAE, MSE and PSNR (D = 2 pi) take the wrapped difference; SSIM is the mean of that of the cosine and of the sine of the
    phase maps (D = 2, no wrapping); `contrast_ratio` is that of circular standard deviations. All are null when the truth
    has no phase.
    """
    phase_r, phase_t = phase_maps(recon, truth)
    difference = np.angle(recon * truth.conj())
    mse = float(np.mean(difference**2))
    # Cosine and sine lie in [-1, 1] and D is 2: float32 costs 1e-6 of SSIM and half the time.
    waves = [tuple(wave(phase).astype(np.float32) for phase in (phase_r, phase_t)) for wave in (np.cos, np.sin)]
    scores = {
        "mae": Score(float(np.mean(np.abs(difference))), "rad", "lower"),
        "mse": Score(mse, "rad^2", "lower"),
        "psnr": psnr(mse, 2 * math.pi),
        "ssim": ssim([(r, t) for r, t in waves], 2.0),
        "pearson": _pearson(phase_r, phase_t),
        "contrast_ratio": Score(None, "1", "one"),
    }
    if np.ptp(phase_t) < CONSTANT_PHASE_RAD:
        return _without_value(scores, tuple(scores), "truth_phase_constant")
    ratio = circular_std(phase_r) / circular_std(phase_t)
    return scores | {"contrast_ratio": Score(ratio, "1", "one")}


def phase_maps(
    recon: Complex[np.ndarray, "h w"], truth: Complex[np.ndarray, "h w"]
) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    """Return the phases of both images in rad after the truth's circular mean phase was taken from each."""
    mean_phase = np.angle(np.mean(np.exp(1j * np.angle(truth))))
    back = np.exp(-1j * mean_phase)
    return np.angle(recon * back), np.angle(truth * back)


def is_phase_constant(truth: Complex[np.ndarray, "h w"]) -> bool:
    """Return whether the phase of an image varies by less than 1e-6 rad."""
    return float(np.ptp(phase_maps(truth, truth)[1])) < CONSTANT_PHASE_RAD


def circular_std(phase: Float[np.ndarray, "h w"]) -> float:
    """Return the circular standard deviation sqrt(-2 ln |mean exp(i phase)|), rad; at most that of one part in 1e300."""
    resultant = float(np.abs(np.mean(np.exp(1j * phase.astype(np.float64)))))
    return math.sqrt(-2 * math.log(min(max(resultant, 1e-300), 1.0)))


def psnr(mse: float, data_range: float) -> Score:
    """Return 10 log10(D^2 / MSE) in dB; null with a reason when the images are identical (infinite) or D is 0."""
    score = Score(None, "dB", "higher", data_range)
    if mse == 0:
        return replace(score, reason="identical")
    if data_range == 0:
        return replace(score, reason="range_zero")
    return replace(score, value=10 * math.log10(data_range**2 / mse))


def ssim(pairs: list[tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]], data_range: float) -> Score:
    """Return the mean SSIM of image pairs: Gaussian window of 1.5 px (11 px wide), K1 0.01, K2 0.03, edges left out."""
    score = Score(None, "1", "higher", data_range)
    if min(pairs[0][0].shape) < SSIM_WINDOW_PX:
        return replace(score, reason=f"region_smaller_than_{SSIM_WINDOW_PX}_px")
    if data_range == 0:
        return replace(score, reason="range_zero")
    values = [
        structural_similarity(
            first,
            second,
            gaussian_weights=True,
            sigma=SSIM_SIGMA_PX,
            use_sample_covariance=False,
            data_range=data_range,
        )
        for first, second in pairs
    ]
    return replace(score, value=float(np.mean(values)))


def _pearson(recon: Float[np.ndarray, "h w"], truth: Float[np.ndarray, "h w"]) -> Score:
    score = Score(None, "1", "higher")
    r, t = recon - recon.mean(), truth - truth.mean()
    energy = float(np.vdot(r, r)) * float(np.vdot(t, t))
    if energy == 0:
        return replace(score, reason="image_constant")
    return replace(score, value=float(np.vdot(r, t)) / math.sqrt(energy))


def _nrmse(recon: Complex128[np.ndarray, "h w"], truth: Complex128[np.ndarray, "h w"]) -> Score:
    energy = float(np.sum(np.abs(truth) ** 2))
    if energy == 0:
        return Score(None, "1", "lower", reason="truth_zero")
    return Score(math.sqrt(float(np.sum(np.abs(recon - truth) ** 2)) / energy), "1", "lower")


def _without_value(scores: Scores, names: tuple[str, ...], reason: str) -> Scores:
    """Return the named scores, each without value, for one reason."""
    return {name: replace(scores[name], value=None, reason=reason) for name in names}
