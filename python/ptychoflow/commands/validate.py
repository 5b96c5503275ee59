"""VALIDATE: the checks of ingest on one scan file, and its facts in words; nothing is written."""

from pathlib import Path

import numpy as np
from scipy.spatial import KDTree

from ptychoflow.config import IngestConfig
from ptychoflow.data.ingest import ingest_file
from ptychoflow.records import Scan


def run(path: Path, *, config: IngestConfig) -> str:
    """Return the report on a scan file that ingest would accept.

    Raises:
        ContractError: ingest would refuse it; the text says why.
    """
    scan, transformations = ingest_file(path, config)
    lines = [f"{path.name}: valid"]
    lines += [f"  {name:<20} {value}" for name, value in facts(scan)]
    lines += ["  what was done or noticed:"]
    lines += [f"    - {line}" for line in transformations]
    return "\n".join(lines)


def facts(scan: Scan) -> list[tuple[str, str]]:
    """Return the facts of an ingested scan as (name, text) pairs."""
    ingest = scan.metadata["ingest"]
    low, high = scan.positions_rc_px.min(axis=0), scan.positions_rc_px.max(axis=0)
    counts = scan.metadata["dose_measured_mean"]
    energy = scan.metadata["mean_frame_energy"]
    dose = (
        f"{energy:.6g} a frame, photon scale unknown"
        if counts is None
        else f"{counts:.6g} photons a frame, measured mean"
    )
    if "dose_asked" in scan.metadata:
        dose += f"; {scan.metadata['dose_asked']} asked for"
    pixel_size = scan.metadata.get("pixel_size_m")
    image = "none" if scan.object is None else f"{scan.object.shape[0]} x {scan.object.shape[1]} px, {scan.object_role}"
    return [
        ("format", str(scan.metadata["source"])),
        ("frames", f"M = {scan.n_frames}, N = {scan.n}, {ingest['dtype']} in the file"),
        ("intensity", dose),
        ("extent", f"rows {low[0]:.2f} to {high[0]:.2f} px, columns {low[1]:.2f} to {high[1]:.2f} px"),
        ("step", _step(scan.positions_rc_px)),
        ("object", image),
        ("pixel size", "unknown" if pixel_size is None else f"{pixel_size:.6g} m"),
        ("axis mapping", _mapping(ingest["mapping"])),
    ]


def _step(positions_rc_px: np.ndarray) -> str:
    """Return the median distance from a position to its nearest other one, in words."""
    places = np.unique(positions_rc_px, axis=0)
    distance = np.asarray(KDTree(places).query(places, k=2)[0])[:, 1]
    return f"median distance to the nearest position {np.median(distance):.2f} px"


def _mapping(check: dict) -> str:
    if not check["checked"]:
        return f"not checked: {check['reason']}"
    if not check["decided"]:
        return f"not decidable: {check['reason']}"
    wrong = max(score for name, score in check["contrast"].items() if name != "identity")
    return f"as in the file: contrast {check['contrast']['identity']:.3f}, best of the seven others {wrong:.3f}"
