"""Quality over time: the states that an arm passed on its way, scored as the final one is.

Few scores, chosen because they can be read without knowing the object: Pearson correlations of phase and amplitude, the
complex FRC's crossing at 0.5, and the contrast correlation on held-out frames.
"""

from typing import Any

import numpy as np
from jaxtyping import Complex64

from ptychoflow.config import EvaluateConfig
from ptychoflow.frames import Canvas, Region
from ptychoflow.imaging.align import align
from ptychoflow.imaging.harmonize import grid_for, sample
from ptychoflow.metrics.frc import frc, frc_scores
from ptychoflow.metrics.image import pearson_scores
from ptychoflow.metrics.score import Score, mean_score
from ptychoflow.records import Recon, Scan, Snapshots, View
from ptychoflow.scoring.diffraction import frames_block

KEYS = ("phase.pearson", "amp.pearson", "complex.frc50", "heldout.contrast")


def over_time(
    snapshots: Snapshots | None,
    recon: Recon,
    scan: Scan,
    view: View,
    config: EvaluateConfig,
    *,
    final: dict[str, Any],
    ratio: float = 1.0,
) -> list[dict[str, Any]]:
    """Return the block `snapshots` of metrics.json: one entry per state, the final one last.

    Args:
        snapshots: earlier states, None without any.
        recon: the final reconstruction; its weight tells what all states cover, its metadata what it cost. The block is empty
            where they do not, as for an imported one.
        scan: scan that is scored on.
        view: its scored rectangles and held-out frames.
        config: the options that the final state was scored with.
        final: the blocks `stitched` and `consistency` of the final state.
        ratio: truth pixel over reconstruction pixel.
    """
    cost = recon.metadata.get("cost")
    if cost is None or cost["epochs"] is None:  # imported, or made by weights that were given
        return []
    entries: list[dict[str, Any]] = []
    if snapshots is not None:
        entries = [_entry(snapshots, index, recon, scan, view, config, ratio) for index in range(len(snapshots.epochs))]
    last = {
        "epoch": int(cost["epochs"]),
        "train_seconds": float(cost["train_seconds"]),
        "reconstruct_seconds": float(cost["reconstruct_seconds"]),
        "final": True,
        "scores": _final_scores(final),
    }
    return [*entries, last]


def _entry(
    snapshots: Snapshots, index: int, recon: Recon, scan: Scan, view: View, config: EvaluateConfig, ratio: float
) -> dict[str, Any]:
    probe = None if snapshots.probes is None else np.asarray(snapshots.probes[index])
    state = Recon(np.asarray(snapshots.objects[index]), recon.weight, snapshots.canvas, probe)
    return {
        "epoch": int(snapshots.epochs[index]),
        "train_seconds": float(snapshots.train_seconds[index]),
        "reconstruct_seconds": float(snapshots.reconstruct_seconds[index]),
        "final": False,
        "scores": _scores(state, scan, view, config, ratio),
    }


def _scores(state: Recon, scan: Scan, view: View, config: EvaluateConfig, ratio: float) -> dict[str, Any]:
    """Return the few scores of one state by key."""
    found: dict[str, Score] = {}
    if scan.object is not None:
        per_region = [_of_region(state, scan.object, region, config, ratio) for region in view.score_regions]
        found = {key: mean_score([scores[key] for scores in per_region]) for key in per_region[0]}
    records: dict[str, Any] = {key: score.record() for key, score in found.items()}
    if len(view.heldout):
        records["heldout.contrast"] = frames_block(state, scan, view.heldout, name="heldout")["contrast"]
    return records


def _of_region(
    state: Recon, target: Complex64[np.ndarray, "rows cols"], region: Region, config: EvaluateConfig, ratio: float
) -> dict[str, Score]:
    grid = grid_for(region, canonical=config.canonical_grid)
    truth = sample(target, Canvas((0, 0), (target.shape[0], target.shape[1])), grid)
    aligned, _ = align(
        state.object, state.canvas, truth, grid,
        mode=config.align, phase_ramp=config.phase_ramp, max_shift_px=config.max_shift_px, pixel_ratio=ratio,
    )  # fmt: skip
    scores = {f"{part}.pearson": score for part, score in pearson_scores(aligned, truth).items()}
    return scores | {"complex.frc50": frc_scores(frc(aligned, truth))["frc50"]}


def _final_scores(final: dict[str, Any]) -> dict[str, Any]:
    """Return the same scores out of the final state's blocks, as far as they are there."""
    blocks = {**final["stitched"], **final["consistency"]}
    found = {}
    for key in KEYS:
        part, name = key.split(".")
        if isinstance(blocks.get(part), dict) and name in blocks[part]:
            found[key] = {field: value for field, value in blocks[part][name].items() if field != "region"}
    return found
