"""What a condition consists of, what each arm was given, how each run was scored: no advantage should hide in a log."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ptychoflow.report.tables import Json, Outcome, scores_of


@dataclass(frozen=True)
class Fairness:
    """One arm in the fairness table; texts join what differs between its seeds.

    Attributes:
        trained_on: scan and number of frames.
        reads_test, saw_truth: `yes`, `no`, or both where seeds differ.
        distance: how far training and test lie apart.
        train_s, reconstruct_s: medians over the seeds, s.
        notes: its advantages in sentences.
    """

    label: str
    trained_on: str
    reads_test: str
    saw_truth: str
    distance: str
    n_test: str
    epochs: str
    train_s: float | None
    reconstruct_s: float | None
    device: str
    notes: list[str]


@dataclass(frozen=True)
class Scoring:
    """How one run was scored, in words."""

    run_id: str
    against: str
    region: str
    covered_percent: float | None
    corrected: list[str]
    not_corrected: list[str]


def facts_of(plan: Json, name: str) -> list[tuple[str, str]]:
    """Return scans, dose and view of a condition, as far as the plan has them."""
    entry: Json = next((row for row in plan["conditions"] if row["id"] == name), {})
    datasets = {row["id"]: row for row in plan["datasets"]}
    facts = []
    for role in ("train", "test"):
        if role in entry:
            dataset = datasets.get(entry[role], {})
            origin = f" ({dataset.get('kind', '')}, N = {dataset.get('n', '?')})" if dataset else ""
            facts.append((f"{role} scan", f"{entry[role]}{origin}"))
    if entry.get("dose"):
        facts.append(("dose asked", f"{entry['dose']} photons per frame"))
    if entry.get("view"):
        facts.append(("view", str(entry["view"])))
    return facts


def fairness_of(runs: Sequence[Outcome], plan: Json, condition: str) -> list[Fairness]:
    """Return the rows of one condition, for every arm with at least one scored run.

    Args:
        runs: the outcomes of the condition.
        plan: content of plan.json, for the name of the training scan.
        condition: id of the condition.
    """
    entry: Json = next((row for row in plan["conditions"] if row["id"] == condition), {})
    documents: dict[str, list[Json]] = {}
    for outcome in runs:
        if outcome.metrics is not None and outcome.metrics.get("fairness"):
            documents.setdefault(str(outcome.run["label"]), []).append(outcome.metrics["fairness"])
    return [_row(label, found, str(entry.get("train") or "")) for label, found in documents.items()]


def _row(label: str, found: Sequence[Json], train_scan: str) -> Fairness:
    return Fairness(
        label=label,
        trained_on=_joined(_trained_on(document, train_scan) for document in found),
        reads_test=_joined("yes" if document["reads_test_frames"] else "no" for document in found),
        saw_truth=_joined("yes" if document["saw_truth"] else "no" for document in found),
        distance=_joined(_distance(document) for document in found),
        n_test=_joined(document["n_test_frames"] for document in found),
        epochs=_joined(document["epochs"] for document in found),
        train_s=_median([document["train_seconds"] for document in found]),
        reconstruct_s=_median([document["reconstruct_seconds"] for document in found]),
        device=_joined(document["device"] for document in found),
        notes=list(dict.fromkeys(str(note) for document in found for note in document["notes"])),
    )


def _trained_on(document: Json, train_scan: str) -> str:
    if not document["n_train_frames"]:
        return "nothing"
    return f"{document['n_train_frames']} frames" + (f" of {train_scan}" if train_scan else "")


def _distance(document: Json) -> str:
    apart = document["min_train_test_distance_px"]
    return str(document["train_test"]) + ("" if apart is None else f", at least {apart:.4g} px apart")


def _joined(values: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys("–" if value is None else str(value) for value in values))


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def scoring_of(document: Json) -> Scoring:
    """Return against what, where and after which corrections a run was scored."""
    regions: list[list[int]] = next(
        (score["region"] for score in scores_of(document).values() if score.get("region")), []
    )
    words = [f"rows {r0} to {r1}, columns {c0} to {c1}" for r0, r1, c0, c1 in regions]
    grid = document.get("grid") or {}
    if words and grid.get("step_px", 1) != 1:
        shapes = ", ".join(" × ".join(str(length) for length in shape) for shape in grid["shapes"])
        words.append(f"one sample every {grid['step_px']:.4g} px: {shapes} samples")
    return Scoring(
        run_id=str(document["run_id"]),
        against=str(document.get("against") or "nothing: the scan holds no object"),
        region="; ".join(words) or "–",
        covered_percent=None if document.get("coverage") is None else 100 * float(document["coverage"]),
        corrected=_sentences(document, "corrected"),
        not_corrected=_sentences(document, "not_corrected"),
    )


def _sentences(document: Json, name: str) -> list[str]:
    """Return the sentences of the alignment records; with several objects, each says which one it is about."""
    records = list((document.get("alignment") or {}).get("by_object") or [])
    found = [(index, str(text)) for index, record in enumerate(records) for text in record.get(name) or []]
    return [text if len(records) == 1 else f"object {index}: {text}" for index, text in found]
