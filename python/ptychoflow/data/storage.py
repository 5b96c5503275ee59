"""Files of the house: scans, views, reconstructions and JSON, written whole or not at all, the same bytes each time.

How arrays are read, without pickles and without copying frames: data/npz.py.
"""

import io
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ptychoflow.data.npz import read_npz
from ptychoflow.data.schema import RECON, SCAN, SCHEMA_VERSION, SNAPSHOTS, VIEW, Field
from ptychoflow.errors import ContractError, refuse
from ptychoflow.frames import Canvas, Region
from ptychoflow.records import FrameSet, Normalization, Recon, Scan, Snapshots, View


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`; on success it takes the name, on any error nothing is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
        mode = 0o666 & ~_umask()
        Path(name).chmod(mode)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON with sorted keys; NaN and infinity are an error, never a token (D61)."""
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
    with atomic_write(path) as stream:
        stream.write(text.encode())


def read_json(path: Path) -> Any:
    """Read strict JSON.

    Raises:
        ContractError: when the file is not JSON, or holds NaN or Infinity.
    """
    try:
        return json.loads(Path(path).read_text(), parse_constant=_no_constant)
    # RecursionError: brackets in brackets, ten thousand deep.
    except (ValueError, RecursionError) as error:
        raise ContractError(f"{path}: not strict JSON: {error}") from error


def _no_constant(token: str) -> float:
    raise ValueError(f"the token {token} is not JSON")


def write_npz(path: Path, arrays: Mapping[str, np.ndarray | str]) -> None:
    """Write an uncompressed NPZ with fixed time stamps, keys in the given order; text becomes a 0-d unicode array."""
    with atomic_write(path) as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, value in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(value), allow_pickle=False)


def write_npy(path: Path, array: np.ndarray) -> None:
    """Write an NPY file; what numpy.save itself says of a full disk has no error code."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    with atomic_write(path) as stream:
        stream.write(buffer.getbuffer())


def check_fields(arrays: Mapping[str, np.ndarray], fields: tuple[Field, ...]) -> list[str]:
    """Return what is wrong with names, kinds of dtype and axis lengths of a file; empty when nothing is."""
    problems: list[str] = []
    lengths: dict[str, tuple[int, str]] = {}
    for field in fields:
        if field.name not in arrays:
            if field.required:
                problems.append(f"key '{field.name}' is missing; the file has {sorted(arrays)}")
            continue
        array = arrays[field.name]
        kind = {"U": "str", "u": "i"}.get(array.dtype.kind, array.dtype.kind)
        if kind != field.kind:
            problems.append(f"'{field.name}' must be {field.dtype}, got {array.dtype}")
        if array.ndim != len(field.dims):
            expected = f"({', '.join(field.dims)})"
            problems.append(f"'{field.name}' must have shape {expected}, got {array.shape}")
            continue
        for axis, length in zip(field.dims, array.shape, strict=True):
            known = lengths.setdefault(axis, (length, field.name))
            if known[0] != length:
                problems.append(f"'{field.name}' has shape {array.shape} but axis {axis} is {known[0]} in '{known[1]}'")
    return problems


def metadata_text(metadata: Mapping[str, Any]) -> str:
    """Return metadata as the JSON text stored in a file, schema version added."""
    return json.dumps({"schema_version": SCHEMA_VERSION, **metadata}, sort_keys=True, allow_nan=False)


def parse_metadata(arrays: Mapping[str, np.ndarray], *, what: str = "metadata") -> dict[str, Any]:
    """Return the metadata of a file, an empty dict without any; `what` names the file in messages.

    Raises:
        ContractError: not a JSON object, or written by a newer version.
    """
    if "metadata" not in arrays:
        return {}
    try:
        metadata = json.loads(str(arrays["metadata"]), parse_constant=_no_constant)
    except ValueError as error:
        raise ContractError(f"{what}: 'metadata' is not JSON: {error}") from error
    if not isinstance(metadata, dict):
        raise ContractError(f"{what}: 'metadata' must be a JSON object, got {type(metadata).__name__}")
    version = metadata.get("schema_version", SCHEMA_VERSION)
    if not isinstance(version, int):
        raise ContractError(f"{what}: metadata 'schema_version' must be a whole number, got {version!r}")
    if version > SCHEMA_VERSION:
        raise ContractError(
            f"{what}: the file has schema version {version}, this program reads up to {SCHEMA_VERSION}; update it"
        )
    return metadata


def _load(path: Path, fields: tuple[Field, ...]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    arrays = read_npz(path)
    refuse(check_fields(arrays, fields), what=Path(path).name)
    return arrays, parse_metadata(arrays, what=Path(path).name)


def save_scan(path: Path, scan: Scan, *, extra: Mapping[str, np.ndarray] | None = None) -> None:
    """Write `scan.npz`; the reader gives the same scan back.

    Args:
        path: the file.
        scan: what to write.
        extra: arrays kept beside the declared ones under their own names, such as a mask of held-out frames.

    Raises:
        ValueError: an extra array has a declared name.
    """
    if taken := {field.name for field in SCAN} & set(extra or {}):
        raise ValueError(f"extra arrays must not be named {sorted(taken)}: these keys are declared for scan.npz")
    arrays: dict[str, np.ndarray | str] = {
        "diff3d": np.asarray(scan.amplitude, dtype=np.float32),
        "xcoords": scan.positions_rc_px[:, 1],
        "ycoords": scan.positions_rc_px[:, 0],
        "probeGuess": scan.probe,
        "scan_index": scan.scan_index,
    }
    if scan.object is not None:
        arrays["objectGuess"] = scan.object
    if scan.positions_start_rc_px is not None:
        arrays["xcoords_start"] = scan.positions_start_rc_px[:, 1]
        arrays["ycoords_start"] = scan.positions_start_rc_px[:, 0]
    arrays.update(extra or {})
    arrays["metadata"] = metadata_text(scan.metadata)
    write_npz(path, arrays)


def load_scan(path: Path) -> Scan:
    """Read a contract `scan.npz`; frames stay on disk until they are used.

    Raises:
        ContractError: when names, dtypes or lengths are wrong. Values were checked when the file was made.
    """
    arrays, metadata = _load(path, SCAN)
    start = None
    if "xcoords_start" in arrays and "ycoords_start" in arrays:
        start = _rows_cols(arrays["ycoords_start"], arrays["xcoords_start"])
    return Scan(
        amplitude=arrays["diff3d"],
        positions_rc_px=_rows_cols(arrays["ycoords"], arrays["xcoords"]),
        probe=np.asarray(arrays["probeGuess"], dtype=np.complex64),
        scan_index=np.asarray(arrays.get("scan_index", np.zeros(len(arrays["xcoords"]))), dtype=np.int64),
        object=np.asarray(arrays["objectGuess"], dtype=np.complex64) if "objectGuess" in arrays else None,
        positions_start_rc_px=start,
        metadata=metadata,
    )


def _rows_cols(rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    return np.stack([rows, cols], axis=1).astype(np.float64)


def save_view(path: Path, view: View) -> None:
    """Write `view.npz`: index tables and the facts of the split, no frames."""
    normalization = view.normalization.__dict__
    write_npz(
        path,
        {
            "train_frames": view.train.frames,
            "train_groups": view.train.groups,
            "test_frames": view.test.frames,
            "test_groups": view.test.groups,
            "heldout": view.heldout,
            "score_regions": np.stack([region.as_array() for region in view.score_regions]),
            "metadata": metadata_text({**view.metadata, "normalization": normalization}),
        },
    )


def load_view(path: Path) -> View:
    """Read `view.npz`."""
    arrays, metadata = _load(path, VIEW)
    normalization = Normalization(**metadata.pop("normalization"))

    def index(name: str) -> np.ndarray:
        return np.asarray(arrays[name], dtype=np.int64)

    return View(
        train=FrameSet(index("train_frames"), index("train_groups")),
        test=FrameSet(index("test_frames"), index("test_groups")),
        heldout=index("heldout"),
        normalization=normalization,
        score_regions=tuple(Region(*map(int, row)) for row in arrays["score_regions"]),
        metadata=metadata,
    )


def save_recon(path: Path, recon: Recon) -> None:
    """Write `recon.npz`, with amplitude and phase beside the complex object for other tools."""
    arrays: dict[str, np.ndarray | str] = {
        "object": recon.object,
        "weight": recon.weight,
        "origin_rc_px": np.asarray(recon.canvas.origin_rc_px, dtype=np.int64),
        "amp": np.abs(recon.object),
        "phase": np.angle(recon.object),
    }
    if recon.probe is not None:
        arrays["probe"] = recon.probe
    if recon.pixel_size_m is not None:
        arrays["pixel_size_m"] = np.asarray(recon.pixel_size_m, dtype=np.float64)
    arrays["metadata"] = metadata_text(recon.metadata)
    write_npz(path, arrays)


def load_recon(path: Path) -> Recon:
    """Read `recon.npz`.

    Raises:
        ContractError: when a required key is missing or of the wrong kind.
    """
    arrays, metadata = _load(path, RECON)
    shape = arrays["object"].shape
    row, col = (int(value) for value in arrays["origin_rc_px"])
    return Recon(
        object=np.asarray(arrays["object"], dtype=np.complex64),
        weight=np.asarray(arrays["weight"], dtype=np.float32),
        canvas=Canvas((row, col), (shape[0], shape[1])),
        probe=np.asarray(arrays["probe"], dtype=np.complex64) if "probe" in arrays else None,
        pixel_size_m=float(arrays["pixel_size_m"]) if "pixel_size_m" in arrays else None,
        metadata=metadata,
    )


def save_snapshots(path: Path, snapshots: Snapshots) -> None:
    """Write `snapshots.npz`."""
    arrays: dict[str, np.ndarray | str] = {
        "epochs": snapshots.epochs,
        "train_seconds": snapshots.train_seconds,
        "reconstruct_seconds": snapshots.reconstruct_seconds,
        "objects": snapshots.objects,
        "origin_rc_px": np.asarray(snapshots.canvas.origin_rc_px, dtype=np.int64),
        "metadata": metadata_text({}),
    }
    if snapshots.probes is not None:
        arrays["probes"] = snapshots.probes
    write_npz(path, arrays)


def load_snapshots(path: Path) -> Snapshots:
    """Read `snapshots.npz`; the objects stay on disk until they are used.

    Raises:
        ContractError: when a required key is missing or of the wrong kind.
    """
    arrays, _ = _load(path, SNAPSHOTS)
    row, col = (int(value) for value in arrays["origin_rc_px"])
    return Snapshots(
        epochs=np.asarray(arrays["epochs"], dtype=np.int64),
        train_seconds=np.asarray(arrays["train_seconds"], dtype=np.float64),
        reconstruct_seconds=np.asarray(arrays["reconstruct_seconds"], dtype=np.float64),
        objects=arrays["objects"],
        canvas=Canvas((row, col), arrays["objects"].shape[1:]),
        probes=arrays.get("probes"),
    )
