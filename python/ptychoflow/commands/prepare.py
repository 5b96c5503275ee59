"""PREPARE: split, group and normalize; writes `view.npz`, or only a `status.json` (skipped) with the reason."""

import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from ptychoflow.arms.status import write_status
from ptychoflow.config import PrepareConfig
from ptychoflow.data.grouping import Grouping, group_frames
from ptychoflow.data.normalize import measure_normalization
from ptychoflow.data.splits import Split, choose_heldout, spacing_facts, split_region, train_test_distance
from ptychoflow.data.storage import load_scan, read_npz, save_view
from ptychoflow.errors import ContractError, UsageError
from ptychoflow.imaging.regions import score_region
from ptychoflow.provenance import sha256_file, write_manifest
from ptychoflow.records import FrameSet, Scan, View
from ptychoflow.report.previews import view_preview

logger = logging.getLogger(__name__)

LEAST_REGION_PX = 8
"""Least side of a scored rectangle, px: below it neither SSIM nor FRC means anything."""


def run(config: PrepareConfig, *, view_id: str, train_scan: Path, test_scan: Path, out_dir: Path) -> None:
    """Write `view.npz`, `preview.png`, `status.json` and `manifest.json`.

    A view that the data cannot give (an empty side, too few frames) is skipped with its reason; the exit code stays 0.
    """
    started = time.monotonic()
    scans = {"train": sha256_file(train_scan), "test": sha256_file(test_scan)}
    train, test = load_scan(train_scan), load_scan(test_scan)
    inputs = {"train_scan": train_scan, "test_scan": test_scan}
    try:
        same_scan = scans["train"] == scans["test"]
        view = prepare(config, train, test, heldout_column=_column(config, test_scan), same_scan=same_scan)
    except ContractError as error:
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
        out_dir,
        run_id=view_id,
        stage="prepare",
        state="ok",
        device="cpu",
        seconds={"prepare": time.monotonic() - started},
    )
    outputs = ["view.npz", "preview.png", "status.json"]
    write_manifest(
        out_dir, command="prepare", inputs=inputs, outputs=outputs, parameters=asdict(config), facts=view.metadata
    )


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
    streams = {
        name: np.random.default_rng([config.data_seed, index])
        for index, name in enumerate(("heldout", "subsample", "group"))
    }
    split = _split(config, train, test, heldout_column, streams["heldout"])
    frames = _subsample(split.train, config.n_subsample, streams["subsample"])
    options: dict[str, Any] = {
        "gridsize": config.gridsize,
        "n_neighbors": config.n_neighbors,
        "include_seed": config.include_seed,
    }
    train_groups = group_frames(
        frames, train.positions_rc_px, train.scan_index, **options,
        rng=streams["group"], n_groups=config.n_groups, seed_sampling=config.seed_sampling, oversample=config.oversample,
    )  # fmt: skip
    # Every test frame seeds one group: the whole field is reconstructed, whatever the train groups are.
    test_groups = group_frames(
        split.test, test.positions_rc_px, test.scan_index, **options, rng=np.random.default_rng([config.data_seed, 3])
    )
    return View(
        train=FrameSet(frames, train_groups.groups),
        test=FrameSet(split.test, test_groups.groups),
        heldout=split.heldout,
        normalization=measure_normalization(
            train.amplitude, frames, train.probe, photons_per_intensity=train.photons_per_intensity
        ),
        score_regions=_score_regions(config, test, split.test),
        metadata=_facts(config, train, test, split, frames, train_groups),
    )


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


def _facts(
    config: PrepareConfig, train: Scan, test: Scan, split: Split, frames: Int64[np.ndarray, "m"], grouping: Grouping
) -> dict[str, Any]:
    """Return what the view's metadata say about split and grouping."""
    same = config.split == "region"
    distance = train_test_distance(train.positions_rc_px[frames], test.positions_rc_px[split.test]) if same else None
    if same and distance is not None and distance < split.facts["guard_px"] - 1e-9:
        raise ContractError(
            f"train and test positions come as close as {distance:.2f} px, guard_px is {split.facts['guard_px']:g}"
        )
    return {
        "split": {**split.facts, "min_train_test_distance_px": distance},
        "n_train_frames": len(frames),
        "n_test_frames": len(split.test),
        "n_heldout_frames": len(split.heldout),
        "grouping": {
            "branch": grouping.branch,
            "gridsize": config.gridsize,
            "n_groups": len(grouping.groups),
            "n_neighbors": config.n_neighbors,
            "include_seed": config.include_seed,
            "seed_sampling": config.seed_sampling,
            "data_seed": config.data_seed,
        },
        "spacing_train": spacing_facts(train.positions_rc_px[frames]),
        "spacing_test": spacing_facts(test.positions_rc_px[split.test]),
        "object_role": test.object_role,
    }
