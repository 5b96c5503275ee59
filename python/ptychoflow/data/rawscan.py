"""The form to which every scan format is brought, and the shape and dtype rules that the formats share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Complex64, Int64

from ptychoflow.data.checks import blocks
from ptychoflow.frames import Positions

Domain = Literal["amplitude", "intensity"]
LEGACY_METADATA = "_metadata"
"""Key under which older tools pickle their metadata; never loaded (D5)."""


@dataclass(frozen=True)
class RawScan:
    """A scan as its file has it, frames first, positions as (row, col); values unchecked, frames untouched.

    Attributes:
        format: name of the file format.
        frames_key: key of the frames, for messages.
        frames: (M, N, N) of any real dtype; may be memory-mapped.
        domain: what the format's own rule says the frames hold.
        corner_zero_frequency: the zero frequency is at [0, 0] instead of [N//2, N//2].
        positions_rc_px: (M, 2) patch centres, or corners where `origin_known` is False and a check says so.
        origin_known: the format says that positions are centres.
        notes: what was done or left out, in words.
    """

    format: str
    frames_key: str
    frames: np.ndarray
    domain: Domain
    corner_zero_frequency: bool
    positions_rc_px: Positions
    origin_known: bool
    probe: Complex64[np.ndarray, "n n"]
    object: Complex64[np.ndarray, "h w"] | None
    scan_index: Int64[np.ndarray, "m"]
    start_rc_px: Positions | None
    metadata: dict[str, Any]
    notes: list[str]


def frames_first(frames: np.ndarray, m: int, key: str, layout: str, notes: list[str]) -> tuple[np.ndarray, list[str]]:
    """Return frames as (M, N, N), and what is wrong with their shape or dtype; a transposition is added to `notes`.

    Without a stated layout the frame axis is told from its length alone, and only where no other axis has it (D3).
    """
    problems = []
    if frames.dtype.kind not in "fui":
        problems.append(f"'{key}' must hold real numbers, got {frames.dtype}; store the amplitude, sqrt(intensity)")
    if frames.ndim == 4 and frames.shape[-1] == 1:
        notes.append(f"'{key}' has a last axis of length 1: dropped")
        frames = frames[..., 0]
    expected = f"'{key}' must have shape (M, N, N) with M = {m} positions, got {frames.shape}"
    if frames.ndim != 3:
        grouped = "; frames that are grouped already cannot be read, give the scan itself" if frames.ndim == 4 else ""
        return frames, [*problems, expected + grouped]
    first = frames.shape[1] == frames.shape[2] > 0 and frames.shape[0] == m
    last = frames.shape[0] == frames.shape[1] and frames.shape[2] == m
    if layout == "auto" and first and last:
        return frames, [
            *problems,
            f"'{key}' has shape {frames.shape}: M equals N, so the frame axis cannot be told; state the layout, NHW or HWN",
        ]
    if layout in ("auto", "NHW") and first:
        return frames, problems
    if layout in ("auto", "HWN") and last:
        notes.append(f"frames are last in '{key}' {frames.shape}: transposed to frames first")
        return np.moveaxis(frames, 2, 0), problems
    return frames, [*problems, expected + ("" if layout == "auto" else f" in the stated layout {layout}")]


def same_arrays(a: np.ndarray, b: np.ndarray) -> bool:
    """Return whether two stacks are equal, read in blocks; NaN equals NaN."""
    if a.shape != b.shape:
        return False
    if a.ndim == 0:
        return bool(a == b)
    return all(np.array_equal(a[part], b[part], equal_nan=a.dtype.kind in "fc") for part in blocks(len(a)))


def probe_problems(probe: np.ndarray, key: str, n: int) -> list[str]:
    """Return what is wrong with the dtype and shape of a probe for frames of side `n`."""
    if probe.dtype.kind != "c":
        return [f"'{key}' must be complex, got {probe.dtype}; a modulus alone is no probe"]
    if probe.shape != (n, n):
        return [
            f"'{key}' must have shape ({n}, {n}) like the frames, got {probe.shape}; crop or pad it on purpose, or keep one mode"
        ]
    return []


def as_complex64(array: np.ndarray) -> np.ndarray:
    """Return the array as plain complex64, rows contiguous."""
    return np.ascontiguousarray(array, dtype=np.complex64)


def say_ignored(arrays: Mapping[str, np.ndarray], known: set[str], m: int, notes: list[str]) -> None:
    """Add a note on the keys that are not read; masks and indices of one value a frame are kept as they are."""
    others = sorted(set(arrays) - known)
    flags = [key for key in others if arrays[key].shape == (m,) and arrays[key].dtype.kind in "bui"]
    if flags:
        notes.append(f"kept as they are: {', '.join(flags)}")
    if ignored := [key for key in others if key not in flags]:
        notes.append(f"not read: {', '.join(ignored)}")
