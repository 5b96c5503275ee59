"""EVALUATE: one reconstruction scored on each scored rectangle, and its predicted diffraction against the measured one.

Alignment is one step, scoring another. A reconstruction that breaks its contract (not finite, not over the scored
rectangle) is an input error, never a row of empty scores.
"""

import csv
import io
import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from ptychoflow.config import EvaluateConfig
from ptychoflow.data.schema import SCHEMA_VERSION
from ptychoflow.data.storage import atomic_write, load_recon, load_scan, load_view, read_json, write_json
from ptychoflow.errors import UsageError, refuse
from ptychoflow.frames import Canvas, Region
from ptychoflow.imaging.align import Alignment, align
from ptychoflow.metrics.consistency import contrast_correlation, illuminated_coverage, predict_frames, r_factor
from ptychoflow.metrics.frc import THRESHOLDS, FrcCurve, crossings, frc
from ptychoflow.metrics.image import Scores, circular_std, image_scores, is_phase_constant, phase_maps
from ptychoflow.metrics.score import Score, mean_score
from ptychoflow.provenance import check_scan, write_manifest
from ptychoflow.records import Recon, Scan, View
from ptychoflow.report.figures import amp_phase

logger = logging.getLogger(__name__)

IDENTITY = ("run_id", "condition", "label", "arm", "gridsize", "n", "seed")
"""What metrics.json copies from the run's entry in the plan."""

COVERED = 1e-3
"""Share of the largest weight above which a pixel counts as covered."""

FRAME_COVERED = 0.5
"""Share of the probe's intensity that must fall on covered pixels for a frame to be predicted."""

CONSISTENCY_FRAMES = 512
"""At most this many frames of a set are compared, evenly spaced."""

FLAT = 0.01
"""Without a truth: relative spread of the amplitude and circular spread of the phase (rad) below which both are flat."""

Block = dict[str, Scores]


def run(
    config: EvaluateConfig,
    *,
    run_meta: dict[str, Any],
    recon: Path,
    test_scan: Path,
    view: Path,
    patch_metrics: Path | None,
    out_dir: Path,
) -> None:
    """Write metrics.json, frc.csv, amp_phase.png and manifest.json.

    Raises:
        ContractError: when the reconstruction is malformed.
        UsageError: when the run's entry lacks one of its ids.
    """
    missing = [name for name in IDENTITY if name not in run_meta]
    if missing:
        raise UsageError(f"--run: keys {missing} are missing; it has {sorted(run_meta)}")
    scan, the_view, the_recon = load_scan(test_scan), load_view(view), load_recon(recon)
    check_scan(test_scan, the_view, "test")
    check_recon(the_recon, scan, the_view)
    pieces = [_score_region(config, the_recon, scan, region) for region in the_view.score_regions]
    metrics = {
        "schema_version": SCHEMA_VERSION,
        **{name: run_meta[name] for name in IDENTITY},
        "against": scan.object_role,
        "collapsed": any(piece["collapsed"] for piece in pieces),
        "coverage": _coverage(the_recon, the_view.score_regions),
        **_stitched(pieces, the_view.score_regions),
        "patch": {"not_applicable": "this arm has no patch metrics"}
        if patch_metrics is None
        else read_json(patch_metrics),
        "consistency": consistency(the_recon, scan, the_view),
    }
    write_json(out_dir / "metrics.json", metrics)
    _write_frc(out_dir / "frc.csv", [piece["curves"] for piece in pieces])
    title = f"{run_meta['run_id']}: {scan.object_role or 'no truth'}"
    title += f", object 0 of {len(pieces)}" if len(pieces) > 1 else ""
    amp_phase(
        pieces[0]["recon"], pieces[0]["truth"], title=title, path=out_dir / "amp_phase.png",
        truth_name=scan.object_role or "truth",
    )  # fmt: skip
    inputs = {"recon": recon, "test_scan": test_scan, "view": view}
    write_manifest(
        out_dir, command="evaluate", inputs=inputs if patch_metrics is None else inputs | {"patch_metrics": patch_metrics},
        outputs=["metrics.json", "frc.csv", "amp_phase.png"], parameters={"run": run_meta, "evaluate": asdict(config)},
    )  # fmt: skip
    logger.info("scored %s on %d rectangle(s), against %s", run_meta["run_id"], len(pieces), scan.object_role)


def check_recon(recon: Recon, scan: Scan, view: View) -> None:
    """Refuse a reconstruction that no score could be trusted for, all problems at once.

    Raises:
        ContractError: not finite, all weights zero, a probe of another size, or a scored rectangle outside its canvas.
    """
    problems = []
    for name, array in (("object", recon.object), ("weight", recon.weight), ("probe", recon.probe)):
        if array is not None and not np.isfinite(array).all():
            problems.append(f"'{name}' has {int((~np.isfinite(array)).sum())} values that are NaN or infinite")
    if not recon.weight.max(initial=0) > 0:
        problems.append("'weight' is zero everywhere: nothing is covered")
    if recon.probe is not None and recon.probe.shape[-1] != scan.n:
        problems.append(f"'probe' has {recon.probe.shape[-1]} px a side, the scan's frames have {scan.n}")
    for region in view.score_regions:
        try:
            recon.canvas.slices_of(region)
        except ValueError as error:
            problems.append(f"{error}; check 'origin_rc_px' and the shape of 'object'")
    refuse(problems, what="recon.npz")


def consistency(recon: Recon, scan: Scan, view: View) -> dict[str, Any]:
    """Return R-factor and contrast correlation on the held-out and on the test frames of a view.

    The reconstruction's own probe is used where it has one, else the scan's.
    """
    return {
        "heldout": _consistency_of(recon, scan, view.heldout, name="heldout"),
        "test": _consistency_of(recon, scan, view.test.frames, name="test"),
    }


def evaluate_reference(scan: Scan, view: View) -> dict[str, Any]:
    """Return the same consistency block for the scan's own object and probe: what a reconstruction could reach.

    Args:
        scan: with an object.
        view: of that scan.
    """
    if scan.object is None:
        return {"not_applicable": "no object in the scan"}
    shape = (scan.object.shape[0], scan.object.shape[1])
    own = Recon(scan.object, np.ones(shape, dtype=np.float32), Canvas((0, 0), shape))
    return consistency(own, scan, view)


def _score_region(config: EvaluateConfig, recon: Recon, scan: Scan, region: Region) -> dict[str, Any]:
    """Return pictures, scores, FRC curves, alignment and the collapse flag of one scored rectangle."""
    cut = recon.object[recon.canvas.slices_of(region)]
    if scan.object is None:
        return {
            "recon": cut, "truth": None, "scores": None, "curves": {}, "alignment": None, "collapsed": _is_flat(cut),
        }  # fmt: skip
    truth = scan.object[Canvas((0, 0), (scan.object.shape[0], scan.object.shape[1])).slices_of(region)]
    aligned, alignment = align(cut, truth, mode=config.align, phase_ramp=config.phase_ramp)
    if alignment.twin_warning:
        logger.warning("the twin image fits the truth better than the reconstruction itself; nothing was flipped")
    scores = image_scores(aligned, truth)
    curves = {"complex": frc(aligned, truth), "amp": frc(np.abs(aligned), np.abs(truth))}
    if is_phase_constant(truth):
        without = Score(None, "Nyquist", "higher", reason="truth_phase_constant")
        scores["phase"] |= dict.fromkeys(THRESHOLDS, without)
    else:
        curves["phase"] = frc(*phase_maps(aligned, truth))
    for part, curve in curves.items():
        scores[part] |= crossings(curve)
    ratios = [scores[part]["contrast_ratio"].value for part in ("amp", "phase")]
    collapsed = any(ratio is not None and ratio < config.collapse_ratio for ratio in ratios)
    return {
        "recon": aligned, "truth": truth, "scores": scores, "curves": curves, "alignment": alignment, "collapsed": collapsed,
    }  # fmt: skip


def _is_flat(recon: np.ndarray) -> bool:
    """Return whether neither amplitude nor phase of a picture varies: collapse, where there is no truth to compare with."""
    amplitude = np.abs(recon).astype(np.float64)
    if not amplitude.any():
        return True
    return bool(amplitude.std() < FLAT * amplitude.mean() and circular_std(np.angle(recon)) < FLAT)


def _covered(recon: Recon) -> np.ndarray:
    return recon.weight > COVERED * recon.weight.max()


def _coverage(recon: Recon, regions: tuple[Region, ...]) -> float:
    """Return the share of scored pixels that the reconstruction covers."""
    covered = _covered(recon)
    return float(np.mean(np.concatenate([covered[recon.canvas.slices_of(region)].ravel() for region in regions])))


def _stitched(pieces: list[dict[str, Any]], regions: tuple[Region, ...]) -> dict[str, Any]:
    """Return the blocks `alignment`, `stitched` (mean over the rectangles) and `by_object` of metrics.json."""
    if pieces[0]["scores"] is None:
        nothing = {"not_applicable": "no object in the scan"}
        return {"alignment": nothing, "stitched": nothing, "by_object": []}
    blocks: list[Block] = [piece["scores"] for piece in pieces]
    by_object = [
        _records([block], [region]) | {"object": i}
        for i, (block, region) in enumerate(zip(blocks, regions, strict=True))
    ]
    alignments: list[Alignment] = [piece["alignment"] for piece in pieces]
    return {
        "alignment": {"by_object": [alignment.record() for alignment in alignments]},
        "stitched": _records(blocks, list(regions)),
        "by_object": by_object,
    }


def _records(blocks: list[Block], regions: list[Region]) -> dict[str, Any]:
    """Return each score's mean over the blocks with the rectangles that entered it."""
    records: dict[str, Any] = {}
    for part, scores in blocks[0].items():
        records[part] = {}
        for name in scores:
            members = [block[part][name] for block in blocks]
            used = [r for r, member in zip(regions, members, strict=True) if member.value is not None] or regions
            records[part][name] = mean_score(members).record() | {
                "region": [region.as_array().tolist() for region in used]
            }
    return records


def _consistency_of(recon: Recon, scan: Scan, frames: np.ndarray, *, name: str) -> dict[str, Any]:
    """Return the consistency scores on one set of frames, and how many of them were compared."""
    chosen = _evenly(frames, CONSISTENCY_FRAMES)
    modes = scan.probe[None] if recon.probe is None else recon.probe
    positions = scan.positions_rc_px[chosen]
    share = illuminated_coverage(_covered(recon), recon.canvas, modes, positions)
    kept = share >= FRAME_COVERED
    scored = chosen[kept]
    counts = {"available": len(frames), "chosen": len(chosen), "uncovered": int((~kept).sum()), "scored": len(scored)}
    contrast, r = Score(None, "1", "higher"), Score(None, "1", "lower")
    extra: dict[str, Any] = {"frames": counts, "probe": "scan" if recon.probe is None else "reconstruction"}
    if len(scored) == 0:
        reason = f"no {name} frames" if len(chosen) == 0 else f"no {name} frame is covered by the reconstruction"
        return {
            "contrast": replace(contrast, reason=reason).record(),
            "r_factor": replace(r, reason=reason).record(),
            **extra,
        }
    predicted = predict_frames(recon.object, recon.canvas, modes, positions[kept])
    measured = scan.amplitude[scored]
    try:
        contrast = replace(contrast, value=contrast_correlation(measured, predicted))
    except ValueError as error:
        contrast = replace(contrast, reason=str(error))
    try:
        value, extra["scale"] = r_factor(measured, predicted)
        r = replace(r, value=value)
    except ValueError as error:
        r = replace(r, reason=str(error))
    return {"contrast": contrast.record(), "r_factor": r.record(), **extra}


def _evenly(frames: np.ndarray, limit: int) -> np.ndarray:
    """Return at most `limit` of the frames, evenly spaced over the list."""
    if len(frames) <= limit:
        return frames
    return frames[np.linspace(0, len(frames) - 1, limit).round().astype(int)]


def _write_frc(path: Path, curves_by_object: list[dict[str, FrcCurve]]) -> None:
    """Write the FRC curves; an empty `frc` is a ring without energy."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["object", "part", "frequency_nyquist", "frc", "n_samples"])
    for index, curves in enumerate(curves_by_object):
        for part, curve in curves.items():
            rows = zip(curve.frequency_nyquist, curve.correlation, curve.n_samples, strict=True)
            for frequency, value, samples in rows:
                writer.writerow(
                    [index, part, f"{frequency:.6f}", f"{value:.6f}" if np.isfinite(value) else "", samples]
                )
    with atomic_write(path) as stream:
        stream.write(text.getvalue().encode())
