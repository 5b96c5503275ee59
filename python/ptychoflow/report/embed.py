"""Which pictures go into the report as bytes, and where the others lie.

A report is one file that must stay small enough to mail: up to `PICTURE_BYTES` of PNG go in, the most telling kind first and
for every condition, and what does not fit is linked by its path in the output folder, relative to report.html.
"""

import base64
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

Json = Mapping[str, Any]

PICTURE_BYTES = 10_000_000
"""Most PNG bytes in one report; base64 makes a third more of them."""

FIRST_KINDS = ("compare", "quality", "frc", "blink", "errors", "arms")


@dataclass(frozen=True)
class Picture:
    """One picture of the report.

    Attributes:
        name: what it shows: the name of an arm, of `truth` or `reference`, or the id of a run.
        alt: what it shows, for those who cannot see it.
        link: where it lies in the output folder, relative to report.html.
        png: its bytes; None where the budget was spent before it.
    """

    name: str
    alt: str
    link: str
    png: bytes | None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, px."""
        if self.png is None:
            raise ValueError(f"the picture of {self.name} is linked, not embedded: it has no size here")
        return png_size(self.png)

    @property
    def uri(self) -> str:
        """The bytes as a data URI."""
        return "data:image/png;base64," + base64.b64encode(self.png or b"").decode()


@dataclass(frozen=True)
class Panel:
    """What the viewer shows under one name: amplitude and phase on the colour scale of all panels."""

    name: str
    amp: Picture
    phase: Picture


@dataclass(frozen=True)
class Gallery:
    """The pictures of one condition; a kind that did not arrive is None or empty.

    Attributes:
        panels: what the viewer wipes between; all of them or none, so that no arm is missing from it.
        linked_panels: panels of a viewer that did not fit.
        limits: colour limits of the panels, in words.
    """

    compare: Picture | None
    quality: Picture | None
    frc: Picture | None
    panels: list[Panel]
    linked_panels: list[Panel]
    limits: str
    errors: list[Picture]
    arms: list[Picture]
    curves: list[Picture]


def png_size(png: bytes) -> tuple[int, int]:
    """Return width and height of a PNG, px, from its header."""
    width, height = struct.unpack(">II", png[16:24])
    return int(width), int(height)


@dataclass(frozen=True)
class Layout:
    """Where the files of a report lie beside it.

    Attributes:
        beside: whether visuals/ lies beside report.html, as the command `compare` writes it; in a workflow's output,
            report.html lies in summary/ and every condition has a folder.
    """

    beside: bool = False

    def visual(self, condition: str, file: str) -> str:
        """Return the relative URL of a picture of a condition."""
        folder = "visuals" if self.beside else f"../conditions/{quote(condition, safe='')}/visuals"
        return f"{folder}/{quote(file, safe='')}"

    def run(self, run: Json) -> str | None:
        """Return the relative URL of the picture of one run; None where runs have none of their own."""
        if self.beside:
            return None
        return self.visual(str(run["condition"]), f"amp_phase_{run['label']}_s{run['seed']}.png")

    def curve(self, run: Json) -> str:
        """Return the relative URL of the losses of one run: a picture of the training, the history of any other arm."""
        last = "train/model/loss.png" if run["kind"] == "train" else "reconstruct/history.csv"
        parts = (str(run["condition"]), "runs", str(run["label"]), f"s{run['seed']}")
        return "/".join(("../conditions", *(quote(part, safe="") for part in parts), last))


def galleries(
    runs: list[Json],
    comparisons: Mapping[str, Json],
    pictures: Mapping[str, Mapping[str, bytes]],
    curves: Mapping[str, bytes],
    *,
    layout: Layout,
    budget: int = PICTURE_BYTES,
) -> dict[str, Gallery]:
    """Return the pictures of every condition, as many of them with bytes as the budget holds.

    Args:
        runs: entries of the plan, in its order.
        comparisons: comparison.json by condition; its `pictures` say which file is what.
        pictures: PNG bytes by condition and file name.
        curves: PNG bytes of loss curves by run id.
        layout: where files lie that are linked.
        budget: most PNG bytes in all.
    """
    conditions = list(dict.fromkeys(str(run["condition"]) for run in runs))
    wanted = [
        (condition, kind, group)
        for kind in FIRST_KINDS
        for condition in conditions
        for group in _groups(comparisons.get(condition, {}).get("pictures") or {}, kind, pictures.get(condition, {}))
    ]
    taken: set[tuple[str, str]] = set()
    left = budget
    for condition, _, group in wanted:
        cost = sum(len(pictures[condition][file]) for file in group if (condition, file) not in taken)
        if cost <= left:
            left -= cost
            taken |= {(condition, file) for file in group}
    for run in runs:
        size = len(curves.get(run["run_id"], b""))
        if size and size <= left:
            left -= size
            taken.add(("", run["run_id"]))
    known = {(condition, file) for condition, _, group in wanted for file in group}

    def picture(condition: str, name: str, file: str | None, alt: str) -> Picture | None:
        if file is None or (condition, file) not in known:
            return None
        png = pictures[condition][file] if (condition, file) in taken else None
        return Picture(name, alt, layout.visual(condition, file), png)

    def gallery(condition: str) -> Gallery:
        named = comparisons.get(condition, {}).get("pictures") or {}
        panels = []
        for entry in named.get("blink") or []:
            name = str(entry["name"])
            amp = picture(condition, name, entry["amp"], f"Amplitude of {name}, {condition}")
            phase = picture(condition, name, entry["phase"], f"Phase of {name}, {condition}")
            if amp is not None and phase is not None:
                panels.append(Panel(name, amp, phase))
        complete = all(panel.amp.png is not None and panel.phase.png is not None for panel in panels)
        return Gallery(
            compare=picture(condition, "all arms", named.get("compare"),
                            f"Amplitude and phase of every arm of {condition} side by side, truth or reference first"),
            quality=picture(condition, "quality over time", named.get("quality"),
                            f"Scores of every arm of {condition} over the seconds spent"),
            frc=picture(condition, "FRC", named.get("frc"),
                        f"Fourier ring correlation of every arm of {condition} over spatial frequency"),
            panels=panels if complete else [],
            linked_panels=[] if complete else panels,
            limits=str(named.get("blink_limits") or ""),
            errors=_known(
                picture(condition, label, file, f"Amplitude and phase error of {label}, {condition}")
                for label, file in (named.get("errors") or {}).items()
            ),
            arms=_known(
                picture(condition, label, file, f"Amplitude and phase of {label}, {condition}")
                for label, file in (named.get("arms") or {}).items()
            ),
            curves=[
                Picture(run["run_id"], f"Loss over epochs of run {run['run_id']}", layout.curve(run),
                        curves[run["run_id"]] if ("", run["run_id"]) in taken else None)
                for run in runs if run["condition"] == condition and run["run_id"] in curves
            ],
        )  # fmt: skip

    return {condition: gallery(condition) for condition in conditions}


def _known(pictures: Iterator[Picture | None]) -> list[Picture]:
    return [picture for picture in pictures if picture is not None]


def _groups(named: Json, kind: str, arrived: Mapping[str, bytes]) -> list[tuple[str, ...]]:
    """Return the files of one kind that arrived, in groups that go in together: all panels of a viewer, otherwise one file each."""
    given = named.get(kind)
    if not given:
        return []
    if kind == "blink":
        pairs = [(entry["amp"], entry["phase"]) for entry in given]
        whole = tuple(file for pair in pairs if all(part in arrived for part in pair) for file in pair)
        return [whole] if whole else []
    files = given.values() if isinstance(given, Mapping) else [given]
    return [(file,) for file in files if file in arrived]
