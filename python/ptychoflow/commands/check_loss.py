"""CHECK-LOSS: the loss guardrail on one (dose, view, gridsize) of two training manifests; a report, and exit 65 for a no."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from ptychoflow.data.storage import atomic_write, read_json, write_json
from ptychoflow.errors import ContractError, UsageError
from ptychoflow.provenance import sha256_file
from ptychoflow.study.guardrail import (
    ABS_TOLERANCE,
    TOLERANCE,
    Cell,
    Job,
    Result,
    check_cell,
    describe,
    in_words,
    read_jobs,
    referenced,
)
from ptychoflow.study.parameters import canonical_dose

SCHEMA_VERSION = 1
UNKNOWN = "unknown"
"""What `--dose` calls scans without a dose."""


def run(
    *,
    reference: Path,
    candidate: Path,
    dose: str,
    view: str,
    gridsize: int,
    arm: str | None = None,
    tolerance: float = TOLERANCE,
    abs_tolerance: float = ABS_TOLERANCE,
    promote: bool = False,
    report: Path | None = None,
) -> str:
    """Write the JSON report and return the verdict in words.

    A promotion replaces the whole reference: then every cell of the reference must pass, not only the one that is named.

    Args:
        reference: training_manifest.json of a validated run; with `promote` it need not be there yet.
        candidate: training_manifest.json of the run to check.
        dose: photons per frame in any spelling, or `unknown`.
        view: name of the view.
        gridsize: square root of the number of frames in a group.
        arm: arm to check; every arm that the reference has there when None.
        tolerance: share of the reference by which a loss may exceed it.
        abs_tolerance: what it may exceed it by in any case, in the loss's unit.
        promote: make the candidate the reference when it passes, or when there is none.
        report: where the report goes; beside the candidate when None.

    Raises:
        ContractError: the answer is no (the report is written), or a file is no training manifest, or has no such training.
        UsageError: the dose is none.
    """
    wanted = (_dose(dose), view.lower(), gridsize)
    new = read_jobs(read_json(candidate), what=candidate.name)
    first = promote and not reference.exists()
    if not first and not reference.exists():
        raise ContractError(f"there is no reference {reference}; --promote makes the candidate the first one")
    old = new if first else referenced(read_jobs(read_json(reference), what=reference.name))
    named = _select(old, wanted, arm, candidate.name if first else reference.name)
    cells = list(old) if promote and not first else named
    _select(new, wanted, arm, candidate.name)
    options = {"tolerance": tolerance, "abs_tolerance": abs_tolerance}
    results = [check_cell(cell, old[cell], new.get(cell, []), **options) for cell in cells]
    passed = all(result.passed for result in results)
    document = {
        "schema_version": SCHEMA_VERSION,
        "passed": passed,
        "promoted": promote and passed,
        "rule": "candidate <= reference + tolerance |reference| + abs_tolerance",
        **options,
        **dict(zip(("dose", "view", "gridsize"), wanted, strict=True)),
        "arm": arm,
        "reference": None if first else {"name": reference.name, "sha256": sha256_file(reference)},
        "candidate": {"name": candidate.name, "sha256": sha256_file(candidate)},
        "results": [asdict(result) for result in results],
    }
    place = report or candidate.parent / _report_name(wanted, arm)
    write_json(place, document)
    text = _text(results)
    if not passed:
        raise ContractError(f"check-loss: failed, see {place}\n{text}")
    if promote:
        with atomic_write(reference) as stream:
            stream.write(candidate.read_bytes())
        text += f"\n{candidate.name} is the reference now: {reference}"
    return f"check-loss: passed, see {place}\n{text}"


def _dose(text: str) -> str | None:
    if text.strip().lower() == UNKNOWN:
        return None
    try:
        return canonical_dose(text)
    except ValueError as error:
        raise UsageError(f"--dose: {error}, or '{UNKNOWN}' for scans without one; got '{text}'") from None


def _select(
    cells: Mapping[Cell, list[Job]], wanted: tuple[str | None, str, int], arm: str | None, name: str
) -> list[Cell]:
    """Return the cells of one (dose, view, gridsize), of one arm where it is named.

    Raises:
        ContractError: there is none; the message lists those that there are.
    """
    found = [cell for cell in cells if cell[:3] == wanted and arm in (None, cell[3])]
    if found:
        return found
    asked = in_words((*wanted, arm or "any arm"))
    there = "; ".join(in_words(cell) for cell in cells) or "nothing"
    raise ContractError(f"{name} has no training with {asked}; it has {there}")


def _report_name(wanted: tuple[str | None, str, int], arm: str | None) -> str:
    dose, view, gridsize = wanted
    return f"check_loss_{dose or UNKNOWN}_{view}_gs{gridsize}{f'_{arm}' if arm else ''}.json"


def _text(results: Sequence[Result]) -> str:
    """Return a line for every cell and one for every loss beside its limit."""
    lines = []
    for result in results:
        lines.append(describe(result))
        for check in result.checks:
            who = "median" if check.seed is None else f"{check.train_data} seed {check.seed}"
            limit = "" if check.limit is None else f", reference {check.reference:.6g}, limit {check.limit:.6g}"
            loss = "no loss" if check.candidate is None else f"{check.candidate:.6g}"
            lines.append(f"  {who}: {loss}{limit}")
    return "\n".join(lines)
