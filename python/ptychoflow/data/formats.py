"""Scan files from outside, told apart by their keys and brought to one form; shapes and dtypes are settled here.

| format | keys | frames | positions |
|---|---|---|---|
| contract NPZ | `diff3d` or `diffraction`, `xcoords`, `ycoords`, `probeGuess` | amplitude, centred | patch centres |
| grid-lines NPZ | `diffraction`, `coords_offsets`, `probe_simulated` | amplitude, centred | (row, col), origin unsaid |
| tike NPZ | `data`, `scan`, `probe` | counts, zero frequency at the corner | (row, col) of the patch's first pixel |

Sources: physics sections 2.1, 2.2, 2.6. Values are checked afterwards, in data/ingest.py.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ptychoflow.config import IngestConfig
from ptychoflow.data.foreign import read_grid_lines, read_tike
from ptychoflow.data.npz import read_npz
from ptychoflow.data.rawscan import (
    LEGACY_METADATA,
    RawScan,
    as_complex64,
    frames_first,
    probe_problems,
    same_arrays,
    say_ignored,
)
from ptychoflow.data.schema import SCAN
from ptychoflow.data.storage import parse_metadata
from ptychoflow.errors import ContractError, refuse

FRAME_KEYS = ("diff3d", "diffraction")


def read_source(path: Path, config: IngestConfig) -> RawScan:
    """Read a file of any known format.

    Raises:
        ContractError: unknown format, missing or duplicate keys, pickles, wrong dtypes or shapes; everything found is named.
    """
    path = Path(path)
    arrays, notes = read_arrays(path)
    if LEGACY_METADATA in arrays:
        arrays.setdefault("metadata", arrays[LEGACY_METADATA])
    metadata = parse_metadata(arrays, what=path.name)
    if "data" in arrays and "scan" in arrays:
        return read_tike(arrays, metadata, notes, what=path.name)
    coordinates = {"xcoords", "ycoords"} & set(arrays)
    if not coordinates and ("coords_offsets" in arrays or "coords_nominal" in arrays or "YY_full" in arrays):
        return read_grid_lines(arrays, metadata, notes, what=path.name)
    if coordinates or set(FRAME_KEYS) & set(arrays):
        return _contract(arrays, metadata, config, notes, what=path.name)
    raise ContractError(
        f"{path.name}: not a known scan format; expected diff3d (or diffraction), xcoords, ycoords, probeGuess; or a "
        f"grid-lines file with diffraction, coords_offsets; or a tike file with data, scan, probe. The file has {sorted(arrays)}"
    )


def read_arrays(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the arrays of a file without its legacy metadata pickle, and a note where there was one."""
    if not path.is_file():
        raise ContractError(f"{path.name}: no such file; give the path of an NPZ file")
    try:
        return read_npz(path), []
    except ContractError:
        # Every other fault of the file shows again here, so what passes now had only this one.
        return read_npz(path, skip=(LEGACY_METADATA,)), [f"'{LEGACY_METADATA}' is a pickle: skipped, unread"]


def frame_flags(path: Path, n_frames: int) -> dict[str, np.ndarray]:
    """Return the file's other masks of frames (bool or integer, one a frame) and lists of frame indices, such as held-out ones."""
    arrays, _ = read_arrays(path)
    declared = {field.name for field in SCAN}
    return {
        name: np.asarray(array)
        for name, array in arrays.items()
        if name not in declared and array.ndim == 1 and _names_frames(array, n_frames)
    }


def _names_frames(array: np.ndarray, n_frames: int) -> bool:
    """Return whether a vector can be a mask of the frames or a list of their indices."""
    if array.dtype.kind == "b" or len(array) == n_frames:
        return array.dtype.kind in "bui" and len(array) == n_frames
    return array.dtype.kind in "ui" and len(array) > 0 and bool(array.min() >= 0) and bool(array.max() < n_frames)


def _contract(
    arrays: Mapping[str, np.ndarray], metadata: dict[str, Any], config: IngestConfig, notes: list[str], *, what: str
) -> RawScan:
    """Return a contract NPZ; both key names of the frames are read alike (D7)."""
    problems = []
    keys = [key for key in FRAME_KEYS if key in arrays]
    if not keys:
        problems.append("key 'diff3d' (or its alias 'diffraction') is missing")
    for key in ("xcoords", "ycoords", "probeGuess"):
        if key not in arrays:
            problems.append(f"key '{key}' is missing")
    if len(keys) == 2:
        if same_arrays(arrays["diff3d"], arrays["diffraction"]):
            notes.append("'diff3d' and 'diffraction' hold the same frames: 'diff3d' is read")
        else:
            problems.append("'diff3d' and 'diffraction' are two names of the frames but hold different ones; keep one")
    if any("missing" in problem for problem in problems):
        problems[-1] += f"; the file has {sorted(arrays)}"
        refuse(problems, what=what)
    m = arrays["xcoords"].size
    frames, frame_problems = frames_first(arrays[keys[0]], m, keys[0], _layout(metadata, config, problems), notes)
    refuse(problems + frame_problems if frames.ndim != 3 else [], what=what)
    n = int(frames.shape[-1])
    problems += frame_problems
    rows_cols = {key: _vector(arrays, key, m, problems) for key in ("ycoords", "xcoords")}
    start_keys = [key for key in ("ycoords_start", "xcoords_start") if key in arrays]
    if len(start_keys) == 1:
        problems.append(f"'{start_keys[0]}' is there without its partner; give both start coordinates or none")
    start = [_vector(arrays, key, m, problems) for key in start_keys]
    index = arrays.get("scan_index", np.zeros(m, dtype=np.int64))
    if index.shape != (m,) or index.dtype.kind not in "ui":
        problems.append(f"'scan_index' must be {m} whole numbers, one a frame, got shape {index.shape}, {index.dtype}")
    problems += probe_problems(arrays["probeGuess"], "probeGuess", n)
    if "objectGuess" in arrays and (arrays["objectGuess"].ndim != 2 or arrays["objectGuess"].dtype.kind != "c"):
        found = arrays["objectGuess"]
        problems.append(f"'objectGuess' must be a complex (H, W) array, got shape {found.shape}, {found.dtype}")
    if "Y" in arrays and len(np.atleast_1d(arrays["Y"])) != m:
        problems.append(
            f"'Y' must hold one label patch for each of {m} frames, got shape {arrays['Y'].shape}; remove or repair it"
        )
    refuse(problems, what=what)
    notes.append(
        "labels 'Y' are in the file but not used" if "Y" in arrays else "no labels 'Y' in the file, and none made up"
    )
    known = {*(field.name for field in SCAN), "diffraction", "Y", LEGACY_METADATA}
    say_ignored(arrays, known, m, notes)
    image = arrays.get("objectGuess")
    return RawScan(
        format="contract NPZ",
        frames_key=keys[0],
        frames=frames,
        domain="amplitude",
        corner_zero_frequency=False,
        positions_rc_px=np.stack([rows_cols["ycoords"], rows_cols["xcoords"]], axis=1),
        origin_known=True,
        probe=as_complex64(arrays["probeGuess"]),
        object=None if image is None else as_complex64(image),
        scan_index=np.asarray(index, dtype=np.int64),
        start_rc_px=np.stack(start, axis=1) if len(start) == 2 else None,
        metadata=metadata,
        notes=notes,
    )


def _layout(metadata: Mapping[str, Any], config: IngestConfig, problems: list[str]) -> str:
    """Return the frame axis that the caller or the file states, else `auto`; a file of ours has frames first."""
    stated = metadata.get("axis_order", "NHW" if "schema_version" in metadata else "auto")
    if config.layout == "auto":
        return str(stated)
    if stated not in ("auto", config.layout):
        problems.append(
            f"parameter layout = '{config.layout}' contradicts the file's metadata, axis_order = '{stated}'"
        )
    return config.layout


def _vector(arrays: Mapping[str, np.ndarray], key: str, m: int, problems: list[str]) -> np.ndarray:
    """Return one coordinate as float64; a wrong length or dtype is added to `problems`."""
    array = arrays[key]
    if array.shape != (m,) or array.dtype.kind not in "fui":
        problems.append(
            f"'{key}' must be {m} real numbers, one a frame as in 'xcoords', got shape {array.shape}, {array.dtype}"
        )
        return np.zeros(m)
    return np.asarray(array, dtype=np.float64)
