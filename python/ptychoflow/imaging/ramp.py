"""The linear phase that a reconstruction R lacks to match T: estimated, and made.

The product conj(R) T is a plane wave exp(i (a_row row + a_col col)) wherever R and T agree; its frequency is the peak of the
product's spectrum. Rows and columns count from the first pixel. Source: evaluation reference 2.2.
"""

import numpy as np
import scipy.fft
from jaxtyping import Complex, Complex128
from scipy.sparse import csr_array

ZOOM_ROUNDS = 6
"""Each round refines the ramp fivefold: the last grid has 6e-5 of the FFT's frequency step."""

BLOCKS = 64
"""The product without the ramp found so far is summed over blocks, so many a side, before the zoom."""


def ramp_phasor(shape: tuple[int, ...], ramp_rad_per_px: tuple[float, float]) -> Complex128[np.ndarray, "rows cols"]:
    """Return exp(i (a_row row + a_col col)) on an array of the given shape."""
    rows, cols = (np.exp(1j * slope * np.arange(length)) for slope, length in zip(ramp_rad_per_px, shape, strict=True))
    return np.outer(rows, cols)


def estimate_ramp(
    recon: Complex[np.ndarray, "rows cols"], truth: Complex[np.ndarray, "rows cols"]
) -> tuple[float, float]:
    """Return the phase ramp (row, col), rad per sample, that R lacks to match T; zero where the product is.

    The peak is found on the FFT's grid and then on ever finer grids around it (two small matrix products each). The zoom works
    on sums over blocks of the product, from which the ramp found so far has been taken; it is done twice, because the sums
    are exact only where nothing of the ramp is left.
    """
    product = recon.conj() * truth
    padded = [scipy.fft.next_fast_len(length) for length in product.shape]
    spectrum = np.abs(scipy.fft.fft2(product, s=padded, workers=1))
    peak = np.unravel_index(int(np.argmax(spectrum)), spectrum.shape)
    if spectrum[peak] == 0:
        return 0.0, 0.0
    row, col = (2 * np.pi * float(scipy.fft.fftfreq(length)[index]) for length, index in zip(padded, peak, strict=True))
    for _ in range(2 if max(product.shape) > BLOCKS else 1):
        row, col = _zoomed(product, row, col)
    return row, col


def _zoomed(product: Complex[np.ndarray, "rows cols"], row: float, col: float) -> tuple[float, float]:
    """Return the frequency of the spectrum's peak within one FFT step of (row, col), rad per sample."""
    (row_sums, row_at), (col_sums, col_at) = (
        _block_sums(length, slope, product.dtype) for length, slope in zip(product.shape, (row, col), strict=True)
    )
    blocks = (col_sums @ (row_sums @ product).T).T
    offsets = np.linspace(-1, 1, 11)
    found = (0.0, 0.0)
    for level in range(ZOOM_ROUNDS):
        rows, cols = (
            centre + 2 * np.pi / length / 5**level * offsets
            for centre, length in zip(found, product.shape, strict=True)
        )
        power = np.abs(np.exp(-1j * np.outer(rows, row_at)) @ blocks @ np.exp(-1j * np.outer(col_at, cols)))
        best = np.unravel_index(int(np.argmax(power)), power.shape)
        found = (float(rows[best[0]]), float(cols[best[1]]))
    return row + found[0], col + found[1]


def _block_sums(length: int, slope: float, dtype: np.dtype) -> tuple[csr_array, np.ndarray]:
    """Return the matrix that takes a ramp off and sums over blocks along one axis, and the blocks' centres."""
    pointers = np.linspace(0, length, min(length, BLOCKS) + 1).round().astype(int)
    phasor = np.exp(-1j * slope * np.arange(length)).astype(dtype)
    matrix = csr_array((phasor, np.arange(length), pointers), shape=(len(pointers) - 1, length))
    return matrix, (pointers[:-1] + pointers[1:] - 1) / 2
