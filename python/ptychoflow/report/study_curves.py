"""Curves of a study: scores against the dose, a panel per view, and against the overlap, a panel per dose.

Points are medians over the training seeds, bars the 95 % interval of the mean, as in the tables. An arm keeps the colour, the
dashes and the marker that it has in every other picture; points of several arms at one place stand a few screen pixels apart,
which changes no value. Over overlap, views that are cut to one number of groups have a thin line of their own: along the other
line, the number of frames falls with the overlap. A point without a value is a cross on the lower edge and breaks its line.
Heights follow the values and not the intervals: of two seeds, an interval is often many times wider than anything measured.
"""

import logging
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator
from matplotlib.transforms import ScaledTranslation, Transform, blended_transform_factory

from ptychoflow.report.panels import DPI, LETTER_PX, save
from ptychoflow.report.sections import Column, ReportInput
from ptychoflow.report.strips import MARGIN
from ptychoflow.report.study_tables import DAGGER, Entrant, Row, Study, StudyCell, study_of
from ptychoflow.report.styles import Note, Style, label_axes, legend_below, styles, write_notes

logger = logging.getLogger(__name__)

Axis = Literal["dose", "overlap", "view"]

X_TITLES: Mapping[Axis, str] = {
    "dose": "dose, photons per frame",
    "overlap": "mean overlap of the test frames (image-based, metric 2)",
    "view": "view (overlap not measured)",
}
WIDTH_INCHES = 4.6
"""Narrow, panels below one another: on a phone's 360 px the letters shrink by a fifth only."""

PANEL_INCHES = 1.9
APART_POINTS = 4.0
"""Distance of two arms that stand at one place."""

PANEL_POINTS = 295.0
"""Width of a panel, roughly."""

GREY = Style("#555555", (0, ()), "")


class Point(NamedTuple):
    """One cell in a picture: its place on the axis, the row and the cell."""

    x: float
    row: Row
    cell: StudyCell


@dataclass(frozen=True)
class Curves:
    """What one picture shows.

    Attributes:
        file: name of the PNG.
        title: headline, and title in the PNG's own text.
        alt: what it shows, for those who cannot see it.
        scan: whose scores these are.
        score: the score.
        axis: what x is: photons per frame, metric 2, or the place of the view in the plan.
        ticks: places on x with their names; none for measured overlap.
        panels: by title, the points of every arm by the title of its column, x increasing.
        unplaced: by title of the panel, views whose overlap is unknown and that have no value either.
    """

    file: str
    title: str
    alt: str
    scan: str
    score: Column
    axis: Axis
    ticks: Sequence[tuple[float, str]]
    panels: Mapping[str, Mapping[str, Sequence[Point]]]
    unplaced: Mapping[str, Sequence[str]]


def study_pictures(given: ReportInput) -> tuple[dict[str, bytes], list[str]]:
    """Return PNG bytes by file name, empty without a study, and what could not be drawn, in sentences."""
    study = study_of(given)
    drawn: dict[str, bytes] = {}
    notes = []
    with tempfile.TemporaryDirectory() as folder:
        for curves in all_curves(study) if study is not None else ():
            path = Path(folder) / curves.file
            try:
                draw(curves, path)
                drawn[curves.file] = path.read_bytes()
            except Exception as error:  # noqa: BLE001 - no error of a picture costs a scored run (D76)
                notes.append(f"{curves.file} could not be drawn, the tables have its numbers: {error!r}")
                logger.warning("%s", notes[-1])
    return drawn, notes


def all_curves(study: Study) -> list[Curves]:
    """Return what every picture of a study shows: by score, the primary one first, then by scan; dose before overlap."""
    found = []
    for score in study.scores:
        for scan in study.scans:
            rows = [row for row in study.rows if row.scan == scan and row.view is not None]
            if len({row.dose for row in rows if row.dose}) > 1:
                found.append(_over_dose(study, scan, score, [row for row in rows if row.dose]))
            if len({row.view for row in rows}) > 1:
                found.append(_over_overlap(study, scan, score, rows))
    return found


def _over_dose(study: Study, scan: str, score: Column, rows: Sequence[Row]) -> Curves:
    panels: dict[str, dict[str, list[Point]]] = {}
    for row in rows:
        for entrant, cell in _planned(study, row, score):
            place = Point(float(row.dose or 0), row, cell)
            panels.setdefault(f"view {row.view}", {}).setdefault(entrant.title, []).append(place)
    ticks = {float(row.dose or 0): str(row.dose) for row in rows}
    return _curves(study, scan, score, "dose", sorted(ticks.items()), panels, {})


def _over_overlap(study: Study, scan: str, score: Column, rows: Sequence[Row]) -> Curves:
    """Return curves over measured overlap where every value has one, else over the names of the views.

    Borrowed cells are left out: their frames have the overlap of the view they come from, and stand there.
    """
    cells = [(row, entrant, cell) for row in rows for entrant, cell in _planned(study, row, score) if not cell.borrowed]
    measured = all(cell.overlap is not None for _, _, cell in cells if cell.spread.n)
    places = {view: float(index) for index, view in enumerate(dict.fromkeys(str(row.view) for row in rows))}
    panels: dict[str, dict[str, list[Point]]] = {}
    unplaced: dict[str, list[str]] = {}
    for row, entrant, cell in cells:
        title = f"dose {row.dose}" if row.dose else "dose unknown"
        arms = panels.setdefault(title, {})
        x = cell.overlap if measured else places[str(row.view)]
        if x is None:
            unplaced.setdefault(title, []).append(str(row.view))
        else:
            arms.setdefault(entrant.title, []).append(Point(x, row, cell))
    ordered = {
        title: {arm: sorted(points, key=lambda point: point.x) for arm, points in arms.items()}
        for title, arms in panels.items()
    }
    ticks = [] if measured else [(place, view) for view, place in places.items()]
    return _curves(study, scan, score, "overlap" if measured else "view", ticks, ordered, unplaced)


def _planned(study: Study, row: Row, score: Column) -> list[tuple[Entrant, StudyCell]]:
    cells = [(entrant, study.cell(row, entrant, score)) for entrant in study.entrants]
    return [(entrant, cell) for entrant, cell in cells if cell.n_planned]


def _curves(
    study: Study,
    scan: str,
    score: Column,
    axis: Axis,
    ticks: Sequence[tuple[float, str]],
    panels: Mapping[str, Mapping[str, Sequence[Point]]],
    unplaced: Mapping[str, Sequence[str]],
) -> Curves:
    _, part, metric = score.key
    kind = "dose" if axis == "dose" else "overlap"
    arms = ", ".join(entrant.title for entrant in study.entrants)
    title = f"{scan}: {score.title} over {kind}"
    alt = (
        f"{score.title} of {scan} over {X_TITLES[axis]}; a panel each for {', '.join(panels)}; a line each for {arms}. "
        "The table of this score has the numbers."
    )
    file = f"{scan}_{kind}_{part}_{metric}.png"
    return Curves(file, title, alt, scan, score, axis, ticks, panels, {k: _once(v) for k, v in unplaced.items()})


def _once(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(names))


def draw(curves: Curves, path: Path) -> None:
    """Write one picture.

    Args:
        curves: what it shows.
        path: the PNG to write.
    """
    n_panels = len(curves.panels)
    figure = Figure(figsize=(WIDTH_INCHES, PANEL_INCHES * n_panels + 1.4), layout="constrained")
    axes = figure.subplots(n_panels, 1, sharex=True, sharey=True, squeeze=False)[:, 0].tolist()
    labels = sorted({label for arms in curves.panels.values() for label in arms})
    looks = styles(labels)
    shifts = {label: APART_POINTS * (index - (len(labels) - 1) / 2) for index, label in enumerate(labels)}
    _limits(axes[0], curves)
    notes = []
    for panel, (title, arms) in zip(axes, curves.panels.items(), strict=True):
        panel.set_title(title, fontsize=8, loc="left", pad=3)
        panel.grid(axis="y", color="0.9", linewidth=0.6)
        for label, points in arms.items():
            beside = ScaledTranslation(shifts[label] / 72, 0, figure.dpi_scale_trans)
            _line(panel, points, looks[label], beside, label)
        if views := curves.unplaced.get(title):
            panel.text(
                0.02, 0.04, f"neither value nor overlap: {', '.join(views)}", fontsize=7, color=GREY.text_colour,
                transform=panel.transAxes,
            )  # fmt: skip
        if curves.axis == "overlap":
            notes += _view_names(panel, arms, shifts)
        label_axes(panel, "", curves.score.title + (f", {curves.score.unit}" if curves.score.unit else ""))
        panel.yaxis.label.set_size(7)
    small_print = textwrap.fill(_sentence(curves), int(WIDTH_INCHES * DPI / LETTER_PX))
    axes[-1].set_xlabel(f"{X_TITLES[curves.axis]}\n{small_print}", fontsize=7, linespacing=1.4)
    _legend(figure, axes, looks, curves)
    figure.suptitle(curves.title, fontsize=9)
    if notes:
        write_notes(figure, notes)
    save(figure, path, title=curves.title)


def _line(axes: Axes, points: Sequence[Point], look: Style, beside: Transform, label: str) -> None:
    """Draw the points of one arm, shifted by `beside` on the screen: bars, a line that breaks where a value is missing, crosses."""
    place = axes.transData + beside
    for limit in dict.fromkeys(point.row.max_groups for point in points):
        line = [(point.x, point.cell.spread.median) for point in points if point.row.max_groups == limit]
        axes.plot(
            *np.array(line, dtype=np.float64).T, color=look.colour, linestyle=look.dashes,
            linewidth=1.3 if limit is None else 0.7, marker=look.marker,
            markersize=5, transform=place, gid=label,
        )  # fmt: skip
    for x, _, cell in points:
        known = cell.spread
        if known.low is not None and known.high is not None:
            axes.plot(
                [x, x], [known.low, known.high], color=look.colour, linewidth=1.1, alpha=0.6, marker="_", markersize=5,
                transform=place, gid=f"{label} interval",
            )  # fmt: skip
        if cell.borrowed and known.median is not None:
            axes.plot(
                [x], [known.median], color=look.colour, marker=look.marker, markersize=5, markerfacecolor="white",
                transform=place, gid=f"{label} borrowed",
            )  # fmt: skip
        if not known.n:
            edge = blended_transform_factory(axes.transData, axes.transAxes) + beside
            axes.plot(
                [x], [0.0], color=look.colour, marker="x", markersize=6, markeredgewidth=1.6, transform=edge, clip_on=False,
                zorder=3, gid=f"{label} missing",
            )  # fmt: skip


def _points(curves: Curves) -> list[Point]:
    return [point for arms in curves.panels.values() for points in arms.values() for point in points]


def _limits(axes: Axes, curves: Curves) -> None:
    """Set both axes for all panels, which share them."""
    spreads = [point.cell.spread for point in _points(curves)]
    heights = [value for known in spreads for value in (known.minimum, known.maximum) if value is not None]
    axes.set_ylim(*_with_room(heights))
    if curves.axis == "dose":
        axes.set_xscale("log")
        low, high = curves.ticks[0][0], curves.ticks[-1][0]
        room = (high / low) ** MARGIN
        axes.set_xlim(low / room, high * room)
    elif curves.axis == "view":
        axes.set_xlim(-0.5, len(curves.ticks) - 0.5)
    else:
        axes.set_xlim(*_with_room([point.x for point in _points(curves)]))
    if curves.ticks:
        places, names = zip(*curves.ticks, strict=True)
        axes.xaxis.set_major_locator(FixedLocator(places))
        axes.xaxis.set_major_formatter(FixedFormatter(names))
        axes.xaxis.set_minor_locator(NullLocator())


def _with_room(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of an axis that holds some values, with room on either side; 0 to 1 for none."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    room = MARGIN * (high - low) or 0.1 * abs(high) or 1.0
    return low - room, high + room


def _view_names(axes: Axes, arms: Mapping[str, Sequence[Point]], shifts: Mapping[str, float]) -> list[Note]:
    """Return the name of every view, to be written beside its highest point where that is drawn."""
    low, high = axes.get_xlim()
    highest: dict[str, tuple[float, float]] = {}
    for label, points in arms.items():
        for x, row, cell in points:
            height = cell.spread.median
            if height is not None and height >= highest.get(str(row.view), (0.0, -np.inf))[1]:
                highest[str(row.view)] = (x + shifts[label] / PANEL_POINTS * (high - low), height)
    return [Note(axes, place, view, GREY, True) for view, place in highest.items()]


def _legend(figure: Figure, axes: Sequence[Axes], looks: Mapping[str, Style], curves: Curves) -> None:
    """Write the legend of all panels, with what hollow markers and crosses mean where there are any."""
    for label, look in looks.items():
        axes[0].plot([], [], color=look.colour, linestyle=look.dashes, marker=look.marker, markersize=5, label=label)
    cells = [point.cell for point in _points(curves)]
    for shown, marker, face, meaning in (
        (any(cell.borrowed for cell in cells), "o", "white", f"{DAGGER} from the view all"),
        (any(not cell.spread.n for cell in cells), "x", GREY.colour, "no value: see the table"),
    ):
        if shown:
            axes[0].plot(
                [],
                [],
                color=GREY.colour,
                linestyle="none",
                marker=marker,
                markerfacecolor=face,
                markersize=5,
                label=meaning,
            )
    legend_below(figure, axes[0], n_columns=2)


def _sentence(curves: Curves) -> str:
    better = {"↓": "lower is better", "↑": "higher is better"}.get(curves.score.arrow, "")
    said = ["medians over the training seeds; bars: 95 % interval of the mean, cut off at the edge, none for one seed"]
    limits = {point.row.max_groups for point in _points(curves)}
    if curves.axis != "dose" and len(limits) > 1:
        said.append("thin lines: views with a limit on their groups")
    return "; ".join([*([better] if better else []), *said])
