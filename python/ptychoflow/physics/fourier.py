"""The one FFT convention: orthonormal, zero frequency at [N//2, N//2] (physics section 7).

    A = |F(psi)|,  F = fftshift . fft2(norm="ortho"),  sum A^2 = sum |psi|^2  (Parseval)

No ifftshift before the transform: it would change only the phase of F(psi), which is never used here.
"""

import numpy as np
import scipy.fft
from jaxtyping import Complex64, Complex128, Float


def far_field_amplitude(
    exit_wave: Complex64[np.ndarray, "*batch n n"] | Complex128[np.ndarray, "*batch n n"],
) -> Float[np.ndarray, "*batch n n"]:
    """Return the diffraction amplitude |F(psi)| of exit waves, in the exit wave's own unit.

    Args:
        exit_wave: (..., N, N) complex; the precision is kept.
    """
    spectrum = scipy.fft.fft2(exit_wave, norm="ortho", workers=1)
    return np.abs(scipy.fft.fftshift(spectrum, axes=(-2, -1)))
