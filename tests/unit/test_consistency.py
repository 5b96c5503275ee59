"""Consistency of predicted and measured diffraction (D29). Oracles: numpy.corrcoef, closed forms, a direct DFT."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptychoflow.frames import Canvas
from ptychoflow.metrics.consistency import (
    BLOCK,
    contrast_correlation,
    illuminated_coverage,
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
