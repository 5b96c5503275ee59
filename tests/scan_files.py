"""Small scan files for the tests of ingest and validate: a non-square object without symmetry, an anisotropic scan, odd N."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from ptychoflow.provenance import sha256_file
from ptychoflow.records import View

N, M, SHAPE = 17, 40, (61, 83)
"""Side and number of frames, and the object's shape, px."""


def made_from(view: View, scan: Path) -> View:
    """Return the view as PREPARE would have made it from this file: with the file's checksum, and a split."""
    sha256 = sha256_file(scan)
    facts = {"split": {"kind": "none"}, **view.metadata}
    return replace(view, metadata={**facts, "scans": {"train": sha256, "test": sha256}})


def scan_arrays(seed: int = 0) -> dict[str, np.ndarray]:
    """Return a contract scan whose probe and object reproduce its noise-free frames.

    The frames come from plain `numpy.fft` on whole-pixel patches: not from the package, so that they can judge it.
    """
    rng = np.random.default_rng(seed)
    rough = rng.normal(size=(2, *SHAPE))
    amplitude, phase = (gaussian_filter(field, 1.5) for field in rough)
    image = (1 + 1.5 * amplitude) * np.exp(4j * phase)
    axis = np.arange(N) - N // 2
    probe = (
        20 * np.exp(-(axis[:, None] ** 2 + axis[None, :] ** 2) / 30) * np.exp(0.05j * (axis[:, None] ** 2 + axis**2))
    )
    half = N // 2
    rows = rng.integers(half, SHAPE[0] - half, M)
    cols = rng.integers(half, SHAPE[1] - half, M)
    patches = np.stack(
        [image[r - half : r + half + 1, c - half : c + half + 1] for r, c in zip(rows, cols, strict=True)]
    )
    spectrum = np.fft.fftshift(np.fft.fft2(probe * patches, norm="ortho"), axes=(1, 2))
    return {
        "diff3d": np.abs(spectrum).astype(np.float32),
        "xcoords": cols.astype(np.float64),
        "ycoords": rows.astype(np.float64),
        "probeGuess": probe.astype(np.complex64),
        "objectGuess": image.astype(np.complex64),
    }


def write(folder: Path, arrays: dict, name: str = "given.npz") -> Path:
    """Write arrays with NumPy's own writer and return the path."""
    path = folder / name
    np.savez(path, **arrays)
    return path


def grid_lines_arrays(*, corners: bool = False, scale: float = 1.0) -> dict[str, np.ndarray]:
    """Return a cached grid-lines file of gridsize 1, its offsets (row, col) of patch centres or of first pixels."""
    scan = scan_arrays()
    rows_cols = np.stack([scan["ycoords"], scan["xcoords"]], axis=1) - (N // 2 if corners else 0)
    return {
        "diffraction": scan["diff3d"][..., None],
        "Y_I": np.ones((M, N, N, 1), np.float32),
        "Y_phi": np.zeros((M, N, N, 1), np.float32),
        "coords_nominal": np.zeros((M, 1, 2, 1)),
        "coords_true": np.zeros((M, 1, 2, 1)),
        "coords_offsets": rows_cols[:, None, :, None],
        "YY_full": scan["objectGuess"][None, :, :, None],
        "YY_ground_truth": scan["objectGuess"][8:-8, 8:-8, None],
        "probeGuess": scan["probeGuess"] * np.complex64(scale),
        "norm_Y_I": np.float64(4.2),
    }


def tike_arrays() -> dict[str, np.ndarray]:
    """Return a tike file of counts, with leading axes and a second probe mode; made with `ifftshift`, the inverse way."""
    scan = scan_arrays()
    counts = np.round(scan["diff3d"].astype(np.float64) ** 2)
    probe = np.stack([scan["probeGuess"], 0.1 * scan["probeGuess"]])
    return {
        "data": np.fft.ifftshift(counts, axes=(1, 2)).astype(np.uint16)[None],
        "probe": probe[None, None, None],
        "scan": (np.stack([scan["ycoords"], scan["xcoords"]], axis=1) - N // 2).astype(np.float32)[None],
    }
