"""From plan, statuses and scores to tables: what became of every planned run, tidy scores, spread over seeds by arm.

Everything here is plain data in, plain data or text out. A run is `ok` only when its last stage ended ok, its scores
arrived and its picture is not flat; everything else keeps its row, with the reason.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ptychoflow.metrics.statistics import Spread, spread

Json = Mapping[str, Any]
State = Literal["ok", "failed", "missing", "skipped"]
Key = tuple[str, str, str]

STAGES = ("prepare", "train", "reconstruct", "lsqml", "ptychovit")
LAST_STAGE = {"train": "reconstruct", "iterative": "lsqml", "external": "ptychovit"}
NOT_WORK = ("import", "compile")
METRIC_COLUMNS = (
    "model", "metric", "part", "value", "unit", "range", "seed", "condition", "run_id", "block", "object", "arm", "gridsize",
    "n", "direction", "status", "collapsed", "reason", "settings",
)  # fmt: skip
STATUS_COLUMNS = ("run_id", "state", "reason", "stage", "seconds", "attempts")
STATISTIC_COLUMNS = (
    "condition", "model", "block", "part", "metric", "unit", "n", "mean", "std", "median", "minimum", "maximum", "low", "high",
    "method",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What became of one planned run.

    Attributes:
        run: its entry in the plan.
        state: `ok`, `failed`, `missing` or `skipped`.
        reason: why, in words; empty when ok.
        stage: the last stage that reported; `plan` for a run that the plan skipped, empty when none did.
        seconds: wall time by stage and step, e.g. `{"train": {"import": 2.1, "train": 64.0}}`, s.
        device: device of the last stage.
        attempts: tries of the last stage.
        metrics: its metrics.json, where there is one.
    """

    run: Json
    state: State
    reason: str = ""
    stage: str = ""
    seconds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    device: str = ""
    attempts: int | None = None
    metrics: Json | None = None

    @property
    def run_id(self) -> str:
        """Id of the run."""
        return str(self.run["run_id"])

    @property
    def collapsed(self) -> bool:
        """Whether the picture is flat: scored, and left out of averages."""
        return bool(self.metrics and self.metrics.get("collapsed")) or self.reason.startswith("collapsed")

    def work_seconds(self, *stages: str) -> float | None:
        """Return the wall time of some stages (all when none is named) without imports and compiling, s."""
        steps = [self.seconds[stage] for stage in (stages or STAGES) if stage in self.seconds]
        if not steps:
            return None
        return sum(value for step in steps for name, value in step.items() if name not in NOT_WORK)


def outcomes(plan: Json, statuses: Sequence[Json], metrics: Sequence[Json]) -> list[Outcome]:
    """Return one outcome per planned or skipped run, in the order of the plan."""
    reports: dict[str, dict[str, Json]] = {}
    for status in sorted(statuses, key=lambda status: status.get("attempt") or 1):
        reports.setdefault(status["run_id"], {})[status["stage"]] = status
    scores = {document["run_id"]: document for document in metrics}
    rows = [_outcome(run, reports, scores.get(run["run_id"])) for run in plan["runs"]]
    rows += [Outcome(run, "skipped", str(run["reason"]), "plan") for run in plan["skipped"]]
    return rows


def unplanned(plan: Json, statuses: Sequence[Json], metrics: Sequence[Json]) -> list[str]:
    """Return the ids that reported although the plan does not know them."""
    known = {run["run_id"] for run in plan["runs"]} | {view["id"] for view in plan["views"]}
    return sorted({document["run_id"] for document in (*statuses, *metrics)} - known)


def _outcome(run: Json, reports: Mapping[str, Mapping[str, Json]], metrics: Json | None) -> Outcome:
    own = reports.get(run["run_id"], {})
    prepared = reports.get(run["view"], {}).get("prepare")
    seconds = {stage: dict(own[stage].get("seconds") or {}) for stage in STAGES if stage in own}
    if "train" in seconds.get("ptychovit", {}):  # one task that trains and reconstructs
        seconds["train"] = {"train": seconds["ptychovit"].pop("train")}
    reported = [stage for stage in STAGES if stage in own]
    if not reported:
        if prepared is not None and prepared["state"] != "ok":
            state: State = "skipped" if prepared["state"] == "skipped" else "failed"
            return Outcome(run, state, str(prepared["reason"]), "prepare", metrics=metrics)
        if metrics is None:
            return Outcome(run, "missing", "no status arrived: the task did not finish, see its log", "")
        # An imported reconstruction passes no stage that writes a status.
        return _scored(Outcome(run, "ok", stage="evaluate", metrics=metrics), None)
    last = own[reported[-1]]
    found = Outcome(
        run, "ok", "", reported[-1], seconds, str(last.get("device") or ""), int(last.get("attempt") or 1), metrics
    )
    if last["state"] != "ok" and not last.get("collapsed"):
        return _with(found, "failed" if last["state"] == "failed" else "skipped", str(last["reason"]))
    wanted = LAST_STAGE.get(run["kind"], reported[-1])
    if reported[-1] != wanted:
        return _with(
            found, "missing", f"{wanted} did not report after {reported[-1]}: the task did not finish, see its log"
        )
    return _scored(found, last)


def _scored(found: Outcome, last: Json | None) -> Outcome:
    """Return the outcome after its scores are looked at."""
    if last is not None and last.get("collapsed"):
        return _with(found, "failed", _collapsed(last.get("reason")))
    if found.metrics is None:
        return _with(found, "missing", "evaluate wrote no metrics: the task did not finish, see its log")
    if found.metrics.get("collapsed"):
        return _with(found, "failed", _collapsed(flatness(found.metrics)))
    return found


def _collapsed(reason: Any) -> str:
    text = str(reason or "the picture is flat")
    return text if text.startswith("collapsed") else f"collapsed: {text}"


def flatness(metrics: Json) -> str:
    """Return how flat a collapsed picture is beside what it was scored against."""
    ratios = [
        f"{part} contrast {score['value']:.3g} of the {metrics.get('against')}'s"
        for (block, part, metric), score in scores_of(metrics).items()
        if block == "stitched" and metric == "contrast_ratio" and score["value"] is not None
    ]
    return ", ".join(ratios) or "neither amplitude nor phase varies"


def _with(found: Outcome, state: State, reason: str) -> Outcome:
    return Outcome(found.run, state, reason, found.stage, found.seconds, found.device, found.attempts, found.metrics)


def leaves(block: Json, parts: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Json]]:
    """Yield (path, score) for every score of a block: a score is a mapping with the key `value`."""
    for name, value in block.items():
        if isinstance(value, Mapping):
            if "value" in value:
                yield (*parts, name), value
            else:
                yield from leaves(value, (*parts, name))


def scores_of(metrics: Json) -> dict[Key, Json]:
    """Return the scores of one run by (block, part, metric); stitched scores are means over its objects."""
    found: dict[Key, Json] = {}
    for block in ("stitched", "patch", "consistency"):
        for path, score in leaves(metrics.get(block) or {}):
            found[_key(block, path)] = score
    return found


def _key(block: str, path: tuple[str, ...]) -> Key:
    """Return (block, part, metric); patch scores carry their part as a suffix, `mae_amp`."""
    if block == "patch" and len(path) == 1:
        metric, _, part = path[0].rpartition("_")
        return block, part, metric
    return block, ".".join(path[:-1]), path[-1]


def tidy_rows(metrics: Sequence[Json]) -> list[dict[str, Any]]:
    """Return one row per score of every run, columns `METRIC_COLUMNS`; None is an empty cell with a reason."""
    rows = []
    for document in metrics:
        head = {name: document.get(name) for name in ("seed", "condition", "run_id", "arm", "gridsize", "n")}
        head |= {"model": document.get("label"), "collapsed": bool(document.get("collapsed"))}
        for (block, part, metric), score in scores_of(document).items():
            rows.append(head | _tidy(block, None, part, metric, score))
        for block in ("stitched", "patch", "consistency"):
            if reason := (document.get(block) or {}).get("not_applicable"):
                rows.append(head | _tidy(block, None, "", "all", {"value": None, "reason": reason}))
        objects = document.get("by_object") or []
        for entry in objects if len(objects) > 1 else []:  # of a single object, `stitched` says it all
            for path, score in leaves(entry):
                rows.append(head | _tidy("stitched", entry.get("object"), ".".join(path[:-1]), path[-1], score))
    return rows


def _tidy(block: str, which: int | None, part: str, metric: str, score: Json) -> dict[str, Any]:
    cells = {name: score.get(name) for name in ("value", "unit", "direction", "range", "status", "reason", "settings")}
    return {"block": block, "object": which, "part": part, "metric": metric, **cells}


def status_rows(found: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return the rows of `run_status.tsv`; seconds are those of work, imports aside."""
    rows = []
    for outcome in found:
        seconds = outcome.work_seconds()
        rows.append(
            {
                "run_id": outcome.run_id,
                "state": outcome.state,
                "reason": " ".join(outcome.reason.split()),
                "stage": outcome.stage,
                "seconds": None if seconds is None else round(seconds, 3),
                "attempts": outcome.attempts,
            }
        )
    return rows


def delimited(rows: Sequence[Json], columns: Sequence[str], *, delimiter: str = ",") -> str:
    """Return rows as CSV or TSV text with a header line; None is empty, a list is joined by blanks, a mapping is JSON."""
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=delimiter, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row.get(name)) for name in columns])
    return stream.getvalue()


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    if isinstance(value, list | tuple):
        return " ".join(str(item) for item in value)
    return value


@dataclass(frozen=True)
class ArmRow:
    """One arm under one condition.

    Attributes:
        scores: spread by key over the seeds that ended ok; n = 0 where no run has a value.
        notes: reason by key, where a score does not apply.
        train_s, reconstruct_s: median wall time over the seeds that ended ok, s; None where there is none.
        states: how many runs ended in each state.
        train_n, reconstruct_n: of how many seeds the times are the median.
        units: unit by key, "1" without one.
    """

    condition: str
    label: str
    scores: Mapping[Key, Spread]
    notes: Mapping[Key, str]
    train_s: float | None
    reconstruct_s: float | None
    devices: str
    states: Mapping[str, int]
    train_n: int = 0
    reconstruct_n: int = 0
    units: Mapping[Key, str] = field(default_factory=dict)


def arm_rows(found: Sequence[Outcome]) -> list[ArmRow]:
    """Return the spread over seeds of every arm and condition; collapsed and failed runs are counted, not averaged."""
    cells: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in found:
        cells.setdefault((str(outcome.run["condition"]), str(outcome.run["label"])), []).append(outcome)
    return [_arm_row(condition, label, runs) for (condition, label), runs in cells.items()]


def _arm_row(condition: str, label: str, runs: Sequence[Outcome]) -> ArmRow:
    good = [outcome for outcome in runs if outcome.state == "ok" and outcome.metrics is not None]
    documents = [outcome.metrics for outcome in good if outcome.metrics is not None]
    scores, notes = spreads(documents)
    states = {
        state: sum(outcome.state == state for outcome in runs) for state in ("ok", "failed", "missing", "skipped")
    }
    train = _known([outcome.work_seconds("train") for outcome in good])
    reconstruct = _known([outcome.work_seconds("reconstruct", "lsqml", "ptychovit") for outcome in good])
    return ArmRow(
        condition=condition,
        label=label,
        scores=scores,
        notes=notes,
        train_s=train.median,
        reconstruct_s=reconstruct.median,
        devices=", ".join(sorted({outcome.device for outcome in good if outcome.device})),
        states={state: count for state, count in states.items() if count},
        train_n=train.n,
        reconstruct_n=reconstruct.n,
        units={
            key: str(score.get("unit") or "1") for document in documents for key, score in scores_of(document).items()
        },
    )


def statistic_rows(rows: Sequence[ArmRow]) -> list[dict[str, Any]]:
    """Return one row per arm, condition and score that at least one run has, columns `STATISTIC_COLUMNS`."""
    found = []
    for row in rows:
        for (block, part, metric), values in row.scores.items():
            if values.n:
                head = {"condition": row.condition, "model": row.label, "block": block, "part": part, "metric": metric}
                found.append(head | {"unit": row.units[block, part, metric]} | asdict(values))
    return found


def spreads(metrics: Sequence[Json]) -> tuple[dict[Key, Spread], dict[Key, str]]:
    """Return the spread of every score over several runs, and the reasons of those without a value."""
    values: dict[Key, list[float]] = {}
    notes: dict[Key, str] = {}
    for document in metrics:
        for key, score in scores_of(document).items():
            values.setdefault(key, [])
            if score["value"] is None:
                notes.setdefault(key, str(score.get("reason") or "not applicable"))
            else:
                values[key].append(float(score["value"]))
    return {key: spread(found) for key, found in values.items()}, notes


def _known(values: Sequence[float | None]) -> Spread:
    return spread([value for value in values if value is not None])
