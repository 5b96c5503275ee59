"""VALIDATE: the checks of ingest on one scan file, and its facts in words; nothing is written.

With a view, also what the view promises: made from this scan, group centres as far apart as its rule says, train and test
frames as far apart as its guard band. On a scan alone spacing is a fact and never judged.
"""

from pathlib import Path

import numpy as np
from scipy.spatial import KDTree

from ptychoflow.config import IngestConfig
from ptychoflow.data.ingest import ingest_file
from ptychoflow.data.overlap import TOLERANCE_PX, apart, closest_pair, group_centres
from ptychoflow.data.storage import load_view
from ptychoflow.errors import ContractError, refuse
from ptychoflow.provenance import sha256_file
from ptychoflow.records import FrameSet, Scan, View


def run(path: Path, *, config: IngestConfig, view: Path | None = None) -> str:
    """Return the report on a scan file that ingest would accept, and on a view of it.

    Raises:
        ContractError: ingest would refuse the scan, or the view breaks a promise; the text says why.
    """
    scan, transformations = ingest_file(path, config)
    lines = [f"{path.name}: valid"]
    lines += [f"  {name:<20} {value}" for name, value in facts(scan)]
    lines += ["  what was done or noticed:"]
    lines += [f"    - {line}" for line in transformations]
    if view is not None:
        lines += _view_report(load_view(view), scan, sha256_file(path), names=(path.name, view.name))
    return "\n".join(lines)


def _view_report(view: View, scan: Scan, sha256: str, *, names: tuple[str, str]) -> list[str]:
    """Return the report on a view; refuse one that was not made from the scan or breaks its own rules (T9)."""
    made_from = view.metadata["scans"]
    both = {"train": view.train, "test": view.test}
    sides = {side: frames for side, frames in both.items() if made_from[side] == sha256}
    if not sides:
        known = ", ".join(f"{side} {value[:12]}..." for side, value in made_from.items())
        raise ContractError(
            f"{names[1]}: not a view of {names[0]}, whose sha256 is {sha256[:12]}...; it was made from {known}"
        )
    refuse([problem for side, frames in sides.items() for problem in _strangers(side, frames, scan)], what=names[1])
    lines, problems = [f"{names[1]}: valid for the {' and '.join(sides)} frames of this scan"], []
    for side, frames in sides.items():
        line, problem = _spacing(side, frames, view, scan)
        lines.append(f"  {side:<20} {len(frames.frames)} frames, {len(frames.groups)} groups; {line}")
        problems += problem
    if len(sides) == 2 and view.metadata["split"]["kind"] == "region":
        line, problem = _guard(view, scan)
        lines.append(f"  {'guard band':<20} {line}")
        problems += problem
    refuse(problems, what=names[1])
    return lines


def _strangers(side: str, frames: FrameSet, scan: Scan) -> list[str]:
    """Return the problem of frames that the scan does not have, or of members that are not frames of the set."""
    if len(outside := frames.frames[(frames.frames < 0) | (frames.frames >= scan.n_frames)]):
        return [f"{side} frame {outside[0]} is not among the scan's {scan.n_frames}"]
    if len(strangers := np.setdiff1d(frames.groups, frames.frames)):
        return [f"{side} groups use frame {strangers[0]}, which is not among the {side} frames"]
    return []


def _spacing(side: str, frames: FrameSet, view: View, scan: Scan) -> tuple[str, list[str]]:
    """Return the least distance between group centres in words, and the problem where it breaks the view's rule."""
    groups = frames.groups
    # Views made before there was a rule have none.
    rule = view.metadata.get("spacing_rule", {"min_spacing_px": None})
    threshold = rule["min_spacing_px"]
    if threshold is not None and view.gridsize != rule["view_gridsize"]:
        return (
            f"the spacing of {threshold:g} px belongs to groups of gridsize {rule['view_gridsize']} and is not checked "
            f"on those of gridsize {view.gridsize}"
        ), []
    if len(groups) < 2:
        return "a single group", []
    centres = group_centres(scan.positions_rc_px, groups)
    objects = scan.scan_index[groups[:, 0]]
    first, second, distance = closest_pair(apart(centres, objects, reach_px=threshold or 0.0))
    if threshold is None:
        return f"closest centres {distance:.2f} px apart, no least distance asked for", []
    problem = f"{side} groups {first} and {second} have their centres {distance:.4f} px apart, min_spacing_px is {threshold:g}"
    words = f"closest centres {distance:.2f} px apart, at least {threshold:g} px asked for"
    return words, [problem] if distance < threshold - TOLERANCE_PX else []


def _guard(view: View, scan: Scan) -> tuple[str, list[str]]:
    """Return the least distance between train and test frames along the split axis, and the problem where it is too short.

    Along the axis and not as the crow flies: two square patches share pixels unless one coordinate alone is N px apart.
    """
    split = view.metadata["split"]
    axis, guard = split["axis"], split["guard_px"]
    column = [0 if axis == "y" else 1]
    train, test = (scan.positions_rc_px[side.frames][:, column] for side in (view.train, view.test))
    distance, nearest = map(np.asarray, KDTree(train).query(test))
    closest = int(np.argmin(distance))
    least = float(distance[closest])
    problem = (
        f"train frame {view.train.frames[nearest[closest]]} and test frame {view.test.frames[closest]} are {least:.4f} px "
        f"apart along {axis}, guard_px is {guard:g}"
    )
    words = f"train and test at least {least:.2f} px apart along {axis}, {guard:g} px asked for"
    return words, [problem] if least < guard - TOLERANCE_PX else []


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
