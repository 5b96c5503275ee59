"""Probes of simulated scans, and the smoothing that prepares every probe (physics sections 6 and 13, D49).

A probe is an (N, N) complex array in the exit wave's plane, centred on pixel `N // 2`, so that a scan position is the object
pixel under the middle of the illumination. Its scale is arbitrary here: exposing a scan (physics/diffraction.py) sets it.
"""

import numpy as np
import scipy.ndimage
from jaxtyping import Complex, Complex128, Float64

APERTURE_RADIUS = 0.15
"""Aperture radius of the defocused probe, cycles per pixel (0.5 is the edge of the detector)."""
APERTURE_EDGE = 0.01
"""Width of the aperture's soft edge, cycles per pixel; a hard edge would ring across the whole frame."""
ASTIGMATISM = 0.12
"""Relative difference of the defocus along rows (plus) and columns (minus)."""
COMA_RAD = 1.5
"""Coma at the aperture's edge, rad: without it the probe would look the same after a flip."""


def ideal_disk(n: int) -> Complex128[np.ndarray, "n n"]:
    """Return the flat, real disk of the grid-lines workload, (N, N), modulus up to 1.

    With x counted from pixel N // 2 and g(x) = exp(-x^2 / (2 sigma^2)), sigma = N / (0.7 pi^2):

        P = blur(g(row) g(col) > 0.5; Gaussian of 1 px) + 1e-9

    The disk's radius is sigma sqrt(2 ln 2), 0.17 N. Source: physics section 6.
    """
    sigma = n / (0.7 * np.pi**2)
    profile = np.exp(-0.5 * (_pixels(n) / sigma) ** 2)
    disk = (np.outer(profile, profile) > 0.5).astype(np.float64)
    return (scipy.ndimage.gaussian_filter(disk, 1.0, mode="constant") + 1e-9).astype(np.complex128)


def defocused(n: int) -> Complex128[np.ndarray, "n n"]:
    """Return a defocused, slightly aberrated aperture, (N, N), sum |P|^2 = 1; it fills about half the frame's width.

    The far field is a round aperture of radius k_a with a soft edge; its phase spreads the beam in the exit wave's plane:

        P = F^-1{ T(|k|) exp(i pi (b_row k_row^2 + b_col k_col^2) + i C (|k|^2 / k_a^3) (k_row + 3 k_col / 4)) }
        T(k) = 1 / (1 + exp((k - k_a) / w)),   b_row = b (1 + e),  b_col = b (1 - e),   b = N / (4 k_a)

    with k in cycles per pixel. Stationary phase sends k to -b k in the exit wave's plane, so the beam's radius is
    b k_a = N / 4. Astigmatism e and coma C make the probe differ from its own flips and transposes: a wrong orientation
    shows in every test that uses it.
    """
    k = np.fft.fftfreq(n)
    k_row, k_col = k[:, None], k[None, :]
    k_abs = np.hypot(k_row, k_col)
    aperture = 1.0 / (1.0 + np.exp((k_abs - APERTURE_RADIUS) / APERTURE_EDGE))
    defocus = n / (4.0 * APERTURE_RADIUS)
    quadratic = np.pi * defocus * ((1.0 + ASTIGMATISM) * k_row**2 + (1.0 - ASTIGMATISM) * k_col**2)
    coma = COMA_RAD * k_abs**2 / APERTURE_RADIUS**3 * (k_row + 0.75 * k_col)
    field = np.fft.fftshift(np.fft.ifft2(aperture * np.exp(1j * (quadratic + coma))))
    return field / np.sqrt(np.sum(np.abs(field) ** 2))


def smooth(probe: Complex[np.ndarray, "n n"], sigma_px: float) -> Complex128[np.ndarray, "n n"]:
    """Return the probe with real and imaginary part blurred by a Gaussian of `sigma_px`, zero outside the frame.

    Real and imaginary part, not modulus and phase: an unwrapped phase has no meaning where the modulus vanishes, and
    blurring it changes the probe inside its support (D49). 0 px returns the probe as it is.
    """
    if sigma_px == 0:
        return probe.astype(np.complex128)
    real = scipy.ndimage.gaussian_filter(probe.real.astype(np.float64), sigma_px, mode="constant")
    imag = scipy.ndimage.gaussian_filter(probe.imag.astype(np.float64), sigma_px, mode="constant")
    return real + 1j * imag


def _pixels(n: int) -> Float64[np.ndarray, "n"]:
    """Return pixel coordinates counted from pixel N // 2."""
    return np.arange(n, dtype=np.float64) - n // 2
