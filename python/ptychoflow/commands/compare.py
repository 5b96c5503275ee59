"""COMPARE: all reconstructions of one condition on one grid, side by side, and their scores by arm.

    recon.npz ..., metrics.json ... -> compare_amp_phase.png, reconstructions_aligned.npz, metrics_by_model.json, manifest.json
                                       and reference_metrics.json where the scan holds an object

The alignment that EVALUATE recorded is applied again as it stands, so pictures and scores show the same arrays. Runs
that did not arrive are simply not there.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Complex, Complex64

from ptychoflow.commands.evaluate import evaluate_reference
from ptychoflow.data.schema import SCHEMA_VERSION
from ptychoflow.data.storage import load_recon, load_scan, load_view, read_json, save_recon, write_json, write_npz
from ptychoflow.errors import ContractError, UsageError
from ptychoflow.frames import Canvas
from ptychoflow.imaging.align import align, ramp_phasor
from ptychoflow.provenance import check_scan, write_manifest
from ptychoflow.records import Recon, Scan, View
from ptychoflow.report.figures import compare_amp_phase

logger = logging.getLogger(__name__)

Json = Mapping[str, Any]
Pieces = list[Complex64[np.ndarray, "h w"]]


def run(
    *,
    condition: dict[str, Any],
    test_scan: Path,
    view: Path,
    recons: list[Path],
    metrics: list[Path],
    out_dir: Path,
) -> None:
    """Write the comparison of one condition.

    Args:
        condition: its entry in the plan.
        test_scan: scan that was reconstructed.
        view: any view of the condition; the scored rectangles do not depend on gridsize.
        recons: one recon.npz per run, in the order of `metrics`; may be empty.
        metrics: one metrics.json per run.
        out_dir: folder to write into.

    Raises:
        UsageError: when the two lists differ in length.
        ContractError: when a reconstruction and its metrics belong to different runs, or to another condition.
    """
    if len(recons) != len(metrics):
        raise UsageError(
            f"--recons names {len(recons)} files, --metrics {len(metrics)}; give one of each per run, in one order"
        )
    scan, the_view = load_scan(test_scan), load_view(view)
    check_scan(test_scan, the_view, "test")
    documents = [read_json(path) for path in metrics]
    truth = _truth(scan, the_view)
    aligned: dict[str, Pieces] = {}
    for path, document in zip(recons, documents, strict=True):
        recon = load_recon(path)
        _check(recon, document, condition)
        pieces = [recon.object[recon.canvas.slices_of(region)] for region in the_view.score_regions]
        target = truth or (next(iter(aligned.values())) if aligned else None)
        aligned[_name(document)] = _aligned(pieces, document, target)
    first_seeds = _first_seeds(documents)
    compare_amp_phase(
        [(document["label"], aligned[_name(document)][0]) for document in first_seeds],
        truth[0] if truth else None,
        out_dir / "compare_amp_phase.png",
        title=f"{condition['id']}: first seed of every arm",
        truth_name=scan.object_role or "truth",
    )
    write_npz(out_dir / "reconstructions_aligned.npz", _arrays(aligned, truth, the_view, documents, scan))
    write_json(out_dir / "metrics_by_model.json", by_model(documents, the_view))
    outputs = ["compare_amp_phase.png", "reconstructions_aligned.npz", "metrics_by_model.json"]
    if scan.object is not None:
        own = {"schema_version": SCHEMA_VERSION, "condition": condition["id"], "name": scan.object_role}
        write_json(out_dir / "reference_metrics.json", own | {"consistency": evaluate_reference(scan, the_view)})
        shape = (scan.object.shape[0], scan.object.shape[1])
        facts = {"arm": scan.object_role, "run_id": f"{condition['id']}__{scan.object_role}"}
        own_recon = Recon(scan.object, np.ones(shape, dtype=np.float32), Canvas((0, 0), shape), scan.probe[None], facts)
        save_recon(out_dir / "gt_recon.npz", own_recon)
        outputs += ["reference_metrics.json", "gt_recon.npz"]
    inputs = {"test_scan": test_scan, "view": view}
    inputs |= {f"recon_{_name(document)}": path for document, path in zip(documents, recons, strict=True)}
    write_manifest(out_dir, command="compare", inputs=inputs, outputs=outputs, parameters=condition)
    logger.info("compared %d runs of %s", len(documents), condition["id"])


def _name(document: Json) -> str:
    return f"{document['label']}_s{document['seed']}"


def _check(recon: Recon, document: Json, condition: Json) -> None:
    """Refuse files that do not belong together: a swapped pair would put one arm's picture under another's scores."""
    stated = recon.metadata.get("run_id")
    if stated is not None and stated != document["run_id"]:
        raise ContractError(
            f"recon.npz of run '{stated}' came with the metrics of run '{document['run_id']}'; give both in one order"
        )
    if document["condition"] != condition["id"]:
        raise ContractError(
            f"run '{document['run_id']}' belongs to condition '{document['condition']}', not to '{condition['id']}'"
        )


def _truth(scan: Scan, view: View) -> Pieces:
    """Return the scan's object cut to each scored rectangle; empty without an object."""
    if scan.object is None:
        return []
    canvas = Canvas((0, 0), (scan.object.shape[0], scan.object.shape[1]))
    return [scan.object[canvas.slices_of(region)] for region in view.score_regions]


def _aligned(pieces: Pieces, document: Json, target: Pieces | None) -> Pieces:
    """Return the pieces as they were scored.

    Without truth or reference nothing was scored, and each arm has a scale and phase of its own: `target`, the first
    arm, then sets them for the picture; the first arm itself (None) stays as it is.
    """
    records = (document.get("alignment") or {}).get("by_object")
    if records:
        return [apply_record(piece, record) for piece, record in zip(pieces, records, strict=True)]
    if target is None:
        return pieces
    return [align(piece, to, mode="gauge", phase_ramp=False)[0] for piece, to in zip(pieces, target, strict=True)]


def apply_record(piece: Complex[np.ndarray, "h w"], record: Json) -> Complex64[np.ndarray, "h w"]:
    """Return a reconstruction with a recorded alignment applied: first the phase ramp, then the complex factor."""
    result = piece.astype(np.complex128)
    if record["ramp_rad_per_px"] is not None:
        row, col = record["ramp_rad_per_px"]
        result = result * ramp_phasor(result.shape, (row, col))
    if record["mode"] == "gauge" and record["gauge_abs"] is not None:
        result = result * (record["gauge_abs"] * np.exp(1j * record["gauge_arg_rad"]))
    return result.astype(np.complex64)


def _first_seeds(documents: Sequence[Json]) -> list[Json]:
    """Return the run with the smallest seed of every label, labels in the order they came."""
    first: dict[str, Json] = {}
    for document in documents:
        label = document["label"]
        if label not in first or document["seed"] < first[label]["seed"]:
            first[label] = document
    return list(first.values())


def _arrays(
    aligned: Mapping[str, Pieces], truth: Pieces, view: View, documents: Sequence[Json], scan: Scan
) -> dict[str, np.ndarray | str]:
    """Return the members of reconstructions_aligned.npz: `<label>_s<seed>_complex`, `_o<k>` appended from the second object on."""
    named = ({"ground_truth": truth} if truth else {}) | dict(aligned)
    arrays: dict[str, np.ndarray | str] = {}
    for name, pieces in named.items():
        for index, piece in enumerate(pieces):
            arrays[f"{name}_complex" + (f"_o{index}" if index else "")] = piece
    arrays["origin_rc_px"] = np.array([[region.r0, region.c0] for region in view.score_regions], dtype=np.int64)
    facts = {
        "schema_version": SCHEMA_VERSION,
        "object_role": scan.object_role,
        "runs": {_name(document): document["run_id"] for document in documents},
        "alignment": {_name(document): document["alignment"] for document in documents},
    }
    if not truth and aligned:
        facts["scale_and_phase_of"] = next(iter(aligned))
    arrays["metadata"] = json.dumps(facts, sort_keys=True, allow_nan=False)
    return arrays


def by_model(documents: Sequence[Json], view: View) -> dict[str, Any]:
    """Return metrics_by_model.json: scores by label, means over the seeds that did not collapse (all of them in `by_seed`)."""
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
            "reference_shape": list(view.score_regions[0].shape),
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
