"""All reconstructions of one condition side by side: what COMPARE writes, and `ptychoflow compare` too.

visuals/ (pictures and comparison.json), reconstructions_aligned.npz, metrics_by_model.json, <label>_frc.csv
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Complex64

from ptychoflow.commands.evaluate import write_frc
from ptychoflow.data.schema import SCHEMA_VERSION
from ptychoflow.data.storage import write_json, write_npz
from ptychoflow.frames import Region
from ptychoflow.metrics.frc import FrcCurve
from ptychoflow.metrics.image import is_phase_constant
from ptychoflow.metrics.statistics import spatial
from ptychoflow.report.blink import blink_panels
from ptychoflow.report.curves import frc_curves, quality_time
from ptychoflow.report.figures import amp_phase, compare_amp_phase, error_maps

Json = Mapping[str, Any]
Pieces = list[Complex64[np.ndarray, "h w"]]

BLOCK_PX = 32
"""Side of the blocks that the spatial uncertainty is resampled in, px."""


@dataclass(frozen=True)
class Member:
    """One reconstruction of the condition.

    Attributes:
        document: its metrics.json.
        pieces: the aligned pictures, one per rectangle, as they were scored.
        covered: where the reconstruction knows the object, one per rectangle.
        curves: FRC curves by part, one dictionary per rectangle.
    """

    document: Json
    pieces: Pieces
    covered: list[Bool[np.ndarray, "h w"]]
    curves: list[dict[str, FrcCurve]]

    @property
    def name(self) -> str:
        """Label and seed: unique in a condition."""
        return f"{self.document['label']}_s{self.document['seed']}"


def write_condition(
    out_dir: Path,
    condition: str,
    members: Sequence[Member],
    truth: Pieces,
    regions: Sequence[Region],
    *,
    truth_name: str,
    reference: Json | None,
) -> list[str]:
    """Write everything that shows a condition as a whole; return the names of the files.

    Args:
        out_dir: folder to write into.
        condition: its id.
        members: the reconstructions that arrived; may be empty.
        truth: truth or reference on the same grids; empty without one.
        regions: the scored rectangles.
        truth_name: `truth` or `reference`.
        reference: scores of the scan's own object, None without.
    """
    visuals = out_dir / "visuals"
    visuals.mkdir(exist_ok=True)
    shown = _shown(members)
    pictures = _pictures(visuals, condition, shown, members, truth, truth_name)
    write_json(
        visuals / "comparison.json",
        {
            "schema_version": SCHEMA_VERSION,
            "condition": condition,
            "reference": reference,
            "pictures": pictures,
            "spatial": _spatial(shown, truth),
        },
    )
    write_npz(out_dir / "reconstructions_aligned.npz", _arrays(members, truth, regions, truth_name))
    shapes = [list(piece.shape) for piece in (truth or (members[0].pieces if members else []))]
    write_json(out_dir / "metrics_by_model.json", by_model([member.document for member in members], shapes))
    outputs = ["reconstructions_aligned.npz", "metrics_by_model.json"]
    for label, runs in _by_label(members).items():
        name = f"{label}_frc.csv"
        rows = [(member.document["seed"], index, parts) for member in runs for index, parts in enumerate(member.curves)]
        write_frc(out_dir / name, rows)
        outputs.append(name)
    return outputs + sorted(f"visuals/{path.name}" for path in visuals.iterdir())


def _by_label(members: Sequence[Member]) -> dict[str, list[Member]]:
    found: dict[str, list[Member]] = {}
    for member in sorted(members, key=lambda member: member.document["seed"]):
        found.setdefault(member.document["label"], []).append(member)
    return found


def _shown(members: Sequence[Member]) -> list[Member]:
    """Return one run of every label, in the order they came: the smallest seed that did not collapse, else the smallest."""
    best = {
        label: min(runs, key=lambda member: (member.document["collapsed"], member.document["seed"]))
        for label, runs in _by_label(members).items()
    }
    return [best[label] for label in dict.fromkeys(member.document["label"] for member in members)]


def _pictures(
    visuals: Path, condition: str, shown: Sequence[Member], members: Sequence[Member], truth: Pieces, truth_name: str
) -> dict[str, Any]:
    """Draw everything into `visuals`; return the block `pictures` of comparison.json."""
    first = truth[0] if truth else None
    entries = [(member.document["label"], member.pieces[0]) for member in shown]
    pixel_size = next((member.document["pixel_size_m"] for member in shown), None)
    title = f"{condition}: one seed of every arm"
    compare_amp_phase(
        entries, first, visuals / "compare_amp_phase.png", title=title, truth_name=truth_name, pixel_size_m=pixel_size
    )
    found: dict[str, Any] = {"compare": "compare_amp_phase.png", "frc": None, "quality": None, "arms": {}, "errors": {}}
    for member in shown:
        label, seed = member.document["label"], member.document["seed"]
        name = f"amp_phase_{label}.png"
        amp_phase(
            member.pieces[0], first, title=f"{condition}: {label}, seed {seed}", path=visuals / name,
            truth_name=truth_name, pixel_size_m=pixel_size,
        )  # fmt: skip
        found["arms"][label] = name
        if first is None:
            continue
        name = f"amp_phase_error_{label}.png"
        error_maps(
            member.pieces[0], first, member.covered[0], title=f"{condition}: errors of {label}, seed {seed}",
            path=visuals / name, truth_name=truth_name, pixel_size_m=pixel_size,
        )  # fmt: skip
        found["errors"][label] = name
    labels = _by_label(members)
    curves = {
        label: [member.curves[0]["complex"] for member in runs if member.curves] for label, runs in labels.items()
    }
    if any(curves.values()):
        found["frc"] = "frc_curves.png"
        shown_curves = {label: runs for label, runs in curves.items() if runs}
        frc_curves(shown_curves, visuals / "frc_curves.png", title=f"{condition}: complex Fourier ring correlation")
    snapshots = {
        label: [member.document["snapshots"] for member in runs if member.document["snapshots"]]
        for label, runs in labels.items()
    }
    snapshots = {
        label: runs for label, runs in snapshots.items() if any(entry["scores"] for run in runs for entry in run)
    }
    if snapshots:
        found["quality"] = "quality_time.png"
        quality_time(snapshots, visuals / "quality_time.png", title=f"{condition}: quality over time")
    found["blink"], found["blink_limits"] = blink_panels(entries, first, visuals, truth_name=truth_name)
    return found


def _spatial(shown: Sequence[Member], truth: Pieces) -> list[dict[str, Any]]:
    """Return, for every pair of labels, the difference of their mean errors within the first object, with its uncertainty."""
    if not truth:
        return []
    target = truth[0]
    parts = {"amp": lambda image: np.abs(np.abs(image) - np.abs(target))}
    if not is_phase_constant(target):
        parts["phase"] = lambda image: np.abs(np.angle(image * np.conj(target)))
    good = [member for member in shown if not member.document["collapsed"]]
    errors = {part: {member.name: error(member.pieces[0]) for member in good} for part, error in parts.items()}
    found = []
    for first, second in itertools.combinations(good, 2):
        for part, maps in errors.items():
            paired = asdict(spatial(maps[first.name], maps[second.name], block_px=BLOCK_PX, scores=len(errors)))
            ends = {"first": first.document["label"], "second": second.document["label"]}
            found.append(
                {
                    **ends,
                    "part": part,
                    "metric": "mae",
                    "seeds": [first.document["seed"], second.document["seed"]],
                    "block_px": BLOCK_PX,
                    **{name: paired[name] for name in ("n", "mean", "low", "high", "method", "verdict")},
                }
            )
    return found


def _arrays(
    members: Sequence[Member], truth: Pieces, regions: Sequence[Region], truth_name: str
) -> dict[str, np.ndarray | str]:
    """Return the members of reconstructions_aligned.npz: `<label>_s<seed>_complex`, `_o<k>` appended from the second object on."""
    named = ({"ground_truth": truth} if truth else {}) | {member.name: member.pieces for member in members}
    arrays: dict[str, np.ndarray | str] = {}
    for name, pieces in named.items():
        for index, piece in enumerate(pieces):
            arrays[f"{name}_complex" + (f"_o{index}" if index else "")] = piece
    arrays["origin_rc_px"] = np.array([[region.r0, region.c0] for region in regions], dtype=np.int64)
    facts = {
        "schema_version": SCHEMA_VERSION,
        "object_role": truth_name if truth else None,
        "runs": {member.name: member.document["run_id"] for member in members},
        "alignment": {member.name: member.document["alignment"] for member in members},
    }
    if not truth and members:
        facts["scale_and_phase_of"] = members[0].name
    arrays["metadata"] = json.dumps(facts, sort_keys=True, allow_nan=False)
    return arrays


def by_model(documents: Sequence[Json], shapes: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Return metrics_by_model.json: scores by label, means over the seeds that did not collapse (all of them in `by_seed`).

    Args:
        documents: metrics.json of every run.
        shapes: (rows, cols) of the scored grids; the first one is the published `reference_shape`.
    """
    labels: dict[str, list[Json]] = {}
    for document in documents:
        labels.setdefault(document["label"], []).append(document)
    found = {}
    for label, runs in labels.items():
        counted = [document for document in runs if not document["collapsed"]]
        found[label] = {
            "arm": runs[0]["arm"],
            "gridsize": runs[0]["gridsize"],
            "n": runs[0]["n"],
            "reference_shape": list(shapes[0]),
            "seeds": sorted(document["seed"] for document in counted),
            "collapsed_seeds": sorted(document["seed"] for document in runs if document["collapsed"]),
            "metrics": flat(_mean_over(counted, "stitched")),
            "patch": _mean_over(counted, "patch"),
            "consistency": _mean_over(counted, "consistency"),
            "by_seed": {
                str(document["seed"]): {name: document[name] for name in ("stitched", "patch", "consistency")}
                for document in runs
            },
        }
    return found


def _mean_over(documents: Sequence[Json], block: str) -> dict[str, Any]:
    if not documents:
        return {"not_applicable": "every seed collapsed"}
    return mean_block([document[block] for document in documents])


def mean_block(blocks: Sequence[Json]) -> dict[str, Any]:
    """Return the mean of the same block over several runs; what is not a score is taken from the first.

    A score without a value in some runs is the mean of the others, and `n` says of how many.
    """
    result: dict[str, Any] = {}
    for name, first in blocks[0].items():
        members = [block[name] for block in blocks if isinstance(block.get(name), Mapping)]
        if not isinstance(first, Mapping):
            result[name] = first
        elif "value" in first:
            values = [member["value"] for member in members if member.get("value") is not None]
            result[name] = {**first, "value": float(np.mean(values)) if values else None, "n": len(values)}
        else:
            result[name] = mean_block(members)
    return result


def flat(stitched: Json) -> dict[str, Any]:
    """Return the stitched block in the published layout: `{"mae": [amplitude, phase], ...}`, others as `complex_nrmse`."""
    if "not_applicable" in stitched:
        return dict(stitched)
    pair = [stitched["amp"], stitched["phase"]]
    names = list(dict.fromkeys(name for part in pair for name in part))
    result: dict[str, Any] = {name: [part.get(name, {}).get("value") for part in pair] for name in names}
    for part, scores in stitched.items():
        if part not in ("amp", "phase"):
            result |= {f"{part}_{name}": score["value"] for name, score in scores.items()}
    return result
