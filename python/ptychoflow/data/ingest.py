"""A scan file from outside -> a checked `Scan` in our own convention, and what was done to it, in words.

Order of work: read and shape (data/formats.py), values (data/checks.py), amplitude, then the file's object and probe
against its frames (data/object_fit.py). Everything is refused at this door; inside, scans are trusted.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ptychoflow.config import IngestConfig
from ptychoflow.data import checks
from ptychoflow.data.checks import FrameFacts, blocks
from ptychoflow.data.formats import read_source
from ptychoflow.data.object_fit import Agreement, settle
from ptychoflow.data.rawscan import Domain, RawScan
from ptychoflow.errors import ContractError, refuse
from ptychoflow.records import Scan

DOSE_TOLERANCE = 0.05
"""Relative difference between stated and measured dose that is still not worth a word."""


def ingest_file(path: Path, config: IngestConfig) -> tuple[Scan, list[str]]:
    """Return the scan of a file and the transformations applied to it.

    Args:
        path: contract NPZ, grid-lines NPZ or tike NPZ.
        config: what the caller states about the file.

    Raises:
        ContractError: naming what was expected, what came, and what to do.
    """
    path = Path(path)
    raw = read_source(path, config)
    facts = checks.measure_frames(raw.frames)
    notes = [f"read as {raw.format}", *raw.notes]
    refuse(_value_problems(raw, facts, config), what=path.name)
    domain = _domain(raw, facts, config, notes, what=path.name)
    amplitude = to_amplitude(raw.frames, domain, corner=raw.corner_zero_frequency)
    _say_conversion(raw, domain, notes)
    photons = _photons(raw, facts, domain, config, notes)
    agreement = settle(raw, amplitude, config, photons, domain, notes, what=path.name)
    scan = Scan(
        amplitude=amplitude,
        positions_rc_px=agreement.positions_rc_px,
        probe=(raw.probe * agreement.probe_scale).astype(np.complex64),
        scan_index=raw.scan_index,
        object=raw.object,
        positions_start_rc_px=raw.start_rc_px,
    )
    n_repeated = len(scan.positions_rc_px) - len(np.unique(scan.positions_rc_px, axis=0))
    if n_repeated:
        notes.append(f"{n_repeated} of {scan.n_frames} frames repeat the position of another one")
    metadata = _metadata(raw, facts, domain, config, photons, agreement)
    _say_dose(metadata, config, notes)
    metadata["ingest"]["transformations"] = list(notes)
    return replace(scan, metadata=metadata), notes


def _value_problems(raw: RawScan, facts: FrameFacts, config: IngestConfig) -> list[str]:
    """Return everything that is wrong with the values of a scan, its object's fit aside."""
    problems = checks.check_frames(facts, key=raw.frames_key)
    if not problems:
        problems += checks.check_centre(facts, key=raw.frames_key, corner=raw.corner_zero_frequency)
    problems += checks.check_positions(raw.positions_rc_px, facts.n)
    if raw.start_rc_px is not None and not np.isfinite(raw.start_rc_px).all():
        problems.append("start positions have NaN or infinite values; remove them or leave both start coordinates out")
    problems += checks.check_complex(raw.probe, key="probe")
    if raw.object is not None:
        problems += checks.check_complex(raw.object, key="object")
    return problems + checks.check_statements(raw.metadata, config, n=facts.n)


def _domain(raw: RawScan, facts: FrameFacts, config: IngestConfig, notes: list[str], *, what: str) -> Domain:
    """Return what the frames hold: as the caller or the file says, else the format's own rule (D1).

    Raises:
        ContractError: frames that nobody calls intensity, but that look like raw counts.
    """
    stated = config.domain if config.domain != "auto" else raw.metadata.get("domain", "auto")
    looks_like_counts = facts.whole and facts.maximum > checks.COUNTS_ABOVE
    if stated == "auto" and raw.domain == "amplitude" and looks_like_counts:
        raise ContractError(
            f"{what}: '{raw.frames_key}' must hold amplitude = sqrt(intensity), but looks like counts: all values are whole "
            f"numbers up to {facts.maximum:g}; state domain = intensity to have the square root taken, or domain = amplitude "
            "if they are amplitudes"
        )
    if stated == "amplitude" and looks_like_counts:
        notes.append(
            f"warning: frames are stated to be amplitude but are whole numbers up to {facts.maximum:g}, like counts"
        )
    return raw.domain if stated == "auto" else stated


def to_amplitude(frames: np.ndarray, domain: Domain, *, corner: bool) -> np.ndarray:
    """Return (M, N, N) float32 amplitude with the zero frequency at [N//2, N//2]; what is so already is not copied.

    Args:
        frames: (M, N, N) of any real dtype, values checked.
        domain: `intensity` takes the square root, in float64 (D2).
        corner: the zero frequency is at [0, 0] and has to move.
    """
    if domain == "amplitude" and not corner and frames.dtype == np.float32 and frames.flags.c_contiguous:
        return frames
    amplitude = np.empty(frames.shape, dtype=np.float32)
    for part in blocks(len(frames)):
        block = np.asarray(frames[part], dtype=np.float64)
        if domain == "intensity":
            block = np.sqrt(block)
        amplitude[part] = np.fft.fftshift(block, axes=(1, 2)) if corner else block
    return amplitude


def _say_conversion(raw: RawScan, domain: Domain, notes: list[str]) -> None:
    if domain == "intensity":
        notes.append(f"square root of '{raw.frames_key}' taken: it holds intensity")
    if raw.corner_zero_frequency:
        notes.append("zero frequency moved from the corner to the centre")
    if raw.frames.dtype != np.float32:
        notes.append(f"frames converted from {raw.frames.dtype} to float32")


def _photons(raw: RawScan, facts: FrameFacts, domain: Domain, config: IngestConfig, notes: list[str]) -> float | None:
    """Return the photons in one unit of amplitude squared: as stated, else 1 for whole-number intensities, else unknown."""
    stated = checks.stated_number(raw.metadata, ("photons_per_intensity",))
    if config.photons_per_intensity is not None:
        return config.photons_per_intensity
    if isinstance(stated, float):
        return stated
    counts = facts.whole if domain == "intensity" else facts.whole_squares and not facts.whole
    if not counts:
        notes.append(
            "photon scale unknown: the file states no photons_per_intensity, and its intensities are not counts"
        )
        return None
    notes.append("intensities are whole numbers: taken as photon counts, photons_per_intensity = 1")
    return 1.0


def _say_dose(metadata: dict[str, Any], config: IngestConfig, notes: list[str]) -> None:
    """Add a warning where the frames hold another dose than was stated for them (D50)."""
    stated = checks.stated_number(metadata, ("dose_asked", "dose", "nphotons"))
    asked = float(config.expect_dose) if config.expect_dose is not None else stated
    measured = metadata["dose_measured_mean"]
    if isinstance(asked, float) and measured is not None and abs(measured - asked) > DOSE_TOLERANCE * asked:
        notes.append(f"warning: the stated dose is {asked:g} photons a frame, the frames hold {measured:g}")


def _metadata(
    raw: RawScan,
    facts: FrameFacts,
    domain: Domain,
    config: IngestConfig,
    photons: float | None,
    agreement: Agreement,
) -> dict[str, Any]:
    """Return the file's own metadata, with ours over it."""
    known = raw.metadata
    mean_energy = facts.mean_square_sum if domain == "amplitude" else facts.mean_sum
    metadata = {
        **known,
        "source": raw.format if known.get("source", raw.format) == raw.format else f"{raw.format}, {known['source']}",
        "n": facts.n,
        "axis_order": "NHW",
        "domain": "amplitude",
        "photons_per_intensity": photons,
        "dose_measured_mean": None if photons is None else photons * mean_energy,
        "mean_frame_energy": mean_energy,
        "ingest": {"format": raw.format, "dtype": facts.dtype, "mapping": agreement.mapping},
    }
    if config.pixel_size_m is not None:
        metadata["pixel_size_m"] = config.pixel_size_m
    if raw.object is None:
        metadata.pop("object_role", None)
        return metadata
    return {**metadata, "object_role": known.get("object_role", "reference")}
