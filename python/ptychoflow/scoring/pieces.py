"""One reconstruction on one scored rectangle: brought to the grid, aligned, scored. The steps are apart and recorded.

    object --sample--> grid --align--> R'   scores(R', T)      T: truth or reference on the same grid, never changed

Without an object in the scan there is nothing to score against; the picture is cut out all the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Complex64

from ptychoflow.config import EvaluateConfig
from ptychoflow.frames import Canvas, Region
from ptychoflow.imaging.align import Alignment, align
from ptychoflow.imaging.harmonize import Grid, grid_for, sample
from ptychoflow.metrics.frc import FrcCurve, frc, frc_scores
from ptychoflow.metrics.image import Scores, circular_std, image_scores, is_phase_constant, phase_maps
from ptychoflow.metrics.legacy import legacy_scores
from ptychoflow.metrics.score import mean_score
from ptychoflow.records import Recon
from ptychoflow.scoring.diffraction import covered_pixels

FLAT = 0.01
"""Without a truth: relative spread of the amplitude and circular spread of the phase (rad) below which both are flat."""

Block = dict[str, Scores]


@dataclass(frozen=True)
class Piece:
    """What one rectangle gave.

    Attributes:
        region: the rectangle, in the scan's frame.
        grid: its samples.
        recon: (h, w) aligned reconstruction; as it is without a truth.
        truth: (h, w) truth or reference, None without one.
        covered: (h, w) where the reconstruction knows the object.
        scores: by part and name; None without a truth.
        curves: FRC curves by part.
        alignment: what was done and found; None without a truth.
        collapsed: the picture is flat beside the truth, or, without one, in itself.
    """

    region: Region
    grid: Grid
    recon: Complex64[np.ndarray, "h w"]
    truth: Complex64[np.ndarray, "h w"] | None
    covered: Bool[np.ndarray, "h w"]
    scores: Block | None
    curves: dict[str, FrcCurve]
    alignment: Alignment | None
    collapsed: bool


def score_piece(
    recon: Recon,
    truth: Complex64[np.ndarray, "rows cols"] | None,
    truth_canvas: Canvas | None,
    region: Region,
    config: EvaluateConfig,
    *,
    ratio: float = 1.0,
) -> Piece:
    """Return pictures, scores, FRC curves, alignment and the collapse flag of one rectangle.

    Args:
        recon: the reconstruction on its own canvas.
        truth: (rows, cols) truth or reference on `truth_canvas`; both None without one.
        truth_canvas: where its pixel [0, 0] lies.
        region: the rectangle, in the scan's frame.
        config: alignment, grid and options of the scores.
        ratio: truth pixel over reconstruction pixel.

    Raises:
        ContractError: the rectangle reaches outside one of the two.
    """
    grid = grid_for(region, canonical=config.canonical_grid)
    covered = covered_on(recon, grid, ratio=ratio)
    if truth is None or truth_canvas is None:
        cut = sample(recon.object, recon.canvas, grid, pixel_ratio=ratio)
        return Piece(region, grid, cut, None, covered, None, {}, None, is_flat(cut))
    target = sample(truth, truth_canvas, grid)
    aligned, alignment = align(
        recon.object, recon.canvas, target, grid,
        mode=config.align, phase_ramp=config.phase_ramp, max_shift_px=config.max_shift_px, pixel_ratio=ratio,
    )  # fmt: skip
    scores = image_scores(aligned, target, ms_ssim_sigma=config.ms_ssim_sigma, ms_ssim_levels=config.ms_ssim_levels)
    curves = {"complex": frc(aligned, target), "amp": frc(np.abs(aligned), np.abs(target))}
    if not is_phase_constant(target):
        curves["phase"] = frc(*phase_maps(aligned, target))
    for part, curve in curves.items():
        scores[part] |= frc_scores(curve)
    if "phase" not in curves:
        scores["phase"] |= {
            name: replace(score, value=None, status=None, reason="truth_phase_constant")
            for name, score in frc_scores(curves["complex"]).items()
        }
    if config.legacy_metrics:
        raw = sample(recon.object, recon.canvas, grid, pixel_ratio=ratio)
        for part, values in legacy_scores(raw, target).items():
            scores[part] |= values
    ratios = [scores[part]["contrast_ratio"].value for part in ("amp", "phase")]
    collapsed = any(value is not None and value < config.collapse_ratio for value in ratios)
    return Piece(region, grid, aligned, target, covered, scores, curves, alignment, collapsed)


def covered_on(recon: Recon, grid: Grid, *, ratio: float = 1.0) -> Bool[np.ndarray, "h w"]:
    """Return which samples of a grid a reconstruction knows."""
    known = covered_pixels(recon).astype(np.complex64)
    return np.abs(sample(known, recon.canvas, grid, pixel_ratio=ratio)) > 0.5


def is_flat(recon: Complex64[np.ndarray, "h w"]) -> bool:
    """Return whether neither amplitude nor phase of a picture varies: collapse, where there is no truth to compare with."""
    amplitude = np.abs(recon).astype(np.float64)
    if not amplitude.any():
        return True
    return bool(amplitude.std() < FLAT * amplitude.mean() and circular_std(np.angle(recon)) < FLAT)


def stitched_blocks(pieces: Sequence[Piece]) -> dict[str, Any]:
    """Return the blocks `alignment`, `stitched` (mean over the rectangles) and `by_object` of metrics.json."""
    scored = [(piece.scores, piece.region) for piece in pieces if piece.scores is not None]
    if not scored:
        nothing = {"not_applicable": "no object in the scan"}
        return {"alignment": nothing, "stitched": nothing, "by_object": []}
    blocks, regions = [scores for scores, _ in scored], [region for _, region in scored]
    by_object = [_records([block], [region]) | {"object": index} for index, (block, region) in enumerate(scored)]
    return {
        "alignment": {"by_object": [piece.alignment.record() for piece in pieces if piece.alignment is not None]},
        "stitched": _records(blocks, regions),
        "by_object": by_object,
    }


def _records(blocks: Sequence[Block], regions: Sequence[Region]) -> dict[str, Any]:
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
