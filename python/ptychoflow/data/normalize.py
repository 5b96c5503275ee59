"""The one home of scaling (physics section 6): alpha, intensity scale, object scale; measured on train frames only (D21).

alpha = sqrt((N/2)^2 / mean_frames(sum_pixels A^2)),   X = alpha A        network input: mean energy (N/2)^2
s     = sqrt(photons per A^2) / alpha,                 s X = sqrt(counts)  counts amplitude
object scale = sqrt(mean_frames(sum_pixels A^2) / sum_pixels |P|^2)        illuminated RMS modulus of the object
"""

import numpy as np
from jaxtyping import Complex64, Float32, Int64, Real

from ptychoflow.errors import ContractError
from ptychoflow.records import Normalization

BLOCK = 256


def measure_normalization(
    amplitude: Real[np.ndarray, "m n n"],
    frames: Int64[np.ndarray, "f"],
    probe: Complex64[np.ndarray, "n n"],
    *,
    photons_per_intensity: float | None,
) -> Normalization:
    """Return the scaling of a train set. Frames are read in blocks and squared in float64 (D2).

    Args:
        amplitude: (M, N, N) diffraction amplitude of the scan, possibly memory-mapped.
        frames: train frames.
        probe: (N, N) complex probe in the unit of the amplitude.
        photons_per_intensity: photons in one unit of amplitude squared; 1 is assumed and said when None.

    Raises:
        ContractError: the frames hold no signal.
    """
    n = amplitude.shape[-1]
    energy = sum(
        float(np.sum(np.square(amplitude[frames[start : start + BLOCK]], dtype=np.float64)))
        for start in range(0, len(frames), BLOCK)
    ) / len(frames)
    if not energy > 0:
        raise ContractError("the train frames hold no signal: the sum of all amplitudes squared is 0")
    photons = 1.0 if photons_per_intensity is None else photons_per_intensity
    alpha = float(np.sqrt((n / 2) ** 2 / energy))
    return Normalization(
        alpha=alpha,
        intensity_scale=float(np.sqrt(photons) / alpha),
        object_scale=float(np.sqrt(energy / np.sum(np.abs(probe.astype(np.complex128)) ** 2))),
        mean_counts_per_pixel=photons * energy / n**2,
        photons_known=photons_per_intensity is not None,
    )


def network_input(amplitude: Real[np.ndarray, "b n n"], normalization: Normalization) -> Float32[np.ndarray, "b n n"]:
    """Return X = alpha A as float32."""
    return (normalization.alpha * np.asarray(amplitude, dtype=np.float64)).astype(np.float32)


def counts_from_input(
    network_amplitude: Float32[np.ndarray, "b n n"], normalization: Normalization
) -> Real[np.ndarray, "b n n"]:
    """Return photon counts (s X)^2 for network-scale amplitudes, float64: the inverse of `network_input` and the square root."""
    return np.square(normalization.intensity_scale * network_amplitude.astype(np.float64))
