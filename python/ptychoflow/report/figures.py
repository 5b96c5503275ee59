"""Pictures of reconstructions, of their errors and of training, as PNG files that repeat byte for byte.

What is drawn where is decided here; how a panel looks, and its conventions, in `panels.py`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from ptychoflow.report.panels import (
    Limits,
    Picture,
    amplitude_panel,
    aspect,
    caption,
    colour_bar,
    panel_inches,
    phase_panel,
    pixels,
    save,
    scale_bar,
    shared_limits,
    stated,
)

COVERAGE = ListedColormap(["0.6", "white"])


def amp_phase(
    recon: Picture,
    truth: Picture | None,
    *,
    title: str,
    path: Path,
    truth_name: str = "truth",
    pixel_size_m: float | None = None,
) -> None:
    """Write amplitude and phase of a reconstruction, of its truth, and the difference of the two.

    Args:
        recon: (rows, cols) complex, aligned to `truth` beforehand: nothing is shifted or scaled here.
        truth: (rows, cols) complex on the same grid, or None: the reconstruction stands alone.
        title: headline of the picture, and title in the PNG's own text. The id before its first colon is how the
            report knows whose picture it is, whatever the file is called.
        path: the PNG to write.
        truth_name: what `truth` is called on the picture: `truth`, `reference`.
        pixel_size_m: side of an object pixel, m, for the scale bars; None where unknown.

    Raises:
        ValueError: when the two shapes differ.
    """
    if truth is not None:
        _check_shape(recon, truth, truth_name)
    limits = shared_limits([recon if truth is None else truth], source="itself" if truth is None else truth_name)
    pictures = [("reconstruction", recon)] + ([] if truth is None else [(truth_name, truth)])
    n_cols = 1 if truth is None else 3
    side = panel_inches(recon.shape)
    figure = Figure(figsize=((side + 0.55) * n_cols, 2 * side * aspect(recon.shape) + 1.3), layout="constrained")
    axes = figure.subplots(2, n_cols, squeeze=False)
    for column, (name, picture) in enumerate(pictures):
        amplitude = amplitude_panel(axes[0, column], picture, limits, title=f"{name}: amplitude")
        phase = phase_panel(axes[1, column], picture, limits, title=f"{name}: phase")
        for panel in axes[:, column]:
            scale_bar(panel, recon.shape, pixel_size_m=pixel_size_m)
    colour_bar(figure, amplitude, axes[0, : len(pictures)].tolist(), "amplitude")
    colour_bar(figure, phase, axes[1, : len(pictures)].tolist(), "phase, rad")
    if truth is not None:
        _errors(figure, axes[:, 2].tolist(), recon, truth, limits, pixel_size_m=pixel_size_m)
    figure.suptitle(title, fontsize=10)
    caption(figure, stated(limits) if truth is not None else "colour limits from the picture itself")
    save(figure, path, title=title)


def error_maps(
    recon: Picture,
    truth: Picture,
    covered: Bool[np.ndarray, "rows cols"] | None,
    *,
    title: str,
    path: Path,
    truth_name: str = "truth",
    pixel_size_m: float | None = None,
) -> None:
    """Write signed amplitude error, wrapped phase error and, where it is known, what the reconstruction covers.

    Args:
        recon: (rows, cols) complex, aligned to `truth` beforehand.
        truth: (rows, cols) complex on the same grid. The colour limits follow it alone, so that pictures of several
            arms compare.
        covered: (rows, cols) where the reconstruction knows the object; errors elsewhere are left grey. None: not known,
            and no such panel.
        title: headline, and title in the PNG's own text, as for `amp_phase`.
        path: the PNG to write.
        truth_name: what `truth` is called on the picture.
        pixel_size_m: side of an object pixel, m, for the scale bars; None where unknown.

    Raises:
        ValueError: when the shapes differ.
    """
    _check_shape(recon, truth, truth_name)
    if covered is not None:
        _check_shape(recon, covered, "coverage")
    limits = shared_limits([truth], source=truth_name)
    n_cols = 2 if covered is None else 3
    side = panel_inches(recon.shape)
    figure = Figure(figsize=((side + 0.75) * n_cols, side * aspect(recon.shape) + 0.85), layout="constrained")
    axes = figure.subplots(1, n_cols).tolist()
    span, half = _errors(figure, axes, recon, truth, limits, covered=covered, pixel_size_m=pixel_size_m)
    sentence = (
        f"reconstruction minus {truth_name}; colour limits from {truth_name}: amplitude ± {span:.3g}, half its range "
        f"of 0.5 to 99.5 %; phase ± {half:.3g} rad; larger errors have the end colour"
    )
    if covered is not None:
        _coverage(figure, axes[2], covered)
        scale_bar(axes[2], recon.shape, pixel_size_m=pixel_size_m)
        sentence += "; grey was not seen"
    figure.suptitle(title, fontsize=10)
    caption(figure, sentence)
    save(figure, path, title=title)


def _check_shape(recon: Picture, other: np.ndarray, name: str) -> None:
    if other.shape != recon.shape:
        raise ValueError(f"reconstruction {recon.shape} and {name} {other.shape} must have one shape; align first")


def _errors(
    figure: Figure,
    axes: Sequence[Axes],
    recon: Picture,
    truth: Picture,
    limits: Limits,
    *,
    covered: Bool[np.ndarray, "rows cols"] | None = None,
    pixel_size_m: float | None,
) -> tuple[float, float]:
    """Draw signed errors on the first two axes; return the ends of the two bars, which follow the truth."""
    span = (limits.high - limits.low) / 2
    amplitude_error = np.abs(recon) - np.abs(truth)
    phase_error = np.angle(recon * np.conj(truth))
    half = limits.half_range_rad / 2
    for panel, error, end, name, unit in (
        (axes[0], amplitude_error, span, "amplitude error", "amplitude"),
        (axes[1], phase_error, half, "phase error", "rad"),
    ):
        shown = error if covered is None else np.ma.masked_where(~covered, error)
        panel.set_facecolor("0.6")
        image = pixels(panel, shown, title=name, cmap="RdBu_r", limits=(-end, end))
        scale_bar(panel, recon.shape, pixel_size_m=pixel_size_m)
        colour_bar(figure, image, panel, unit)
    return span, half


def _coverage(figure: Figure, axes: Axes, covered: Bool[np.ndarray, "rows cols"]) -> None:
    """Draw what was seen in white, the rest grey as in the maps of errors."""
    missing = int(covered.size - np.count_nonzero(covered))
    title = "coverage: every pixel" if missing == 0 else f"coverage: {missing} of {covered.size} px not seen"
    image = pixels(axes, covered.astype(float), title=title, cmap=COVERAGE, limits=(0, 1))
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02, aspect=25, ticks=[0.25, 0.75])
    bar.ax.set_yticklabels(["not\nseen", "seen"], fontsize=7)


def compare_amp_phase(
    entries: Sequence[tuple[str, Picture]],
    truth: Picture | None,
    path: Path,
    *,
    title: str = "",
    truth_name: str = "truth",
    per_row: int = 4,
    pixel_size_m: float | None = None,
) -> None:
    """Write a grid of all arms: amplitude above phase, the truth first.

    Args:
        entries: (label, picture) of every arm, aligned to `truth` and of its shape. May be empty.
        truth: (rows, cols) complex, or None; without it the limits come from all arms together.
        path: the PNG to write.
        title: headline, and title in the PNG's own text, as for `amp_phase`.
        truth_name: what `truth` is called on the picture.
        per_row: most panels in a row; several rows are filled evenly.
        pixel_size_m: side of an object pixel, m, for the scale bars; None where unknown.
    """
    pictures = ([] if truth is None else [(truth_name, truth)]) + list(entries)
    if not pictures:
        figure = Figure(figsize=(5, 1.2))
        figure.text(0.5, 0.5, "no reconstruction and no truth to show", ha="center", va="center")
        save(figure, path, title=title)
        return
    everything = [picture for _, picture in pictures]
    limits = shared_limits(
        [truth] if truth is not None else everything, source=truth_name if truth is not None else "all arms together"
    )
    shape = pictures[0][1].shape
    n_bands = -(-len(pictures) // per_row)
    n_cols = -(-len(pictures) // n_bands)
    side = panel_inches(shape)
    # Up to two panels leave less room than the sentence on the limits needs.
    width = max(side * n_cols + 0.9, 6.6)
    height = n_bands * 2 * (side * aspect(shape) + 0.3) + 0.5
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(2 * n_bands, n_cols, squeeze=False)
    for panel in axes.flat:
        panel.set_axis_off()
    for index, (label, picture) in enumerate(pictures):
        band, column = divmod(index, n_cols)
        upper, lower = axes[2 * band, column], axes[2 * band + 1, column]
        amplitude = amplitude_panel(upper, picture, limits, title=f"{label}: amplitude")
        phase = phase_panel(lower, picture, limits, title=f"{label}: phase")
        for panel in (upper, lower):
            panel.set_axis_on()
            scale_bar(panel, picture.shape, pixel_size_m=pixel_size_m)
    for band in range(n_bands):
        colour_bar(figure, amplitude, axes[2 * band].tolist(), "amplitude")
        colour_bar(figure, phase, axes[2 * band + 1].tolist(), "phase, rad")
    figure.suptitle(title, fontsize=10)
    caption(figure, stated(limits))
    save(figure, path, title=title)


def training_curve(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the loss curves of one run, small.

    Args:
        history: rows of `history.csv`; every column whose name holds `loss` is drawn over the column `epoch`. Empty
            cells are left out.
        path: the PNG to write.
    """
    figure = Figure(figsize=(4.2, 2.4), layout="constrained")
    axes = figure.subplots()
    names = [name for name in (history[0] if history else {}) if "loss" in name]
    lowest = np.inf
    for name in names:
        points = [
            (float(row.get("epoch", index)), float(row[name]))
            for index, row in enumerate(history)
            if row.get(name) not in ("", None)
        ]
        finite = np.array([point for point in points if np.isfinite(point[1])]).reshape(-1, 2)
        if len(finite):
            lowest = min(lowest, float(finite[:, 1].min()))
            axes.plot(finite[:, 0], finite[:, 1], label=name, linewidth=1.2)
    if np.isfinite(lowest):
        axes.set_yscale("log" if lowest > 0 else "linear")
        axes.legend(fontsize=7)
    axes.set_xlabel("epoch", fontsize=8)
    axes.set_ylabel("loss", fontsize=8)
    axes.tick_params(labelsize=7)
    save(figure, path)
