"""A study over dose and view as tables: one row per condition, one column per arm, one table per score.

A study is a plan in which at least one scan has more than one dose or more than one view; any other plan is none. A cell is
the median over the training seeds that ended ok, with the 95 % interval of their mean (metrics/statistics.py); two backends
never share one. What has no value says why, in words. In the specified matrix the smallest gridsize is trained on the view
`all` only: the other views of a scan borrow that cell, marked with a dagger (same dose, same scored rectangle).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ptychoflow.metrics.statistics import Spread, spread
from ptychoflow.report.ranking import FRC50
from ptychoflow.report.sections import Column, ReportInput, column_of, show, status_words
from ptychoflow.report.tables import ArmRow, Json, Key, Outcome, arm_rows, scores_of

ALL_FRAMES = "all"
"""The view that keeps every frame, as in study/conditions.py."""

SCORES: tuple[tuple[str, Key], ...] = (
    ("phase MS-SSIM", ("stitched", "phase", "ms_ssim")),
    ("amplitude MS-SSIM", ("stitched", "amp", "ms_ssim")),
    ("phase MAE", ("stitched", "phase", "mae")),
    ("amplitude MAE", ("stitched", "amp", "mae")),
    ("phase PSNR", ("stitched", "phase", "psnr")),
    ("amplitude PSNR", ("stitched", "amp", "psnr")),
    ("complex FRC 0.5", FRC50),
)
"""What a study is judged by, the primary score first (study section 1)."""

CELLS_SAY = "median over the training seeds that ended ok, the 95 % interval of their mean in brackets, and the number of seeds n"
DAGGER = "†"
DAGGER_SAYS = (
    f"{DAGGER} trained on and reconstructed from the view '{ALL_FRAMES}' of the same scan at the same dose, scored on the same "
    "rectangle: the specified matrix trains it there only"
)


@dataclass(frozen=True)
class Row:
    """One condition of the study.

    Attributes:
        dose: photons per frame, as asked; None where the plan has none.
        view: name of the view; None for a condition that is skipped as a whole.
        max_groups: most groups of a side of this view; None for as many as there are.
    """

    condition: str
    scan: str
    dose: str | None
    view: str | None
    max_groups: int | None


@dataclass(frozen=True)
class Entrant:
    """One column: an arm at one gridsize and, where one label has several, one backend."""

    label: str
    backend: str
    title: str


@dataclass(frozen=True)
class StudyCell:
    """One score of one arm under one condition.

    Attributes:
        spread: over the seeds that ended ok and have the score; n = 0 where none has.
        n_planned: number of planned seeds; 0 where the plan does not have this arm here.
        words: what the numbers alone do not say: seeds without a value, with the number of their reason.
        overlap: mean image-based overlap of the test frames that were read (metric 2); None where it was not measured.
        borrowed: whether the value is that of the view `all`.
    """

    spread: Spread
    n_planned: int
    words: str
    overlap: float | None = None
    borrowed: bool = False

    @property
    def text(self) -> str:
        """Everything in one line, as in summary.md."""
        if not self.spread.n:
            return self.words + (f" {DAGGER}" if self.borrowed else "")
        return "; ".join([f"{self.value} {self.rest}", *([self.words] if self.words else [])])

    @property
    def value(self) -> str:
        """The median."""
        return show(self.spread.median) + (f" {DAGGER}" if self.borrowed else "")

    @property
    def rest(self) -> str:
        """Interval and number of seeds."""
        interval = "" if self.spread.low is None else f"[{show(self.spread.low)}, {show(self.spread.high)}] "
        return f"{interval}n = {self.spread.n}" + (f" of {self.n_planned}" if self.spread.n < self.n_planned else "")


NOT_PLANNED = StudyCell(spread([]), 0, "not planned")


@dataclass(frozen=True)
class Study:
    """All tables of a study.

    Attributes:
        rows: conditions by scan, dose and view.
        entrants: columns; of one arm the larger gridsize first, as pinn_gs2, pinn_gs1, lsqml.
        scores: scores that at least one run has.
        cells: by condition, title of the entrant and key of the score.
        reasons: why values are missing; the cells count them from 1.
        absent: scores that no run has, with their reasons.
    """

    rows: Sequence[Row]
    entrants: Sequence[Entrant]
    scores: Sequence[Column]
    cells: Mapping[tuple[str, str, Key], StudyCell]
    reasons: Sequence[str]
    absent: Sequence[str]

    @property
    def scans(self) -> list[str]:
        """The scans, in the order of the plan."""
        return list(dict.fromkeys(row.scan for row in self.rows))

    @property
    def borrows(self) -> bool:
        """Whether a cell is that of another view."""
        return any(cell.borrowed for cell in self.cells.values())

    def name(self, row: Row) -> str:
        """Return what tells a row from the others: dose and view, after the scan where there are several."""
        if row.view is None:
            return row.condition
        scan = row.scan if len(self.scans) > 1 else None
        return ", ".join(part for part in (scan, row.dose, row.view) if part)

    def cell(self, row: Row, entrant: Entrant, score: Column) -> StudyCell:
        """Return one cell of one table."""
        return self.cells[row.condition, entrant.title, score.key]


def study_of(given: ReportInput) -> Study | None:
    """Return the tables of a study; None for a plan in which no scan has several doses or views."""
    rows = _rows(given.plan)
    if not any(len(_of(rows, scan)) > 1 for scan in {row.scan for row in rows}):
        return None
    backends = {str(run["arm"]): str(run.get("backend") or "") for run in given.plan["runs"]}
    runs: dict[tuple[str, str, str], list[Outcome]] = {}
    for outcome in given.found:
        run = outcome.run
        backend = str(run.get("backend") or backends.get(str(run["arm"]), ""))
        runs.setdefault((str(run["condition"]), str(run["label"]), backend), []).append(outcome)
    entrants = _entrants(given.found, runs)
    planned = {(condition, label) for condition, label, _ in runs}
    known = {
        key: score
        for outcome in given.found
        if outcome.state == "ok"
        for key, score in scores_of(outcome.metrics or {}).items()
        if score["value"] is not None
    }
    scores = [column_of(title, key, known[key]) for title, key in SCORES if key in known]
    reasons: dict[str, int] = {}
    cells = {}
    for row in rows:
        lender = next((r for r in rows if (r.scan, r.dose, r.view) == (row.scan, row.dose, ALL_FRAMES)), row)
        for entrant in entrants:
            own = runs.get((row.condition, entrant.label, entrant.backend), [])
            lent = runs.get((lender.condition, entrant.label, entrant.backend), [])
            read = own if (row.condition, entrant.label) in planned else lent
            arm = arm_rows(read)[0] if read else None
            overlap = _overlap(read, given.bundles)
            for score in scores:
                cell = NOT_PLANNED if arm is None else _cell(read, arm, score, reasons)
                cells[row.condition, entrant.title, score.key] = replace(
                    cell, overlap=overlap, borrowed=bool(read) and not own
                )
    absent = [
        f"{title}: {reason}"
        for title, key in SCORES
        if key not in known and (reason := _why_absent(given.found, key)) is not None
    ]
    return Study(rows, entrants, scores, cells, list(reasons), absent)


def _rows(plan: Json) -> list[Row]:
    """Return the conditions by scan, in the order of the plan, then by dose and by view, those of the plan's order.

    A condition whose runs are all skipped is not among the plan's conditions; its id stands in for its scan.
    """
    limits = {view.get("condition"): (view.get("config") or {}).get("max_groups") for view in plan["views"]}
    rows = [
        Row(entry["id"], _scan(entry), entry.get("dose"), entry.get("view"), limits.get(entry["id"]))
        for entry in plan["conditions"]
    ]
    known = {row.condition for row in rows}
    lost = dict.fromkeys(str(run["condition"]) for run in plan["skipped"] if run["condition"] not in known)
    rows += [Row(name, name, None, None, None) for name in lost]
    scans, views = ([*dict.fromkeys(values)] for values in ([row.scan for row in rows], [row.view for row in rows]))
    return sorted(
        rows, key=lambda row: (scans.index(row.scan), float(row.dose or "inf"), views.index(row.view), row.condition)
    )


def _scan(condition: Json) -> str:
    """Return the scan of a condition, whose id is `<scan>_d<dose>_<view>` with parts that do not vary left out."""
    without_view = str(condition["id"]).removesuffix(f"_{condition.get('view')}")
    return without_view.removesuffix(f"_d{condition.get('dose')}")


def _of(rows: Sequence[Row], scan: str) -> list[Row]:
    return [row for row in rows if row.scan == scan]


def _entrants(found: Sequence[Outcome], runs: Iterable[tuple[str, str, str]]) -> list[Entrant]:
    """Return the columns: arms in the order of the plan, of each the larger gridsize first."""
    pairs = list(dict.fromkeys((label, backend) for _, label, backend in runs))
    labels = [label for label, _ in pairs]
    arms = list(dict.fromkeys(str(outcome.run["arm"]) for outcome in found))
    arm_of = {str(outcome.run["label"]): str(outcome.run["arm"]) for outcome in found}
    ordered = sorted(pairs, key=lambda pair: (arms.index(arm_of[pair[0]]), -_gridsize(pair[0])))
    return [
        Entrant(label, backend, label if labels.count(label) == 1 else f"{label} ({backend})")
        for label, backend in ordered
    ]


def _gridsize(label: str) -> int:
    match = re.search(r"_gs(\d+)$", label)
    return int(match.group(1)) if match else 1


def _cell(runs: Sequence[Outcome], arm: ArmRow, score: Column, reasons: dict[str, int]) -> StudyCell:
    """Return the cell of some runs; their reasons are numbered on in `reasons`."""
    values = arm.scores.get(score.key, spread([]))
    missing: dict[str, list[str]] = {}
    for outcome in runs:
        if outcome.state != "ok":
            word = "collapsed" if outcome.collapsed else str(outcome.state)
            missing.setdefault(word, []).append(" ".join(outcome.reason.split()))
    without = arm.states.get("ok", 0) - values.n
    if without:
        reason = arm.notes.get(score.key, "not scored")
        missing["not applicable"] = [f"{score.title}: {_in_words(reason)}"] * without
    words = []
    for word, why in missing.items():
        numbers = sorted({reasons.setdefault(reason, len(reasons) + 1) for reason in why})
        how_many = f"{len(why)} " if len(runs) > 1 and len(why) < len(runs) else ""
        words.append(f"{how_many}{word} [{', '.join(str(number) for number in numbers)}]")
    good = [scores_of(outcome.metrics or {}).get(score.key, {}) for outcome in runs if outcome.state == "ok"]
    crossing = status_words([str(entry["status"]) for entry in good if entry.get("status")])
    return StudyCell(values, len(runs), ", ".join([*([crossing] if crossing else []), *words]))


def _overlap(runs: Sequence[Outcome], bundles: Mapping[str, Json]) -> float | None:
    """Return metric 2 of the test side of the view that the runs read."""
    for outcome in runs:
        if bundle := bundles.get(str(outcome.run.get("view"))):
            return float(bundle["test"]["metrics"]["metric_2_image_based_avg"])
    return None


def _why_absent(found: Sequence[Outcome], key: Key) -> str | None:
    """Return why no run has a value of a score; None where none has the score at all."""
    for outcome in found:
        if score := scores_of(outcome.metrics or {}).get(key):
            return _in_words(str(score.get("reason") or "no run that ended ok has a value"))
    return None


def _in_words(reason: str) -> str:
    return reason if " " in reason else reason.replace("_", " ")
