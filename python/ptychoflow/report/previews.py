"""Pictures of what goes in: a scan with its positions, and the split of a view, as PNG files that repeat byte for byte."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy.spatial import cKDTree

from ptychoflow.frames import Region
from ptychoflow.records import Scan, View
from ptychoflow.report.panels import (
    Limits,
    Picture,
    amplitude_panel,
    colour_bar,
    phase_panel,
    pixels,
    save,
    shared_limits,
)

Positions = Float[np.ndarray, "n 2"]

PREVIEW_FRAMES = 512
DRAWN_GROUPS = 400
TRAIN_COLOUR, TEST_COLOUR, HELDOUT_COLOUR, REGION_COLOUR = "#0072b2", "#e69f00", "#cc79a7", "#007a55"


def scan_preview(scan: Scan, path: Path) -> None:
    """Write one picture of a scan: mean diffraction, positions, probe and, where it has one, the object.

    Args:
        scan: frames may be memory-mapped; at most 512 of them, evenly spaced, are read.
        path: the PNG to write.
    """
    chosen = np.unique(np.linspace(0, scan.n_frames - 1, min(PREVIEW_FRAMES, scan.n_frames)).astype(int))
    mean = np.zeros(scan.amplitude.shape[1:])
    for frame in chosen:
        mean += np.asarray(scan.amplitude[frame], dtype=np.float64) / len(chosen)
    n_rows = 2 if scan.object is None else 3
    figure = Figure(figsize=(7.6, 3.3 * n_rows), layout="compressed")
    axes = figure.subplots(n_rows, 2)
    dynamic = np.log10(np.maximum(mean, max(mean.max(), 1e-30) * 1e-5))
    image = pixels(
        axes[0, 0],
        dynamic,
        title=f"mean amplitude of {len(chosen)} of {scan.n_frames} frames",
        cmap="magma",
        limits=(float(dynamic.min()), float(dynamic.max())),
    )
    colour_bar(figure, image, axes[0, 0], "log10 amplitude")
    _positions(axes[0, 1], scan)
    _modulus_and_phase(figure, axes[1], scan.probe, name="probe")
    if scan.object is not None:
        _modulus_and_phase(figure, axes[2], scan.object, name=f"object ({scan.object_role})")
    save(figure, path)


def _positions(axes: Axes, scan: Scan) -> None:
    """Draw patch centres on the object's axes, coloured in the order of the scan."""
    rows, cols = scan.positions_rc_px.T
    axes.scatter(cols, rows, c=np.arange(len(rows)), cmap="viridis", s=4, linewidths=0)
    half = scan.n / 2
    axes.set_xlim(cols.min() - half, cols.max() + half)
    axes.set_ylim(rows.max() + half, rows.min() - half)
    axes.set_aspect("equal")
    axes.set_title(f"{scan.n_frames} patch centres, in scan order", fontsize=9)
    axes.set_xlabel("column, px", fontsize=8)
    axes.set_ylabel("row, px", fontsize=8)
    axes.tick_params(labelsize=7)


def _modulus_and_phase(figure: Figure, axes: Sequence[Axes], picture: Picture, *, name: str) -> None:
    limits = shared_limits([picture], source=name)
    if name == "probe":  # a probe is dark outside: its phase there is noise, its range starts at zero
        limits = Limits(0.0, float(np.abs(picture).max()), 0.0, float(np.pi), name)
    image = amplitude_panel(axes[0], picture, limits, title=f"{name}: modulus")
    colour_bar(figure, image, axes[0], "modulus")
    image = phase_panel(axes[1], picture, limits, title=f"{name}: phase")
    colour_bar(figure, image, axes[1], "rad")


def view_preview(train_positions_rc_px: Positions, test_positions_rc_px: Positions, view: View, path: Path) -> None:
    """Write the map of a split and the spacing of its frames.

    Args:
        train_positions_rc_px: (M, 2) centres of all frames of the train scan, px; the view's indices choose among them.
        test_positions_rc_px: (M', 2) the same of the test scan.
        view: index sets, groups and scored rectangles.
        path: the PNG to write.
    """
    figure = Figure(figsize=(11, 3.9), layout="constrained")
    axes = figure.subplots(1, 3)
    train = train_positions_rc_px[view.train.frames]
    test = test_positions_rc_px[view.test.frames]
    heldout = test_positions_rc_px[view.heldout]
    _groups(axes[0], train_positions_rc_px, view.train.groups, TRAIN_COLOUR)
    _map(axes[0], [("train", train, TRAIN_COLOUR)], (), f"train: {len(train)} frames, {len(view.train.groups)} groups")
    _groups(axes[1], test_positions_rc_px, view.test.groups, TEST_COLOUR)
    sets = [("test", test, TEST_COLOUR), ("held out", heldout, HELDOUT_COLOUR)]
    _map(axes[1], sets, view.score_regions, f"test: {len(test)} frames, {len(heldout)} held out")
    if view.metadata["split"]["kind"] == "region":  # one scan in two parts: both maps on the same axes
        for panel in axes[:2]:
            everything = np.concatenate([train, test])
            _fit_axes(panel, everything)
    _spacing(axes[2], [("train", train, TRAIN_COLOUR), ("test", test, TEST_COLOUR)])
    save(figure, path)


def _groups(axes: Axes, positions_rc_px: Positions, groups: Int[np.ndarray, "b c"], colour: str) -> None:
    """Draw a line from each group's seed to its members, for at most 400 groups."""
    if groups.shape[1] < 2:
        return
    drawn = positions_rc_px[groups[:: max(1, len(groups) // DRAWN_GROUPS)]][..., ::-1]
    segments = [(group[0], member) for group in drawn for member in group[1:]]
    axes.add_collection(LineCollection(segments, colors=colour, linewidths=0.4, alpha=0.5))


def _map(axes: Axes, sets: Sequence[tuple[str, Positions, str]], regions: Sequence[Region], title: str) -> None:
    """Draw named sets of positions with rows downwards, and the scored rectangles."""
    for name, positions, colour in sets:
        if len(positions):
            axes.scatter(positions[:, 1], positions[:, 0], s=4, color=colour, linewidths=0, label=name)
    for index, region in enumerate(regions):
        rows, cols = region.shape
        label = "scored" if index == 0 else None
        corner = (region.c0 - 0.5, region.r0 - 0.5)
        axes.add_patch(Rectangle(corner, cols, rows, label=label, fill=False, edgecolor=REGION_COLOUR, linewidth=1.5))
    _fit_axes(axes, np.concatenate([positions for _, positions, _ in sets]))
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("column, px", fontsize=8)
    axes.set_ylabel("row, px", fontsize=8)
    axes.tick_params(labelsize=7)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3, frameon=False)


def _fit_axes(axes: Axes, positions_rc_px: Positions) -> None:
    """Show all positions and a margin of 8 px, rows downwards, one scale."""
    if len(positions_rc_px):
        (r0, c0), (r1, c1) = positions_rc_px.min(axis=0) - 8, positions_rc_px.max(axis=0) + 8
        axes.set_xlim(c0, c1)
        axes.set_ylim(r1, r0)
    axes.set_aspect("equal")


def _spacing(axes: Axes, sets: Sequence[tuple[str, Positions, str]]) -> None:
    """Draw the histogram of the distance from each frame to its nearest neighbour in the same set."""
    found = []
    for name, positions, colour in sets:
        if len(positions) > 1:
            distances = np.asarray(cKDTree(positions).query(positions, k=2)[0])[:, 1]
            found.append((f"{name}: median {np.median(distances):.3g} px", distances, colour))
    if found:
        top = max(float(distances.max()) for _, distances, _ in found)
        edges = np.linspace(0, max(1.05 * top, 1e-6), 41).tolist()
        for label, distances, colour in found:
            axes.hist(distances, bins=edges, color=colour, alpha=0.6, label=label)
        axes.legend(fontsize=7)
    axes.set_title("distance to the nearest frame of the set", fontsize=9)
    axes.set_xlabel("px", fontsize=8)
    axes.set_ylabel("frames", fontsize=8)
    axes.tick_params(labelsize=7)
