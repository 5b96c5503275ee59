"""Alignment (T6, D60): the gauge, a known ramp, the twin. Oracles: closed forms, numpy.linalg.lstsq."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from ptychoflow.imaging.align import align, estimate_ramp, ramp_phasor

SHAPE = (45, 62)


def picture(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    amplitude = 1 + gaussian_filter(rng.normal(size=SHAPE), 2)
    return (amplitude * np.exp(4j * gaussian_filter(rng.normal(size=SHAPE), 3))).astype(np.complex64)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.01, 100), st.floats(-3.1, 3.1))
def test_a_complex_factor_is_removed_and_told(modulus: float, angle: float):
    truth = picture()
    recon = (truth / (modulus * np.exp(1j * angle))).astype(np.complex64)
    aligned, record = align(recon, truth, mode="gauge", phase_ramp=False)
    np.testing.assert_allclose(aligned, truth, rtol=1e-5, atol=1e-5)
    assert record.gauge_abs == pytest.approx(modulus, rel=1e-5)
    assert record.gauge_arg_rad == pytest.approx(angle, abs=1e-5)
    assert record.scale_error == pytest.approx(modulus - 1, rel=1e-4, abs=1e-5)


def test_the_factor_is_the_least_squares_one():
    truth, recon = picture(0), picture(1)
    expected = np.linalg.lstsq(recon.reshape(-1, 1), truth.ravel(), rcond=None)[0][0]
    _, record = align(recon, truth, mode="gauge", phase_ramp=False)
    assert record.gauge_abs * np.exp(1j * record.gauge_arg_rad) == pytest.approx(expected, rel=1e-4)


def test_mode_none_leaves_the_reconstruction_and_still_tells_the_factor():
    truth = picture()
    recon = (0.5j * truth).astype(np.complex64)
    aligned, record = align(recon, truth, mode="none", phase_ramp=False)
    np.testing.assert_array_equal(aligned, recon)
    assert record.gauge_abs == pytest.approx(2)
    assert record.ramp_rad_per_px is None


@pytest.mark.parametrize("ramp", [(0.0, 0.0), (0.13, -0.071), (-0.9, 0.4), (3.0, -2.8)])
def test_a_known_ramp_is_recovered_with_its_sign(ramp: tuple[float, float]):
    """The reconstruction carries the opposite ramp; 1e-4 of an FFT step is 1e-5 rad/px."""
    truth = picture()
    recon = (0.7j * truth / ramp_phasor(SHAPE, ramp)).astype(np.complex64)
    aligned, record = align(recon, truth, mode="gauge", phase_ramp=True)
    np.testing.assert_allclose(record.ramp_rad_per_px, ramp, atol=2e-5)
    np.testing.assert_allclose(aligned, truth, atol=5e-3)


def test_the_ramp_survives_noise_and_a_ramp_of_the_truth_stays():
    """D60: only the reconstruction loses a ramp; a ramp of the truth is signal."""
    rng = np.random.default_rng(4)
    truth = (picture() * ramp_phasor(SHAPE, (0.05, 0.02))).astype(np.complex64)
    noise = 0.5 * (rng.normal(size=SHAPE) + 1j * rng.normal(size=SHAPE))
    ramp = estimate_ramp((truth + noise).astype(np.complex128), truth.astype(np.complex128))
    np.testing.assert_allclose(ramp, 0, atol=2e-3)


def test_ramp_phasor_counts_rows_first():
    phasor = ramp_phasor((3, 5), (0.1, 0.01))
    np.testing.assert_allclose(np.angle(phasor), 0.1 * np.arange(3)[:, None] + 0.01 * np.arange(5), atol=1e-12)


def test_inputs_are_not_changed():
    truth, recon = picture(0), picture(1)
    before = truth.copy(), recon.copy()
    truth.setflags(write=False)
    recon.setflags(write=False)
    align(recon, truth, mode="gauge", phase_ramp=True)
    np.testing.assert_array_equal(truth, before[0])
    np.testing.assert_array_equal(recon, before[1])


def test_the_twin_is_recognised_and_not_flipped():
    """Also shifted: the twin's centre is arbitrary."""
    truth = picture()
    twin = np.roll(truth.conj()[::-1, ::-1], (3, -7), axis=(0, 1))
    aligned, record = align(twin, truth, mode="none", phase_ramp=False)
    assert record.twin_warning
    assert record.twin_correlation == pytest.approx(1, abs=1e-4)
    np.testing.assert_array_equal(aligned, twin)
    _, straight = align(truth, truth, mode="gauge", phase_ramp=False)
    assert not straight.twin_warning
    assert straight.correlation == pytest.approx(1, abs=1e-4)


def test_a_point_symmetric_object_raises_no_twin_warning():
    half = np.abs(picture())
    symmetric = (half + half[::-1, ::-1]).astype(np.complex64)
    _, record = align(symmetric, symmetric, mode="gauge", phase_ramp=False)
    assert not record.twin_warning


def test_a_reconstruction_of_zeros_has_no_factor_and_stays():
    aligned, record = align(np.zeros(SHAPE, dtype=np.complex64), picture(), mode="gauge", phase_ramp=True)
    assert record.gauge_abs is None
    assert record.scale_error is None
    assert not aligned.any()
    assert record.record()["correlation"] == 0
