"""How far a reconstruction lies from where its truth says it should. Only an estimate; nothing is moved here.

    c(s) = sum_x conj(T(x)) R(x + s),   shift = argmax Re(c(s) u)  within +- the limit

R and T lose their mean under a Tukey window; u is the phase that contrast and means share. The peak is found on a grid of half
pixels, then on one of tenths around it (the spectrum evaluated there by matrix products) and by a quadratic. A window at a
fixed place pulls the peak towards zero, so R is read anew at the shift found so far, until nothing is left: then both windows
hold the same object, and the bias is gone.

Estimates are made on low-passed copies of at most `SIDE` samples a side, read straight out of the full arrays by one sparse
matrix per axis, which also takes out a phase ramp. Source: Guizar-Sicairos, Thurman, Fienup, Opt. Lett. 33, 156 (2008).
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np
import scipy.fft
from jaxtyping import Complex, Complex64, Float32, Float64
from scipy import ndimage
from scipy.sparse import csr_array

Pair = tuple[float, float]

SIDE = 256
"""Samples a side at most: larger arrays are low-passed and thinned by a whole factor."""

WIDTH = 1.5
"""Zeros of the reading kernel lie this many samples apart: it ends well below the Nyquist frequency, where no kernel could tell
a delay; in what it passes, the delay is right to 1e-4."""

LOBES = 4
"""Half width of the reading kernel, in zeros."""

LAG_STEP = 0.5
"""Spacing, in samples, of the first grid of shifts; the correlation is band-limited to twice that."""

FINE_STEP = 0.1
"""Spacing, in samples, of the second grid, around the highest point of the first; a quadratic finds the summit between."""

FINE_LAGS = np.arange(-6, 7)
"""It reaches a little further than the first grid's spacing."""

ROUNDS = 4
"""At most this many readings of R at the shift found so far."""

SETTLED = 3e-3
"""Change of the shift, in samples, at which the readings end."""

SMALLEST_SIDE = 16
"""Samples a side below which no shift is looked for: under the window hardly any would be left."""

FLAT = 1e-5
"""Relative spread below which an image has no structure (single precision leaves 1e-7)."""


@dataclass(frozen=True)
class Peak:
    """A peak of the correlation.

    Attributes:
        shift: how far R's content lies from where it should be, (row, col) in samples.
        correlation: normalized correlation there, in [0, 1].
        runner_up: the highest other peak within the limit, relative to this one; 0 without one.
        on_limit: the correlation still rises at the limit.
    """

    shift: Pair
    correlation: float
    runner_up: float
    on_limit: bool


NO_PEAK = Peak((0.0, 0.0), 0.0, 0.0, on_limit=False)


def thinned(
    image: Complex[np.ndarray, "h w"],
    start_rc: Pair,
    step: float,
    shape: tuple[int, int],
    *,
    ramp_rc: Pair = (0.0, 0.0),
) -> Complex64[np.ndarray, "rows cols"]:
    """Return samples of `image * exp(i (a_row row + a_col col))`, low-passed by a sinc under a Blackman window.

    Args:
        image: (H, W) complex.
        start_rc: position of sample [0, 0] in `image`, px; may lie outside, where the border pixel continues.
        step: spacing of the samples, px.
        shape: (rows, cols) of samples.
        ramp_rc: phase ramp put on `image`, rad per its pixel.
    """
    (rows, r0), (cols, c0) = (
        _reader(side, start, step, count, slope)
        for side, start, count, slope in zip(image.shape, start_rc, shape, ramp_rc, strict=True)
    )
    cut = image[r0 : r0 + rows.shape[1], c0 : c0 + cols.shape[1]].astype(np.complex64, copy=False)
    return np.ascontiguousarray((cols @ (rows @ cut).T).T)


def _reader(side: int, start: float, step: float, count: int, slope: float) -> tuple[csr_array, int]:
    """Return the (count, pixels) matrix that reads samples along one axis, and the first pixel it reads."""
    width = WIDTH * max(1.0, step)
    positions = start + step * np.arange(count)
    pixels = np.floor(positions).astype(int)[:, None] + np.arange(-ceil(LOBES * width) + 1, ceil(LOBES * width) + 1)
    distance = (pixels - positions[:, None]) / width
    weights = np.where(np.abs(distance) < LOBES, np.sinc(distance) * _blackman(distance / LOBES), 0)
    weights /= weights.sum(axis=1, keepdims=True)
    taps = weights * np.exp(1j * slope * pixels)
    pixels = np.clip(pixels, 0, side - 1)
    low, high = int(pixels.min()), int(pixels.max())
    pointers = np.arange(0, pixels.size + 1, pixels.shape[1])
    matrix = csr_array(
        (taps.astype(np.complex64).ravel(), (pixels - low).ravel(), pointers), shape=(count, high - low + 1)
    )
    return matrix, low


def _blackman(place: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    """Return the Blackman window at places in [-1, 1]."""
    return 0.42 + 0.5 * np.cos(np.pi * place) + 0.08 * np.cos(2 * np.pi * place)


def tapered(side: int) -> Float32[np.ndarray, "n"]:
    """Return a Tukey window that is flat over its middle half and not yet zero at its first and last pixel.

    `scipy.signal.windows.tukey(side + 2, 0.5)` without its ends; importing that takes longer than a registration.
    """
    from_middle = np.abs(np.arange(1, side + 1) * 2 / (side + 1) - 1)
    return (0.5 * (1 + np.cos(np.pi * np.clip(2 * from_middle - 1, 0, 1)))).astype(np.float32)


def has_structure(image: Complex[np.ndarray, "rows cols"]) -> bool:
    """Return whether an image varies at all."""
    size = float(np.abs(image).max())
    return bool(np.abs(image - image.mean()).max() > FLAT * size) if size > 0 else False


def find_peak(
    recon: Complex[np.ndarray, "rows cols"], truth: Complex[np.ndarray, "rows cols"], low: Pair, high: Pair
) -> Peak:
    """Return the highest peak of the windowed complex correlation of two images.

    Args:
        recon: (rows, cols) image whose content is displaced.
        truth: (rows, cols) image it is compared with.
        low: smallest shift (row, col) that counts, samples.
        high: largest one.
    """
    rows, cols = (tapered(side) for side in truth.shape)
    window = np.outer(rows, cols)
    means = [complex(rows @ image @ cols) / float(rows.sum() * cols.sum()) for image in (recon, truth)]
    r, t = (window * (image - mean) for image, mean in zip((recon, truth), means, strict=True))
    energy = float(np.vdot(r, r).real) * float(np.vdot(t, t).real)
    if energy == 0:
        return NO_PEAK
    spectrum = scipy.fft.fft2(t, workers=1).conj() * scipy.fft.fft2(r, workers=1)
    coarse = [np.linspace(a, b, max(3, ceil((b - a) / LAG_STEP) + 1)) for a, b in zip(low, high, strict=True)]
    wide = _correlation_at(spectrum, coarse[0], coarse[1])
    phase = common_phase(wide, means[0] * means[1].conjugate() * float(np.vdot(window, window)))
    surface = (wide * phase).real
    top = np.unravel_index(int(np.argmax(surface)), surface.shape)
    fine = [axis[index] + FINE_STEP * FINE_LAGS for axis, index in zip(coarse, top, strict=True)]
    summit, value = _summit((_correlation_at(spectrum, fine[0], fine[1]) * phase).real)
    if value <= 0:
        return NO_PEAK
    at = [axis[0] + FINE_STEP * index for axis, index in zip(fine, summit, strict=True)]
    inside = [float(np.clip(lag, a, b)) for lag, a, b in zip(at, low, high, strict=True)]
    return Peak(
        (inside[0], inside[1]), min(1.0, value / sqrt(energy)), _runner_up(surface, top) / value, on_limit=inside != at
    )


def common_phase(correlation: Complex[np.ndarray, "k m"], of_means: complex) -> complex:
    """Return the unit factor that makes a correlation real where it fits best together with that of the means.

    Contrast and mean share one free factor. With its phase fixed by both, contrast of the wrong sign (a conjugate, a lattice
    half a period off) correlates negatively; the modulus alone could not tell.

    Args:
        correlation: of the images without their means, at any lags.
        of_means: what the means add at every lag.
    """
    total = correlation + of_means
    best = complex(total.ravel()[int(np.argmax(np.abs(total)))])
    return best.conjugate() / abs(best) if best != 0 else 1.0 + 0j


def _summit(surface: Float32[np.ndarray, "k m"]) -> tuple[Pair, float]:
    """Return position (in cells) and value of the quadratic through the highest cell and its eight neighbours."""
    top = np.unravel_index(int(np.argmax(surface)), surface.shape)
    row, col = (int(np.clip(index, 1, length - 2)) for index, length in zip(top, surface.shape, strict=True))
    cells = surface[row - 1 : row + 2, col - 1 : col + 2]
    slope = np.array([cells[2, 1] - cells[0, 1], cells[1, 2] - cells[1, 0]]) / 2
    mixed = (cells[2, 2] - cells[2, 0] - cells[0, 2] + cells[0, 0]) / 4
    bend = np.array(
        [
            [cells[2, 1] - 2 * cells[1, 1] + cells[0, 1], mixed],
            [mixed, cells[1, 2] - 2 * cells[1, 1] + cells[1, 0]],
        ]
    )
    step = np.clip(-np.linalg.pinv(bend) @ slope, -1, 1)
    return (row + float(step[0]), col + float(step[1])), float(cells[1, 1] + slope @ step / 2)


def _correlation_at(
    spectrum: Complex64[np.ndarray, "rows cols"], row_lags: Float64[np.ndarray, "k"], col_lags: Float64[np.ndarray, "m"]
) -> Complex64[np.ndarray, "k m"]:
    """Return the inverse transform of a cross spectrum at the given lags, samples."""
    rows, cols = (scipy.fft.fftfreq(side) for side in spectrum.shape)
    left = np.exp(2j * np.pi * np.outer(row_lags, rows)).astype(np.complex64)
    right = np.exp(2j * np.pi * np.outer(cols, col_lags)).astype(np.complex64)
    return left @ spectrum @ right / np.float32(spectrum.size)


def _runner_up(surface: Float32[np.ndarray, "k m"], top: tuple[np.intp, ...]) -> float:
    """Return the highest local maximum that is neither the top, nor next to it, nor on the border; 0 without one."""
    peaks = surface == ndimage.maximum_filter(surface, 3, mode="nearest")
    peaks[0], peaks[-1], peaks[:, 0], peaks[:, -1] = False, False, False, False
    near = tuple(slice(max(0, int(index) - 1), int(index) + 2) for index in top)
    peaks[near] = False
    return float(surface[peaks].max(initial=0))


def find_shift(
    read: Callable[[Pair], Complex64[np.ndarray, "rows cols"]],
    truth: Complex64[np.ndarray, "rows cols"],
    *,
    limit: float,
    start: Pair = (0.0, 0.0),
) -> Peak:
    """Return the shift at which R matches T, with R read anew at the shift found so far.

    Args:
        read: returns R's samples displaced by a shift (row, col) in samples.
        truth: (rows, cols) samples of T.
        limit: largest shift per axis, samples.
        start: shift of the first reading.
    """
    shift = start
    for _ in range(ROUNDS):
        low, high = ((side - shift[0], side - shift[1]) for side in (-limit, limit))
        peak = find_peak(read(shift), truth, low, high)
        shift = (shift[0] + peak.shift[0], shift[1] + peak.shift[1])
        if max(abs(value) for value in peak.shift) < SETTLED:
            break
    return Peak(shift, peak.correlation, peak.runner_up, peak.on_limit)
