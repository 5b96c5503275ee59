"""What the report and the summary say, before it becomes HTML or Markdown: one `Section` of plain values per condition.

Numbers are means over the seeds that ended ok, with the 95 % interval of the mean and the number of seeds; verdicts and costs
come in sentences from `ranking` and `costs`. Scores whose name starts with `legacy_` stand apart and lead nowhere.
"""

import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ptychoflow.config import EvaluateConfig
from ptychoflow.metrics.statistics import Spread, spread
from ptychoflow.report.costs import BreakEven, break_evens
from ptychoflow.report.fairness import Fairness, Scoring, facts_of, fairness_of, scoring_of
from ptychoflow.report.ranking import Verdict, verdicts
from ptychoflow.report.tables import ArmRow, Json, Key, Outcome, arm_rows, scores_of, spreads

HEADLINE: tuple[tuple[str, Key], ...] = (
    ("complex FRC 0.5", ("stitched", "complex", "frc50")),
    ("resolution", ("stitched", "complex", "resolution_px")),
    ("phase MAE", ("stitched", "phase", "mae")),
    ("phase SSIM", ("stitched", "phase", "ssim")),
    ("phase MS-SSIM", ("stitched", "phase", "ms_ssim")),
    ("phase Pearson", ("stitched", "phase", "pearson")),
    ("phase contrast ratio", ("stitched", "phase", "contrast_ratio")),
    ("amplitude MAE", ("stitched", "amp", "mae")),
    ("amplitude SSIM", ("stitched", "amp", "ssim")),
    ("amplitude MS-SSIM", ("stitched", "amp", "ms_ssim")),
    ("amplitude Pearson", ("stitched", "amp", "pearson")),
    ("amplitude contrast ratio", ("stitched", "amp", "contrast_ratio")),
    ("held-out contrast", ("consistency", "heldout", "contrast")),
    ("held-out R-factor", ("consistency", "heldout", "r_factor")),
    ("held-out deviance", ("consistency", "heldout", "deviance")),
    ("test-frame contrast", ("consistency", "test", "contrast")),
    ("test-frame R-factor", ("consistency", "test", "r_factor")),
)
LEGACY = "legacy_"
ARROWS = {"lower": "↓", "higher": "↑", "one": "→1"}
METRICS = {
    "mae": "MAE", "mse": "MSE", "rmse": "RMSE", "nrmse": "NRMSE", "psnr": "PSNR", "ssim": "SSIM", "ms_ssim": "MS-SSIM",
    "pearson": "Pearson", "frc50": "FRC 0.5", "frc1over7": "FRC 1/7", "frc_halfbit": "FRC half-bit", "frc_area": "FRC area",
    "resolution_px": "resolution at 0.5", "resolution_1over7_px": "resolution at 1/7", "r_factor": "R-factor",
}  # fmt: skip
PARTS = {"amp": "amplitude", "heldout": "held-out frames", "test": "test frames"}
STATUS_WORDS = {"never": "never below", "starts_below": "starts below", "mixed": "objects differ"}
BLOCKS = ("stitched", "patch", "consistency")
STATES = ("ok", "failed", "missing", "skipped")


@dataclass(frozen=True)
class ReportInput:
    """Everything the report shows.

    Attributes:
        plan: content of plan.json.
        found: one outcome per planned run.
        comparisons: comparison.json by condition.
        pictures: PNG bytes by condition and file name, as comparison.json calls them.
        curves: PNG bytes of loss curves by run id.
        bundles: metrics_bundle.json of PREPARE by view id, as far as they arrived.
        study_pictures: PNG bytes of dose and overlap curves by file name, as `study_curves.study_pictures` draws them.
        versions: versions by package, `code_rev` among them.
        notes: what did not fit the plan.
        min_success: fewest ok runs for success.
        visuals_beside: whether visuals/ lies beside report.html, as after `ptychoflow compare`.
    """

    plan: Json
    found: Sequence[Outcome]
    comparisons: Mapping[str, Json] = field(default_factory=dict)
    pictures: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)
    curves: Mapping[str, bytes] = field(default_factory=dict)
    bundles: Mapping[str, Json] = field(default_factory=dict)
    study_pictures: Mapping[str, bytes] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    min_success: int = 1
    visuals_beside: bool = False

    @functools.cached_property
    def verdicts(self) -> list[Verdict]:
        """Which arm is better in every ranked score: made once, for tables, summary and report."""
        return verdicts(self.found, self.comparisons)


@dataclass(frozen=True)
class Column:
    """A column of scores: title, unit, direction of better values as an arrow, settings of the score, key."""

    title: str
    unit: str
    arrow: str
    key: Key
    settings: str = ""


@dataclass(frozen=True)
class Cell:
    """One score of one arm.

    Attributes:
        spread: over the seeds that ended ok; n = 0 where no run has a value.
        words: what the number alone does not say: a curve that never falls below its threshold, a length in nm.
        leads: shown to be better than every other arm.
        flat: a contrast ratio below the one that counts as collapsed.
    """

    spread: Spread
    words: str = ""
    leads: bool = False
    flat: bool = False

    @property
    def value(self) -> float | None:
        """The mean over the seeds; None where no run has a value."""
        return self.spread.mean

    @property
    def text(self) -> str:
        """The mean, with its words."""
        return show(self.value) + (f" ({self.words})" if self.words else "")

    @property
    def interval(self) -> str:
        """The interval in brackets; empty without one."""
        return "" if self.spread.low is None else f"[{show(self.spread.low)}, {show(self.spread.high)}]"


NO_CELL = Cell(spread([]))


@dataclass(frozen=True)
class Arm:
    """One row of the tables: an arm, or the scan's own object (`own`), which has scores but no runs."""

    label: str
    cells: Mapping[Key, Cell]
    row: ArmRow
    own: bool = False

    def cell(self, column: Column) -> Cell:
        """Return the cell of a column; an empty one where the arm has no such score."""
        return self.cells.get(column.key, NO_CELL)

    @property
    def n_ok(self) -> int:
        """Number of runs that ended ok."""
        return self.row.states.get("ok", 0)

    @property
    def n_planned(self) -> int:
        """Number of planned runs."""
        return sum(self.row.states.values())


@dataclass(frozen=True)
class Section:
    """One condition of the report.

    Attributes:
        name: id of the condition.
        facts: what it consists of, as (term, description).
        arms: its arms; the last one is the scan's own object where there is one.
        columns: headline scores that at least one arm has.
        everything: all scores but the legacy ones, one table row each.
        legacy: scores in the way of published tables.
        verdicts: which arm wins where.
        costs: what it costs.
        fairness: what each arm was given.
        scoring: how each run was aligned and where it was scored.
        notes: reasons why scores do not apply.
    """

    name: str
    facts: list[tuple[str, str]]
    arms: list[Arm]
    columns: list[Column]
    everything: list[Column]
    legacy: list[Column]
    verdicts: list[Verdict]
    costs: list[BreakEven]
    fairness: list[Fairness]
    scoring: list[Scoring]
    notes: list[str]


def show(value: float | None) -> str:
    """Return a number with four significant digits, a dash for none."""
    return "–" if value is None else f"{value:.4g}"


def sections(given: ReportInput) -> list[Section]:
    """Return one section per condition, in the order of the plan."""
    costs = break_evens(given.found)
    rows = arm_rows(given.found)
    return [
        _section(
            given,
            name,
            [row for row in rows if row.condition == name],
            [verdict for verdict in given.verdicts if verdict.condition == name],
            [cost for cost in costs if cost.condition == name],
        )
        for name in dict.fromkeys(row.condition for row in rows)
    ]


def counts(found: Sequence[Outcome]) -> dict[str, int]:
    """Return how many runs ended in each state."""
    return {state: sum(outcome.state == state for outcome in found) for state in STATES}


def _section(
    given: ReportInput, name: str, rows: list[ArmRow], ranked: list[Verdict], costs: list[BreakEven]
) -> Section:
    runs = [outcome for outcome in given.found if outcome.run["condition"] == name]
    scored = [outcome.metrics for outcome in runs if outcome.metrics is not None]
    leaders = {(verdict.key, verdict.leader) for verdict in ranked if verdict.leader}
    arms = [_arm(row, [outcome for outcome in runs if outcome.run["label"] == row.label], leaders) for row in rows]
    documents = list(scored)
    if reference := (given.comparisons.get(name) or {}).get("reference"):
        arms.append(_own(name, reference))
        documents.append(reference)
    records = {key: score for document in documents for key, score in scores_of(document).items()}
    keys = [key for key in records if any(arm.cells.get(key, NO_CELL).value is not None for arm in arms)]
    headline = [column_of(title, key, records[key]) for title, key in HEADLINE if key in keys]
    if any(column.key[1] == "heldout" for column in headline):  # frames nobody read say more than those of the test set
        headline = [column for column in headline if column.key[:2] != ("consistency", "test")]
    columns = [column_of(_title(key), key, records[key]) for key in keys]
    return Section(
        name=name,
        facts=facts_of(given.plan, name),
        arms=arms,
        columns=headline,
        everything=[column for column in columns if not column.key[2].startswith(LEGACY)],
        legacy=[column for column in columns if column.key[2].startswith(LEGACY)],
        verdicts=ranked,
        costs=costs,
        fairness=fairness_of(runs, given.plan, name),
        scoring=[scoring_of(document) for document in scored],
        notes=list(dict.fromkeys(_not_applicable(arms, documents))),
    )


def _arm(row: ArmRow, runs: Sequence[Outcome], leaders: set[tuple[Key, str]]) -> Arm:
    good = [outcome for outcome in runs if outcome.state == "ok" and outcome.metrics is not None]
    tables = [scores_of(outcome.metrics or {}) for outcome in good]
    sizes = {(outcome.metrics or {}).get("pixel_size_m") for outcome in good}
    pixel_size = sizes.pop() if len(sizes) == 1 else None
    asked = [outcome.run.get("evaluate", {}).get("collapse_ratio") for outcome in good]
    least = next((float(ratio) for ratio in asked if ratio is not None), EvaluateConfig().collapse_ratio)
    cells = {}
    for key, values in row.scores.items():
        statuses = [str(table[key].get("status") or "") for table in tables if key in table]
        words = status_words([status for status in statuses if status])
        if row.units.get(key) == "px" and pixel_size and values.mean is not None:
            words = "; ".join([f"{show(values.mean * float(pixel_size) * 1e9)} nm", *([words] if words else [])])
        flat = key[2] == "contrast_ratio" and values.mean is not None and values.mean < least
        cells[key] = Cell(values, words, leads=(key, row.label) in leaders, flat=flat)
    return Arm(row.label, cells, row)


def _own(condition: str, reference: Json) -> Arm:
    """Return the row of the scan's own object: what a perfect reconstruction scores under the same code."""
    label = "truth" if reference.get("name") == "truth" else "file's own object"
    scores, notes = spreads([reference])
    row = ArmRow(condition, label, scores, notes, None, None, "", {})
    return Arm(label, {key: Cell(values) for key, values in scores.items()}, row, own=True)


def status_words(statuses: Sequence[str]) -> str:
    """Return how many runs' curves do not cross their threshold, and how."""
    counted = Counter(status for status in statuses if status in STATUS_WORDS)
    if list(counted.values()) == [len(statuses)]:
        return STATUS_WORDS[statuses[0]]
    return ", ".join(f"{STATUS_WORDS[status]} in {count} of {len(statuses)}" for status, count in counted.items())


def column_of(title: str, key: Key, score: Json) -> Column:
    """Return the column of a score, with unit, direction and settings as one of its values has them."""
    unit = str(score.get("unit") or "1")
    settings = ", ".join(
        f"{name} {value if isinstance(value, str) else format(value, 'g')}"
        for name, value in (score.get("settings") or {}).items()
    )
    return Column(title, "" if unit == "1" else unit, ARROWS.get(str(score.get("direction")), ""), key, settings)


def _title(key: Key) -> str:
    block, part, metric = key
    name = metric.removeprefix(LEGACY)
    words = [
        *([] if block == "stitched" else [block]),
        PARTS.get(part, part.replace(".", " ")),
        METRICS.get(name, name.replace("_", " ")),
    ]
    return " ".join(word for word in words if word)


def _not_applicable(arms: Sequence[Arm], documents: Sequence[Json]) -> Iterator[str]:
    """Yield why scores have no value, then why whole blocks of them have none."""
    reasons = {(key, reason) for arm in arms for key, reason in arm.row.notes.items()}
    yield from sorted(f"{_title(key)}: {text if ' ' in text else text.replace('_', ' ')}" for key, text in reasons)
    for document in documents:
        for block in BLOCKS:
            if reason := (document.get(block) or {}).get("not_applicable"):
                yield f"{block} scores: {reason}"
