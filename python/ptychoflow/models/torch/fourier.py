"""PyTorch twin of physics/fourier.py: the same orthonormal FFT, zero frequency at [N//2, N//2]."""

import torch
from jaxtyping import Complex64, Float32
from torch import Tensor


def far_field_amplitude(exit_wave: Complex64[Tensor, "*batch n n"]) -> Float32[Tensor, "*batch n n"]:
    """Return |F(psi)|; its gradient at 0 is 0."""
    spectrum = torch.fft.fft2(exit_wave, norm="ortho")
    return torch.fft.fftshift(spectrum, dim=(-2, -1)).abs()
