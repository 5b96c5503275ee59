"""Alignment of a reconstruction R to a truth T on one grid: what ptychography leaves undetermined, removed and recorded.

    R' = g R exp(i (a_row row + a_col col)),   g = sum conj(R) T / sum |R|^2   (R with the ramp already on it)

Only R changes, T never does. Rows and columns count from the first pixel of the rectangle. Scores are taken elsewhere
(metrics/image.py). Source: evaluation reference 2.2; the gauge is the least-squares factor of R to T.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import scipy.fft
from jaxtyping import Complex, Complex64, Complex128, Float64

ZOOM_ROUNDS = 6
"""Each round refines the ramp fivefold: the last grid has 6e-5 of the FFT's frequency step."""

TWIN_MARGIN = 0.01
"""The twin must win by this much: a point-symmetric object correlates with both alike."""


@dataclass(frozen=True)
class Alignment:
    """What was done to a reconstruction, and what was found on the way.

    Attributes:
        mode: `gauge` when the factor was applied, `none` when the reconstruction was left as it is (the factor is still told).
        gauge_abs: modulus of the least-squares factor g; None for a reconstruction that is zero.
        gauge_arg_rad: phase of g.
        scale_error: |g| - 1.
        ramp_rad_per_px: phase ramp (row, col) that was put on R; None when none was asked for.
        correlation: largest modulus of the circular cross-correlation of R and T without their means, over all shifts.
        twin_correlation: the same for the conjugated, point-mirrored R.
        twin_warning: the twin image fits better; nothing was flipped.
    """

    mode: Literal["none", "gauge"]
    gauge_abs: float | None
    gauge_arg_rad: float | None
    scale_error: float | None
    ramp_rad_per_px: tuple[float, float] | None
    correlation: float
    twin_correlation: float
    twin_warning: bool

    def record(self) -> dict[str, Any]:
        """Return the alignment as strict JSON holds it."""
        fields = asdict(self)
        fields["ramp_rad_per_px"] = None if self.ramp_rad_per_px is None else list(self.ramp_rad_per_px)
        return fields


def align(
    recon: Complex[np.ndarray, "h w"],
    truth: Complex[np.ndarray, "h w"],
    *,
    mode: Literal["none", "gauge"],
    phase_ramp: bool,
) -> tuple[Complex64[np.ndarray, "h w"], Alignment]:
    """Return the reconstruction without its free complex factor and, when asked for, its phase ramp; and the record.

    Args:
        recon: (H, W) reconstruction, cut to the scored rectangle.
        truth: (H, W) truth or reference on the same pixels.
        mode: `gauge` applies the complex factor; `none` does not.
        phase_ramp: also remove a linear phase.
    """
    aligned, target = recon.astype(np.complex128), truth.astype(np.complex128)
    ramp = None
    if phase_ramp:
        ramp = estimate_ramp(aligned, target)
        aligned *= ramp_phasor(target.shape, ramp)
    factor = gauge_factor(aligned, target)
    if mode == "gauge" and factor is not None:
        aligned *= factor
    direct, twin = _twin_correlations(aligned, target)
    return aligned.astype(np.complex64), Alignment(
        mode=mode,
        gauge_abs=None if factor is None else abs(factor),
        gauge_arg_rad=None if factor is None else float(np.angle(factor)),
        scale_error=None if factor is None else abs(factor) - 1,
        ramp_rad_per_px=ramp,
        correlation=direct,
        twin_correlation=twin,
        twin_warning=twin > direct + TWIN_MARGIN,
    )


def gauge_factor(recon: Complex128[np.ndarray, "h w"], truth: Complex128[np.ndarray, "h w"]) -> complex | None:
    """Return g = sum conj(R) T / sum |R|^2, the factor that brings R closest to T; None when R is zero."""
    energy = float(np.vdot(recon, recon).real)
    return complex(np.vdot(recon, truth)) / energy if energy > 0 else None


def ramp_phasor(shape: tuple[int, ...], ramp_rad_per_px: tuple[float, float]) -> Complex128[np.ndarray, "h w"]:
    """Return exp(i (a_row row + a_col col)) on an array of the given shape."""
    rows, cols = (np.exp(1j * slope * np.arange(length)) for slope, length in zip(ramp_rad_per_px, shape, strict=True))
    return np.outer(rows, cols)


def estimate_ramp(recon: Complex128[np.ndarray, "h w"], truth: Complex128[np.ndarray, "h w"]) -> tuple[float, float]:
    """Return the phase ramp (row, col), rad/px in [-pi, pi], that R lacks to match T.

    The product conj(R) T then is a plane wave, whose frequency is the peak of its spectrum: first on the FFT's grid, then on
    ever finer grids around the peak (the spectrum evaluated there by two small matrix products).
    """
    product = recon.conj() * truth
    peak = np.unravel_index(int(np.argmax(np.abs(scipy.fft.fft2(product, workers=1)))), product.shape)
    ramp = [
        2 * np.pi * float(scipy.fft.fftfreq(length)[index]) for length, index in zip(product.shape, peak, strict=True)
    ]
    offsets = np.linspace(-1, 1, 11)
    for level in range(ZOOM_ROUNDS):
        steps = [2 * np.pi / length / 5**level for length in product.shape]
        slopes = [centre + step * offsets for centre, step in zip(ramp, steps, strict=True)]
        best = np.unravel_index(int(np.argmax(_power_at(product, slopes[0], slopes[1]))), (len(offsets), len(offsets)))
        ramp = [float(slope[index]) for slope, index in zip(slopes, best, strict=True)]
    return ramp[0], ramp[1]


def _power_at(
    product: Complex128[np.ndarray, "h w"], row_slopes: Float64[np.ndarray, "k"], col_slopes: Float64[np.ndarray, "k"]
) -> Float64[np.ndarray, "k k"]:
    """Return the modulus of the spectrum of `product` at the given angular frequencies, rad/px."""
    rows = np.exp(-1j * np.outer(row_slopes, np.arange(product.shape[0])))
    cols = np.exp(-1j * np.outer(np.arange(product.shape[1]), col_slopes))
    return np.abs(rows @ product @ cols)


def _twin_correlations(
    recon: Complex128[np.ndarray, "h w"], truth: Complex128[np.ndarray, "h w"]
) -> tuple[float, float]:
    """Return the largest correlation over shifts of T with R, and with the twin conj(R(-x)); 0 for a constant image.

    The twin's spectrum is the conjugate of R's, up to the phase of a shift, so no second transform of R is needed.
    """
    r, t = recon - recon.mean(), truth - truth.mean()
    energy = float(np.vdot(r, r).real) * float(np.vdot(t, t).real)
    if energy == 0:
        return 0.0, 0.0
    spectrum_r, spectrum_t = scipy.fft.fft2(r, workers=1), scipy.fft.fft2(t, workers=1)
    direct = scipy.fft.ifft2(spectrum_r.conj() * spectrum_t, workers=1)
    twin = scipy.fft.ifft2(spectrum_r * spectrum_t, workers=1)
    norm = np.sqrt(energy)
    return float(np.abs(direct).max() / norm), float(np.abs(twin).max() / norm)
