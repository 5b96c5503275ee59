"""Conditions: a train scan and a test scan that belong together, from a samplesheet, a study file or a base file.

A condition is the set of runs that are compared with each other: one pair of scans at one dose, through one view. Its id is
`<scan>_d<dose>_<view>`; parts that do not vary are left out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import field, replace
from pathlib import PurePath
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from ptychoflow.config import STRICT, Count, IngestConfig, SimulateConfig
from ptychoflow.errors import UsageError, nearest
from ptychoflow.study.parameters import CONFIG_FIELDS, ROLE_FIELDS, Parameters, complete, options
from ptychoflow.study.samplesheet import (
    Identifier,
    ReadyRow,
    ReconRow,
    Sheet,
    SheetRow,
    check_rows,
    repeated_ids,
)

ALL = "all"
"""The view that keeps every frame."""


@dataclass(frozen=True, config=STRICT)
class StudyScan:
    """One simulated scan of a study file."""

    id: Identifier
    role: Literal["train", "test", "both"] = "both"
    object: Identifier | None = None
    """Name of the pair, for train and test scans."""
    simulate: dict[str, Any] = field(default_factory=dict)
    """Fields of SimulateConfig that parameters leave open."""


@dataclass(frozen=True, config=STRICT)
class ViewSpec:
    """One view of a study file: which frames and groups of a scan every arm of a condition reads.

    What it leaves open is decided by the parameters of the same names.
    """

    overlap: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Largest overlap f of neighbouring groups, as a share of the frame: their centres keep S = (1 - f) N (study 1)."""
    s_img: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the frames of each side that is kept."""
    max_groups: Count | None = None
    """Most spaced groups of each side."""


@dataclass(frozen=True, config=STRICT)
class StudyFile:
    """A study file: parameters, views, and the scans to simulate (none: they come from a sheet or a base file)."""

    description: str
    params: dict[str, Any] = field(default_factory=dict)
    presets: dict[Identifier, dict[str, Any]] = field(default_factory=dict)
    """Parameters for other sizes of the study, chosen by `--preset`."""
    views: dict[Identifier, ViewSpec] = field(default_factory=dict)
    """Views beside `all`, which keeps every frame."""
    datasets: tuple[StudyScan, ...] = ()
    stand_in: bool = False
    """The scans stand in for the ones that a base file gives: with `--base` its object and probe take their place."""


@plain_dataclass(frozen=True)
class Dataset:
    """One scan to make: SIMULATE's or INGEST's entry; a `ready` one is a scan.npz that is taken as it is."""

    id: str
    kind: Literal["simulate", "ingest", "ready"]
    file: str | None
    config: dict[str, Any]
    dose: str | None
    n: int
    truth: bool = False
    """Simulated scans know their object; a measured scan has a reference at best."""


@plain_dataclass(frozen=True)
class Condition:
    """Train and test scan, and how their frames are split; `train` is `test` where one scan is both.

    Attributes:
        id: name in ids and paths.
        train: scan to train on.
        test: scan to reconstruct.
        split: how train frames are told from test frames.
        heldout: frames that no arm reads.
        view: name of the view.
        object: first part of the id, which all views of the scans have in common; the id itself where it is empty.
        views: view.npz by gridsize, where views are given; PREPARE makes them otherwise.
        guard_px: least distance of train and test positions in given views, px; N where it is None.
        other_n: the frames have another N than those that the condition is about, for an arm with an N of its own; what
            belongs to them carries that N in its name.
    """

    id: str
    train: Dataset
    test: Dataset
    split: str
    heldout: str | float | list[int] | None
    view: str = ALL
    object: str = ""
    views: Mapping[int, str] = field(default_factory=dict)
    guard_px: float | None = None
    other_n: bool = False


Scan = TypeVar("Scan", SheetRow, ReadyRow, StudyScan)
Row = TypeVar("Row", SheetRow, ReadyRow)
START_OF_COLUMN = {"recon": "evaluate", "model": "recon", "view": "train", "truth": "prepare"}
"""Columns that tell a sheet of a later start from one of measured scans, the latest first."""


def read_study(content: Any) -> StudyFile:
    """Return a checked study file.

    Raises:
        UsageError: naming every wrong or unknown entry.
    """
    try:
        return TypeAdapter(StudyFile).validate_python(content)
    except ValidationError as error:
        listed = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False)]
        raise UsageError(f"study file: {'; '.join(listed)}") from None


def from_sheet(sheet: Sheet, parameters: Parameters) -> tuple[list[Condition], list[str]]:
    """Return the conditions of a samplesheet of measured scans and every problem of the sheet."""
    columns = {column for _, cells in sheet.rows for column in cells}
    later = next((column for column in START_OF_COLUMN if column in columns), None)
    if later:
        start = START_OF_COLUMN[later]
        return [], [f"--input {sheet.name} has a column '{later}': such a sheet is for --from {start}"]
    rows, problems = check_rows(sheet, SheetRow)
    return _of_rows(sheet, rows, problems, parameters, ingest_entry)


def from_ready(sheet: Sheet | None, parameters: Parameters) -> tuple[list[Condition], list[str]]:
    """Return the conditions of a sheet of scans that are taken as they are (`--from prepare`), and every problem."""
    if sheet is None:
        return [], ["--from prepare needs --input SHEET, a sheet with the columns id and scan"]
    rows, problems = check_rows(sheet, ReadyRow)
    return _of_rows(sheet, rows, problems, parameters, _ready_entry)


def _of_rows(
    sheet: Sheet,
    rows: Sequence[tuple[str, Row]],
    problems: list[str],
    parameters: Parameters,
    entry: Callable[[str, Row, Parameters], Dataset],
) -> tuple[list[Condition], list[str]]:
    """Return the conditions of rows that passed, and the problems of those that did not with what is wrong between rows."""
    problems = problems + repeated_ids(sheet)
    pairs, more = pair_up(rows, what="samplesheet")
    # A row with a bad cell is missing from its pair: that the pair is incomplete would be a consequence, not a mistake.
    problems += more if len(rows) == len(sheet.rows) else []
    conditions = []
    for name, (where_train, train), (where_test, test) in pairs:
        alone = train is test
        for where, row in ((where_train, train), (where_test, test)):
            if row.split and (row.split == "scans") is alone:
                problems.append(f"samplesheet {where}, column 'split': {_split_rule(alone)}, got '{row.split}'")
        if not alone and train.heldout is not None:
            problems.append(f"samplesheet {where_train}, column 'heldout': held-out frames belong to the test row")
        split, problem = _split(train.split or test.split or parameters.split, alone=alone, name=name)
        problems += problem if not (train.split or test.split) else []
        datasets = [entry(row.id, row, parameters) for row in (train, test)]
        if datasets[0].n != datasets[1].n:
            problems.append(
                f"samplesheet {where_test}, column 'N': {datasets[1].n}, but {where_train} has {datasets[0].n}"
            )
        heldout = parameters.heldout if test.heldout is None else test.heldout
        conditions.append(Condition(name, datasets[0], datasets[1], split, heldout))
    return conditions, problems


def ingest_entry(name: str, row: SheetRow | ReconRow, parameters: Parameters) -> Dataset:
    """Return INGEST's entry; N is always expected, since ids carry it and arms are chosen by it."""
    n = row.N or parameters.N or SimulateConfig.n
    config = {
        **{name: getattr(row, name) for name in ("layout", "domain", "pixel_size_m", "photons_per_intensity")},
        **{"expect_n": n, "expect_dose": row.dose},
    }
    return Dataset(name, "ingest", row.scan, complete(IngestConfig, config, what=name), row.dose, n)


def _ready_entry(name: str, row: ReadyRow, parameters: Parameters) -> Dataset:
    return Dataset(name, "ready", row.scan, {}, row.dose, row.N or parameters.N or SimulateConfig.n, row.truth)


def from_base(base: str, parameters: Parameters, *, every_dose: bool = False) -> tuple[list[Condition], list[str]]:
    """Return the conditions of one object and probe: its own positions, or a raster or random scan where asked for.

    What a study or its preset says of the objects that it draws itself has no meaning here.
    """
    scan = "random" if parameters.n_frames else "raster" if parameters.step_train_px else "base"
    entry = StudyScan(
        id=_identifier(base), simulate={"kind": "base", "probe": "base", "scan": scan, "probe_smoothing_sigma_px": 0.0}
    )
    of_the_file = replace(
        parameters, size=None, size_cols=None, nimgs_train=None, set_phi=None, probe_smoothing_sigma_px=None
    )
    return from_study([entry], of_the_file, base=base, every_dose=every_dose)


def _identifier(file: str) -> str:
    """Return a file's name without suffix where that is an id, else `base`."""
    try:
        return TypeAdapter(Identifier).validate_python(PurePath(file).stem)
    except ValidationError:
        return "base"


def from_study(
    entries: Sequence[StudyScan], parameters: Parameters, *, base: str | None = None, every_dose: bool = False
) -> tuple[list[Condition], list[str]]:
    """Return the conditions of simulated scans, one for each dose, and every problem of the study.

    Ids carry the dose where there are several, or always (`every_dose`).
    """
    pairs, problems = pair_up([(f"dataset '{entry.id}'", entry) for entry in entries], what="study file")
    if len({entry.id for entry in entries}) < len(entries):
        problems.append(f"study file: dataset ids must differ, got {', '.join(entry.id for entry in entries)}")
    doses = parameters.doses or (SimulateConfig.dose,)
    if isinstance(parameters.heldout, str):
        problems.append(f"--heldout {parameters.heldout}: a simulated scan has no such key; give a fraction")
    conditions = []
    for name, (_, train), (_, test) in pairs:
        split, problem = _split(parameters.split, alone=train is test, name=name)
        problems += problem
        for dose in doses:
            try:
                made = [_simulate(entry, dose, parameters, file=base) for entry in (train, test)]
            except UsageError as error:
                problems.append(str(error))
                break
            if train is not test and made[0].config["object_stream"] == made[1].config["object_stream"]:
                problems.append(
                    f"study file: '{train.id}' and '{test.id}' draw the same objects; give them two object_stream"
                )
            mark = f"_d{dose}" if len(doses) > 1 or every_dose else ""
            first, second = (replace(dataset, id=dataset.id + mark) for dataset in made)
            conditions.append(Condition(name + mark, first, second, split, parameters.heldout))
    return conditions, list(dict.fromkeys(problems))


def _simulate(entry: StudyScan, dose: str, parameters: Parameters, *, file: str | None) -> Dataset:
    """Return SIMULATE's entry: defaults < the study's dataset < parameters."""
    values = {
        **entry.simulate,
        # A random scan has no raster to displace.
        **({"scan": "random", "jitter_px": 0.0} if parameters.n_frames else {}),
        **options(parameters, CONFIG_FIELDS[SimulateConfig]),
        **options(parameters, ROLE_FIELDS["test" if entry.role == "test" else "train"]),
    }
    if parameters.set_phi is not None:
        values["phase"] = "amplitude" if parameters.set_phi else "none"
    config = complete(SimulateConfig, {**values, "dose": dose}, what=f"dataset '{entry.id}'")
    problems = []
    if "dose" in entry.simulate:
        problems.append("the dose is a parameter (doses), not a field of 'simulate'")
    of_base = [name for name in ("kind", "probe", "scan") if config[name] == "base"]
    if of_base and file is None:
        problems.append(f"{', '.join(of_base)} 'base' needs a file: give --base")
    if config["kind"] != "lines" and config["phase"] != "none":
        problems.append(f"only lines objects take a phase (--set_phi), not '{config['kind']}'")
    if config["kind"] != "base" and config["size"] < config["n"]:
        problems.append(f"an object of --size {config['size']} px is smaller than a frame of --N {config['n']} px")
    if problems:
        raise UsageError(f"dataset '{entry.id}': {'; '.join(problems)}")
    return Dataset(entry.id, "simulate", file, config, dose, config["n"], truth=True)


def pair_up(
    scans: Sequence[tuple[str, Scan]], *, what: str
) -> tuple[list[tuple[str, tuple[str, Scan], tuple[str, Scan]]], list[str]]:
    """Return (condition name, train, test) of scans with roles, each with where it stands, and every problem.

    A scan with role `both` stands alone and is both members; a train and a test scan of one object make a pair.
    """
    problems: list[str] = []
    groups: dict[tuple[str, bool], list[tuple[str, Scan]]] = {}
    for where, scan in scans:
        alone = scan.role == "both"
        groups.setdefault((scan.id if alone else scan.object or scan.id, alone), []).append((where, scan))
    pairs = []
    for (name, alone), members in groups.items():
        if alone:
            pairs.append((name, members[0], members[0]))
            continue
        train, test = ([member for member in members if member[1].role == role] for role in ("train", "test"))
        if len(train) == len(test) == 1:
            pairs.append((name, train[0], test[0]))
            continue
        listed = ", ".join(f"{where} ({scan.role})" for where, scan in members)
        problems.append(f"{what}, column 'role': object '{name}' needs one train and one test scan, has {listed}")
    if len({name for name, _, _ in pairs}) < len(pairs):
        twice = sorted({name for name, alone in groups if (name, not alone) in groups})
        problems.append(f"{what}, column 'object': {', '.join(twice)} names a pair and a scan that stands alone")
    return pairs, problems


def _split(asked: str | None, *, alone: bool, name: str) -> tuple[str, list[str]]:
    """Return the split of a condition: separate scans for a pair; for one scan the one asked for, else none."""
    if asked and (asked == "scans") is alone:
        return asked, [f"--split {asked}: {_split_rule(alone)} ('{name}')"]
    return asked or ("none" if alone else "scans"), []


def _split_rule(alone: bool) -> str:
    if alone:
        return "a scan that stands alone takes 'none' or 'region'"
    return "a train and a test scan are split by 'scans'"


def gather_conditions(
    sheet: Sheet | None, study: StudyFile | None, parameters: Parameters, *, ready: bool = False
) -> tuple[list[Condition], list[str]]:
    """Return the conditions of the one source of scans that was given, one for each view, and every problem.

    Args:
        sheet: measured scans, or scans that are taken as they are.
        study: the study file; one without datasets is a preset for scans from elsewhere.
        parameters: the merged parameters; `base` is the third source.
        ready: the sheet's scans are taken as they are, in place of any other source.
    """
    conditions, problems = from_ready(sheet, parameters) if ready else _scans(sheet, study, parameters)
    known = [ALL, *(study.views if study else ())]
    problems += [
        f"--views: unknown '{view}'{nearest(view, known)}; known are {', '.join(known)}"
        for view in parameters.views
        if view not in known
    ]
    # A study that defines views is extended, dose by dose and view by view: its ids say both from the start, so that they
    # stay what they are and nothing is done again.
    several = len(parameters.views) > 1 or bool(study and study.views)
    return [
        replace(condition, id=condition.id + (f"_{view}" if several else ""), view=view, object=condition.id)
        for condition in conditions
        for view in parameters.views
    ], problems


def _scans(sheet: Sheet | None, study: StudyFile | None, parameters: Parameters) -> tuple[list[Condition], list[str]]:
    """Return the conditions without their views."""
    every_dose = bool(study and study.views)
    sources = {
        f"--input {sheet.name if sheet else ''}": sheet is not None,
        f"--base {parameters.base}": parameters.base is not None,
        "--study": bool(study and study.datasets),
    }
    if parameters.base is not None and study and study.stand_in:
        sources.pop("--study")
    given = [source for source, is_given in sources.items() if is_given]
    if len(given) != 1:
        got = f"got {' and '.join(given)}, which each bring scans of their own" if given else "got none of them"
        return [], [f"scans come from exactly one of --input SHEET, --base FILE or a --study with datasets; {got}"]
    if sheet is not None:
        return from_sheet(sheet, parameters)
    if parameters.base is not None:
        return from_base(parameters.base, parameters, every_dose=every_dose)
    return from_study(study.datasets if study else (), parameters, every_dose=every_dose)
