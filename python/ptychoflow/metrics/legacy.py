"""Scores as tables published with the reference implementation define them, to be compared with such tables only.

They are never ranked: both images' phase planes are removed, one mean fixes the amplitude's scale, PSNR has a peak of 255 whatever
the images' range (48.13 dB above a peak of 1), MS-SSIM multiplies full SSIMs of decimated images and so rewards small ones,
and the Fourier ring correlation is a modulus without window, in bins. docs/metrics.md says what to use instead.

    a = |R| mean|T| / mean|R|, b = |T|;   p, q = arg R, arg T, each without its least-squares plane; all after the trim
    SSIM: uniform window of 7 x 7 px, sample covariance, K1 0.01, K2 0.03; phases mapped to (p + pi) / (2 pi) with D = 1
    MS-SSIM = prod_l SSIM_l^w_l over [::2]-decimated images; stops below 7 px; negative SSIM counts as 1e-4
    FRC = |sum_q F1 conj(F2)| / sqrt(sum_q |F1|^2 sum_q |F2|^2), q = round(sqrt(u^2 + v^2)), into the corners

Source: evaluation reference 1, 1.1 and 1.2. Choices where it is silent: MS-SSIM of the phase takes the mapped phases, its range
is that of the images after the blur, and a curve's first bin is the first that has energy.
"""

import math
from dataclasses import replace

import numpy as np
from jaxtyping import Complex, Float64
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

from ptychoflow.metrics.checks import check_pair
from ptychoflow.metrics.score import Score

PEAK = 255.0
WINDOW_PX = 7
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
LEAST_SSIM = 1e-4
CONSTANT_PHASE_RAD = 1e-6
"""Truth phases without plane below this are zero: what correlates is rounding."""

ROUNDING = 1e-9
"""An image whose values differ by less than this share of the largest holds rounding errors only."""

Image = Float64[np.ndarray, "h w"]
Scores = dict[str, Score]


def legacy_scores(
    recon: Complex[np.ndarray, "h w"],
    truth: Complex[np.ndarray, "h w"],
    *,
    trim_px: int = 2,
    ms_ssim_sigma: float = 1.0,
) -> dict[str, Scores]:
    """Return the legacy scores, keyed `amp` and `phase`, then `legacy_mae`, `legacy_mse`, `legacy_psnr` and so on.

    Args:
        recon: (H, W) reconstruction; these scores bring gauges of their own, so it need not be aligned.
        truth: (H, W) truth.
        trim_px: rows and columns left out at each side; 0 leaves none out (D59).
        ms_ssim_sigma: Gaussian blur of both amplitudes, not of the phases, before MS-SSIM, px.

    Raises:
        ValueError: when nothing is left after the trim, the shapes differ, or a value is not finite.
    """
    check_pair(recon, truth, what="legacy scores", least_side_px=2 * trim_px + 1)
    inner = tuple(slice(trim_px, length - trim_px) for length in truth.shape)
    r, t = recon[inner].astype(np.complex128), truth[inner].astype(np.complex128)
    p, q = without_plane(np.angle(r)), without_plane(np.angle(t))
    mapped = (p + math.pi) / (2 * math.pi), (q + math.pi) / (2 * math.pi)
    phase = _difference(p, q, "rad") | {
        "legacy_ssim": _ssim(*mapped, 1.0),
        "legacy_ms_ssim": _ms_ssim(*mapped, sigma=0.0),
        **_ring_scores(p, q, empty=float(np.abs(q).max()) < CONSTANT_PHASE_RAD),
    }
    a, b = np.abs(r), np.abs(t)
    dark = not a.any()
    a *= 1.0 if dark else b.mean() / a.mean()
    amp = _difference(a, b, "1") | {
        "legacy_ssim": _ssim(a, b, float(np.ptp(b))),
        "legacy_ms_ssim": _ms_ssim(a, b, sigma=ms_ssim_sigma),
        **_ring_scores(a, b, empty=not b.any()),
    }
    if dark:
        amp = {name: replace(score, value=None, status=None, reason="recon_zero") for name, score in amp.items()}
    return {"amp": amp, "phase": phase}


def without_plane(image: Image) -> Image:
    """Return an image without its least-squares plane; on a full grid, centred coordinates make the terms independent."""
    rows, cols = (np.arange(length) - (length - 1) / 2 for length in image.shape)
    flat = image - image.mean()
    for axis in (rows[:, None], cols[None, :]):
        energy = float(np.sum(axis**2)) * image.size / axis.size
        flat = flat - axis * (float(np.sum(axis * flat)) / energy if energy else 0.0)
    return flat


def ring_correlation(first: Image, second: Image) -> Float64[np.ndarray, "bins"]:
    """Return the reference's curve of the central square, bin 0 the mean; NaN in bins without energy."""
    side = min(first.shape)
    corner = [(length - side) // 2 for length in first.shape]
    square = tuple(slice(start, start + side) for start in corner)
    f1, f2 = (np.fft.fft2(image[square]).ravel() for image in (first, second))
    steps = np.fft.fftfreq(side, 1 / side)
    bins = np.rint(np.hypot(steps[:, None], steps)).astype(np.intp).ravel()
    cross = f1 * f2.conj()
    total = np.hypot(np.bincount(bins, weights=cross.real), np.bincount(bins, weights=cross.imag))
    power = np.sqrt(np.bincount(bins, weights=np.abs(f1) ** 2) * np.bincount(bins, weights=np.abs(f2) ** 2))
    return np.divide(total, power, out=np.full(total.shape, np.nan), where=power > 0)


def bin_crossing(curve: Float64[np.ndarray, "bins"], threshold: float) -> Score:
    """Return the first bin below a threshold, interpolated with the one before; the length of the curve if there is none."""
    score = Score(None, "bins", "higher")
    bins = np.flatnonzero(np.isfinite(curve))
    if len(bins) == 0:
        return replace(score, reason="no_energy")
    below = np.flatnonzero(curve[bins] < threshold)
    if len(below) == 0:
        return replace(score, value=float(len(curve)), status="never")
    if below[0] == 0:
        return replace(score, value=0.0, status="starts_below")
    before, after = bins[below[0] - 1], bins[below[0]]
    share = (curve[before] - threshold) / (curve[before] - curve[after])
    return replace(score, value=float(before + share * (after - before)), status="crossed")


def _difference(recon: Image, truth: Image, unit: str) -> Scores:
    """Return MAE, MSE and PSNR with a peak of 255; phases are not wrapped."""
    mse = float(np.mean((recon - truth) ** 2))
    psnr = Score(None, "dB", "higher", PEAK)
    return {
        "legacy_mae": Score(float(np.mean(np.abs(recon - truth))), unit, "lower"),
        "legacy_mse": Score(mse, unit if unit == "1" else f"{unit}^2", "lower"),
        "legacy_psnr": replace(psnr, value=10 * math.log10(PEAK**2 / mse))
        if mse
        else replace(psnr, reason="identical"),
    }


def _ssim(recon: Image, truth: Image, data_range: float) -> Score:
    score = Score(None, "1", "higher", data_range)
    if min(truth.shape) < WINDOW_PX:
        return replace(score, reason=f"region_smaller_than_{WINDOW_PX}_px")
    if data_range <= ROUNDING * max(float(np.abs(image).max()) for image in (recon, truth)):
        return replace(score, reason="range_zero")
    return replace(score, value=float(structural_similarity(recon, truth, win_size=WINDOW_PX, data_range=data_range)))


def _ms_ssim(recon: Image, truth: Image, *, sigma: float) -> Score:
    if sigma:
        recon, truth = gaussian_filter(recon, sigma), gaussian_filter(truth, sigma)
    data_range = max(float(np.ptp(recon)), float(np.ptp(truth)))
    finest = single = _ssim(recon, truth, data_range)
    product, levels = 1.0, 0
    while single.value is not None and levels < len(WEIGHTS):
        product *= (LEAST_SSIM if single.value < 0 else single.value) ** WEIGHTS[levels]
        levels += 1
        recon, truth = recon[::2, ::2], truth[::2, ::2]
        single = _ssim(recon, truth, data_range)
    value = None if finest.value is None else product
    return replace(finest, value=value, settings={"sigma_px": sigma, "levels": levels})


def _ring_scores(recon: Image, truth: Image, *, empty: bool) -> Scores:
    thresholds = {"legacy_frc50": 0.5, "legacy_frc1over7": 1 / 7}
    if empty:
        return dict.fromkeys(thresholds, Score(None, "bins", "higher", reason="truth_zero"))
    curve = ring_correlation(recon, truth)
    return {name: bin_crossing(curve, threshold) for name, threshold in thresholds.items()}
