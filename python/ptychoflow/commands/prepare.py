"""PREPARE: split, choose, group and normalize; writes `view.npz`, or only a `status.json` (skipped) with the reason.

A view is chosen on each side alike: a share of the frames, then groups of `view_gridsize` whose centres keep a distance. Its
frames are the members of those groups, so that every arm of a condition sees the same ones, whatever gridsize it reads.
"""

import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from ptychoflow.arms.status import write_status
from ptychoflow.config import PrepareConfig
from ptychoflow.data.grouping import Grouping, group_frames
from ptychoflow.data.normalize import measure_normalization
from ptychoflow.data.npz import read_npz
from ptychoflow.data.overlap import AVERAGED_NEIGHBOURS, group_centres, keep_share, overlap_measures, space_groups
from ptychoflow.data.splits import Split, choose_heldout, spacing_facts, split_region, train_test_distance
from ptychoflow.data.storage import load_scan, save_view, write_json
from ptychoflow.errors import ContractError, UsageError
from ptychoflow.imaging.regions import score_region
from ptychoflow.provenance import sha256_file, write_manifest
from ptychoflow.records import FrameSet, Scan, View
from ptychoflow.report.previews import view_preview

logger = logging.getLogger(__name__)

LEAST_REGION_PX = 8
"""Least side of a scored rectangle, px: below it neither SSIM nor FRC means anything."""

SIDES = ("train", "test")
STREAMS = {"heldout": 0, "subsample": 1, "group": 2, "group_test": 3}
"""Numbers of the independent random streams of a seed."""


@dataclass(frozen=True)
class Side:
    """One side of a view: what is used of it, and the reports on its spacing and overlap."""

    frames: Int64[np.ndarray, "m"]
    grouping: Grouping
    spacing: dict[str, Any]
    measures: dict[str, Any]


def run(config: PrepareConfig, *, view_id: str, train_scan: Path, test_scan: Path, out_dir: Path) -> None:
    """Write `view.npz`, its reports on spacing and overlap, `preview.png`, `status.json` and `manifest.json`.

    A view that the data cannot give (an empty side, too few frames or groups) is skipped with its reason; the exit code
    stays 0.

    Raises:
        UsageError: options that contradict each other.
        ContractError: with `strict_views`, instead of skipping.
    """
    started = time.monotonic()
    scans = {"train": sha256_file(train_scan), "test": sha256_file(test_scan)}
    train, test = load_scan(train_scan), load_scan(test_scan)
    inputs = {"train_scan": train_scan, "test_scan": test_scan}
    try:
        same_scan = scans["train"] == scans["test"]
        view = prepare(config, train, test, heldout_column=_column(config, test_scan), same_scan=same_scan)
    except ContractError as error:
        if config.strict_views:
            raise
        logger.warning("%s is skipped: %s", view_id, error)
        write_status(
            out_dir, run_id=view_id, stage="prepare", state="skipped", reason=str(error),
            device="cpu", seconds={"prepare": time.monotonic() - started},
        )  # fmt: skip
        write_manifest(out_dir, command="prepare", inputs=inputs, outputs=["status.json"], parameters=asdict(config))
        return
    view = View(**{**view.__dict__, "metadata": {**view.metadata, "scans": scans}})
    save_view(out_dir / "view.npz", view)
    view_preview(train.positions_rc_px, test.positions_rc_px, view, out_dir / "preview.png")
    write_status(
        out_dir, run_id=view_id, stage="prepare", state="ok", device="cpu", seconds={"prepare": time.monotonic() - started}
    )  # fmt: skip
    outputs = ["view.npz", "preview.png", "status.json", *_write_reports(view, view_id, out_dir)]
    write_manifest(
        out_dir, command="prepare", inputs=inputs, outputs=outputs, parameters=asdict(config), facts=view.metadata
    )


def _write_reports(view: View, view_id: str, out_dir: Path) -> list[str]:
    """Write spacing and overlap of each side, and the bundle that names them (study section 4); return the file names."""
    bundle = {}
    for side in SIDES:
        measures = view.metadata["overlap"][side]
        write_json(out_dir / f"{side}_spacing.json", view.metadata["group_spacing"][side])
        write_json(out_dir / f"{side}_metrics.json", measures)
        paths = {"view": view_id, "output_path": "view.npz", "set": side, "spacing_stats_path": f"{side}_spacing.json"}
        bundle[side] = {**paths, "metrics": measures}
    write_json(out_dir / "metrics_bundle.json", bundle)
    return [*(f"{side}_{what}.json" for side in SIDES for what in ("spacing", "metrics")), "metrics_bundle.json"]


def _column(config: PrepareConfig, test_scan: Path) -> np.ndarray | None:
    """Return the array of the test scan's file that names the held-out frames, where the option is a key."""
    if not isinstance(config.heldout, str):
        return None
    return read_npz(test_scan).get(config.heldout)


def prepare(
    config: PrepareConfig, train: Scan, test: Scan, *, heldout_column: np.ndarray | None, same_scan: bool
) -> View:
    """Return the view of two scans (the same one twice for the splits `region` and `none`).

    Raises:
        UsageError: options that contradict each other.
        ContractError: the data cannot give this view.
    """
    if config.split == "scans" and same_scan:
        raise UsageError(
            "split 'scans' needs separate train and test scans; both are the same file. Use 'region' or 'none'"
        )
    if config.split != "scans" and not same_scan:
        raise UsageError(f"split '{config.split}' takes one scan, but train and test are different files")
    if train.n != test.n:
        raise ContractError(f"train frames have {train.n} px and test frames {test.n} px; they must agree")
    if config.s_img != 1 and config.n_subsample is not None:
        raise UsageError(f"s_img = {config.s_img:g} and n_subsample = {config.n_subsample} both choose frames")
    if config.min_spacing_px is not None and config.n_groups is not None:
        raise UsageError(
            f"min_spacing_px = {config.min_spacing_px:g} and n_groups = {config.n_groups} both choose groups; "
            "use max_groups with a spacing"
        )
    split = _split(config, train, test, heldout_column, _stream(config, "heldout"))
    sides = {"train": _side(config, train, split.train, "train"), "test": _side(config, test, split.test, "test")}
    frames = sides["train"].frames
    return View(
        train=FrameSet(frames, sides["train"].grouping.groups),
        test=FrameSet(sides["test"].frames, sides["test"].grouping.groups),
        heldout=split.heldout,
        normalization=measure_normalization(
            train.amplitude, frames, train.probe, photons_per_intensity=train.photons_per_intensity
        ),
        # All test frames of the split, not those of the view: a region is the same for every view of a scan.
        score_regions=_score_regions(config, test, split.test),
        metadata=_facts(config, train, test, split, sides),
    )


def _stream(config: PrepareConfig, name: str) -> np.random.Generator:
    """Return a random stream: of its own seed where the configuration gives one, else of `data_seed`."""
    own = {"subsample": config.subsample_seed, "group": config.grouping_seed, "group_test": config.grouping_seed}.get(
        name
    )
    return np.random.default_rng([config.data_seed if own is None else own, STREAMS[name]])


def _side(config: PrepareConfig, scan: Scan, available: Int64[np.ndarray, "m"], side: str) -> Side:
    """Return the frames and groups of one side, with the reports on them.

    Raises:
        ContractError: too few frames or groups, or a share that geometry does not allow; names the side.
    """
    # The same streams on both sides: with the split `none`, train and test stay the same frames.
    kept = keep_share(available, config.s_img, _stream(config, "subsample"))
    if side == "train":
        kept = _subsample(kept, config.n_subsample, _stream(config, "subsample"))
    try:
        frames, grouping, spacing = _chosen(config, scan, kept, "group" if side == "train" else "group_test")
    except ContractError as error:
        raise ContractError(f"{side} side: {error}") from error
    diameter = 0.6 * scan.n if config.probe_diameter_px is None else config.probe_diameter_px
    measures = {
        "metrics_version": "1.0",
        "gridsize": config.gridsize,
        "s_img": config.s_img,
        "n_groups": config.n_groups if side == "train" else None,
        "neighbor_count": AVERAGED_NEIGHBOURS,
        "probe_diameter_px": diameter,
        "rng_seed_subsample": config.data_seed if config.subsample_seed is None else config.subsample_seed,
        **overlap_measures(scan.positions_rc_px, grouping.groups, scan.scan_index, probe_diameter_px=diameter),
        "n_images_total": len(available),
        "n_images_subsampled": len(kept),
        **{
            name: spacing[name] for name in ("acceptance_rate", "geometry_acceptance_bound", "effective_min_acceptance")
        },
    }
    return Side(frames, grouping, spacing, measures)


def _chosen(
    config: PrepareConfig, scan: Scan, kept: Int64[np.ndarray, "m"], stream: str
) -> tuple[Int64[np.ndarray, "k"], Grouping, dict[str, Any]]:
    """Return the frames of the groups that obey the spacing rule, how they are read, and the report of the rule."""
    spaced = config.min_spacing_px is not None
    gridsize = (config.view_gridsize if spaced else None) or config.gridsize
    grouping = _grouped(config, scan, kept, gridsize, "group" if spaced else stream)
    selected, report = space_groups(
        group_centres(scan.positions_rc_px, grouping.groups),
        scan.scan_index[grouping.groups[:, 0]],
        min_spacing_px=config.min_spacing_px,
        n_members=gridsize**2,
        max_groups=config.max_groups,
        min_acceptance=config.min_acceptance,
    )
    if not spaced:
        return kept, grouping, report
    groups = grouping.groups[selected]
    members = np.unique(groups)
    if config.gridsize == gridsize:
        return members, Grouping(groups, grouping.branch), report
    return members, _grouped(config, scan, members, config.gridsize, stream), report


def _grouped(config: PrepareConfig, scan: Scan, frames: Int64[np.ndarray, "m"], gridsize: int, stream: str) -> Grouping:
    """Return groups of frames. Every test frame seeds one: the whole side is reconstructed, whatever the train groups are."""
    return group_frames(
        frames, scan.positions_rc_px, scan.scan_index, rng=_stream(config, stream),
        gridsize=gridsize, n_neighbors=config.n_neighbors, include_seed=config.include_seed,
        n_groups=config.n_groups if stream == "group" else None,
        seed_sampling=config.seed_sampling, oversample=config.oversample,
    )  # fmt: skip


def _split(
    config: PrepareConfig, train: Scan, test: Scan, column: np.ndarray | None, rng: np.random.Generator
) -> Split:
    """Return the frame sets; held-out frames are in no other set, of the train scan either where it is the same one."""
    heldout = choose_heldout(config.heldout, n_frames=test.n_frames, column=column, rng=rng)
    guard = float(test.n if config.guard_px is None else config.guard_px)
    everything = np.arange(test.n_frames)
    if config.split == "scans":
        return Split(np.arange(train.n_frames), np.setdiff1d(everything, heldout), heldout, {"kind": "scans"})
    if config.split == "none":
        rest = np.setdiff1d(everything, heldout)
        facts = {
            "kind": "none",
            "note": "train and test are the same frames: self-supervised reconstruction of one scan",
        }
        return Split(rest, rest, heldout, facts)
    low, high, facts = split_region(
        test.positions_rc_px, axis=config.split_axis, fraction=config.split_fraction, at=config.split_at, guard_px=guard
    )
    # Held-out frames measure the test side: those elsewhere are simply not used.
    split = Split(
        np.setdiff1d(low, heldout),
        np.setdiff1d(high, heldout),
        np.intersect1d(high, heldout),
        {"kind": "region", **facts},
    )
    if not len(split.train) or not len(split.test):
        raise ContractError("holding out frames leaves no train or no test frames; hold out fewer")
    return split


def _subsample(frames: Int64[np.ndarray, "m"], n: int | None, rng: np.random.Generator) -> Int64[np.ndarray, "k"]:
    """Return n of the frames, sorted, without replacement; all of them when n is None."""
    if n is None:
        return frames
    if n > len(frames):
        raise ContractError(f"n_subsample = {n} is more than the {len(frames)} train frames")
    return np.sort(rng.choice(frames, size=n, replace=False))


def _score_regions(config: PrepareConfig, test: Scan, frames: Int64[np.ndarray, "m"]) -> tuple[Any, ...]:
    """Return one rectangle per object of the test scan."""
    shape = None if test.object is None else (test.object.shape[0], test.object.shape[1])
    regions = []
    for number in np.unique(test.scan_index[frames]):
        positions = test.positions_rc_px[frames[test.scan_index[frames] == number]]
        try:
            region = score_region(positions, test.probe, object_shape=shape, box_px=config.score_box_px)
        except ValueError as error:
            raise ContractError(f"object {number} cannot be scored: {error}") from error
        if min(region.shape) < LEAST_REGION_PX:
            raise ContractError(
                f"object {number} is covered on {region.shape[0]} x {region.shape[1]} px only; scores need {LEAST_REGION_PX} px"
            )
        regions.append(region)
    return tuple(regions)


def _score_origins(test: Scan, frames: Int64[np.ndarray, "m"]) -> list[list[int]]:
    """Return where pixel [0, 0] of the object of each scored rectangle lies in the scan's frame."""
    rectangles = test.metadata.get("objects")
    numbers = np.unique(test.scan_index[frames]).tolist()
    return [[rectangles[number][0], rectangles[number][2]] if rectangles else [0, 0] for number in numbers]


def _facts(config: PrepareConfig, train: Scan, test: Scan, split: Split, sides: dict[str, Side]) -> dict[str, Any]:
    """Return what the view's metadata say about split, spacing, grouping and overlap."""
    train_rc_px = train.positions_rc_px[sides["train"].frames]
    test_rc_px = test.positions_rc_px[sides["test"].frames]
    distance = train_test_distance(train_rc_px, test_rc_px) if config.split == "region" else None
    if distance is not None and distance < split.facts["guard_px"] - 1e-9:
        raise ContractError(
            f"train and test positions come as close as {distance:.2f} px, guard_px is {split.facts['guard_px']:g}"
        )
    grouping = sides["train"].grouping
    return {
        "split": {**split.facts, "min_train_test_distance_px": distance},
        "n_train_frames": len(train_rc_px),
        "n_test_frames": len(test_rc_px),
        "n_heldout_frames": len(split.heldout),
        "grouping": {
            "branch": grouping.branch,
            "gridsize": config.gridsize,
            "n_groups": len(grouping.groups),
            "n_neighbors": config.n_neighbors,
            "include_seed": config.include_seed,
            "seed_sampling": config.seed_sampling,
            "data_seed": config.data_seed,
            "grouping_seed": config.grouping_seed,
        },
        "spacing_rule": {
            "min_spacing_px": config.min_spacing_px,
            "view_gridsize": config.view_gridsize or config.gridsize,
            "max_groups": config.max_groups,
        },
        "group_spacing": {name: side.spacing for name, side in sides.items()},
        "overlap": {name: side.measures for name, side in sides.items()},
        "spacing_train": spacing_facts(train_rc_px),
        "spacing_test": spacing_facts(test_rc_px),
        "object_role": test.object_role,
        "score_origins_rc_px": _score_origins(test, split.test),
    }
