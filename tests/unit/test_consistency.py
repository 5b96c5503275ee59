"""Consistency of predicted and measured diffraction (D29). Oracles: numpy.corrcoef, scipy.stats, closed forms, a direct DFT."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mean_poisson_deviance

from ptychoflow.frames import Canvas
from ptychoflow.metrics.consistency import (
    BLOCK,
    FLOOR_PHOTONS,
    contrast_correlation,
    illuminated_coverage,
    poisson_deviance,
    predict_frames,
    r_factor,
)

N = 9
CANVAS = Canvas((-4, 7), (31, 44))


def stacks(seed: int = 0, length: int = BLOCK + 7) -> tuple[np.ndarray, np.ndarray]:
    """Two related amplitude stacks, longer than one block."""
    rng = np.random.default_rng(seed)
    first = rng.gamma(2.0, size=(length, N, N)).astype(np.float32)
    return first, (first + rng.gamma(1.0, size=first.shape)).astype(np.float32)


def noise_object() -> np.ndarray:
    rng = np.random.default_rng(3)
    return (rng.normal(size=CANVAS.shape) + 1j * rng.normal(size=CANVAS.shape)).astype(np.complex64)


def two_modes() -> np.ndarray:
    rng = np.random.default_rng(4)
    return (rng.normal(size=(2, N, N)) + 1j * rng.normal(size=(2, N, N))).astype(np.complex64)


def positions(length: int = 5) -> np.ndarray:
    """Patches well inside the canvas, in the scan's frame."""
    rng = np.random.default_rng(5)
    return np.stack([rng.uniform(3, 20, length), rng.uniform(14, 40, length)], axis=1)


def test_contrast_is_pearson_after_the_mean_frames_were_taken_off():
    a, b = stacks()
    expected = np.corrcoef((a - a.mean(axis=0)).ravel(), (b - b.mean(axis=0)).ravel())[0, 1]
    # float32 means in the oracle.
    assert contrast_correlation(a, b) == pytest.approx(expected, abs=1e-6)


def test_a_featureless_prediction_is_undefined_although_it_correlates():
    a, _ = stacks()
    flat = np.broadcast_to(a.mean(axis=0), a.shape)
    assert np.corrcoef(a.ravel(), flat.ravel())[0, 1] > 0.05
    with pytest.raises(ValueError, match="predicted frames do not differ"):
        contrast_correlation(a, flat)
    with pytest.raises(ValueError, match="1 measured frames do not differ"):
        contrast_correlation(a[:1], a[:1])


@settings(max_examples=20, deadline=None)
@given(st.floats(1e-3, 1e3), st.integers(0, 99))
def test_both_scores_ignore_the_scale_of_the_prediction(scale: float, seed: int):
    a, b = stacks(seed, 4)
    assert contrast_correlation(a, b * np.float32(scale)) == pytest.approx(contrast_correlation(a, b), rel=1e-5)
    assert r_factor(a, b * np.float32(scale)).value == pytest.approx(r_factor(a, b).value, rel=1e-5)


def test_the_r_factor_of_a_known_deviation():
    """Closed form: P = 2 on all pixels, A alternating 3 and 5: g = 4/2 = 2, R = mean|A - 4| / mean A = 1/4."""
    measured = np.where(np.arange(2 * N * (N + 1)) % 2, 3.0, 5.0)[: 2 * N * N].reshape(2, N, N)
    result = r_factor(measured, np.full_like(measured, 2.0))
    assert result.scale == pytest.approx(2.0)
    assert result.value == pytest.approx(0.25)


def test_the_r_factor_of_an_equal_stack_is_zero_and_of_a_zero_one_undefined():
    a, _ = stacks()
    assert r_factor(a, 3 * a).value == pytest.approx(0, abs=1e-6)
    assert r_factor(a, 3 * a).scale == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="predicted frames are zero"):
        r_factor(a, 0 * a)
    with pytest.raises(ValueError, match="measured frames are zero"):
        r_factor(a[:0], a[:0])


def test_a_predicted_frame_is_the_direct_fourier_sum_of_the_exit_wave():
    """Oracle: an explicit DFT with zero frequency at N//2, at a whole-pixel position cut by hand."""
    image, probe = noise_object(), two_modes()[:1]
    at = np.array([[10.0, 25.0]])
    r0, c0 = 10 + 4 - N // 2, 25 - 7 - N // 2
    wave = probe[0] * image[r0 : r0 + N, c0 : c0 + N]
    index = np.arange(N)
    kernel = np.exp(-2j * np.pi * np.outer(index - N // 2, index) / N) / np.sqrt(N)
    expected = np.abs(kernel @ wave @ kernel.T)
    np.testing.assert_allclose(predict_frames(image, CANVAS, probe, at)[0], expected, rtol=1e-4, atol=1e-4)


def test_modes_add_as_intensities():
    """D29. Swapping a mode's phase leaves the prediction; the coherent sum is another frame."""
    image, modes = noise_object(), two_modes()
    together = predict_frames(image, CANVAS, modes, positions())
    single = [predict_frames(image, CANVAS, mode[None], positions()) for mode in modes]
    np.testing.assert_allclose(together**2, single[0] ** 2 + single[1] ** 2, rtol=1e-4, atol=1e-4)
    turned = modes * np.array([1, 1j], dtype=np.complex64)[:, None, None]
    np.testing.assert_allclose(predict_frames(image, CANVAS, turned, positions()), together, rtol=1e-4, atol=1e-4)
    coherent = predict_frames(image, CANVAS, modes.sum(axis=0, keepdims=True), positions())
    assert np.abs(coherent - together).mean() > 0.1 * together.mean()


def test_the_canvas_origin_moves_with_the_positions():
    image, shift = noise_object(), np.array([3.0, -5.0])
    moved = Canvas((CANVAS.origin_rc_px[0] + 3, CANVAS.origin_rc_px[1] - 5), CANVAS.shape)
    np.testing.assert_allclose(
        predict_frames(image, moved, two_modes(), positions() + shift),
        predict_frames(image, CANVAS, two_modes(), positions()),
        rtol=1e-4,
        atol=1e-4,
    )


def test_coverage_is_the_share_of_the_illumination():
    """Closed form: a uniform probe half on, fully on, and off the known area."""
    covered = np.zeros(CANVAS.shape, dtype=bool)
    covered[:, 20:] = True
    probe = np.ones((1, 8, 8), dtype=np.complex64)
    column = 7 + 20
    at = np.array([[10.0, column], [10.0, column + 10.0], [10.0, column - 8.0], [500.0, column]])
    np.testing.assert_allclose(illuminated_coverage(covered, CANVAS, probe, at), [0.5, 1, 0, 0], atol=1e-7)


def poisson_stacks(photons: float, seed: int = 0, length: int = BLOCK + 5) -> tuple[np.ndarray, np.ndarray, float]:
    """Measured and true amplitude in a unit of 3 photons per intensity, of about `photons` per pixel."""
    rng, per_intensity = np.random.default_rng(seed), 3.0
    rates = photons * rng.uniform(0.5, 1.5, size=(length, N, N))
    return np.sqrt(rng.poisson(rates) / per_intensity), np.sqrt(rates / per_intensity), per_intensity


@pytest.mark.parametrize("photons", [0.3, 20.0])
def test_the_deviance_is_twice_the_loss_of_log_likelihood_per_photon(photons: float):
    """Oracle: scipy's log-probabilities of the counts under the rates, and under themselves."""
    measured, predicted, k = poisson_stacks(photons)
    counts = np.rint(k * measured**2)
    scale = counts.sum() / (k * predicted**2).sum()
    best = np.where(counts > 0, scipy.stats.poisson.logpmf(counts, np.maximum(counts, 1e-300)), 0)
    lost = best - scipy.stats.poisson.logpmf(counts, scale * k * predicted**2)
    found = poisson_deviance(measured, 7 * predicted, photons_per_intensity=k)
    assert found.value == pytest.approx(2 * lost.sum() / counts.sum(), rel=1e-9)
    assert found.scale == pytest.approx(scale / 49)


def test_the_deviance_is_that_of_scikit_learn():
    """Oracle: scikit-learn's mean over pixels, times pixels over photons."""
    measured, predicted, k = poisson_stacks(5.0)
    counts, rates = k * measured**2, k * predicted**2
    rates *= counts.sum() / rates.sum()
    expected = mean_poisson_deviance(counts.ravel(), rates.ravel()) * counts.size / counts.sum()
    assert poisson_deviance(measured, predicted, photons_per_intensity=k).value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("photons", [30.0, 300.0])
def test_true_rates_leave_one_unit_of_deviance_per_pixel(photons: float):
    """Closed form: many photons make the deviance chi-squared, so D is pixels / photons; a wrong prediction has more."""
    measured, predicted, k = poisson_stacks(photons, length=200)
    ratio = measured.size / (k * measured**2).sum()
    assert poisson_deviance(measured, predicted, photons_per_intensity=k).value == pytest.approx(ratio, rel=0.03)
    assert poisson_deviance(measured, predicted[::-1], photons_per_intensity=k).value > 2 * ratio


def test_the_deviance_of_a_known_deviation():
    """Closed form: counts 1 and 3 against rates 2 and 2: 2 (ln(1/2) + 3 ln(3/2)) / 4."""
    measured = np.sqrt(np.array([[[1.0]], [[3.0]]]))
    found = poisson_deviance(measured, np.full_like(measured, 5.0), photons_per_intensity=1.0)
    assert found.value == pytest.approx((np.log(0.5) + 3 * np.log(1.5)) / 2)
    assert found.scale == pytest.approx(2 / 25)


def test_no_photon_costs_its_rate_and_a_dark_pixel_has_the_least_rate():
    """0 ln 0 is 0. Counts 0, 4, 1 against 2, 2, 0 photons: the last is 1 against the floor."""
    measured, predicted = np.array([0.0, 2.0, 1.0]), np.sqrt([2.0, 2.0, 0.0])
    scale = 5 / 4
    expected = 2 * (2 * scale + 4 * np.log(4 / (2 * scale)) - 4 + 2 * scale + np.log(1 / FLOOR_PHOTONS) - 1) / 5
    found = poisson_deviance(measured[:, None, None], predicted[:, None, None], photons_per_intensity=1.0)
    assert found.value == pytest.approx(expected, rel=1e-5)


def test_the_deviance_of_a_stack_on_disk_is_that_in_memory(tmp_path):
    measured, predicted, k = poisson_stacks(5.0)
    np.save(tmp_path / "measured.npy", measured.astype(np.float32))
    on_disk = np.load(tmp_path / "measured.npy", mmap_mode="r")
    assert poisson_deviance(on_disk, predicted, photons_per_intensity=k) == poisson_deviance(
        measured.astype(np.float32), predicted, photons_per_intensity=k
    )


@pytest.mark.parametrize("photons", [0.0, -1.0, np.nan, np.inf])
def test_a_deviance_without_a_photon_unit_is_refused(photons: float):
    a, b = stacks()
    with pytest.raises(ValueError, match="photons_per_intensity: a positive number expected"):
        poisson_deviance(a, b, photons_per_intensity=photons)
