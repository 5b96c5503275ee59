"""Reconstructions from elsewhere: a sheet names them and what each is scored on (`--from evaluate`).

A condition is one object, and all its reconstructions are scored on one grid: its rows of one N therefore name one scan file.
Where a row brings the view.npz of that very file, the scan is taken as it is, since a view knows its scan by checksum; else
the scan is ingested and prepared like any other. Views of one scan may differ (one for each gridsize), what they score does not.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from pathlib import PurePath

from pydantic import TypeAdapter, ValidationError

from ptychoflow.config import SimulateConfig
from ptychoflow.study.conditions import Condition, Dataset, ingest_entry
from ptychoflow.study.parameters import PREPARING, SCORING, Parameters
from ptychoflow.study.samplesheet import Identifier, ReconRow, Sheet, check_rows

OF_ONE_SCAN = ("heldout", "dose", "N", "layout", "domain", "pixel_size_m", "photons_per_intensity")
"""Columns that say something of the scan, so that all rows of one scan must agree on them."""
OF_A_NEW_VIEW = ("heldout", "layout", "domain", "pixel_size_m", "photons_per_intensity")
"""Columns without meaning for a scan that is taken as it is."""


@dataclass(frozen=True)
class ImportedRun:
    """One reconstruction to score.

    Attributes:
        condition: what it is compared within; train and test are the same scan.
        label: name of the method.
        seed: which repetition.
        recon: the file, as the sheet has it.
        view: a view.npz for the scan, as the sheet has it; None where PREPARE makes one.
    """

    condition: Condition
    label: str
    seed: int
    recon: str
    view: str | None

    @property
    def run_id(self) -> str:
        """Condition, label, frame side and seed."""
        return f"{self.condition.id}__{self.label}__n{self.condition.test.n}__s{self.seed}"


def from_recons(
    sheet: Sheet | None, asked: Collection[str], parameters: Parameters
) -> tuple[list[ImportedRun], list[str]]:
    """Return the reconstructions of a sheet and everything that is wrong with it.

    Args:
        sheet: the sheet of reconstructions.
        asked: names of the parameters that the user gave.
        parameters: the merged parameters.
    """
    useless = sorted(set(asked) - {"from", "base", "N", *PREPARING, *SCORING})
    problems = [f"--{name} has no effect with --from evaluate: nothing is made, only scored" for name in useless]
    if "base" in asked:
        problems.append("--base is for scans to simulate; --from evaluate takes reconstructions from --input SHEET")
    if sheet is None:
        return [], [*problems, "--from evaluate needs --input SHEET, a sheet with the columns recon, scan and label"]
    rows, more = check_rows(sheet, ReconRow)
    problems += more
    groups, more = _by_object(rows, parameters)
    problems += more
    if rows and all(row.view for _, row in rows):
        problems += [
            f"--{name} has no effect: every row brings a view, which says what is held out and where is scored"
            for name in sorted(PREPARING.intersection(asked))
        ]
    runs: list[ImportedRun] = []
    places: dict[str, str] = {}
    seen: set[str] = set()
    for (name, n), members in groups.items():
        problems += _disagreements(name, members)
        condition = _condition(name, f"{name}_n{n}" if name in seen else name, members[0][1], parameters)
        seen.add(name)
        for where, row in members:
            run = ImportedRun(condition, row.label, row.seed, row.recon, row.view)
            if places.setdefault(run.run_id, where) != where:
                problems.append(
                    f"samplesheet {where}, columns 'label' and 'seed': {row.label}, {row.seed} of '{name}' is already "
                    f"{places[run.run_id]}; repetitions of one method differ in 'seed'"
                )
            runs.append(run)
    return runs, problems


def _by_object(
    rows: Sequence[tuple[str, ReconRow]], parameters: Parameters
) -> tuple[dict[tuple[str, int], list[tuple[str, ReconRow]]], list[str]]:
    """Return the rows of every object and N, and the problems of rows whose object has no usable name."""
    problems = []
    groups: dict[tuple[str, int], list[tuple[str, ReconRow]]] = {}
    for where, row in rows:
        name = row.object or PurePath(row.scan).stem
        try:
            TypeAdapter(Identifier).validate_python(name)
        except ValidationError:
            problems.append(
                f"samplesheet {where}, column 'object': missing, and the scan's file name '{name}' is no name for ids and "
                "paths; give one of letters, digits, '.', '_' and '-'"
            )
        else:
            # Another N needs another scan: of the same one it is a contradiction, and stays with the rows that it contradicts.
            of_scan = (key for key, ((_, first), *_) in groups.items() if (key[0], first.scan) == (name, row.scan))
            key = next(of_scan, (name, row.N or parameters.N or SimulateConfig.n))
            groups.setdefault(key, []).append((where, row))
    return groups, problems


def _disagreements(name: str, members: Sequence[tuple[str, ReconRow]]) -> list[str]:
    """Return where the rows of one object do not name one scan, and what says nothing beside a view."""
    (where_first, first), *others = members
    problems = []
    for where, row in others:
        cell = f"samplesheet {where}, column"
        if row.scan != first.scan:
            problems.append(
                f"{cell} 'scan': '{row.scan}', but {where_first} of object '{name}' has '{first.scan}'; reconstructions "
                "that are compared are scored on one grid, so name one scan, or give them different objects"
            )
        if bool(row.view) is not bool(first.view):
            problems.append(
                f"{cell} 'view': give it in all rows of object '{name}', or in none ({where_first} differs)"
            )
        problems += [
            f"{cell} '{column}': {getattr(row, column)!r}, but {where_first} of object '{name}' has {getattr(first, column)!r}"
            for column in OF_ONE_SCAN
            if getattr(row, column) != getattr(first, column)
        ]
    defaults = {field.name: field.default for field in fields(ReconRow)}
    problems += [
        f"samplesheet {where}, column '{column}': has no effect beside 'view', which belongs to the scan as it is"
        for where, row in members
        if row.view
        for column in OF_A_NEW_VIEW
        if getattr(row, column) != defaults[column]
    ]
    return problems


def _condition(name: str, scan_id: str, row: ReconRow, parameters: Parameters) -> Condition:
    made = ingest_entry(scan_id, row, parameters)
    scan = Dataset(scan_id, "ready", row.scan, {}, row.dose, made.n) if row.view else made
    heldout = parameters.heldout if row.heldout is None else row.heldout
    return Condition(name, scan, scan, "none", heldout, other_n=scan_id != name)
