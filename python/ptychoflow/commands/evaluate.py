"""EVALUATE: one reconstruction scored on each scored rectangle, and its predicted diffraction against the measured one.

    recon.npz, scan.npz, view.npz [, snapshots.npz, patch_metrics.json] -> metrics.json, frc.csv, amp_phase.png, manifest.json

Where a condition holds scans of several N of the same objects, what is scored is what all of their views score.

Alignment is one step, scoring another. A reconstruction that breaks its contract (not finite, not over the scored
rectangle) is an input error, never a row of empty scores.
"""

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from ptychoflow.config import EvaluateConfig
from ptychoflow.data.schema import SCHEMA_VERSION
from ptychoflow.data.storage import (
    atomic_write,
    load_recon,
    load_scan,
    load_snapshots,
    load_view,
    read_json,
    write_json,
)
from ptychoflow.errors import ContractError, UsageError, refuse
from ptychoflow.frames import Canvas, Region
from ptychoflow.imaging.harmonize import pixel_ratio
from ptychoflow.imaging.regions import common_regions
from ptychoflow.metrics.frc import FrcCurve
from ptychoflow.provenance import check_scan, write_manifest
from ptychoflow.records import Recon, Scan, View
from ptychoflow.report.figures import amp_phase
from ptychoflow.scoring.diffraction import consistency
from ptychoflow.scoring.fairness import check_leaks, fairness
from ptychoflow.scoring.over_time import over_time
from ptychoflow.scoring.pieces import Piece, score_piece, stitched_blocks

logger = logging.getLogger(__name__)

IDENTITY = ("run_id", "condition", "label", "arm", "gridsize", "n", "seed")
"""What metrics.json copies from the run's entry in the plan."""


def run(
    config: EvaluateConfig,
    *,
    run_meta: dict[str, Any],
    recon: Path,
    test_scan: Path,
    view: Path,
    patch_metrics: Path | None,
    snapshots: Path | None,
    out_dir: Path,
    other_views: Sequence[Path] = (),
) -> None:
    """Write metrics.json, frc.csv, amp_phase.png and manifest.json.

    Args:
        config: alignment and options of the scores.
        run_meta: the run's entry of the plan.
        recon: recon.npz.
        test_scan: scan that was reconstructed.
        view: view of it.
        patch_metrics: patch scores, where the arm has them.
        snapshots: states over time, where the arm keeps them.
        out_dir: folder to write into.
        other_views: a view of every scan of another N in the same condition.

    Raises:
        ContractError: when the reconstruction is malformed, has another pixel size, or its view leaks.
        UsageError: when the run's entry lacks one of its ids.
    """
    missing = [name for name in (*IDENTITY, "kind", "supervised") if name not in run_meta]
    if missing:
        raise UsageError(f"--run: keys {missing} are missing; it has {sorted(run_meta)}")
    scan, the_recon = load_scan(test_scan), load_recon(recon)
    the_view = scored_alike(load_view(view), [load_view(path) for path in other_views])
    check_scan(test_scan, the_view, "test")
    check_leaks(the_view, supervised=run_meta["supervised"])
    ratio = pixel_ratio(the_recon.pixel_size_m, scan.pixel_size_m, resample=config.resample_pixel_size)
    check_recon(the_recon, the_view.score_regions, ratio=ratio)
    canvas = None if scan.object is None else Canvas((0, 0), (scan.object.shape[0], scan.object.shape[1]))
    pieces = [
        score_piece(the_recon, scan.object, canvas, region, config, ratio=ratio) for region in the_view.score_regions
    ]
    for piece in pieces:
        if piece.alignment is not None and piece.alignment.twin_warning:
            logger.warning("the twin image fits the truth better than the reconstruction itself; nothing was flipped")
    blocks = stitched_blocks(pieces) | {
        "patch": {"not_applicable": "this arm has no patch metrics"}
        if patch_metrics is None
        else read_json(patch_metrics),
        "consistency": _consistency(the_recon, scan, the_view, ratio),
    }
    states = None if snapshots is None else load_snapshots(snapshots)
    metrics = {
        "schema_version": SCHEMA_VERSION,
        **{name: run_meta[name] for name in IDENTITY},
        "against": scan.object_role,
        **facts_of(pieces, scan.pixel_size_m),
        **blocks,
        "snapshots": over_time(states, the_recon, scan, the_view, config, final=blocks, ratio=ratio),
        "fairness": fairness(the_view, the_recon, kind=run_meta["kind"], supervised=run_meta["supervised"]),
    }
    write_json(out_dir / "metrics.json", metrics)
    write_frc(out_dir / "frc.csv", [("", index, piece.curves) for index, piece in enumerate(pieces)])
    title = f"{run_meta['run_id']}: {scan.object_role or 'no truth'}"
    title += f", object 0 of {len(pieces)}" if len(pieces) > 1 else ""
    amp_phase(
        pieces[0].recon, pieces[0].truth, title=title, path=out_dir / "amp_phase.png",
        truth_name=scan.object_role or "truth",
    )  # fmt: skip
    inputs = {"recon": recon, "test_scan": test_scan, "view": view}
    inputs |= {f"other_view_{place}": path for place, path in enumerate(other_views)}
    optional = {"patch_metrics": patch_metrics, "snapshots": snapshots}
    write_manifest(
        out_dir, command="evaluate", inputs=inputs | {name: path for name, path in optional.items() if path is not None},
        outputs=["metrics.json", "frc.csv", "amp_phase.png"], parameters={"run": run_meta, "evaluate": asdict(config)},
    )  # fmt: skip
    logger.info("scored %s on %d rectangle(s), against %s", run_meta["run_id"], len(pieces), scan.object_role)


def scored_alike(view: View, others: Sequence[View]) -> View:
    """Return a view whose rectangles are those that it shares with views of scans of another N; itself without any.

    Raises:
        ContractError: they share nothing that could be scored.
    """
    if not others:
        return view
    origins = "score_origins_rc_px"
    try:
        regions = common_regions(
            view.score_regions, view.metadata[origins], [(one.score_regions, one.metadata[origins]) for one in others]
        )
    except KeyError:
        raise ContractError(
            "a view does not say where its objects lie; make the views again with --from prepare"
        ) from None
    except ValueError as error:
        raise ContractError(f"the views cannot be scored alike: {error}") from error
    return replace(view, score_regions=regions)


def facts_of(pieces: Sequence[Piece], pixel_size_m: float | None) -> dict[str, Any]:
    """Return `collapsed`, `coverage`, `grid` and `pixel_size_m` of metrics.json; the pixel size is that of the grid."""
    step = pieces[0].grid.step_px
    return {
        "collapsed": any(piece.collapsed for piece in pieces),
        "coverage": float(np.mean(np.concatenate([piece.covered.ravel() for piece in pieces]))),
        "grid": {"step_px": step, "shapes": [list(piece.recon.shape) for piece in pieces]},
        "pixel_size_m": None if pixel_size_m is None else pixel_size_m * step,
    }


def check_recon(recon: Recon, regions: Sequence[Region], *, ratio: float, what: str = "recon.npz") -> None:
    """Refuse a reconstruction that no score could be trusted for, all problems at once.

    Args:
        recon: the reconstruction.
        regions: the rectangles to score, in the scan's frame.
        ratio: truth pixel over reconstruction pixel; only with 1 do both have one frame of whole pixels.
        what: the file, as messages name it.

    Raises:
        ContractError: not finite, all weights zero, or a scored rectangle outside its canvas.
    """
    problems = []
    for name, array in (("object", recon.object), ("weight", recon.weight), ("probe", recon.probe)):
        if array is not None and not np.isfinite(array).all():
            problems.append(f"'{name}' has {int((~np.isfinite(array)).sum())} values that are NaN or infinite")
    if not recon.weight.max(initial=0) > 0:
        problems.append("'weight' is zero everywhere: nothing is covered")
    for region in regions if ratio == 1 else ():
        try:
            recon.canvas.slices_of(region)
        except ValueError as error:
            problems.append(f"{error}; check 'origin_rc_px' and the shape of 'object'")
    refuse(problems, what=what)


def _consistency(recon: Recon, scan: Scan, view: View, ratio: float) -> dict[str, Any]:
    if ratio != 1:
        return {"not_applicable": "the reconstruction has another pixel size than the scan: it predicts no frame of it"}
    return consistency(recon, scan, view)


def write_frc(path: Path, curves: Sequence[tuple[str | int, int, Mapping[str, FrcCurve]]]) -> None:
    """Write FRC curves as CSV; an empty `frc` is a ring without energy.

    Args:
        path: the file.
        curves: (seed, object, curves by part) of every reconstruction; the seed is empty where the file is one run's.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["seed", "object", "part", "frequency_nyquist", "frc", "n_samples"])
    for seed, index, parts in curves:
        for part, curve in parts.items():
            rows = zip(curve.frequency_nyquist, curve.correlation, curve.n_samples, strict=True)
            for frequency, value, samples in rows:
                writer.writerow(
                    [seed, index, part, f"{frequency:.6f}", f"{value:.6f}" if np.isfinite(value) else "", samples]
                )
    with atomic_write(path) as stream:
        stream.write(text.getvalue().encode())


def read_frc(path: Path) -> list[dict[str, FrcCurve]]:
    """Return the FRC curves that `write_frc` wrote for one reconstruction: one dictionary by part for each object."""
    rows: dict[int, dict[str, list[tuple[float, float, int]]]] = {}
    with path.open(newline="") as stream:
        for row in csv.DictReader(stream):
            ring = (float(row["frequency_nyquist"]), float(row["frc"] or "nan"), int(row["n_samples"]))
            rows.setdefault(int(row["object"]), {}).setdefault(row["part"], []).append(ring)
    found = []
    for index in sorted(rows):
        columns = {part: list(zip(*rings, strict=True)) for part, rings in rows[index].items()}
        found.append(
            {
                part: FrcCurve(np.array(frequency), np.array(value), np.array(samples, dtype=np.int64))
                for part, (frequency, value, samples) in columns.items()
            }
        )
    return found
