"""The FFT convention: orthonormal, zero frequency at [N//2, N//2] (physics section 7, T2)."""

import numpy as np
import pytest

from ptychoflow.physics.fourier import far_field_amplitude


def exit_waves(n: int, dtype: type = np.complex128) -> np.ndarray:
    rng = np.random.default_rng(n)
    return (rng.normal(size=(3, n, n)) + 1j * rng.normal(size=(3, n, n))).astype(dtype)


@pytest.mark.parametrize("n", [8, 9, 64])
def test_parseval(n: int) -> None:
    """T2: sum A^2 = sum |psi|^2, per frame."""
    psi = exit_waves(n)
    energy = (far_field_amplitude(psi) ** 2).sum(axis=(1, 2))
    np.testing.assert_allclose(energy, (np.abs(psi) ** 2).sum(axis=(1, 2)), rtol=1e-12)


@pytest.mark.parametrize("n", [8, 9])
def test_a_constant_wave_is_one_pixel_at_the_middle(n: int) -> None:
    """T2: the mean of the wave is at [N//2, N//2], for even and odd N, with value N times the constant."""
    amplitude = far_field_amplitude(np.full((n, n), 2.0 + 0j))
    expected = np.zeros((n, n))
    expected[n // 2, n // 2] = 2.0 * n
    np.testing.assert_allclose(amplitude, expected, atol=1e-12)


@pytest.mark.parametrize("n", [8, 9])
def test_a_tilted_wave_moves_towards_its_own_side(n: int) -> None:
    """Orientation: exp(+2 pi i (2 row - col) / N) is a peak 2 rows below and 1 column left of the middle."""
    row, col = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    amplitude = far_field_amplitude(np.exp(2j * np.pi * (2 * row - col) / n))
    assert np.unravel_index(amplitude.argmax(), amplitude.shape) == (n // 2 + 2, n // 2 - 1)


@pytest.mark.parametrize("n", [6, 7])
def test_equals_the_written_out_sum(n: int) -> None:
    """Independent source: the DFT as a matrix product, frequencies -N//2 .. written from the definition."""
    k = np.arange(n) - n // 2
    matrix = np.exp(-2j * np.pi * np.outer(k, np.arange(n)) / n) / np.sqrt(n)
    psi = exit_waves(n)
    np.testing.assert_allclose(far_field_amplitude(psi), np.abs(matrix @ psi @ matrix.T), atol=1e-12)


def test_single_precision_stays_single() -> None:
    """complex64 in, float32 out, within single-precision rounding of the double result."""
    psi = exit_waves(16)
    single = far_field_amplitude(psi.astype(np.complex64))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, far_field_amplitude(psi), rtol=1e-5, atol=1e-5)
