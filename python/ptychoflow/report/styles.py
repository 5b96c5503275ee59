"""How an arm looks in curves, the same in every picture, and the parts that all curves share.

Colours are Okabe and Ito's (https://jfly.uni-koeln.de/color/), which stay apart with colour-blind vision; line style and
marker tell arms apart without any colour.
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox, IdentityTransform

from ptychoflow.report.panels import DPI

ARM_COLOURS = {
    "pinn": "#56B4E9", "baseline": "#D55E00", "pinn_torch": "#0072B2", "baseline_torch": "#E69F00", "lsqml": "#009E73",
    "pinn_ptychovit": "#999933",
}  # fmt: skip
"""As in conf/arms.json; a label is an arm's id, with `_gs<gridsize>` where the arm depends on it."""

OTHER_COLOURS = ("#CC79A7", "#000000", "#999999")

LINES = (
    ((0, ()), "o"),
    ((0, (6, 2)), "s"),
    ((0, (1.5, 1.5)), "^"),
    ((0, (7, 2, 1.5, 2)), "D"),
    ((0, (3, 1.5)), "v"),
    ((0, (7, 2, 1.5, 2, 1.5, 2)), "P"),
)
"""Pairs of dashes and marker."""


@dataclass(frozen=True)
class Style:
    """How one arm looks in all curves of a picture."""

    colour: str
    dashes: Any
    marker: str

    @property
    def text_colour(self) -> str:
        """The colour, darkened until small letters can be read on white."""
        red, green, blue = to_rgb(self.colour)
        return str(to_hex((0.6 * red, 0.6 * green, 0.6 * blue)))


def styles(labels: Sequence[str]) -> dict[str, Style]:
    """Return a style for every label, the same whatever the order of the labels.

    Registered arms have their own colour, arms at several gridsizes the same one; other labels take the rest of the
    palette in alphabetical order. Up to six labels differ in line style and marker.
    """
    found, others = {}, 0
    for index, label in enumerate(sorted(labels)):
        colour = ARM_COLOURS.get(re.sub(r"_gs\d+$", "", label))
        if colour is None:
            colour = OTHER_COLOURS[others % len(OTHER_COLOURS)]
            others += 1
        dashes, marker = LINES[index % len(LINES)]
        found[label] = Style(colour, dashes, marker)
    return found


def label_axes(axes: Axes, x: str, y: str) -> None:
    """Write what the two axes show, in the size of all curves."""
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.tick_params(labelsize=7)


def legend_below(figure: Figure, axes: Axes, *, n_columns: int) -> None:
    """Write the legend of `axes` under the figure, with handles long enough to show the dashes."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, labels, loc="outside lower center", ncols=n_columns, fontsize=7, frameon=False, handlelength=4.5
        )


class Note(NamedTuple):
    """A few letters that belong to a point of a curve; `first` ones are placed before the others."""

    axes: Axes
    place: tuple[float, float]
    text: str
    look: Style
    first: bool


SIDES = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1))
"""Where a note may stand around its point, (right, up), in order of preference."""

NOTE_GAP_PX = 6.0
MARKER_PX = (10.0, 10.0)


def write_notes(figure: Figure, notes: Sequence[Note]) -> None:
    """Write every note beside its point, off the other points and notes and, where it can be, off the lines.

    A note without any free place is left out. The layout of the figure is final afterwards.
    """
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    figure.set_layout_engine("none")
    renderer = canvas.get_renderer()
    lines = {axes: _drawn(axes) for axes in dict.fromkeys(note.axes for note in notes)}
    taken = [_box(note.axes.transData.transform(note.place), MARKER_PX) for note in notes]
    for note in sorted(notes, key=lambda note: not note.first):
        point = note.axes.transData.transform(note.place)
        text = note.axes.text(
            0, 0, note.text, fontsize=7, color=note.look.text_colour, ha="center", va="center",
            weight="bold" if note.first else "normal", transform=IdentityTransform(),
            path_effects=[patheffects.withStroke(linewidth=1.5, foreground="white")],
        )  # fmt: skip
        text.set_in_layout(False)
        extent = text.get_window_extent(renderer)
        size = np.array([extent.width, 0.8 * extent.height])
        boxes = [_box(point + np.array(side) * (size / 2 + NOTE_GAP_PX), size) for side in SIDES]
        free = [
            box for box in boxes if _within(note.axes.bbox, box) and not any(box.overlaps(other) for other in taken)
        ]
        if not free:
            text.remove()
            continue
        best = min(free, key=lambda box: box.count_contains(lines[note.axes]))
        text.set_position(((best.x0 + best.x1) / 2, (best.y0 + best.y1) / 2))
        taken.append(best)


def _drawn(axes: Axes) -> Any:
    """Return points along all lines of the axes, about a pixel apart, px; a line is broken where a value is missing."""
    found = []
    for line in axes.get_lines():
        corners = axes.transData.transform(line.get_xydata())
        for start, end in itertools.pairwise(corners):
            if not np.isfinite([start, end]).all():
                continue
            steps = max(2, int(np.hypot(*(end - start))))
            found.append(start + np.linspace(0, 1, steps)[:, None] * (end - start))
    return np.concatenate(found) if found else np.zeros((0, 2))


def _box(centre: Any, size: Any) -> Bbox:
    (x, y), (width, height) = centre, size
    return Bbox.from_bounds(x - width / 2, y - height / 2, width, height)


def _within(outer: Bbox, inner: Bbox) -> bool:
    return bool(outer.x0 <= inner.x0 and inner.x1 <= outer.x1 and outer.y0 <= inner.y0 and inner.y1 <= outer.y1)
