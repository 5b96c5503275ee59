"""From object, probe and positions to diffraction frames in counts (physics section 7).

    psi = P O(patch),   lambda = |F(psi)|^2,   counts ~ Poisson(lambda),   stored amplitude = sqrt(counts)

The probe carries the scale: it is set so that the mean of sum lambda over the frames is the dose, and the scaled probe is what
a scan stores. So one unit of amplitude squared is one photon, and |F(probe * patch)| is the noise-free amplitude (D25).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Complex, Complex64, Float, Float32, Float64

from ptychoflow.physics.fourier import far_field_amplitude
from ptychoflow.physics.patches import gather

BLOCK_BYTES = 4 * 2**20
"""Exit waves computed at a time, bytes: beside its result the simulation needs a few times this memory."""


@dataclass(frozen=True)
class Exposure:
    """The frames of one simulated scan.

    Attributes:
        amplitude: (M, N, N) float32, sqrt(photons).
        probe: (N, N) complex64, sqrt(photons); with the object it reproduces the noise-free amplitude.
        dose_mean_photons: mean over the frames of the photons actually in a frame.
    """

    amplitude: Float32[np.ndarray, "m n n"]
    probe: Complex64[np.ndarray, "n n"]
    dose_mean_photons: float


def predict_amplitude(
    image: Complex[np.ndarray, "h w"],
    probe: Complex[np.ndarray, "*modes n n"],
    positions_rc_px: Float64[np.ndarray, "b 2"],
) -> Float[np.ndarray, "b n n"]:
    """Return the noise-free diffraction amplitude at each position, (B, N, N), in the probe's unit.

    Args:
        image: (H, W) object; zero outside.
        probe: (N, N), or (modes, N, N) incoherent modes, whose *intensities* add (D29).
        positions_rc_px: (B, 2) patch centres, pixels of `image`.
    """
    n = probe.shape[-1]
    patches = gather(image, positions_rc_px, n)
    if probe.ndim == 2:
        return far_field_amplitude(probe * patches)
    intensity = np.zeros(patches.shape, dtype=patches.real.dtype)
    for mode in probe.reshape(-1, n, n):
        intensity += far_field_amplitude(mode * patches) ** 2
    return np.sqrt(intensity)


def expose(
    image: Complex64[np.ndarray, "h w"],
    probe: Complex[np.ndarray, "n n"],
    positions_rc_px: Float64[np.ndarray, "m 2"],
    *,
    dose_photons: float,
    rng: np.random.Generator | None,
) -> Exposure:
    """Return the diffraction frames of a scan at a given dose.

    Args:
        image: (H, W) object.
        probe: (N, N) in any scale.
        positions_rc_px: (M, 2) patch centres, pixels of `image`.
        dose_photons: mean over the frames of the expected photons per frame; frames differ with the object's brightness.
        rng: draws the counts; None stores the noise-free amplitude.

    Raises:
        ValueError: when no light reaches the detector: the object is zero wherever the probe is not.
    """
    n = probe.shape[-1]
    scaled = (probe / np.sqrt(np.sum(np.abs(probe) ** 2))).astype(np.complex64)
    amplitude = np.empty((len(positions_rc_px), n, n), dtype=np.float32)
    blocks = _blocks(len(amplitude), n)
    energy = 0.0
    for part in blocks:
        amplitude[part] = predict_amplitude(image, scaled, positions_rc_px[part])
        energy += float(np.sum(np.square(amplitude[part], dtype=np.float64)))
    if not energy > 0:
        raise ValueError("the object is zero wherever the probe has light: no frame has a photon")
    scale = np.sqrt(dose_photons * len(amplitude) / energy)
    photons = 0.0
    for part in blocks:
        expected = np.square(scale * amplitude[part].astype(np.float64))
        counts = expected if rng is None else rng.poisson(expected)
        photons += float(counts.sum())
        amplitude[part] = np.sqrt(counts)
    return Exposure(amplitude, (scale * scaled).astype(np.complex64), photons / len(amplitude))


def _blocks(n_frames: int, n: int) -> list[slice]:
    """Return slices that cut the frames into blocks of `BLOCK_BYTES` of complex64 exit waves."""
    size = max(1, BLOCK_BYTES // (8 * n * n))
    return [slice(first, first + size) for first in range(0, n_frames, size)]
