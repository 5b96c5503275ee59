"""The arm registry: which reconstruction methods exist and what they can take, read from `conf/arms.json`.

An entry is data, never behaviour: a new arm of a known kind needs no code here. What an arm cannot take (a frame side, a
gridsize, a scan without truth) makes a planned run `skipped` with the reason that these functions return.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from ptychoflow.config import STRICT, Count, parse
from ptychoflow.errors import UsageError, nearest

SCHEMA_VERSION = 1

Identifier = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


@dataclass(frozen=True, config=STRICT)
class Arm:
    """One reconstruction method."""

    id: Identifier
    """Name on the command line, and the first part of the label."""
    title: str
    """One line for people."""
    kind: Literal["train", "iterative", "external", "imported"]
    """`train`: TRAIN then RECONSTRUCT, one run for every gridsize and seed; `iterative`: one run for each condition;
    `external`: code that the user supplies, one run for every seed where it is trained; `imported`: a reconstruction from
    anywhere, which is only scored."""
    backend: Literal["torch", "tensorflow", "ptychi", "ptycho-vit", "none"]
    """Library that does the work."""
    image: str
    """Key of the container image."""
    gpu: Literal["required", "optional", "none"]
    """Whether the arm needs, can use, or ignores a GPU."""
    n: tuple[Count, ...] | Literal["even", "any"]
    """Frame sides that the arm takes, px."""
    gridsizes: tuple[Count, ...] | Literal["any"]
    """Gridsizes that the arm takes; `any` for an arm that reads single frames."""
    needs: tuple[Literal["probe", "positions", "truth"], ...]
    """What the scan must hold."""
    supervised: bool
    """Learns from the true object, so it needs one, and a train set apart from the test set; an external arm only where it
    is trained."""
    default: bool
    """Runs when `--models` is not given."""
    licence: str
    """SPDX identifier of the code behind the arm."""
    citation: str
    """What to cite."""
    colour: Annotated[str, Field(pattern=r"^#[0-9A-F]{6}$")]
    """Colour in plots; distinguishable with colour-blind vision (Okabe and Ito)."""

    def label(self, gridsize: int) -> str:
        """Return the name of the arm's rows: with the gridsize where the arm depends on it."""
        return f"{self.id}_gs{gridsize}" if self.kind == "train" else self.id

    def refusal(self, *, n: int, gridsize: int, has_truth: bool, split: str, guard_px: float) -> str | None:
        """Return why the arm cannot take such data, or None when it can.

        Args:
            n: side of a frame, px.
            gridsize: square root of the number of frames in a group.
            has_truth: the true object is known, as it is for simulated scans.
            split: how train and test frames are told apart (`none`, `region`, `scans`).
            guard_px: least distance of train and test positions with `region`, px.
        """
        reasons = []
        if self.n == "even":
            if n % 2:
                reasons.append(f"N = {n} is odd, {self.id} takes even N")
        elif self.n != "any" and n not in self.n:
            reasons.append(f"N = {n} is not supported by {self.id}, which takes {_listed(self.n)}")
        if self.gridsizes != "any" and gridsize not in self.gridsizes:
            reasons.append(f"gridsize {gridsize} is not supported by {self.id}, which takes {_listed(self.gridsizes)}")
        if self.supervised and not has_truth:
            reasons.append(f"{self.id} learns from the true object, which only simulated scans have here")
        if self.supervised and split == "none":
            reasons.append(
                f"{self.id} is supervised and needs a train set apart from the test set; the split is 'none'"
            )
        if self.supervised and split == "region" and guard_px < n:
            reasons.append(
                f"{self.id} is supervised: with guard_px = {guard_px:g} < N = {n} its labels would show the test area"
            )
        return "; ".join(reasons) or None


@plain_dataclass(frozen=True)
class Registry:
    """All known arms, in the order of the file."""

    arms: tuple[Arm, ...]

    @property
    def selectable(self) -> tuple[Arm, ...]:
        """The arms that `--models` takes: those that make a reconstruction."""
        return tuple(arm for arm in self.arms if arm.kind != "imported")

    @property
    def ids(self) -> list[str]:
        """The names that `--models` takes."""
        return [arm.id for arm in self.selectable]

    @property
    def imported(self) -> Arm:
        """The arm that reconstructions from elsewhere belong to.

        Raises:
            UsageError: when the registry has none, or several.
        """
        found = [arm for arm in self.arms if arm.kind == "imported"]
        if len(found) != 1:
            raise UsageError(f"--from evaluate needs one arm of kind 'imported' in the registry, it has {len(found)}")
        return found[0]

    def select(self, models: Sequence[str] | None) -> tuple[Arm, ...]:
        """Return the arms asked for, in that order; the default ones for None, all that need no external code for `all`.

        Raises:
            UsageError: naming every unknown id, each with the nearest known one.
        """
        if models is None:
            return tuple(arm for arm in self.selectable if arm.default)
        if tuple(models) == ("all",):
            return tuple(arm for arm in self.selectable if arm.kind != "external")
        by_id = {arm.id: arm for arm in self.selectable}
        others = {arm.id for arm in self.arms} - by_id.keys()
        problems = [
            f"'{name}' makes no reconstruction: give yours in a sheet with --from evaluate --input SHEET"
            for name in models
            if name in others
        ]
        unknown = [f"'{name}'{nearest(name, self.ids)}" for name in models if name not in by_id and name not in others]
        if unknown:
            listed = ", ".join([*self.ids, "all (alone)"])
            problems.append(f"unknown {', '.join(unknown)}; known are {listed}")
        if problems:
            raise UsageError(f"--models: {'; '.join(problems)}")
        return tuple(by_id[name] for name in models)


def load_registry(path: Path) -> Registry:
    """Return the registry of a JSON file.

    Raises:
        UsageError: when the file is not of the expected form, an entry is wrong, or an id occurs twice.
    """
    try:
        content: Any = json.loads(path.read_text())
    except ValueError as error:
        raise UsageError(f"{path.name}: not JSON: {error}") from error
    if not isinstance(content, dict) or content.get("schema_version") != SCHEMA_VERSION or not content.get("arms"):
        raise UsageError(
            f"{path.name}: expected {{'schema_version': {SCHEMA_VERSION}, 'arms': [...]}} with at least one arm"
        )
    arms = tuple(_arm(entry, what=f"{path.name}, arm {place}") for place, entry in enumerate(content["arms"], start=1))
    twice = [name for name, count in Counter(arm.id for arm in arms).items() if count > 1]
    if twice:
        raise UsageError(f"{path.name}: arm ids occur twice: {', '.join(twice)}")
    return Registry(arms)


def _arm(entry: Any, *, what: str) -> Arm:
    if not isinstance(entry, dict):
        raise UsageError(f"{what}: expected an object with the fields of an arm, got {entry!r}")
    return parse(Arm, entry, what=f"{what} ('{entry.get('id')}')")


def _listed(values: Sequence[int]) -> str:
    return ", ".join(str(value) for value in values)
