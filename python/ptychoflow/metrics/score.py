"""One score as it lies in metrics.json: a value with its unit, direction and range, or a reason why there is none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Direction = Literal["lower", "higher", "one"]
"""Which values are better: lower ones, higher ones, or those near 1 (ratios)."""


@dataclass(frozen=True)
class Score:
    """One number and how to read it.

    Attributes:
        value: finite, or None where the score is not applicable.
        unit: unit of the value; "1" without one.
        direction: which values are better.
        range: the data range D that entered the formula (PSNR, SSIM), in the unit of the image; None without one.
        status: of a crossing: `crossed`, `never` (the value is a lower bound) or `starts_below`; None for other scores.
        reason: why there is no value.
        settings: what else the value depends on, such as the number of scales of MS-SSIM or the window of
            a Fourier ring correlation; None without any.
    """

    value: float | None
    unit: str
    direction: Direction
    range: float | None = None
    status: str | None = None
    reason: str | None = None
    settings: Mapping[str, float | str] | None = None

    def record(self) -> dict[str, Any]:
        """Return the score as strict JSON holds it; optional ones only where there is one."""
        fields = {"value": self.value, "unit": self.unit, "direction": self.direction, "range": self.range}
        settings = None if self.settings is None else dict(self.settings)
        optional = {"status": self.status, "reason": self.reason, "settings": settings}
        return fields | {name: value for name, value in optional.items() if value is not None}


def mean_score(scores: Sequence[Score]) -> Score:
    """Return the mean over objects of the same score: of the values that there are, with the mean of their ranges.

    A status that differs between the objects becomes `mixed`. Without any value the first reason stands.
    """
    known = [score for score in scores if score.value is not None]
    if not known:
        return scores[0]
    ranges = [score.range for score in known if score.range is not None]
    statuses = {score.status for score in known}
    return Score(
        value=sum(score.value for score in known if score.value is not None) / len(known),
        unit=known[0].unit,
        direction=known[0].direction,
        range=sum(ranges) / len(ranges) if ranges else None,
        status=statuses.pop() if len(statuses) == 1 else "mixed",
        settings=known[0].settings,
    )
