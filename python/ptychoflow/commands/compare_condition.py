"""COMPARE: all reconstructions of one condition on one grid, side by side, and their scores by arm.

    recon.npz ..., metrics.json ..., frc.csv ... -> visuals/, reconstructions_aligned.npz, metrics_by_model.json,
                                                    <label>_frc.csv, manifest.json; gt_recon.npz where the scan holds an object

Runs of another N have a scan and a view of their own, of the same objects; all are compared on what all of their views score.
The alignment that EVALUATE recorded is applied again as it stands, so pictures and scores show the same arrays. Runs
that did not arrive are simply not there.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Complex64

from ptychoflow.commands.condition import Member, write_condition
from ptychoflow.commands.evaluate import read_frc, scored_alike
from ptychoflow.data.schema import SCHEMA_VERSION
from ptychoflow.data.storage import load_recon, load_scan, load_view, read_json, save_recon
from ptychoflow.errors import ContractError, UsageError, check_file_name
from ptychoflow.frames import Canvas
from ptychoflow.imaging.align import apply, gauge_factor
from ptychoflow.imaging.harmonize import Grid, pixel_ratio, sample
from ptychoflow.provenance import check_scan, write_manifest
from ptychoflow.records import Recon, Scan, View
from ptychoflow.scoring.diffraction import reference_consistency
from ptychoflow.scoring.pieces import covered_on

logger = logging.getLogger(__name__)

Json = Mapping[str, Any]
Pieces = list[Complex64[np.ndarray, "h w"]]


def run(
    *,
    condition: dict[str, Any],
    test_scans: list[Path],
    views: list[Path],
    recons: list[Path],
    metrics: list[Path],
    curves: list[Path],
    out_dir: Path,
) -> None:
    """Write the comparison of one condition.

    Args:
        condition: its entry in the plan.
        test_scans: the scan that was reconstructed; one for each N.
        views: any view of each of them; the scored rectangles do not depend on gridsize.
        recons: one recon.npz per run, in the order of `metrics`; may be empty.
        metrics: one metrics.json per run.
        curves: one frc.csv per run.
        out_dir: folder to write into.

    Raises:
        UsageError: when the lists differ in length.
        ContractError: when files belong to different runs, or to another condition.
    """
    if not len(recons) == len(metrics) == len(curves):
        raise UsageError(
            f"--recons names {len(recons)} files, --metrics {len(metrics)}, --curves {len(curves)}; "
            "give one of each per run, in one order"
        )
    if not len(test_scans) == len(views) > 0:
        raise UsageError(
            f"--test-scan names {len(test_scans)} files, --view {len(views)}; give one of each for every N of the condition"
        )
    documents = [read_json(path) for path in metrics]
    step = documents[0]["grid"]["step_px"] if documents else 1.0
    sides = _sides(test_scans, views, condition.get("sides", []), step)
    scan, the_view, grids = next(iter(sides.values()))
    truth = _truth(scan, grids)
    for n, (other, _, others) in sides.items():
        if any(not np.array_equal(a, b) for a, b in zip(truth, _truth(other, others), strict=True)):
            raise ContractError(
                f"the scans of N = {n} and N = {scan.n} hold different objects; runs are only compared on one object"
            )
    members: list[Member] = []
    for path, document, rings in zip(recons, documents, curves, strict=True):
        recon = load_recon(path)
        if len(sides) > 1 and document["n"] not in sides:
            raise ContractError(
                f"run '{document['run_id']}' has N = {document['n']}, but the scans given have {[*sides]}"
            )
        own_scan, _, grids = sides[document["n"] if len(sides) > 1 else scan.n]
        _check(recon, document, condition, grids)
        ratio = pixel_ratio(recon.pixel_size_m, own_scan.pixel_size_m, resample=True)
        target = members[0].pieces if members and not truth else None
        members.append(
            Member(
                document=document,
                pieces=_aligned(recon, grids, document, ratio, target),
                covered=[covered_on(recon, grid, ratio=ratio) for grid in grids],
                curves=read_frc(rings),
            )
        )
    reference = None
    if scan.object is not None:
        own = {"schema_version": SCHEMA_VERSION, "condition": condition["id"], "name": scan.object_role}
        reference = own | {"consistency": reference_consistency(scan, the_view)}
    outputs = write_condition(
        out_dir, condition["id"], members, truth, the_view.score_regions,
        truth_name=scan.object_role or "truth", reference=reference,
    )  # fmt: skip
    if scan.object is not None:
        shape = (scan.object.shape[0], scan.object.shape[1])
        facts = {"arm": scan.object_role, "run_id": f"{condition['id']}__{scan.object_role}"}
        own_recon = Recon(
            scan.object,
            np.ones(shape, dtype=np.float32),
            Canvas((0, 0), shape),
            scan.probe[None],
            facts,
            scan.pixel_size_m,
        )
        save_recon(out_dir / "gt_recon.npz", own_recon)
        outputs.append("gt_recon.npz")
    inputs = {"test_scan": test_scans[0], "view": views[0]}
    inputs |= {f"test_scan_{place}": path for place, path in enumerate(test_scans[1:], start=1)}
    inputs |= {f"view_{place}": path for place, path in enumerate(views[1:], start=1)}
    inputs |= {f"recon_{member.name}": path for member, path in zip(members, recons, strict=True)}
    write_manifest(out_dir, command="compare-condition", inputs=inputs, outputs=outputs, parameters=condition)
    logger.info("compared %d runs of %s", len(members), condition["id"])


def _sides(
    test_scans: Sequence[Path], views: Sequence[Path], order: Sequence[int], step_px: float
) -> dict[int, tuple[Scan, View, list[Grid]]]:
    """Return scan, view and scored grids by N; the N that the condition is about first."""
    loaded: dict[int, tuple[Scan, View]] = {}
    for scan_path, view_path in zip(test_scans, views, strict=True):
        scan, view = load_scan(scan_path), load_view(view_path)
        check_scan(scan_path, view, "test")
        loaded[scan.n] = scan, view
    found = {}
    for n in sorted(loaded, key=lambda n: order.index(n) if n in order else len(order)):
        scan, view = loaded[n]
        view = scored_alike(view, [other for m, (_, other) in loaded.items() if m != n])
        found[n] = scan, view, [Grid(region, step_px) for region in view.score_regions]
    return found


def _check(recon: Recon, document: Json, condition: Json, grids: list[Grid]) -> None:
    """Refuse files that do not belong together: a swapped pair would put one arm's picture under another's scores."""
    check_file_name(document["label"], what=f"label of run '{document['run_id']}'")
    stated = recon.metadata.get("run_id")
    if stated is not None and stated != document["run_id"] and document["arm"] != "imported":
        raise ContractError(
            f"recon.npz of run '{stated}' came with the metrics of run '{document['run_id']}'; give both in one order"
        )
    if document["condition"] != condition["id"]:
        raise ContractError(
            f"run '{document['run_id']}' belongs to condition '{document['condition']}', not to '{condition['id']}'"
        )
    shapes = [list(grid.shape) for grid in grids]
    if document["grid"] != {"step_px": grids[0].step_px, "shapes": shapes}:
        raise ContractError(
            f"run '{document['run_id']}' was scored on a grid of {document['grid']}, this condition's is of "
            f"{grids[0].step_px:g} px with shapes {shapes}; score all with one view's rectangles and the same --canonical_grid"
        )


def _truth(scan: Scan, grids: list[Grid]) -> Pieces:
    """Return the scan's object on each grid; empty without an object."""
    if scan.object is None:
        return []
    canvas = Canvas((0, 0), (scan.object.shape[0], scan.object.shape[1]))
    return [sample(scan.object, canvas, grid) for grid in grids]


def _aligned(recon: Recon, grids: list[Grid], document: Json, ratio: float, target: Pieces | None) -> Pieces:
    """Return the pieces as they were scored.

    Without truth or reference nothing was scored, and each arm has a scale and phase of its own: `target`, the first
    arm, then sets them for the picture; the first arm itself (None) stays as it is.
    """
    records = document["alignment"].get("by_object")
    if records:
        return [
            apply(recon.object, recon.canvas, grid, record, pixel_ratio=ratio)
            for grid, record in zip(grids, records, strict=True)
        ]
    pieces = [sample(recon.object, recon.canvas, grid, pixel_ratio=ratio) for grid in grids]
    if target is None:
        return pieces
    factors = [
        gauge_factor(piece.astype(np.complex128), like.astype(np.complex128))
        for piece, like in zip(pieces, target, strict=True)
    ]
    return [
        piece if factor is None else (piece * factor).astype(np.complex64)
        for piece, factor in zip(pieces, factors, strict=True)
    ]
