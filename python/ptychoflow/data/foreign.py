"""Scan files of other programs: cached grid-lines NPZ (physics section 2.6) and tike NPZ.

Both hold (row, col) positions. Grid-lines files do not say whether these are patch centres or first pixels; tike counts
from the patch's first pixel and stores counts with the zero frequency at the corner.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ptychoflow.data.rawscan import LEGACY_METADATA, RawScan, as_complex64, frames_first, probe_problems, say_ignored
from ptychoflow.errors import ContractError, refuse
from ptychoflow.frames import centre_from_topleft


def read_grid_lines(
    arrays: Mapping[str, np.ndarray], metadata: dict[str, Any], notes: list[str], *, what: str
) -> RawScan:
    """Return a cached grid-lines NPZ of gridsize 1; its coordinates are (row, col), unlike other grouped files (D18)."""
    problems = []
    if "coords_offsets" not in arrays:
        problems.append(
            "key 'coords_offsets' is missing; it alone holds absolute positions ('coords_nominal' is relative to the group)"
        )
    if "diffraction" not in arrays:
        problems.append("key 'diffraction' is missing")
    probe_key = "probe_simulated" if "probe_simulated" in arrays else "probeGuess"
    if probe_key not in arrays:
        problems.append("key 'probe_simulated' (or 'probeGuess') is missing")
    if problems:
        problems[-1] += f"; the file has {sorted(arrays)}"
        refuse(problems, what=what)
    frames, offsets = arrays["diffraction"], arrays["coords_offsets"]
    if frames.ndim == 4 and frames.shape[-1] > 1:
        problems.append(
            f"'diffraction' has shape {frames.shape}: groups of C = {frames.shape[-1]} frames. "
            "A frame is in several groups there, so the scan cannot be taken apart; give the file of gridsize 1"
        )
        refuse(problems, what=what)
    m = frames.shape[0] if frames.ndim else 0
    frames, frame_problems = frames_first(frames, m, "diffraction", "NHW", notes)
    refuse(problems + frame_problems if frames.ndim != 3 else [], what=what)
    problems += frame_problems
    if offsets.shape != (m, 1, 2, 1) or offsets.dtype.kind not in "fiu":
        problems.append(
            f"'coords_offsets' must have shape ({m}, 1, 2, 1) of real numbers, got {offsets.shape}, {offsets.dtype}"
        )
    problems += probe_problems(arrays[probe_key], probe_key, int(frames.shape[-1]))
    image = _grid_object(arrays, problems, notes)
    refuse(problems, what=what)
    if "Y_I" in arrays or "Y_phi" in arrays:
        notes.append("labels 'Y_I' (the illuminated amplitude) and 'Y_phi' are not used")
    known = {
        "diffraction",
        "coords_offsets",
        "coords_nominal",
        "coords_true",
        "Y_I",
        "Y_phi",
        "YY_full",
        "YY_ground_truth",
    }
    known |= {"probeGuess", "probe_simulated", "norm_Y_I", "metadata", LEGACY_METADATA}
    say_ignored(arrays, known, m, notes)
    norm = arrays.get("norm_Y_I")
    if norm is not None and norm.size == 1 and norm.dtype.kind in "fiu" and np.isfinite(norm).all():
        metadata = {**metadata, "norm_Y_I": float(arrays["norm_Y_I"].reshape(()))}
    return RawScan(
        format="grid-lines NPZ",
        frames_key="diffraction",
        frames=frames,
        domain="amplitude",
        corner_zero_frequency=False,
        positions_rc_px=np.asarray(offsets[:, 0, :, 0], dtype=np.float64),
        origin_known=False,
        probe=as_complex64(arrays[probe_key]),
        object=image,
        scan_index=np.zeros(m, dtype=np.int64),
        start_rc_px=None,
        metadata={"object_role": "truth", **metadata} if image is not None else metadata,
        notes=[*notes, f"the probe is '{probe_key}'"],
    )


def _grid_object(arrays: Mapping[str, np.ndarray], problems: list[str], notes: list[str]) -> np.ndarray | None:
    """Return the one object of a grid-lines file; None where it has only the clipped one, which has lost its origin (D43)."""
    if "YY_full" not in arrays:
        clipped = (
            "'YY_ground_truth' is clipped and its origin unknown, so it is not used"
            if "YY_ground_truth" in arrays
            else ""
        )
        notes.append(f"no 'YY_full' in the file: a scan without object. {clipped}".rstrip())
        return None
    image = arrays["YY_full"]
    while image.ndim > 2 and image.shape[-1] == 1:
        image = image[..., 0]
    if image.ndim == 3 and len(image) > 1:
        problems.append(
            f"'YY_full' holds {len(image)} objects {arrays['YY_full'].shape}, and the file does not say "
            "which frame belongs to which; make the file with one object (nimgs = 1)"
        )
        return None
    image = image[0] if image.ndim == 3 else image
    if image.ndim != 2 or image.dtype.kind != "c":
        problems.append(
            f"'YY_full' must be complex of shape (1, H, W, 1), got {arrays['YY_full'].shape}, {image.dtype}"
        )
        return None
    return as_complex64(image)


def read_tike(arrays: Mapping[str, np.ndarray], metadata: dict[str, Any], notes: list[str], *, what: str) -> RawScan:
    """Return a tike NPZ: counts with the zero frequency at the corner, positions of the patch's first pixel."""
    if "probe" not in arrays:
        raise ContractError(f"{what}: key 'probe' is missing; the file has {sorted(arrays)}")
    frames, scan, probe = (
        _without_leading_ones(arrays[key], keep) for key, keep in (("data", 3), ("scan", 2), ("probe", 2))
    )
    problems = []
    if scan.ndim != 2 or scan.shape[-1] != 2 or scan.dtype.kind not in "fiu":
        problems.append(
            f"'scan' must have shape (M, 2) of real numbers (row, col), got {arrays['scan'].shape}, {scan.dtype}"
        )
        refuse(problems, what=what)
    m = len(scan)
    frames, frame_problems = frames_first(frames, m, "data", "NHW", notes)
    refuse(frame_problems if frames.ndim != 3 else [], what=what)
    problems += frame_problems
    if probe.ndim > 2:
        extra = int(np.prod(probe.shape[:-2])) - 1
        notes.append(f"'probe' has shape {arrays['probe'].shape}: the first mode is read, {extra} more left out")
        probe = probe.reshape(-1, *probe.shape[-2:])[0]
    n = int(frames.shape[-1])
    problems += probe_problems(probe, "probe", n)
    refuse(problems, what=what)
    say_ignored(arrays, {"data", "scan", "probe", "metadata", LEGACY_METADATA}, m, notes)
    notes.append(f"'scan' counts from the patch's first pixel: patch centre = scan + {n // 2}")
    return RawScan(
        format="tike NPZ",
        frames_key="data",
        frames=frames,
        domain="intensity",
        corner_zero_frequency=True,
        positions_rc_px=centre_from_topleft(np.asarray(scan, dtype=np.float64), n),
        origin_known=True,
        probe=as_complex64(probe),
        object=None,
        scan_index=np.zeros(m, dtype=np.int64),
        start_rc_px=None,
        metadata=metadata,
        notes=notes,
    )


def _without_leading_ones(array: np.ndarray, n_axes: int) -> np.ndarray:
    while array.ndim > n_axes and array.shape[0] == 1:
        array = array[0]
    return array
