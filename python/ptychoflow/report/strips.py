"""Small charts of means and intervals, one per ranked score, as shares of their width: HTML draws them without a picture."""

from collections.abc import Sequence
from dataclasses import dataclass

from ptychoflow.report.sections import Cell, Column, Section
from ptychoflow.report.styles import styles
from ptychoflow.report.tables import Key

MARGIN = 0.12
"""Free space on either side, as a share of the range of the values."""


@dataclass(frozen=True)
class Mark:
    """One arm on a strip; places from 0 to 100, percent of its width.

    Attributes:
        place: of the mean.
        low, high: ends of the 95 % interval, cut off at the ends of the strip; None for one run.
        seen: from the smallest to the largest value.
        colour: that of the arm in all curves.
    """

    label: str
    place: float
    low: float | None
    high: float | None
    seen: tuple[float, float]
    leads: bool
    colour: str


@dataclass(frozen=True)
class Strip:
    """One score of a condition: its marks, and the values at the two ends."""

    column: Column
    marks: list[Mark]
    start: float
    end: float


def strips(section: Section) -> dict[Key, Strip]:
    """Return a strip by ranked score, for those that at least two arms have.

    The ends follow the values that were measured and not the intervals: of two runs, an interval is often many times wider
    than anything seen, and would press all means into one point.
    """
    found = {}
    columns = {column.key: column for column in section.everything}
    for key in dict.fromkeys(verdict.key for verdict in section.verdicts):
        arms = [(arm.label, arm.cells[key]) for arm in section.arms if not arm.own and key in arm.cells]
        known = [(label, cell) for label, cell in arms if cell.value is not None]
        if len(known) > 1 and key in columns:
            found[key] = _strip(columns[key], known)
    return found


def _strip(column: Column, cells: Sequence[tuple[str, Cell]]) -> Strip:
    ends = [end for _, cell in cells for end in (cell.spread.minimum, cell.spread.maximum) if end is not None]
    lowest, highest = min(ends), max(ends)
    room = MARGIN * (highest - lowest) or abs(highest) or 1.0
    start, end = lowest - room, highest + room

    def place(value: float) -> float:
        return round(100 * min(1.0, max(0.0, (value - start) / (end - start))), 2)

    looks = styles([label for label, _ in cells])
    marks = [
        Mark(
            label,
            place(cell.spread.mean or 0.0),
            None if cell.spread.low is None else place(cell.spread.low),
            None if cell.spread.high is None else place(cell.spread.high),
            (place(cell.spread.minimum or 0.0), place(cell.spread.maximum or 0.0)),
            cell.leads,
            looks[label].colour,
        )
        for label, cell in cells
    ]
    return Strip(column, marks, start, end)
