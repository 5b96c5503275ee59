"""TensorFlow twin of physics/fourier.py: the same orthonormal FFT, zero frequency at [N//2, N//2]."""

import tensorflow as tf
from jaxtyping import Complex64, Float32


def far_field_amplitude(exit_wave: Complex64[tf.Tensor, "*batch n n"]) -> Float32[tf.Tensor, "*batch n n"]:
    """Return |F(psi)|; its gradient at 0 is 0."""
    amplitude = tf.abs(tf.signal.fft2d(exit_wave)) / exit_wave.shape[-1]
    return tf.signal.fftshift(amplitude, axes=(-2, -1))
