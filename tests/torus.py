"""A random band-limited object on a torus: a copy shifted by any fraction of a pixel is exact, without interpolation."""

import numpy as np

TORUS = (222, 256)
SHAPE = (171, 193)
"""What is cut out of the torus, so that its edges are not those of a period."""


def torus_spectrum(seed, cut_off):
    """Return a random spectrum up to `cut_off` of Nyquist, of an image with rms 0.2."""
    rng = np.random.default_rng(seed)
    rows, cols = (np.fft.fftfreq(length) for length in TORUS)
    spectrum = rng.normal(size=(*TORUS, 2)).view(np.complex128)[..., 0]
    spectrum *= np.hypot(rows[:, None], cols) < cut_off / 2
    return spectrum * 0.2 * np.prod(TORUS) / np.linalg.norm(spectrum)


def torus_object(seed=0, *, shift=(0.0, 0.0), cut_off=0.9):
    """Return a complex object, 1 + structure, whose content lies `shift` px further down and right."""
    rows, cols = (np.fft.fftfreq(length) for length in TORUS)
    phase = np.exp(-2j * np.pi * (rows[:, None] * shift[0] + cols * shift[1]))
    structure = np.fft.ifft2(torus_spectrum(seed, cut_off) * phase)
    return (1 + structure)[: SHAPE[0], : SHAPE[1]].astype(np.complex64)
