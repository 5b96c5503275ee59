"""From a scan to the external pair: `{object}_dp.hdf5` and `{object}_para.hdf5`, one object a pair.

    dp      k A^2: photons where the scan knows k = photons in one unit of amplitude squared, else the file's own unit (k = 1)
    probe   sqrt(k) P / N: the external FFT has no factor, ours is orthonormal, so |fft2(P' O)|^2 = k |F(P O)|^2
    object  the scan's full object; without one, ones as a placeholder whose shape alone matters
    positions (y, x) in metres, counted from the loader's own origin (contract.py)

A scan without an object does not tell the probe's scale; there the energies of frames and probe do. Patterns are read and
written in blocks. A pair appears under its names only when both files are whole and the validator found nothing to refuse.
Source: PtychoViT bridge reference, sections 3 to 5; design, section 9.
"""

import math
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Complex64, Float64, Int64

from ptychoflow.arms.ptychovit.contract import (
    PIXEL_ATTRIBUTES,
    SIDE,
    refuse_violations,
    stored_offsets_m,
    violation,
)
from ptychoflow.arms.ptychovit.normalization import BLOCK
from ptychoflow.arms.ptychovit.validate import probe_light, validate_pair
from ptychoflow.errors import ContractError
from ptychoflow.frames import Canvas, Positions, topleft_from_centre
from ptychoflow.physics.patches import gather
from ptychoflow.records import Recon, Scan

SAMPLED = 64
"""Frames whose energy is compared with what object and probe predict, evenly spread."""
ENERGY_LIMIT = 1.25
"""Measured over predicted energy, or its inverse, that still passes; 1.02 on the measured star, 1/N^2 for a forgotten factor."""
MARGIN_PX = 1
"""Object pixels that the loader's sub-pixel extraction needs around each footprint."""


@dataclass(frozen=True)
class PairObject:
    """The object of a pair.

    Attributes:
        image: (H, W) complex64.
        canvas: where it lies in the scan's frame.
        role: `truth`, `reference`, `supplied` (given with its origin) or `placeholder` (ones).
        padded_px: pixels added at top, left, bottom and right by repeating the edge, so that every footprint has its margin.
    """

    image: Complex64[np.ndarray, "h w"]
    canvas: Canvas
    role: str
    padded_px: tuple[int, int, int, int] = (0, 0, 0, 0)


@dataclass(frozen=True)
class PairRecord:
    """What the manifest says of one pair.

    Attributes:
        name: object name, the key of the normalization dictionary.
        files: names of both files.
        scan_index: which object of the scan.
        n_frames: number of patterns.
        object_role, object_shape_px, object_origin_rc_px, padded_px: see `PairObject`.
        pixel_size_m: as written; 1 with positions in pixels where it is unknown.
        pixel_size_known: whether it is a length.
        unit: unit of dp.
        photons_per_intensity: photons in one unit of the scan's amplitude squared; None where unknown.
        probe_factor: the pair's probe over the scan's.
        energy_ratio: sampled frames' energy over that predicted from the pair's object and probe.
        probe_ratio: R, the mean pattern over the probe's light; 1 for |object| ~ 1.
        warnings: what the validator found and did not refuse.
    """

    name: str
    files: tuple[str, str]
    scan_index: int
    n_frames: int
    object_role: str
    object_shape_px: tuple[int, int]
    object_origin_rc_px: tuple[int, int]
    padded_px: tuple[int, int, int, int]
    pixel_size_m: float
    pixel_size_known: bool
    unit: str
    photons_per_intensity: float | None
    probe_factor: float
    energy_ratio: float
    probe_ratio: float
    warnings: tuple[str, ...]


def export_pairs(
    scan: Scan, frames: Int64[np.ndarray, "m"], *, name: str, folder: Path, supplied: Recon | None = None
) -> list[PairRecord]:
    """Write one pair for each object that the frames belong to, and return their records.

    Args:
        scan: where the frames lie; amplitudes may be memory-mapped.
        frames: (m,) frame indices.
        name: object name; the object's number is appended where there are several.
        folder: where the pairs go.
        supplied: an object with its origin, for a scan that has none, such as a clipped truth.

    Raises:
        ContractError: the scan cannot be written as a valid pair; nothing is left of that pair then.
    """
    if scan.n != SIDE:
        refuse_violations(
            [
                violation(
                    "PV-DP", f"frames are {scan.n} px, only {SIDE} px are supported", remedy="give a scan of that N"
                )
            ],
            what=name,
        )
    if supplied is not None and scan.object is not None:
        raise ContractError(f"{name}: the scan has its full object, which is used; leave the other one out")
    folder.mkdir(parents=True, exist_ok=True)
    indices = np.unique(scan.scan_index[frames])
    records = []
    for index in indices.tolist():
        own = frames[scan.scan_index[frames] == index]
        pair_object = object_of(scan, own, index, supplied)
        pair_name = name if len(indices) == 1 else f"{name}_{index}"
        records.append(_export(scan, own, pair_object, name=pair_name, index=index, folder=folder))
    return records


def object_of(scan: Scan, frames: Int64[np.ndarray, "m"], index: int, supplied: Recon | None) -> PairObject:
    """Return the object of some frames: the scan's own, else the supplied one, else ones of the frames' extent."""
    needed = _needed(scan.positions_rc_px[frames], scan.n)
    if scan.object is not None:
        rectangles = scan.metadata.get("objects")
        r0, r1, c0, c1 = rectangles[index] if rectangles else (0, scan.object.shape[0], 0, scan.object.shape[1])
        whole = PairObject(scan.object[r0:r1, c0:c1], Canvas((r0, c0), (r1 - r0, c1 - c0)), str(scan.object_role))
        return _with_margin(whole, needed)
    if supplied is not None:
        return _with_margin(PairObject(supplied.object, supplied.canvas, "supplied"), needed)
    return PairObject(np.ones(needed.shape, dtype=np.complex64), needed, "placeholder")


def _needed(positions_rc_px: Positions, n: int) -> Canvas:
    """Return the smallest canvas that holds every footprint with its margin."""
    topleft = topleft_from_centre(positions_rc_px, n)
    first = np.floor(topleft.min(axis=0)).astype(int) - MARGIN_PX
    last = np.ceil(topleft.max(axis=0)).astype(int) + n + MARGIN_PX
    return Canvas((int(first[0]), int(first[1])), (int(last[0] - first[0]), int(last[1] - first[1])))


def _with_margin(given: PairObject, needed: Canvas) -> PairObject:
    """Return the object with its edge repeated where a footprint lacks its margin; what lies farther out is for the validator."""
    origin, shape = np.asarray(given.canvas.origin_rc_px), np.asarray(given.canvas.shape)
    first = np.asarray(needed.origin_rc_px)
    before = np.maximum(origin - first, 0)
    after = np.maximum(first + needed.shape - (origin + shape), 0)
    if max(*before, *after) > MARGIN_PX or not (before.any() or after.any()):
        return given
    (top, left), (bottom, right) = before.tolist(), after.tolist()
    image = np.pad(given.image, ((top, bottom), (left, right)), mode="edge")
    canvas = Canvas((int(origin[0]) - top, int(origin[1]) - left), (image.shape[0], image.shape[1]))
    return replace(given, image=image, canvas=canvas, padded_px=(top, left, bottom, right))


def _export(
    scan: Scan, frames: Int64[np.ndarray, "m"], pair_object: PairObject, *, name: str, index: int, folder: Path
) -> PairRecord:
    """Write one pair and return its record."""
    photons = scan.photons_per_intensity
    scale = 1.0 if photons is None else photons
    unit = "amplitude squared, in the unit of the scan" if photons is None else "photons"
    pixel = scan.pixel_size_m or 1.0
    local = pair_object.canvas.to_local(scan.positions_rc_px[frames])
    factor = math.sqrt(scale) / scan.n
    ratio = energy_ratio(scan, frames, pair_object.image, local, factor=factor, scale=scale)
    if pair_object.role == "placeholder":
        factor, ratio = factor * math.sqrt(ratio), 1.0
    elif not 1 / ENERGY_LIMIT <= ratio <= ENERGY_LIMIT:
        raise ContractError(
            f"{name}: probe and object must reproduce the frames, but the frames hold {ratio:.4g} times the energy that they "
            f"predict; multiply the scan's probe by {math.sqrt(ratio):.4g}, or leave the object out"
        )
    probe = (scan.probe * factor).astype(np.complex64)
    offsets = stored_offsets_m(local, shape=pair_object.canvas.shape, n=scan.n, pixel_size_m=pixel)
    files = (f"{name}_dp.hdf5", f"{name}_para.hdf5")
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{name}.") as scratch:
        dp, para = (Path(scratch) / file for file in files)
        mean_sum = write_patterns(dp, scan.amplitude, frames, scale=scale, unit=unit)
        write_parameters(para, pair_object.image, probe, offsets, pixel_size_m=pixel)
        warnings = refuse_violations(validate_pair(dp), what=f"pair {name}")
        # The loader looks for _dp files, so that one comes last.
        para.replace(folder / files[1])
        dp.replace(folder / files[0])
    return PairRecord(
        name=name,
        files=files,
        scan_index=index,
        n_frames=len(frames),
        object_role=pair_object.role,
        object_shape_px=pair_object.canvas.shape,
        object_origin_rc_px=pair_object.canvas.origin_rc_px,
        padded_px=pair_object.padded_px,
        pixel_size_m=pixel,
        pixel_size_known=scan.pixel_size_m is not None,
        unit=unit,
        photons_per_intensity=photons,
        probe_factor=factor,
        energy_ratio=ratio,
        probe_ratio=mean_sum / probe_light(probe[None]),
        warnings=tuple(one.text for one in warnings),
    )


def energy_ratio(
    scan: Scan,
    frames: Int64[np.ndarray, "m"],
    image: Complex64[np.ndarray, "h w"],
    local_rc_px: Positions,
    *,
    factor: float,
    scale: float,
) -> float:
    """Return the energy of sampled frames over what the external forward model predicts for them.

    The FFT without a factor has sum |fft2(psi)|^2 = N^2 sum |psi|^2, so no transform is needed.

    Args:
        scan: where the frames lie.
        frames: (m,) frame indices.
        image: (H, W) object of the pair.
        local_rc_px: (m, 2) patch centres in pixels of `image`.
        factor: the pair's probe over the scan's.
        scale: one unit of dp in amplitude squared.

    Raises:
        ContractError: object and probe predict no light at all.
    """
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), SAMPLED)).round().astype(np.int64))
    light = np.abs(scan.probe.astype(np.complex128) * factor) ** 2
    measured = predicted = 0.0
    for place in chosen.tolist():
        measured += scale * float(np.square(scan.amplitude[frames[place]], dtype=np.float64).sum())
        patch = gather(image, local_rc_px[place : place + 1], scan.n)[0]
        predicted += scan.n**2 * float(np.sum(light * np.abs(patch) ** 2))
    if predicted <= 0:
        raise ContractError("object and probe predict no light in any frame; they do not belong to this scan")
    return measured / predicted


def write_patterns(
    path: Path, amplitude: np.ndarray, frames: Int64[np.ndarray, "m"], *, scale: float, unit: str
) -> float:
    """Write the `_dp` file, block by block, and return the mean over frames of sum dp.

    Args:
        path: the file.
        amplitude: (M, N, N) diffraction amplitudes, zero frequency at [N/2, N/2]; may be memory-mapped.
        frames: (m,) which of them.
        scale: dp in one unit of amplitude squared.
        unit: unit of dp, stored as an attribute.

    Raises:
        ContractError: an amplitude is negative; squared, it would pass for light.
    """
    total = 0.0
    with h5py.File(path, "w") as file:
        dp = file.create_dataset("dp", shape=(len(frames), *amplitude.shape[1:]), dtype=np.float32)
        dp.attrs["unit"] = unit
        for first in range(0, len(frames), BLOCK):
            part = frames[first : first + BLOCK]
            block = np.asarray(amplitude[part], dtype=np.float64)
            negative = (block < 0).any(axis=(1, 2))
            if negative.any():
                problem = f"the amplitude of frame {int(part[np.argmax(negative)])} is negative"
                refuse_violations([violation("PV-DP", problem)], what=path.name)
            written = (scale * block**2).astype(np.float32)
            total += float(written.sum(dtype=np.float64))
            dp[first : first + len(part)] = written
    return total / len(frames)


def write_parameters(
    path: Path,
    image: Complex64[np.ndarray, "h w"],
    probe: Complex64[np.ndarray, "n n"],
    offsets_m: Float64[np.ndarray, "m 2"],
    *,
    pixel_size_m: float,
) -> None:
    """Write the `_para` file: object, probe, positions (y, x) in the loader's frame, pixel sizes on both arrays."""
    with h5py.File(path, "w") as file:
        arrays: dict[str, Any] = {
            "object": file.create_dataset("object", data=image[None]),
            "probe": file.create_dataset("probe", data=probe[None, None]),
        }
        for dataset in arrays.values():
            for key in PIXEL_ATTRIBUTES:
                dataset.attrs[key] = float(pixel_size_m)
        for key in ("center_x_m", "center_y_m"):
            arrays["object"].attrs[key] = 0.0
        file["probe_position_y_m"] = offsets_m[:, 0]
        file["probe_position_x_m"] = offsets_m[:, 1]
