"""A base file: object, probe and perhaps positions that a simulation takes from elsewhere.

Read are scan.npz, recon.npz, and any NPZ with a pair `objectGuess`, `probeGuess` or `object`, `probe`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Complex64, Float64, Int64

from ptychoflow.data.npz import read_npz
from ptychoflow.data.storage import parse_metadata
from ptychoflow.errors import refuse
from ptychoflow.frames import Positions, Region


@dataclass(frozen=True)
class Base:
    """Object, probe and positions taken from a file.

    Attributes:
        object: (H, W) complex64.
        probe: (N, N) complex64.
        positions_rc_px: (M, 2) patch centres in pixels of `object`, or None when the file has none.
        scan_index: (M,) object of each frame.
        regions: rectangle of each object in `object`.
    """

    object: Complex64[np.ndarray, "h w"]
    probe: Complex64[np.ndarray, "n n"]
    positions_rc_px: Float64[np.ndarray, "m 2"] | None
    scan_index: Int64[np.ndarray, "m"]
    regions: tuple[Region, ...]


def load_base(path: Path) -> Base:
    """Read object, probe and, from a scan file, positions.

    Raises:
        ContractError: naming everything that is missing or wrong.
    """
    arrays = read_npz(path)
    image, problems = _complex_array(arrays, ("objectGuess", "object"))
    probe, probe_problems = _complex_array(arrays, ("probeGuess", "probe"))
    problems += probe_problems
    if probe.ndim == 3 and len(probe) > 1:
        problems.append(f"the probe has {len(probe)} modes; a simulated scan stores one: keep the one you want")
    elif probe.ndim == 3:
        probe = probe[0]
    if probe.size and probe.ndim == 2 and probe.shape[0] != probe.shape[1]:
        problems.append(f"the probe must be square, got {probe.shape}")
    if image.size and image.ndim != 2:
        problems.append(f"the object must have shape (H, W), got {image.shape}")
    if probe.size and probe.ndim not in (2, 3):
        problems.append(f"the probe must have shape (N, N), got {probe.shape}")
    positions, scan_index, position_problems = _base_positions(arrays)
    refuse(problems + position_problems, what=f"base file {Path(path).name}")
    regions, problems = _regions(parse_metadata(arrays).get("objects"), (image.shape[0], image.shape[1]))
    refuse(problems, what=f"base file {Path(path).name}")
    return Base(image, probe, positions, scan_index, regions)


def _regions(rectangles: Any, shape: tuple[int, int]) -> tuple[tuple[Region, ...], list[str]]:
    """Return the rectangles `metadata.objects` of a simulated scan, or the whole object where the file has none."""
    if rectangles is None:
        return (Region(0, shape[0], 0, shape[1]),), []
    expected = f"metadata 'objects' must list rectangles [r0, r1, c0, c1] inside the {shape[0]} x {shape[1]} px object"
    bounds = np.asarray(rectangles) if _is_table(rectangles) else np.zeros((0, 4), dtype=int)
    r0, r1, c0, c1 = bounds.T
    good = (r0 >= 0) & (r0 < r1) & (r1 <= shape[0]) & (c0 >= 0) & (c0 < c1) & (c1 <= shape[1])
    if len(bounds) == 0 or not good.all():
        return (), [f"{expected}, got {rectangles}"]
    return tuple(Region(*map(int, row)) for row in bounds), []


def _is_table(rows: Any) -> bool:
    """Return whether JSON holds a list of lists of four whole numbers."""
    return isinstance(rows, list) and all(
        isinstance(row, list) and len(row) == 4 and all(isinstance(value, int) for value in row) for row in rows
    )


def _complex_array(arrays: Mapping[str, np.ndarray], names: tuple[str, str]) -> tuple[np.ndarray, list[str]]:
    """Return the complex64 array under one of two names, and what is wrong with it."""
    found = [name for name in names if name in arrays]
    empty = np.zeros((0, 0), dtype=np.complex64)
    if len(found) != 1:
        return empty, [f"expected one of the keys {names[0]!r} and {names[1]!r}, got {found or sorted(arrays)}"]
    array = arrays[found[0]]
    if array.dtype.kind != "c":
        return empty, [f"'{found[0]}' must be complex, got {array.dtype}"]
    if array.size == 0:
        return empty, [f"'{found[0]}' is empty, shape {array.shape}"]
    if not np.all(np.isfinite(array)):
        return empty, [f"'{found[0]}' has values that are not finite"]
    return np.array(array, dtype=np.complex64), []


def _base_positions(arrays: Mapping[str, np.ndarray]) -> tuple[Positions | None, np.ndarray, list[str]]:
    """Return positions (row, col) and object indices of a scan file; None and no indices without coordinates."""
    if "xcoords" not in arrays or "ycoords" not in arrays:
        return None, np.zeros(0, dtype=np.int64), []
    rows, cols = arrays["ycoords"], arrays["xcoords"]
    index = arrays.get("scan_index", np.zeros(rows.shape))
    if rows.ndim != 1 or rows.shape != cols.shape or index.shape != rows.shape:
        shapes = f"{cols.shape}, {rows.shape} and {index.shape}"
        return (
            None,
            np.zeros(0, dtype=np.int64),
            [f"xcoords, ycoords and scan_index must be equally long, got {shapes}"],
        )
    positions = np.stack([rows, cols], axis=1).astype(np.float64)
    problems = [] if np.all(np.isfinite(positions)) else ["'xcoords' or 'ycoords' has values that are not finite"]
    return positions, np.asarray(index, dtype=np.int64), problems
