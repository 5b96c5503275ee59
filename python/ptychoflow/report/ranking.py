"""Which arm is better, in sentences: the best arm of a condition beside every other one, on the seeds that both have.

Only runs that ended ok enter. Scores with the prefix `legacy_` are never ranked. A difference is claimed only where the
interval of the paired difference leaves out zero, at a level that allows for all ranked scores (Bonferroni), so that two arms
which differ by noise only are told apart in none of them 95 times in 100. With one run each, the blocks of one image stand in
where there are error maps, and the sentence says so. An arm that is one run without a training seed stands beside every seed
of the other arm.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

from ptychoflow.metrics.score import Direction
from ptychoflow.metrics.statistics import LEVEL, Paired, paired
from ptychoflow.report.tables import Json, Key, Outcome, scores_of

FRC50: Key = ("stitched", "complex", "frc50")
PHASE_PEARSON: Key = ("stitched", "phase", "pearson")
AMP_PEARSON: Key = ("stitched", "amp", "pearson")

WITH_OBJECT: tuple[Key, ...] = (
    FRC50,
    PHASE_PEARSON,
    ("stitched", "phase", "mae"),
    ("stitched", "amp", "mae"),
    ("stitched", "complex", "nrmse"),
)
"""Ranked where the scan holds a truth or reference; the amplitude's Pearson stands in where it has no phase."""

WITHOUT_OBJECT: tuple[Key, ...] = (("consistency", "heldout", "contrast"), ("consistency", "heldout", "deviance"))
"""Ranked where it holds none."""

TITLES: Mapping[Key, str] = {
    FRC50: "complex FRC 0.5",
    PHASE_PEARSON: "phase Pearson",
    AMP_PEARSON: "amplitude Pearson",
    ("stitched", "phase", "mae"): "phase MAE",
    ("stitched", "amp", "mae"): "amplitude MAE",
    ("stitched", "complex", "nrmse"): "complex NRMSE",
    ("consistency", "heldout", "contrast"): "held-out contrast",
    ("consistency", "heldout", "deviance"): "held-out deviance",
}
COMPARISON_COLUMNS = (
    "condition", "block", "part", "metric", "first", "second", "kind", "n", "mean", "low", "high", "method", "verdict", "seeds",
)  # fmt: skip
WORSE: Mapping[str, str] = {"lower": "higher", "higher": "lower"}
"""What the worse of two values is, by the direction of better ones."""


@dataclass(frozen=True)
class Comparison:
    """Two arms beside each other in one score; `paired.mean` is first - second.

    Attributes:
        key: (block, part, metric).
        first, second: labels; the first has the better mean.
        paired: the difference and what may be said about it.
        kind: `seeds`, over training seeds; `image`, over the blocks of one image.
    """

    key: Key
    first: str
    second: str
    paired: Paired
    kind: Literal["seeds", "image"]


@dataclass(frozen=True)
class Verdict:
    """What one score says about the arms of one condition.

    Attributes:
        condition: its id.
        key: (block, part, metric).
        title: name of the score.
        text: the verdict in words, with its numbers.
        leader: the arm shown to be better than every other one over the seeds; None where none is.
        comparisons: the best arm beside each other one, then these among each other.
    """

    condition: str
    key: Key
    title: str
    text: str
    leader: str | None
    comparisons: Sequence[Comparison]


@dataclass(frozen=True)
class _Entrant:
    """One arm with its values of one score by seed; `repeats`: a single run that no training seed enters."""

    label: str
    values: Mapping[int, float]
    kind: str
    bounds: bool

    @property
    def repeats(self) -> bool:
        return self.kind != "train" and len(self.values) == 1


def verdicts(found: Sequence[Outcome], comparisons: Mapping[str, Json]) -> list[Verdict]:
    """Return one verdict per condition and ranked score that at least one arm has, where more than one arm was planned.

    Args:
        found: one outcome per planned run.
        comparisons: comparison.json by condition, as far as there are any.
    """
    conditions = dict.fromkeys(str(outcome.run["condition"]) for outcome in found)
    result = []
    for condition in conditions:
        runs = [outcome for outcome in found if outcome.run["condition"] == condition]
        if len({outcome.run["label"] for outcome in runs}) < 2:
            continue
        good = [outcome for outcome in runs if outcome.state == "ok" and outcome.metrics is not None]
        spatial = (comparisons.get(condition) or {}).get("spatial") or []
        keys = ranked_keys(good)
        for key in keys:
            if entrants := _entrants(good, key):
                result.append(
                    _verdict(
                        condition,
                        key,
                        entrants,
                        _score_facts(good, key),
                        spatial,
                        scores=len(keys),
                        explain=key == keys[0],
                    )
                )
    return result


def ranked_keys(good: Sequence[Outcome]) -> list[Key]:
    """Return the scores that are ranked for some runs of one condition, most telling first."""
    known = {
        key for outcome in good for key, score in scores_of(outcome.metrics or {}).items() if score["value"] is not None
    }
    if not any(block == "stitched" for block, _, _ in known):
        return [key for key in WITHOUT_OBJECT if key in known]
    wanted = [AMP_PEARSON if key == PHASE_PEARSON and key not in known else key for key in WITH_OBJECT]
    return [key for key in wanted if key in known]


def pairs_sentence() -> str:
    """Return what the number of scores and of pairs does to the intervals."""
    return (
        f"Intervals are {100 * LEVEL:.0f} % intervals of one difference. A verdict asks for more, so that it holds over all ranked "
        "scores of a pair of arms (Bonferroni); the number of pairs is not allowed for."
    )


def comparison_rows(found: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Return one row per comparison, columns `COMPARISON_COLUMNS`; `mean` is first - second, in the unit of the score."""
    rows = []
    for verdict in found:
        for comparison in verdict.comparisons:
            block, part, metric = comparison.key
            head = {"condition": verdict.condition, "block": block, "part": part, "metric": metric}
            ends = {"first": comparison.first, "second": comparison.second, "kind": comparison.kind}
            rows.append(head | ends | asdict(comparison.paired))
    return rows


def _entrants(good: Sequence[Outcome], key: Key) -> list[_Entrant]:
    """Return the arms that have a score, in the order of the plan."""
    cells: dict[str, list[tuple[Outcome, Json]]] = {}
    for outcome in good:
        score = scores_of(outcome.metrics or {}).get(key)
        if score is not None and score["value"] is not None:
            cells.setdefault(str(outcome.run["label"]), []).append((outcome, score))
    return [
        _Entrant(
            label=label,
            values={int(outcome.run["seed"]): float(score["value"]) for outcome, score in entries},
            kind=str(entries[0][0].run["kind"]),
            bounds=any(score.get("status") not in (None, "crossed") for _, score in entries),
        )
        for label, entries in cells.items()
    ]


def _score_facts(good: Sequence[Outcome], key: Key) -> tuple[Direction, str]:
    """Return direction and unit of a score; the unit is empty where it has none."""
    score: Any = next(scores[key] for outcome in good if key in (scores := scores_of(outcome.metrics or {})))
    unit = str(score.get("unit") or "1")
    return cast(Direction, score["direction"]), "" if unit == "1" else f" {unit}"


def _verdict(
    condition: str,
    key: Key,
    entrants: list[_Entrant],
    facts: tuple[Direction, str],
    spatial: Sequence[Json],
    *,
    scores: int,
    explain: bool,
) -> Verdict:
    direction, unit = facts
    title = TITLES[key]
    best, *others = sorted(entrants, key=_mean, reverse=direction == "higher")
    if not others:
        text = f"{title}: only {best.label} has this score; nothing to compare it with"
        return Verdict(condition, key, title, text, None, [])
    pairs: list[Comparison] = []
    clauses, leads = [], True
    for other in others:
        over_seeds = _over_seeds(key, best, other, direction, scores)
        pairs.append(over_seeds)
        leads = leads and over_seeds.paired.verdict == "first"
        if over_seeds.paired.n > 1:
            clauses.append(_clause(over_seeds, direction, unit, "seeds"))
            continue
        in_image = _in_image(key, best.label, other.label, spatial)
        clauses.append(_single(best, other, over_seeds, in_image, unit))
        pairs += [in_image] if in_image is not None else []
    for first, second in itertools.combinations(others, 2):
        pairs.append(_over_seeds(key, first, second, direction, scores))
        in_image = _in_image(key, first.label, second.label, spatial) if pairs[-1].paired.n < 2 else None
        pairs += [in_image] if in_image is not None else []
    if leads:
        clauses.insert(0, f"{best.label} leads")
    elif len(others) > 1:
        which = "value" if len(best.values) == 1 else "mean"
        clauses.insert(0, f"{best.label} has the best {which} ({_mean(best):.4g}{unit}) without a lead over all others")
    text = f"{title}: {'; '.join(clauses)}" + "".join(f". {note}" for note in _notes(best, others, explain=explain))
    return Verdict(condition, key, title, text, best.label if leads else None, pairs)


def _mean(entrant: _Entrant) -> float:
    return sum(entrant.values.values()) / len(entrant.values)


def _over_seeds(key: Key, best: _Entrant, other: _Entrant, direction: Direction, scores: int) -> Comparison:
    first, second = best.values, other.values
    if best.repeats:
        first = dict.fromkeys(second, *first.values())
    elif other.repeats:
        second = dict.fromkeys(first, *second.values())
    return Comparison(key, best.label, other.label, paired(first, second, direction=direction, scores=scores), "seeds")


def _in_image(key: Key, first: str, second: str, spatial: Sequence[Json]) -> Comparison | None:
    """Return the comparison within one image, turned so that the difference is first - second; None without one."""
    block, part, metric = key
    for entry in spatial if block == "stitched" else ():
        if (entry["part"], entry["metric"]) != (part, metric) or {entry["first"], entry["second"]} != {first, second}:
            continue
        numbers = [entry["mean"], entry["low"], entry["high"]]
        verdict = entry["verdict"]
        if entry["first"] != first:
            numbers = [None if value is None else -value for value in (entry["mean"], entry["high"], entry["low"])]
            verdict = {"first": "second", "second": "first"}.get(verdict, verdict)
        mean, low, high = numbers
        return Comparison(
            key, first, second, Paired(entry["n"], mean, low, high, entry.get("method", "bootstrap"), verdict), "image"
        )
    return None


def _clause(comparison: Comparison, direction: Direction, unit: str, of: str) -> str:
    """Return a difference of at least two pairs with its interval in words; a verdict has positive numbers."""
    result, first, second = comparison.paired, comparison.first, comparison.second
    mean, low, high = cast(
        tuple[float, float, float], (result.mean, result.low, result.high)
    )  # there are from n = 2 on
    count = f"n = {result.n} {of}"
    if result.verdict == "no difference shown":
        doubt = "" if low <= 0 <= high else ": not enough for a verdict over all ranked scores"
        return (
            f"no difference shown between {first} and {second} (difference {mean:.3g}{unit}, interval {low:.3g} to "
            f"{high:.3g}, {count}{doubt})"
        )
    low, high = sorted((abs(low), abs(high)))
    size = f"by {abs(mean):.3g}{unit} ({100 * LEVEL:.0f} % interval {low:.3g} to {high:.3g}, {count})"
    if result.verdict == "first":
        return f"{second} is {WORSE[direction]} {size}"
    return f"on the {result.n} {of} that both have, however, {first} is {WORSE[direction]} than {second} {size}"


def _single(best: _Entrant, other: _Entrant, over_seeds: Comparison, in_image: Comparison | None, unit: str) -> str:
    """Return what may be said about two arms without two pairs of seeds."""
    if over_seeds.paired.n == 0:
        head = f"{best.label} and {other.label} have no seed in common, so no verdict from seeds"
    else:
        head = f"{best.label} and {other.label}: one run each (n = 1), no verdict from seeds"
    if in_image is None or in_image.paired.low is None:
        return f"{head} ({_mean(best):.4g} and {_mean(other):.4g}{unit})"
    return f"{head}; within this one image {_clause(in_image, 'lower', unit, 'blocks')}"


def _notes(best: _Entrant, others: Sequence[_Entrant], *, explain: bool) -> list[str]:
    """Return what the reader must know beside the numbers; what single runs mean is explained once a condition."""
    notes = []
    repeated = [entrant for entrant in (best, *others) if entrant.repeats]
    over_seeds = any(len(entrant.values) > 1 for entrant in (best, *others))
    for entrant in repeated if over_seeds and explain else ():
        reasons = {"iterative": "its result does not depend on the seed", "external": "its weights were given"}
        why = reasons.get(entrant.kind, "it was imported")
        notes.append(f"{entrant.label} has one run: {why}, and intervals with it are over the seeds of the other arm")
    if bounds := [entrant.label for entrant in (best, *others) if entrant.bounds]:
        notes.append(f"Of {', '.join(bounds)} the curve does not cross in every run; such a value is a bound only")
    return notes
