"""When training pays: from how many scans on a trained net is cheaper than an iterative reconstruction of the same quality.

    k scans cost  t_train + k t_infer  with the net  and  k t_iter  by iteration;  equal at  k = t_train / (t_iter - t_infer)

t_iter is the time after which the iteration first was as good as the net in the end, among its scored states; its true time
may lie between two of them. Only runs that ended ok enter; several seeds enter by their median, state by state.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ptychoflow.report.tables import Json, Outcome

SCORES = {
    "phase.pearson": "phase Pearson",
    "amp.pearson": "amplitude Pearson",
    "heldout.contrast": "held-out contrast",
}
"""What may say that two pictures are equally good, in the order of preference; higher is better in all of them."""


@dataclass(frozen=True)
class BreakEven:
    """A trained arm beside an iterative one.

    Attributes:
        condition: its id.
        trained, iterative: labels.
        title: what is compared.
        scans: number of scans from which on the trained arm costs no more time, its training included; None for never.
        text: the same in words, with scores, epochs and seconds.
    """

    condition: str
    trained: str
    iterative: str
    title: str
    scans: int | None
    text: str


@dataclass(frozen=True)
class _State:
    """An arm after some epochs, median over its seeds; times in s."""

    epoch: int
    train_s: float
    reconstruct_s: float
    score: float


@dataclass(frozen=True)
class _Arm:
    """The runs of one arm with their snapshots."""

    label: str
    kind: str
    documents: Sequence[Json]

    def runs(self, name: str) -> list[list[Json]]:
        """Return, for every seed whose final state has a score, the entries that have it; the final one last."""
        scored = [
            [entry for entry in document["snapshots"] if _value(entry, name) is not None] for document in self.documents
        ]
        return [run for run in scored if run and run[-1]["final"]]

    @property
    def devices(self) -> set[str]:
        return {str((document.get("fairness") or {}).get("device") or "") for document in self.documents} - {""}


def break_evens(found: Sequence[Outcome]) -> list[BreakEven]:
    """Return one break-even for every pair of a trained and an iterative arm of one condition that both have snapshots."""
    cells: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in found:
        if outcome.state == "ok" and outcome.metrics is not None and outcome.metrics.get("snapshots"):
            cells.setdefault((str(outcome.run["condition"]), str(outcome.run["label"])), []).append(outcome)
    arms = [
        (condition, _Arm(label, str(runs[0].run["kind"]), [run.metrics for run in runs if run.metrics is not None]))
        for (condition, label), runs in cells.items()
    ]
    result = []
    for condition, trained in arms:
        for other, iterative in arms:
            if other == condition and (trained.kind, iterative.kind) == ("train", "iterative"):
                result += _pair(condition, trained, iterative)
    return result


def _value(entry: Json, name: str) -> float | None:
    return (entry["scores"].get(name) or {}).get("value")


def _states(runs: Sequence[Sequence[Json]], name: str) -> list[_State]:
    """Return the states that all runs were scored at, the final one last."""
    early = [{entry["epoch"]: entry for entry in run[:-1]} for run in runs]
    epochs = sorted(set.intersection(*(set(run) for run in early)))
    return [_median([run[epoch] for run in early], name) for epoch in epochs] + [
        _median([run[-1] for run in runs], name)
    ]


def _median(entries: Sequence[Json], name: str) -> _State:
    return _State(
        epoch=round(statistics.median(entry["epoch"] for entry in entries)),
        train_s=statistics.median(entry["train_seconds"] for entry in entries),
        reconstruct_s=statistics.median(entry["reconstruct_seconds"] for entry in entries),
        score=statistics.median(entry["scores"][name]["value"] for entry in entries),
    )


def _pair(condition: str, trained: _Arm, iterative: _Arm) -> list[BreakEven]:
    """Return the break-even of two arms; nothing where they have no score in common."""
    for name, title in SCORES.items():
        runs, others = trained.runs(name), iterative.runs(name)
        if runs and others:
            scans, text = _compared(
                trained, iterative, _states(runs, name), _states(others, name), title, n_seeds=len(runs)
            )
            return [
                BreakEven(
                    condition, trained.label, iterative.label, f"{trained.label} or {iterative.label}", scans, text
                )
            ]
    return []


def _compared(
    trained: _Arm, iterative: _Arm, net: Sequence[_State], steps: Sequence[_State], title: str, *, n_seeds: int
) -> tuple[int | None, str]:
    """Return the number of scans, and the comparison in words."""
    last, full = net[-1], steps[-1]
    reached = next((step for step in steps if step.score >= last.score), None)
    per_scan = (reached or full).reconstruct_s
    sentences = [
        f"{title}: {trained.label} ends at {last.score:.4g} after {last.epoch} epochs of training ({last.train_s:.3g} s) and "
        f"{last.reconstruct_s:.3g} s of inference a scan"
        + (f", medians of {n_seeds} seeds" if n_seeds > 1 else ", one seed")
    ]
    if reached is None:
        sentences.append(
            f"{iterative.label} does not reach this in {full.epoch} epochs ({full.score:.4g} after {per_scan:.3g} s a scan); "
            "its full time is compared, at its lower score"
        )
    else:
        sentences.append(
            f"{iterative.label} is first scored at least as good after {reached.epoch} epochs, {per_scan:.3g} s a scan "
            f"({reached.score:.4g})"
        )
    if len(steps) == 1:
        sentences.append(f"only the final state of {iterative.label} was scored: it may have been as good earlier")
    gain = per_scan - last.reconstruct_s
    scans = max(1, math.ceil(last.train_s / gain)) if gain > 0 else None
    if scans is not None:
        sentences.append(
            f"with its training, {trained.label} costs no more time from {scans} scan{'s' * (scans > 1)} on"
        )
    else:
        goal = "the same score" if reached is not None else "its end"
        sentences.append(
            f"never: {iterative.label} reaches {goal} in {per_scan:.3g} s, inference alone takes {last.reconstruct_s:.3g} s"
        )
    best = max(net, key=lambda state: state.score)
    if full.score > best.score:
        sentences.append(
            f"{iterative.label} ends at {full.score:.4g} after {full.epoch} epochs ({full.reconstruct_s:.3g} s a scan), better "
            f"than {trained.label} at any scored epoch (at best {best.score:.4g}, epoch {best.epoch})"
        )
    if len(devices := trained.devices | iterative.devices) > 1:
        sentences.append(f"the times are of different devices ({', '.join(sorted(devices))}) and compare these, too")
    return scans, "; ".join(sentences)
