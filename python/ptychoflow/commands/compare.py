"""`ptychoflow compare`: reconstructions from anywhere scored against one truth, without a workflow.

    A/recon.npz B/recon.npz --truth T -> metrics.csv, statistics.csv, comparisons.csv, metrics_by_model.json, visuals/,
                                         reconstructions_aligned.npz, <label>_frc.csv, summary.md, report.html

A reconstruction is a recon.npz, or a complex array (.npy, or .npz with one) of the truth's shape. The truth is a recon.npz, a
scan.npz with an object, or a complex array. The scored rectangle depends on the truth (and its scan) alone.
"""

import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Complex64

from ptychoflow.commands.collect import read_visuals, write_tables
from ptychoflow.commands.condition import Member, write_condition
from ptychoflow.commands.evaluate import IDENTITY, check_recon, facts_of
from ptychoflow.config import EvaluateConfig
from ptychoflow.data.npz import read_npy, read_npz
from ptychoflow.data.schema import SCHEMA_VERSION
from ptychoflow.data.storage import load_recon, load_scan
from ptychoflow.errors import ContractError, UsageError, check_file_name
from ptychoflow.frames import Canvas, Region
from ptychoflow.imaging.harmonize import check_same_object, pixel_ratio
from ptychoflow.imaging.regions import largest_rectangle, score_region
from ptychoflow.provenance import versions, write_manifest
from ptychoflow.records import Recon
from ptychoflow.report.sections import ReportInput
from ptychoflow.report.tables import outcomes
from ptychoflow.scoring.diffraction import covered_pixels
from ptychoflow.scoring.pieces import Piece, score_piece, stitched_blocks

CONDITION = "comparison"

INTERPOLATION_PX = 4
"""What the interpolation of a shifted rectangle looks at beyond its edge, px."""


@dataclass(frozen=True)
class Truth:
    """What reconstructions are scored against.

    Attributes:
        object: (H, W) complex64 on `canvas`.
        canvas: where its pixel [0, 0] lies.
        region: the rectangle that it covers.
        role: `truth` or `reference`.
        pixel_size_m: side of a pixel, m; None where unknown.
    """

    object: Complex64[np.ndarray, "h w"]
    canvas: Canvas
    region: Region
    role: str
    pixel_size_m: float | None = None


def run(
    config: EvaluateConfig,
    *,
    recons: Sequence[Path],
    truths: Sequence[Path],
    labels: Sequence[str] | None,
    region: Sequence[int] | None,
    out_dir: Path,
) -> str:
    """Score, draw and write everything into `out_dir`; return the summary for the terminal.

    Args:
        config: alignment and options of the scores.
        recons: the reconstructions.
        truths: the truth; or one for each reconstruction, such as scans of different N, which must hold the same object.
        labels: a name for each reconstruction, equal names being seeds of one method; None takes the labels that the files
            state, else what tells their paths apart.
        region: rows r0, r1 and columns c0, c1 to score, in the truth's frame; None is what the truth covers, less the largest
            shift on every side where shifts are looked for.
        out_dir: folder to write into.

    Raises:
        UsageError: wrong numbers of truths, labels or bounds.
        ContractError: a file is not what it should be, truths differ, or a reconstruction does not reach over the rectangle.
    """
    if len(truths) not in (1, len(recons)):
        raise UsageError(
            f"--truth: give one for all, or one for each of the {len(recons)} reconstructions; got {len(truths)}"
        )
    if labels is not None and len(labels) != len(recons):
        raise UsageError(f"--labels names {len(labels)} reconstructions, there are {len(recons)}")
    if region is not None and len(region) != 4:
        raise UsageError(f"--region: expected four numbers r0,r1,c0,c1, got {len(region)}")
    truth = _one_truth(truths)
    scored = Region(*region) if region is not None else _shrunk(truth.region, config)
    loaded = [load_reconstruction(path, truth) for path in recons]
    entries = _entries(labels or _names(recons, loaded))
    members, pieces = [], []
    for path, recon, entry in zip(recons, loaded, entries, strict=True):
        piece, document = _score(path, recon, entry, truth, scored, config)
        pieces.append(piece)
        members.append(Member(document, [piece.recon], [piece.covered], [piece.curves]))
    target = [piece.truth for piece in pieces[:1] if piece.truth is not None]
    files = write_condition(out_dir, CONDITION, members, target, [scored], truth_name=truth.role, reference=None)
    documents = [member.document for member in members]
    plan: dict[str, Any] = {
        "conditions": [{"id": CONDITION}], "datasets": [], "views": [], "runs": entries, "skipped": [],
        "parameters": asdict(config),
    }  # fmt: skip
    comparisons, pictures = read_visuals([out_dir / "visuals"])
    report = ReportInput(
        plan=plan, found=outcomes(plan, [], documents), comparisons=comparisons, pictures=pictures, versions=versions(),
        visuals_beside=True,
    )  # fmt: skip
    files += write_tables(out_dir, report, documents)
    inputs = {f"recon_{index}": path for index, path in enumerate(recons)}
    inputs |= {f"truth_{index}": path for index, path in enumerate(truths)}
    write_manifest(out_dir, command="compare", inputs=inputs, outputs=files, parameters=asdict(config))
    return (out_dir / "summary.md").read_text()


def _names(paths: Sequence[Path], recons: Sequence[Recon]) -> list[str]:
    """Return the labels that the files state, as ptychoflow's own do; else what tells their paths apart, from the file's name up.

    Raises:
        UsageError: one file was given twice.
    """
    stated = [recon.metadata.get("label") for recon in recons]
    if all(stated):
        return [str(label) for label in stated]
    resolved = [path.resolve().with_suffix("") for path in paths]
    for parts in itertools.zip_longest(*(reversed(path.parts) for path in resolved), fillvalue=""):
        if len(set(parts)) == len(parts) and parts != ("recon",):
            return [re.sub(r"[^A-Za-z0-9._-]+", "_", part) for part in parts]
    raise UsageError("the reconstructions cannot be told apart by their paths; name them with --labels")


def _entries(labels: Sequence[str]) -> list[dict[str, Any]]:
    """Return a run's entry for every label; equal labels are numbered as seeds in the order given."""
    seen: Counter[str] = Counter()
    entries = []
    for label in labels:
        check_file_name(label, what="label")
        seed = seen[label]
        seen[label] += 1
        entries.append(
            {
                "run_id": f"{CONDITION}__{label}__s{seed}", "condition": CONDITION, "view": CONDITION, "label": label,
                "arm": "imported", "kind": "imported", "supervised": False, "gridsize": 1, "n": None, "seed": seed,
            }
        )  # fmt: skip
    return entries


def _score(
    path: Path, recon: Recon, entry: dict[str, Any], truth: Truth, region: Region, config: EvaluateConfig
) -> tuple[Piece, dict[str, Any]]:
    """Return the scored rectangle of one file and its metrics.json."""
    ratio = pixel_ratio(recon.pixel_size_m, truth.pixel_size_m, resample=config.resample_pixel_size)
    check_recon(recon, [region], ratio=ratio, what=str(path))
    piece = score_piece(recon, truth.object, truth.canvas, region, config, ratio=ratio)
    blocks = stitched_blocks([piece])
    no_frames = {"not_applicable": "compared without a scan's frames"}
    document = {
        "schema_version": SCHEMA_VERSION,
        **{name: entry[name] for name in IDENTITY},
        "against": truth.role,
        **facts_of([piece], truth.pixel_size_m),
        **blocks,
        "patch": no_frames,
        "consistency": no_frames,
        "snapshots": [],
        "fairness": None,
    }
    return piece, document


def load_truth(path: Path) -> Truth:
    """Return the truth of a recon.npz, a scan.npz with an object, or a file with one complex array.

    Raises:
        ContractError: the file holds no complex object.
    """
    names = set() if path.suffix == ".npy" else set(read_npz(path))
    if names & {"diff3d", "diffraction"}:
        scan = load_scan(path)
        if scan.object is None:
            raise ContractError(f"{path}: this scan holds no 'objectGuess' to score against")
        shape = (scan.object.shape[0], scan.object.shape[1])
        region = score_region(scan.positions_rc_px, scan.probe, object_shape=shape)
        return Truth(scan.object, Canvas((0, 0), shape), region, scan.object_role or "truth", scan.pixel_size_m)
    if "object" in names:
        recon = load_recon(path)
        found = largest_rectangle(covered_pixels(recon))
        r0, c0 = recon.canvas.origin_rc_px
        region = Region(found.r0 + r0, found.r1 + r0, found.c0 + c0, found.c1 + c0)
        return Truth(recon.object, recon.canvas, region, "truth", recon.pixel_size_m)
    image = _complex_array(path)
    return Truth(image, Canvas((0, 0), image.shape), Region(0, image.shape[0], 0, image.shape[1]), "truth")


def load_reconstruction(path: Path, truth: Truth) -> Recon:
    """Return a recon.npz, or a bare complex array that lies on the truth's own pixels.

    Raises:
        ContractError: no complex object, or a bare array of another shape than the truth's.
    """
    if path.suffix != ".npy" and "object" in read_npz(path):
        return load_recon(path)
    image = _complex_array(path)
    if image.shape != truth.object.shape:
        raise ContractError(
            f"{path}: an array of shape {image.shape} without an origin cannot be placed on a truth of shape "
            f"{truth.object.shape}; write it as recon.npz with 'origin_rc_px' (docs/data.md)"
        )
    return Recon(image, np.ones(image.shape, dtype=np.float32), truth.canvas, pixel_size_m=truth.pixel_size_m)


def _complex_array(path: Path) -> Complex64[np.ndarray, "h w"]:
    """Return the one complex image of a .npy or .npz file; a scan's or another program's `objectGuess` counts by its name."""
    arrays = {path.name: read_npy(path)} if path.suffix == ".npy" else read_npz(path)
    images = {name: np.squeeze(array) for name, array in arrays.items() if np.iscomplexobj(array)}
    images = {name: image for name, image in images.items() if image.ndim == 2}
    if "objectGuess" in images:
        images = {"objectGuess": images["objectGuess"]}
    if len(images) != 1:
        found = ", ".join(f"{name} {array.shape} {array.dtype}" for name, array in arrays.items())
        raise ContractError(
            f"{path}: expected a recon.npz, or exactly one complex image; found {len(images)} among: {found}"
        )
    return next(iter(images.values())).astype(np.complex64)


def _one_truth(paths: Sequence[Path]) -> Truth:
    """Return the truth of several files that must hold the same object, with the rectangle that all of them cover."""
    truths = {str(path): load_truth(path) for path in dict.fromkeys(paths)}
    check_same_object({name: truth.object for name, truth in truths.items()})
    first = next(iter(truths.values()))
    regions = [truth.region for truth in truths.values()]
    common = Region(
        max(region.r0 for region in regions), min(region.r1 for region in regions),
        max(region.c0 for region in regions), min(region.c1 for region in regions),
    )  # fmt: skip
    if min(common.shape) <= 0:
        raise ContractError(f"the truths {', '.join(truths)} cover no common rectangle")
    return replace(first, region=common)


def _shrunk(region: Region, config: EvaluateConfig) -> Region:
    """Return the rectangle less a margin on every side where a shift is looked for, so that a shifted one still has pixels."""
    margin = math.ceil(config.max_shift_px) + INTERPOLATION_PX if config.align == "register" else 0
    shrunk = Region(region.r0 + margin, region.r1 - margin, region.c0 + margin, region.c1 - margin)
    if min(shrunk.shape) < 2:
        raise ContractError(
            f"nothing is left of {region.shape[0]} x {region.shape[1]} px after a margin of {margin} px for registration; "
            "lower max_shift_px"
        )
    return shrunk
