"""Views and models that are there: a sheet names them, and the flow goes on behind them (`--from train`, `--from recon`).

A row names everything that its view was made from, for a view knows its scans by checksum. Rows of one condition and N agree on
scans and split, and have one view for each gridsize; frames of another N belong to an arm that has an N of its own. For
`--from recon` every row is one reconstruction to make: of a trained model, or, without one, by an arm that is not trained. The
sheets are those that every run writes (resheet.py).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from ptychoflow.arms.registry import Arm, Registry
from ptychoflow.errors import nearest
from ptychoflow.study.conditions import Condition, Dataset
from ptychoflow.study.parameters import AFTER_PREPARE, AFTER_TRAIN
from ptychoflow.study.samplesheet import ModelRow, Sheet, ViewRow, check_rows

OF_A_CONDITION = ("train", "train_scan", "test", "test_scan", "dose", "truth", "split", "guard_px", "name")
"""Columns that all rows of one condition and N must agree on."""

Given = TypeVar("Given", ViewRow, ModelRow)


@dataclass(frozen=True)
class Wanted:
    """One run that was asked for, whether its arm can take it or not.

    Attributes:
        condition: its scans, and its views where they are given.
        arm: what reconstructs.
        gridsize: square root of the number of frames in a group.
        seed: training seed.
        model: folder of the trained model where it is given.
        reason: why the condition cannot give what the arm needs, None where it can.
    """

    condition: Condition
    arm: Arm
    gridsize: int
    seed: int
    model: str | None = None
    reason: str | None = None


def from_views(sheet: Sheet | None, asked: Collection[str]) -> tuple[list[Condition], list[str]]:
    """Return the conditions of a sheet of views and everything that is wrong with it.

    Args:
        sheet: the sheet.
        asked: names of the parameters that the user gave.
    """
    allowed = {"from", "models", "seeds", "preset", *AFTER_PREPARE}
    problems = _without_effect(asked, allowed, "train", "scans and views")
    if sheet is None:
        return [], [*problems, "--from train needs --input SHEET, a sheet of views"]
    rows, more = check_rows(sheet, ViewRow)
    conditions, between = _conditions(rows)
    return list(conditions.values()), [*problems, *more, *between]


def from_models(sheet: Sheet | None, asked: Collection[str], registry: Registry) -> tuple[list[Wanted], list[str]]:
    """Return the reconstructions of a sheet of models and everything that is wrong with it.

    Args:
        sheet: the sheet.
        asked: names of the parameters that the user gave.
        registry: the known arms.
    """
    problems = _without_effect(asked, {"from", "preset", *AFTER_TRAIN}, "recon", "scans, views and models")
    if sheet is None:
        return [], [*problems, "--from recon needs --input SHEET, a sheet of models"]
    rows, more = check_rows(sheet, ModelRow)
    conditions, between = _conditions(rows)
    problems += [*more, *between]
    arms = {arm.id: arm for arm in registry.selectable}
    wanted: list[Wanted] = []
    places: dict[tuple[str, str, int], str] = {}
    for where, row in rows:
        cell = f"samplesheet {where}, column"
        arm = arms.get(row.arm)
        if arm is None:
            known = ", ".join(arms)
            problems.append(f"{cell} 'arm': unknown '{row.arm}'{nearest(row.arm, [*arms])}; known are {known}")
            continue
        if (arm.kind == "train") is not bool(row.model):
            rule = (
                "give the folder of its trained model" if arm.kind == "train" else "leave it empty: nothing is trained"
            )
            problems.append(f"{cell} 'model': {arm.id} is of kind '{arm.kind}', {rule}")
        first = places.setdefault((row.condition, arm.label(row.gridsize), row.seed), where)
        if first != where:
            problems.append(f"{cell}s 'arm', 'gridsize' and 'seed': '{row.condition}' already has this run in {first}")
        wanted.append(Wanted(conditions[row.condition, row.N], arm, row.gridsize, row.seed, row.model))
    return wanted, problems


def _without_effect(asked: Collection[str], allowed: Collection[str], start: str, given: str) -> list[str]:
    return [f"--{name} has no effect with --from {start}: {given} are given" for name in sorted({*asked} - {*allowed})]


def _conditions(rows: Sequence[tuple[str, Given]]) -> tuple[dict[tuple[str, int], Condition], list[str]]:
    """Return the conditions of rows by id and N, and every row that contradicts an earlier one."""
    problems = []
    groups: dict[tuple[str, int], list[tuple[str, Given]]] = {}
    scans: dict[str, tuple[str, int, str]] = {}
    for where, row in rows:
        groups.setdefault((row.condition, row.N), []).append((where, row))
        for part, file in (("train", row.train_scan), ("test", row.test_scan)):
            name = getattr(row, part)
            known, n, first = scans.setdefault(name, (file, row.N, where))
            if n != row.N:
                problems.append(f"samplesheet {where}, column 'N': {row.N}, but scan '{name}' has {n} in {first}")
            if known != file:
                problems.append(
                    f"samplesheet {where}, column '{part}_scan': '{file}', but scan '{name}' is '{known}' in {first}"
                )
    conditions: dict[tuple[str, int], Condition] = {}
    for (name, n), members in groups.items():
        where_first, first_row = members[0]
        views: dict[int, tuple[str, str]] = {}
        for where, row in members:
            problems += [
                f"samplesheet {where}, column '{column}': {getattr(row, column)!r}, but {where_first} of condition "
                f"'{name}' has {getattr(first_row, column)!r}"
                for column in OF_A_CONDITION
                if getattr(row, column) != getattr(first_row, column)
            ]
            known, earlier = views.setdefault(row.gridsize, (row.view, where))
            if known != row.view:
                problems.append(
                    f"samplesheet {where}, column 'view': '{row.view}', but gridsize {row.gridsize} of condition '{name}' "
                    f"has '{known}' in {earlier}"
                )
        made = _condition(first_row, {gridsize: file for gridsize, (file, _) in views.items()})
        conditions[name, n] = replace(made, other_n=any(known == name for known, _ in conditions))
    return conditions, problems


def _condition(row: ViewRow, views: dict[int, str]) -> Condition:
    train, test = (
        Dataset(name, "ready", file, {}, row.dose, row.N, row.truth)
        for name, file in ((row.train, row.train_scan), (row.test, row.test_scan))
    )
    return Condition(row.condition, train, test, row.split, None, row.name, row.condition, views, row.guard_px)
