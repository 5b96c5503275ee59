"""Curves of one condition, a line per arm: Fourier ring correlation, and quality over time.

With several seeds the strong line is their mean and each seed a light line of the same colour.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from ptychoflow.metrics.frc import FrcCurve, half_bit
from ptychoflow.report.panels import save
from ptychoflow.report.styles import Note, Style, label_axes, legend_below, styles, write_notes

Snapshot = Mapping[str, Any]
Values = Float64[np.ndarray, "..."]

PERIODS_PX = (2, 2.5, 3, 4, 6, 10, 20)

QUALITIES = {
    "phase.pearson": "Pearson correlation of phase",
    "amp.pearson": "Pearson correlation of amplitude",
    "heldout.contrast": "contrast correlation on held-out frames",
}
"""Scores that quality over time can show: the first one that any snapshot has."""

BEST = 1 - 1e-6
"""Quality above is drawn here: its axis never reaches 1."""

QUALITY_TICKS = (-0.9, -0.5, 0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9999, 0.99999)

SECONDS_STEPS = ((10, (1, 1.5, 2, 3, 4, 5, 7)), (3000, (1, 2, 5)), (np.inf, (1,)))
"""Labelled places in a decade of seconds, by how far the axis reaches: its end over its start is less than the first number."""

CHARGES = {
    "for the first scan: training and reconstruction": ("train_seconds", "reconstruct_seconds"),
    "for one further scan: reconstruction alone": ("reconstruct_seconds",),
}
"""The two ways to count seconds, and what is added up for each."""


class Point(NamedTuple):
    """One state of an arm."""

    seconds: float
    quality: float
    epoch: str
    final: bool


def frc_curves(curves: Mapping[str, Sequence[FrcCurve]], path: Path, *, title: str) -> None:
    """Write the Fourier ring correlation of every arm with the truth, and the thresholds that resolutions are read from.

    Args:
        curves: by label, one curve per seed, all on the same rings.
        path: the PNG to write.
        title: headline, and title in the PNG's own text.

    Raises:
        ValueError: when curves have different rings.
    """
    everything = [curve for seeds in curves.values() for curve in seeds]
    for curve in everything:
        if not np.array_equal(curve.frequency_nyquist, everything[0].frequency_nyquist):
            raise ValueError(
                f"curves of one picture must share their rings, got {len(everything[0].frequency_nyquist)} and "
                f"{len(curve.frequency_nyquist)} rings; score all arms on one grid"
            )
    figure = Figure(figsize=(6.6, 4.6), layout="constrained")
    axes = figure.subplots()
    if everything:
        _thresholds(axes, everything[0])
    looks = styles(list(curves))
    lowest = 0.0
    for label, seeds in curves.items():
        if not seeds:
            continue
        values = np.array([curve.correlation for curve in seeds])
        frequency, look = seeds[0].frequency_nyquist, looks[label]
        if len(seeds) > 1:
            for one in values:
                axes.plot(frequency, one, color=look.colour, linewidth=0.7, alpha=0.4)
        axes.plot(
            frequency, mean_curve(values), color=look.colour, linestyle=look.dashes, linewidth=1.8,
            label=_name(label, len(seeds)),
        )  # fmt: skip
        lowest = min([lowest, *values[np.isfinite(values)].tolist()])
    axes.set_xlim(0, 1)
    axes.set_ylim(lowest - 0.05, 1.03)
    label_axes(axes, "spatial frequency, fraction of Nyquist", "Fourier ring correlation")
    above = axes.secondary_xaxis("top")
    above.set_xticks([2 / period for period in PERIODS_PX], [f"{period:g}" for period in PERIODS_PX])
    above.set_xlabel("full period, px", fontsize=8)
    above.tick_params(labelsize=7)
    legend_below(figure, axes, n_columns=3)
    figure.suptitle(title, fontsize=10)
    save(figure, path, title=title)


def _name(label: str, n_seeds: int) -> str:
    return label if n_seeds == 1 else f"{label}, mean of {n_seeds} seeds"


def _thresholds(axes: Axes, curve: FrcCurve) -> None:
    """Draw the levels 0.5 and 1/7 and the half-bit curve in grey."""
    axes.axhline(0, color="0.85", linewidth=0.8)
    for level, name, dashes in ((0.5, "threshold 0.5", (0, (5, 3))), (1 / 7, "threshold 1/7", (0, (1.5, 2)))):
        axes.axhline(level, color="0.45", linewidth=1, linestyle=dashes, label=name)
    threshold = half_bit(curve.n_samples)
    axes.plot(curve.frequency_nyquist, threshold, color="0.45", linewidth=1, label="threshold half-bit")


def mean_curve(values: Float64[np.ndarray, "seeds q"]) -> Float64[np.ndarray, "q"]:
    """Return the mean over the seeds that have energy in a ring; NaN where none has."""
    known = np.isfinite(values)
    counts = known.sum(axis=0)
    sums = np.where(known, values, 0.0).sum(axis=0)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def quality_time(snapshots: Mapping[str, Sequence[Sequence[Snapshot]]], path: Path, *, title: str) -> None:
    """Write how good each arm was after how many seconds: for the first scan, and for one further scan.

    The axis of quality is logarithmic in the distance from 1 and labelled with the values themselves, so that 0.98 and
    0.99 stay apart however low the curves begin. Epochs stand beside the points as far as there is room.

    Args:
        snapshots: by label, per seed, the list `snapshots` of metrics.json.
        path: the PNG to write.
        title: headline, and title in the PNG's own text.
    """
    figure = Figure(figsize=(9.6, 4.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True).tolist()
    key = _shown(snapshots)
    looks = styles(list(snapshots))
    notes: list[Note] = []
    seen: list[float] = []
    for panel, (words, charged) in zip(panels, CHARGES.items(), strict=True):
        panel.set_xscale("log")
        panel.grid(axis="y", color="0.9", linewidth=0.8)
        panel.set_axisbelow(True)
        for label, seeds in snapshots.items():
            runs = [points for seed in seeds if (points := _points(seed, key, charged))]
            if runs:
                line = _draw(panel, runs, looks[label], label)
                notes += [Note(panel, (x, y), epoch, looks[label], final) for x, y, epoch, final in line]
                seen += [point.quality for run in [*runs, line] for point in run]
        _seconds_axis(panel)
        label_axes(panel, f"seconds {words}", "")
    _quality_axis(panels[0], seen)
    label_axes(
        panels[0], panels[0].get_xlabel(), f"{QUALITIES[key]}\n(1 is perfect; the scale is stretched towards it)"
    )
    if not seen:
        panels[0].text(0.5, 0.5, "no snapshot has a score", ha="center", fontsize=9, transform=panels[0].transAxes)
    legend_below(figure, panels[0], n_columns=3)
    figure.suptitle(f"{title}\nnumbers: epochs done; filled: final state", fontsize=10)
    write_notes(figure, notes)
    save(figure, path, title=title)


def _shown(snapshots: Mapping[str, Sequence[Sequence[Snapshot]]]) -> str:
    """Return the first key of QUALITIES that any snapshot has a value for, else the first."""
    documents = [document for seeds in snapshots.values() for seed in seeds for document in seed]
    known = [key for key in QUALITIES if any(_value(document, key) is not None for document in documents)]
    return [*known, *QUALITIES][0]


def _value(document: Snapshot, key: str) -> float | None:
    value = (document["scores"].get(key) or {}).get("value")
    return None if value is None else float(value)


def _points(seed: Sequence[Snapshot], key: str, charged: Sequence[str]) -> list[Point]:
    """Return the states that have a score and took time: an axis of logarithms has no place for zero."""
    found = []
    for document in seed:
        quality, seconds = _value(document, key), sum(float(document[name]) for name in charged)
        if quality is not None and seconds > 0:
            found.append(Point(seconds, quality, str(document["epoch"]), bool(document["final"])))
    return found


def mean_points(runs: Sequence[Sequence[Point]]) -> list[Point]:
    """Return the means of seconds and quality over the seeds: of the states that every seed has, and of the final ones.

    Where the seeds ended at different epochs, the final state is labelled with the range.
    """

    def states(run: Sequence[Point]) -> dict[str, Point]:
        return {"final" if point.final else point.epoch: point for point in run}

    found = []
    for name in states(runs[0]):
        members = [states(run)[name] for run in runs if name in states(run)]
        if len(members) < len(runs):
            continue
        seconds = float(np.mean([point.seconds for point in members]))
        quality = float(np.mean([point.quality for point in members]))
        epochs = sorted({int(point.epoch) for point in members})
        text = str(epochs[0]) if len(epochs) == 1 else f"{epochs[0]}–{epochs[-1]}"
        found.append(Point(seconds, quality, text, members[0].final))
    return found


def _draw(axes: Axes, runs: Sequence[Sequence[Point]], look: Style, label: str) -> Sequence[Point]:
    """Draw the runs of one arm, and their mean where there are several; return the points of the strong line."""
    if len(runs) > 1:
        for run in runs:
            places = np.array([(point.seconds, point.quality) for point in run])
            axes.plot(*places.T, color=look.colour, linewidth=0.7, alpha=0.4, marker=".", markersize=2.5)
    line = runs[0] if len(runs) == 1 else mean_points(runs)
    places = np.array([(point.seconds, point.quality) for point in line]).reshape(-1, 2)
    axes.plot(
        *places.T, color=look.colour, linestyle=look.dashes, linewidth=1.5, marker=look.marker, markersize=5.5,
        markerfacecolor="white", label=_name(label, len(runs)),
    )  # fmt: skip
    ends = [index for index, point in enumerate(line) if point.final]
    axes.plot(*places[ends].T, color=look.colour, linestyle="none", marker=look.marker, markersize=6.5, zorder=3)
    return line


def _seconds_axis(axes: Axes) -> None:
    """Label seconds as plain numbers, at as many places in every decade as leave room for them."""
    low, high = axes.get_xlim()
    steps = next(steps for ratio, steps in SECONDS_STEPS if high / low < ratio)
    axes.xaxis.set_major_locator(LogLocator(subs=steps))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def to_axis(quality: Values) -> Values:
    """Return where a quality lies on its axis: decades of its distance from 1, upwards."""
    return -np.log10(1 - np.minimum(quality, BEST))


def from_axis(place: Values) -> Values:
    """Return the quality at a place of the axis, the inverse of `to_axis`."""
    return 1 - 10.0 ** (-place)


def _quality_axis(axes: Axes, seen: Sequence[float]) -> None:
    """Scale the axis to what was seen, and label it with values that keep a distance from one another."""
    ends = to_axis(np.array([min(seen), max(seen)] if seen else [0.0, 0.9]))
    room = max(0.09 * float(ends[1] - ends[0]), 0.02)
    low, high = float(ends[0]) - room, float(ends[1]) + room
    axes.set_yscale("function", functions=(to_axis, from_axis))
    limits = from_axis(np.array([low, high]))
    axes.set_ylim(float(limits[0]), float(limits[1]))
    ticks: list[float] = []
    for value in QUALITY_TICKS:
        place = float(to_axis(np.array(value)))
        if low < place < high and (not ticks or place - float(to_axis(np.array(ticks[-1]))) > 0.05 * (high - low)):
            ticks.append(value)
    if len(ticks) < 3:
        ticks = [
            float(f"{value:.6g}") for value in MaxNLocator(5).tick_values(*limits) if limits[0] < value < limits[1]
        ]
    axes.set_yticks(ticks, [f"{value:g}" for value in ticks])
    axes.minorticks_off()
