"""Probes and their preparation (physics sections 6 and 13; D49)."""

import numpy as np
import pytest

from ptychoflow.physics.probe import defocused, ideal_disk, smooth


def spread(probe: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centroid and root-mean-square width (row, col) of the intensity, px from pixel N // 2."""
    intensity = np.abs(probe) ** 2 / np.sum(np.abs(probe) ** 2)
    x = np.arange(len(probe)) - len(probe) // 2
    marginals = np.stack([intensity.sum(axis=1), intensity.sum(axis=0)])
    centroid = marginals @ x
    return centroid, np.sqrt(marginals @ x**2 - centroid**2)


@pytest.mark.parametrize("n", [64, 65, 128])
def test_ideal_disk_has_the_stated_radius_and_centre(n: int) -> None:
    """Independent source: geometry. Where the product of two Gaussians is 0.5, r = sigma sqrt(2 ln 2), sigma = N / (0.7 pi^2)."""
    disk = ideal_disk(n)
    radius = n / (0.7 * np.pi**2) * np.sqrt(2 * np.log(2))
    row, col = np.meshgrid(np.arange(n) - n // 2, np.arange(n) - n // 2, indexing="ij")
    r = np.hypot(row, col)
    assert disk.real[r < radius - 4].min() > 0.99
    assert disk.real[r > radius + 5].max() < 1e-4
    assert disk.real.min() >= 1e-9
    assert not disk.imag.any()
    np.testing.assert_allclose(spread(disk)[0], 0, atol=1e-9)
    assert disk.real.sum() == pytest.approx(np.pi * radius**2, rel=0.03)


@pytest.mark.parametrize("n", [64, 65, 128, 256])
def test_defocused_probe_is_compact_and_fills_about_half(n: int) -> None:
    """Independent source: ray optics. A disk of radius N/4 has an rms width of N/8 along each axis; the edge is soft."""
    probe = defocused(n)
    centroid, width = spread(probe)
    assert np.sum(np.abs(probe) ** 2) == pytest.approx(1.0)
    assert np.all(np.abs(centroid) < 2.0)
    assert np.all((width > 0.8 * n / 8) & (width < 1.3 * n / 8))
    assert width[0] > 1.1 * width[1]
    edge = n // 8
    assert np.sum(np.abs(probe[edge:-edge, edge:-edge]) ** 2) > 0.99


def test_defocused_probe_shows_every_wrong_orientation() -> None:
    """No flip, transpose or conjugate of the probe comes close to the probe, whatever the global phase."""
    probe = defocused(64)
    wrong = [probe[::-1], probe[:, ::-1], probe[::-1, ::-1], probe.T, probe.T[::-1], probe.T[:, ::-1], probe.conj()]
    for other in wrong:
        best = max(abs(np.vdot(np.roll(other, (a, b), (0, 1)), probe)) for a in range(-3, 4) for b in range(-3, 4))
        assert best < 0.97


def test_smoothing_is_the_gaussian_convolution_of_the_complex_wave() -> None:
    """D49. Independent source: the analytic convolution of exp(-x^2 / 2s^2 + ikx) with a Gaussian of sigma.

    The phase runs through many turns: an unwrapped or blurred phase could not give this.
    """
    n, s, k, sigma = 65, 8.0, 0.9, 1.0
    x = np.arange(n) - n // 2
    wave = np.exp(-(x**2) / (2 * s**2) + 1j * k * x)
    total = s**2 + sigma**2
    blurred = s / np.sqrt(total) * np.exp((-(x**2) + 2j * k * s**2 * x - (k * s * sigma) ** 2) / (2 * total))
    out = smooth(np.outer(wave, wave), sigma)
    # SciPy cuts the kernel at 4 sigma, which changes values by some 1e-4 of the peak.
    np.testing.assert_allclose(out, np.outer(blurred, blurred), atol=3e-4)


def test_smoothing_leaves_a_smooth_probe_inside_its_support() -> None:
    """D49: the default 0.5 px changes a slowly varying probe by under 2 %, in modulus and in phase, and keeps flat areas."""
    n = 64
    x = np.arange(n) - n // 2
    r2 = x[:, None] ** 2 + x[None, :] ** 2
    probe = np.exp(-r2 / (2 * 10.0**2) + 1j * r2 / 60.0)
    out = smooth(probe, 0.5)
    support = r2 < 10**2
    assert np.abs(out - probe)[support].max() < 0.05
    assert np.abs(np.angle(out / probe))[support].max() < 0.02
    np.testing.assert_allclose(smooth(np.full((33, 33), 2 - 1j), 0.5)[5:-5, 5:-5], 2 - 1j, rtol=1e-12)


def test_no_smoothing_is_the_identity_and_nothing_is_mutated() -> None:
    probe = defocused(32)
    before = probe.copy()
    np.testing.assert_array_equal(smooth(probe, 0.0), before)
    smooth(probe, 1.0)
    np.testing.assert_array_equal(probe, before)
