"""The loss guardrail: no training may end with a loss that is much larger than that of a validated run (study reference 2.3).

    limit = reference + tolerance |reference| + abs_tolerance            a candidate above its limit fails

The losses are the `final_loss` of two training manifests (study/manifests.py): the mean training loss over the last epoch. The
absolute value makes the limit lie above a negative reference too (D66). Compared are cells, the jobs of one (dose, view,
gridsize, arm): seed by seed where both sides have the same seeds, else by the medians over seeds. Of several scans in one
cell each is compared with its own. Only a finite loss of a job that ended with success counts, on both sides, and only the
same loss in the same unit can be compared; anything else fails, with the reason.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Strict, StrictInt, StrictStr, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from ptychoflow.errors import ContractError
from ptychoflow.study.manifests import SCHEMA_VERSION
from ptychoflow.study.parameters import DoseText

TOLERANCE = 0.25
"""Share of the reference by which a loss may exceed it."""

ABS_TOLERANCE = 1e-6
"""What a loss may exceed its reference by in any case, in the loss's unit: a reference of 0 needs some room."""

Cell = tuple[str | None, str, int, str]
"""Dose (null where unknown), view, gridsize, arm."""


@dataclass(frozen=True, config=ConfigDict(extra="ignore"))
class Job:
    """What the guardrail reads of a job of a training manifest."""

    dose: DoseText | None
    view: StrictStr
    gridsize: StrictInt
    arm: StrictStr
    seed: StrictInt
    train_data: StrictStr
    status: StrictStr
    loss_name: StrictStr | None
    loss_unit: StrictStr | None
    final_loss: Annotated[float, Strict()] | None = None

    @property
    def cell(self) -> Cell:
        """What it is compared within."""
        return self.dose, self.view, self.gridsize, self.arm

    @property
    def trouble(self) -> str | None:
        """Why its loss does not count, or None when it does."""
        if self.status != "success":
            return f"its status is {self.status}, not success"
        if self.final_loss is None:
            return "it has no final_loss"
        return None if math.isfinite(self.final_loss) else "its final_loss is not finite"


@dataclass(frozen=True)
class Check:
    """One loss beside its limit; `seed` is None for the median over the seeds of `train_data`.

    `candidate`, `reference` and `limit` are in the loss's unit, None where there is no such number; `reason` is empty when passed.
    """

    seed: int | None
    train_data: str
    candidate: float | None
    reference: float | None
    limit: float | None
    passed: bool
    reason: str = ""


@dataclass(frozen=True)
class Result:
    """The verdict on one cell; `reason` says why losses could not be compared at all, and is empty otherwise."""

    dose: str | None
    view: str
    gridsize: int
    arm: str
    basis: Literal["seed", "median", "none"]
    loss_name: str | None
    loss_unit: str | None
    passed: bool
    reason: str
    checks: list[Check]


def limit_of(reference: float, *, tolerance: float, abs_tolerance: float) -> float:
    """Return the largest loss that passes beside a reference (D66)."""
    return reference + tolerance * abs(reference) + abs_tolerance


def read_jobs(document: Any, *, what: str) -> dict[Cell, list[Job]]:
    """Return the jobs of a training manifest by cell, in the manifest's order; those whose plan refused them included.

    Args:
        document: content of training_manifest.json.
        what: name of the file, for messages.

    Raises:
        ContractError: it is no training manifest.
    """
    jobs = document.get("jobs") if isinstance(document, dict) else None
    if not isinstance(jobs, list) or document.get("schema_version") != SCHEMA_VERSION:
        raise ContractError(
            f"{what} is not a training manifest: expected an object with 'schema_version': {SCHEMA_VERSION} and a list 'jobs', "
            "as the workflow writes it to summary/training_manifest.json"
        )
    try:
        read = TypeAdapter(list[Job]).validate_python(jobs)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False)]
        raise ContractError(f"{what} is not a training manifest: jobs.{'; jobs.'.join(problems)}") from None
    cells: dict[Cell, list[Job]] = {}
    for job in read:
        cells.setdefault(job.cell, []).append(job)
    return cells


def in_words(cell: Cell) -> str:
    """Return a cell for people."""
    dose, view, gridsize, arm = cell
    return f"dose {dose or 'unknown'}, view {view}, gridsize {gridsize}, {arm}"


def check_cell(
    cell: Cell,
    reference: Sequence[Job],
    candidate: Sequence[Job],
    *,
    tolerance: float = TOLERANCE,
    abs_tolerance: float = ABS_TOLERANCE,
) -> Result:
    """Return the verdict on the jobs of one cell; a side without any fails."""
    several = any(len({job.train_data for job in jobs}) > 1 for jobs in (reference, candidate))
    old, new = _by_name(reference, several), _by_name(candidate, several)
    loss_name, loss_unit = _loss(reference[0]) if reference else (None, None)

    def result(basis: Literal["seed", "median", "none"], checks: list[Check], reason: str = "") -> Result:
        passed = not reason and all(check.passed for check in checks)
        return Result(*cell, basis, loss_name, loss_unit, passed, reason, checks)

    def check(job: Job, limited_by: float | None) -> Check:
        """Return the verdict on one job: that its loss counts, and, given a reference, that it keeps the limit."""
        if job.trouble or job.final_loss is None:
            return Check(job.seed, job.train_data, None, limited_by, None, False, str(job.trouble))
        if limited_by is None:
            return Check(job.seed, job.train_data, job.final_loss, None, None, True)
        return limited(job.seed, job.train_data, job.final_loss, limited_by)

    def limited(seed: int | None, scan: str, loss: float, limited_by: float) -> Check:
        limit = limit_of(limited_by, tolerance=tolerance, abs_tolerance=abs_tolerance)
        if loss <= limit:
            return Check(seed, scan, loss, limited_by, limit, True)
        rule = f"reference {limited_by:.6g} + {tolerance:g} |reference| + {abs_tolerance:g}"
        return Check(seed, scan, loss, limited_by, limit, False, f"{loss:.6g} exceeds the limit {limit:.6g} = {rule}")

    if reason := _incomparable(reference, candidate, old, new, several):
        return result("none", [], reason)
    if old.keys() == new.keys():
        return result("seed", [check(job, old[name].final_loss) for name, job in new.items()])
    checks = [check(job, None) for job in candidate]
    if all(one.passed for one in checks):
        checks.append(limited(None, candidate[0].train_data, _median(candidate), _median(reference)))
    return result("median", checks)


def check_all(
    reference: Any, candidate: Any, tolerance: float = TOLERANCE, abs_tolerance: float = ABS_TOLERANCE
) -> list[Result]:
    """Return the verdict on every cell that two training manifests share, in the reference's order; it may be none.

    Args:
        reference: content of the reference's training_manifest.json.
        candidate: content of the new one.
        tolerance: share of the reference by which a loss may exceed it.
        abs_tolerance: what it may exceed it by in any case.

    Raises:
        ContractError: one of them is no training manifest.
    """
    old, new = referenced(read_jobs(reference, what="the reference")), read_jobs(candidate, what="the candidate")
    return [
        check_cell(cell, old[cell], new[cell], tolerance=tolerance, abs_tolerance=abs_tolerance)
        for cell in old
        if cell in new
    ]


def referenced(cells: Mapping[Cell, list[Job]]) -> dict[Cell, list[Job]]:
    """Return the cells of a reference that say anything: where every job was skipped there is no loss to keep to."""
    return {cell: jobs for cell, jobs in cells.items() if any(job.status != "skipped" for job in jobs)}


def unshared(reference: Any, candidate: Any) -> list[Cell]:
    """Return the cells that say something in only one of two training manifests, which nothing is checked in.

    Raises:
        ContractError: one of them is no training manifest.
    """
    old, new = referenced(read_jobs(reference, what="the reference")), read_jobs(candidate, what="the candidate")
    return [cell for cell in {**old, **referenced(new)} if cell not in old or cell not in new]


def verdict(results: Sequence[Result], left: Sequence[Cell]) -> tuple[bool, str]:
    """Return whether every cell passed, and a sentence that says so; nothing to compare is no pass.

    Args:
        results: one for each cell.
        left: cells that were not checked, to be named.
    """
    failed = [result for result in results if not result.passed]
    also = f"; in one of the two manifests only, so not checked: {'; '.join(map(in_words, left))}" if left else ""
    if not results:
        return False, f"loss guardrail: the reference and this run share no training{also}"
    if not failed:
        return True, f"loss guardrail: {len(results)} of {len(results)} passed{also}"
    return False, f"loss guardrail: {len(failed)} of {len(results)} failed: {' | '.join(map(describe, failed))}{also}"


def describe(result: Result) -> str:
    """Return one cell's verdict in one line."""
    where = in_words((result.dose, result.view, result.gridsize, result.arm))
    if result.passed:
        return f"{where}: passed, by {result.basis}, {result.loss_name} ({result.loss_unit})"
    wrong = [f"{_who(check)}: {check.reason}" for check in result.checks if not check.passed]
    return f"{where}: {result.reason or '; '.join(wrong)}"


def _who(check: Check) -> str:
    return "median over seeds" if check.seed is None else f"{check.train_data}, seed {check.seed}"


def _by_name(jobs: Sequence[Job], several: bool) -> dict[tuple[str, int], Job]:
    """Return jobs by seed, and by scan where a cell has several: names of a single scan depend on what else was planned."""
    return {(job.train_data if several else "", job.seed): job for job in jobs}


def _loss(job: Job) -> tuple[str | None, str | None]:
    return job.loss_name, job.loss_unit


def _median(jobs: Sequence[Job]) -> float:
    return median(job.final_loss for job in jobs if job.final_loss is not None)


def _incomparable(
    reference: Sequence[Job],
    candidate: Sequence[Job],
    old: Mapping[tuple[str, int], Job],
    new: Mapping[tuple[str, int], Job],
    several: bool,
) -> str:
    """Return why two sides of a cell cannot be compared, or an empty text."""
    for side, jobs, named in (("reference", reference, old), ("candidate", candidate, new)):
        if not jobs:
            return f"the {side} has no such training"
        if len(named) < len(jobs):
            return f"the {side} lists a seed twice: its trainings cannot be told apart"
    bad = [f"seed {job.seed}: {job.trouble}" for job in reference if job.trouble]
    if bad:
        return f"the reference is not of a validated run: {'; '.join(bad)}"
    # A training that the plan refused names no loss; its status fails it.
    losses = [_loss(job) for job in (*reference, *candidate) if job.status == "success"]
    if len(set(losses)) > 1 or None in losses[0]:
        texts = ", ".join(f"{name} ({unit})" for name, unit in dict.fromkeys(losses))
        return f"losses are compared only under the same name and unit, got {texts}"
    if several and old.keys() != new.keys():
        return "several scans share this cell, and the two sides do not have the same scans and seeds"
    return ""
