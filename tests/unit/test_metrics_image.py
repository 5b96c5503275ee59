"""Image scores (T6, D54, D57). Oracles: scikit-image, numpy.corrcoef, scipy.stats, closed forms."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

from ptychoflow.metrics.image import (
    circular_std,
    image_scores,
    is_phase_constant,
    phase_maps,
    psnr,
    ssim,
)
from ptychoflow.metrics.score import Score, mean_score

SHAPE = (45, 62)


def picture(seed: int = 0, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """A smooth complex image: amplitude around 1, phase of about half a radian each way."""
    rng = np.random.default_rng(seed)
    amplitude = 1 + gaussian_filter(rng.normal(size=shape), 2)
    phase = 4 * gaussian_filter(rng.normal(size=shape), 3)
    return (amplitude * np.exp(1j * phase)).astype(np.complex64)


def noisy(image: np.ndarray, level: float, seed: int = 9) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=image.shape) + 1j * rng.normal(size=image.shape)
    return (image + level * noise).astype(np.complex64)


def values(recon: np.ndarray, truth: np.ndarray) -> dict[str, float | None]:
    return {f"{part}_{k}": s.value for part, block in image_scores(recon, truth).items() for k, s in block.items()}


def test_amplitude_scores_against_scikit_image():
    truth = picture()
    recon = noisy(truth, 0.1)
    a, b = np.abs(recon.astype(np.complex128)), np.abs(truth.astype(np.complex128))
    scores = image_scores(recon, truth)["amp"]
    span = b.max() - b.min()
    assert scores["mae"].value == pytest.approx(np.mean(np.abs(a - b)))
    assert scores["mse"].value == pytest.approx(mean_squared_error(b, a))
    assert scores["psnr"].value == pytest.approx(peak_signal_noise_ratio(b, a, data_range=span))
    assert scores["psnr"].range == scores["ssim"].range == pytest.approx(span)
    oracle = structural_similarity(b, a, data_range=span, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    assert scores["ssim"].value == pytest.approx(oracle)
    assert scores["pearson"].value == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1])
    assert scores["contrast_ratio"].value == pytest.approx(a.std() / b.std())


def test_phase_scores_against_numpy_and_scipy():
    truth = picture()
    recon = noisy(truth, 0.05)
    scores = image_scores(recon, truth)["phase"]
    # No wrap within +-pi here, so the plain difference is the wrapped one.
    plain = np.angle(recon).astype(float) - np.angle(truth)
    assert np.abs(plain).max() < np.pi
    assert scores["mae"].value == pytest.approx(np.abs(plain).mean(), rel=1e-5)
    assert scores["psnr"].value == pytest.approx(10 * math.log10(4 * math.pi**2 / np.mean(plain**2)), rel=1e-5)
    assert scores["psnr"].range == pytest.approx(2 * math.pi)
    assert scores["ssim"].range == 2
    assert scores["pearson"].value == pytest.approx(
        np.corrcoef(np.angle(recon).ravel(), np.angle(truth).ravel())[0, 1], abs=1e-5
    )
    spread = [scipy.stats.circstd(np.angle(image).astype(float)) for image in (recon, truth)]
    assert scores["contrast_ratio"].value == pytest.approx(spread[0] / spread[1], rel=1e-5)


def test_ssim_of_constant_images_has_a_closed_form():
    """Variances vanish: SSIM = (2 a b + C1) / (a^2 + b^2 + C1), C1 = (0.01 D)^2."""
    a, b = np.full(SHAPE, 0.4), np.full(SHAPE, 0.7)
    c1 = (0.01 * 3) ** 2
    assert ssim([(a, b)], 3.0).value == pytest.approx((2 * 0.28 + c1) / (0.16 + 0.49 + c1))


def test_a_known_mean_square_error_gives_known_decibels():
    """D54: D = 2, MSE = 0.04 is 20 dB; no peak of 255 anywhere."""
    assert psnr(0.04, 2.0).value == pytest.approx(20)
    assert psnr(0.0, 2.0).record() == {
        "value": None,
        "unit": "dB",
        "direction": "higher",
        "range": 2.0,
        "reason": "identical",
    }


def test_an_equal_image_is_perfect():
    scores = values(picture(), picture())
    for name in ("amp_mae", "amp_mse", "phase_mae", "phase_mse", "complex_nrmse"):
        assert scores[name] == 0
    for name in (
        "amp_ssim",
        "phase_ssim",
        "amp_pearson",
        "phase_pearson",
        "amp_contrast_ratio",
        "phase_contrast_ratio",
    ):
        assert scores[name] == pytest.approx(1)
    assert scores["amp_psnr"] is None
    assert scores["phase_psnr"] is None


def test_the_conjugate_is_worse():
    truth = picture()
    conjugate, equal = values(truth.conj(), truth), values(truth, truth)
    assert conjugate["phase_mae"] > 0.1
    assert conjugate["phase_pearson"] < -0.9
    assert conjugate["phase_ssim"] < equal["phase_ssim"] - 0.1
    assert conjugate["complex_nrmse"] > 0.1
    assert conjugate["amp_mae"] == equal["amp_mae"]


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_more_noise_is_worse_by_every_score(seed: int):
    truth = picture(seed)
    rows = [values(noisy(truth, level, seed), truth) for level in (0.02, 0.06, 0.18)]
    for name in ("amp_mae", "amp_mse", "phase_mae", "phase_mse", "complex_nrmse"):
        assert rows[0][name] < rows[1][name] < rows[2][name]
    for name in ("amp_psnr", "phase_psnr", "amp_ssim", "phase_ssim", "amp_pearson", "phase_pearson"):
        assert rows[0][name] > rows[1][name] > rows[2][name]


@pytest.mark.parametrize("constant", [0.0, 1.3, np.pi, -3.14159])
def test_a_constant_truth_phase_gives_null_with_the_reason(constant: float):
    """D57: also next to the cut at pi, where float rounding scatters the sign."""
    rng = np.random.default_rng(1)
    truth = (rng.uniform(0.5, 2, SHAPE) * np.exp(1j * constant)).astype(np.complex64)
    assert is_phase_constant(truth)
    for score in image_scores(noisy(truth, 0.1), truth)["phase"].values():
        assert score.value is None
        assert score.reason == "truth_phase_constant"
    assert not is_phase_constant((truth * np.exp(1e-3j * rng.normal(size=SHAPE))).astype(np.complex64))


def test_a_constant_truth_amplitude_gives_null_where_a_range_is_needed():
    truth = np.exp(1j * np.angle(picture())).astype(np.complex64)
    scores = image_scores(noisy(truth, 0.1), truth)["amp"]
    assert {scores[name].reason for name in ("psnr", "ssim", "pearson", "contrast_ratio")} == {
        "truth_amplitude_constant"
    }
    assert scores["mae"].value > 0


def test_a_constant_reconstruction_has_no_correlation_and_no_nan():
    scores = image_scores(np.ones(SHAPE, dtype=np.complex64), picture())
    assert scores["amp"]["pearson"].reason == "image_constant"
    assert scores["amp"]["contrast_ratio"].value == pytest.approx(0)
    for block in scores.values():
        assert all(score.value is None or math.isfinite(score.value) for score in block.values())


def test_phase_differences_wrap():
    """Phases of +-3.1 rad lie 0.083 rad apart, and the gauge of the maps keeps them together."""
    rng = np.random.default_rng(2)
    truth = np.exp(1j * (np.pi + 0.05 * rng.normal(size=SHAPE))).astype(np.complex64)
    recon = (truth * np.exp(0.083j)).astype(np.complex64)
    scores = image_scores(recon, truth)["phase"]
    assert scores["mae"].value == pytest.approx(0.083, abs=1e-5)
    assert scores["pearson"].value > 0.999
    assert np.ptp(phase_maps(recon, truth)[1]) < 1


def test_phases_over_the_whole_circle_wrap_too():
    """Where no gauge keeps both maps off the cut: a turn by 0.083 rad is an error of 0.083 rad everywhere."""
    truth = np.exp(2j * np.pi * np.random.default_rng(2).uniform(size=SHAPE)).astype(np.complex64)
    scores = image_scores((truth * np.exp(0.083j)).astype(np.complex64), truth)["phase"]
    assert scores["mae"].value == pytest.approx(0.083, abs=1e-5)
    assert scores["mse"].value == pytest.approx(0.083**2, abs=1e-5)


def test_circular_std_of_a_narrow_phase_is_its_std():
    phase = 1e-4 * np.random.default_rng(3).normal(size=(301, 203))
    assert circular_std(phase) == pytest.approx(phase.std(), rel=1e-3)
    assert math.isfinite(circular_std(np.array([[0.0, np.pi]])))


@pytest.mark.parametrize("shape", [(0, 5), (1, 1)])
def test_an_empty_or_single_pixel_region_is_refused(shape: tuple[int, int]):
    with pytest.raises(ValueError, match="at least 2 px"):
        image_scores(np.ones(shape, dtype=np.complex64), np.ones(shape, dtype=np.complex64))


def test_a_region_below_the_window_has_no_ssim_but_other_scores():
    scores = values(noisy(picture(shape=(7, 30)), 0.1), picture(shape=(7, 30)))
    assert scores["amp_ssim"] is None
    assert scores["phase_ssim"] is None
    assert scores["amp_mae"] > 0


def test_the_mean_over_objects_leaves_out_what_is_not_applicable():
    first, second = Score(1.0, "dB", "higher", 2.0), Score(3.0, "dB", "higher", 4.0)
    absent = Score(None, "dB", "higher", 2.0, reason="identical")
    assert mean_score([first, absent, second]) == Score(2.0, "dB", "higher", 3.0)
    assert mean_score([absent, absent]) == absent
    crossed, never = Score(0.5, "Nyquist", "higher", status="crossed"), Score(1.0, "Nyquist", "higher", status="never")
    assert mean_score([crossed, never]).status == "mixed"
    assert mean_score([never, never]).status == "never"
