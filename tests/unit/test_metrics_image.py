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
    pearson_scores,
    phase_maps,
    psnr,
)
from ptychoflow.metrics.score import Score, mean_score
from ptychoflow.metrics.ssim import ssim_scores

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


def test_the_phase_ssim_is_the_mean_of_that_of_cosine_and_sine():
    """Oracle: scikit-image on the cosine and the sine of the phases from the truth's circular mean."""
    truth = (picture() * np.exp(2j)).astype(np.complex64)
    recon = noisy(truth, 0.1)
    mean = scipy.stats.circmean(np.angle(truth.astype(np.complex128)), high=np.pi, low=-np.pi)
    maps = [np.angle(image.astype(np.complex128) * np.exp(-1j * mean)) for image in (recon, truth)]
    expected = [
        structural_similarity(
            wave(maps[0]), wave(maps[1]), data_range=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for wave in (np.cos, np.sin)
    ]
    assert image_scores(recon, truth)["phase"]["ssim"].value == pytest.approx(np.mean(expected), abs=1e-5)


def test_ms_ssim_of_both_parts_with_its_settings():
    """Oracle of the numbers: test_ssim.py. The blur reaches the phase's cosine and sine, not the amplitude alone."""
    truth = picture(shape=(177, 203))
    recon = noisy(truth, 0.1)
    plain, blurred = image_scores(recon, truth), image_scores(recon, truth, ms_ssim_sigma=1.0)
    few = image_scores(recon, truth, ms_ssim_levels=3)
    a, b = np.abs(recon).astype(float), np.abs(truth).astype(float)
    assert plain["amp"]["ms_ssim"].value == pytest.approx(ssim_scores([(a, b)], np.ptp(b))["ms_ssim"].value, abs=1e-5)
    waves = [tuple(wave(phase) for phase in phase_maps(recon, truth)) for wave in (np.cos, np.sin)]
    assert blurred["phase"]["ms_ssim"].value == pytest.approx(
        ssim_scores(waves, 2.0, ms_ssim_sigma=1.0)["ms_ssim"].value, abs=1e-5
    )
    for part in ("amp", "phase"):
        assert blurred[part]["ms_ssim"].value > plain[part]["ms_ssim"].value
        assert blurred[part]["ms_ssim"].settings == {"sigma_px": 1.0, "levels": 5}
        assert few[part]["ms_ssim"].settings == {"sigma_px": 0.0, "levels": 3}
        assert few[part]["ms_ssim"].value != pytest.approx(plain[part]["ms_ssim"].value, abs=1e-4)
        assert plain[part]["ms_ssim"].range == plain[part]["ssim"].range
    assert image_scores(recon[:175], truth[:175])["amp"]["ms_ssim"].reason == "region_smaller_than_176_px"


def test_pearson_alone_is_that_of_all_scores():
    truth = picture()
    recon = noisy(truth, 0.1)
    scores, flat = image_scores(recon, truth), np.ones(SHAPE, dtype=np.complex64)
    assert pearson_scores(recon, truth) == {part: scores[part]["pearson"] for part in ("amp", "phase")}
    assert {name: score.reason for name, score in pearson_scores(recon, flat).items()} == {
        "amp": "truth_amplitude_constant",
        "phase": "truth_phase_constant",
    }


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
    truth = picture(seed, (176, 181))
    rows = [values(noisy(truth, level, seed), truth) for level in (0.02, 0.06, 0.18)]
    for name in ("amp_mae", "amp_mse", "phase_mae", "phase_mse", "complex_nrmse"):
        assert rows[0][name] < rows[1][name] < rows[2][name]
    for name in (
        "amp_psnr",
        "phase_psnr",
        "amp_ssim",
        "phase_ssim",
        "amp_pearson",
        "phase_pearson",
        "amp_ms_ssim",
        "phase_ms_ssim",
    ):
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
    assert {scores[name].reason for name in ("psnr", "ssim", "ms_ssim", "pearson", "contrast_ratio")} == {
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


def test_an_image_that_is_not_finite_is_refused():
    truth = picture()
    for bad in (np.nan, np.inf, complex(0, -np.inf)):
        broken = truth.copy()
        broken[3, 4] = bad
        for pair in ((broken, truth), (truth, broken)):
            with pytest.raises(ValueError, match=r"1 values of the (first|second) image, of shape \(45, 62\)"):
                image_scores(*pair)


@pytest.mark.parametrize("turn", [lambda x: x.T, lambda x: x[::-1], lambda x: x[:, ::-1]])
def test_transposing_or_flipping_both_images_changes_nothing(turn):
    """Sides that halve four times: blocks of 2 x 2 px of an odd side begin at its first pixel, whichever that is."""
    truth = picture(shape=(176, 192))
    recon = noisy(truth, 0.1)
    plain, turned = values(recon, truth), values(turn(recon), turn(truth))
    for name, value in plain.items():
        assert turned[name] == pytest.approx(value, abs=1e-6), name


def test_a_common_phase_and_unit_leave_the_phase_scores():
    """A factor on both images is no error; on the reconstruction alone it is aligned away before, not here."""
    truth = picture()
    recon = noisy(truth, 0.1)
    factor = np.complex64(3 * np.exp(2.5j))
    plain, moved = image_scores(recon, truth)["phase"], image_scores(factor * recon, factor * truth)["phase"]
    for name, score in plain.items():
        assert moved[name].value == score.value or moved[name].value == pytest.approx(score.value, abs=1e-5), name


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
