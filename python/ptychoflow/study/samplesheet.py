"""Sheets: which scans there are and which belong together, or which views, models or reconstructions. CSV, JSON or YAML.

Everything wrong with a sheet is reported together, each problem with its row and column, so one round of repair suffices.
"""

import csv
import io
import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, fields
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from ptychoflow.config import STRICT, Side
from ptychoflow.data.plain_yaml import read_yaml
from ptychoflow.errors import UsageError, nearest
from ptychoflow.study.parameters import DoseText, Heldout

Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]


def _method_name(name: str) -> str:
    """Return a label that no picture of another row, and nothing but a method, can be taken for."""
    if re.search(r"_s\d+$", name):
        raise ValueError("ends like a seed; the seed has a column of its own, 'seed'")
    if name in ("gt", "truth", "ground_truth", "reference") or name.startswith("error_"):
        raise ValueError("is kept for the truth and the pictures of errors; choose another name")
    return name


WITH_CREDENTIALS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*@")
"""A URI with `user:password@` before its host."""


def _without_credentials(location: str) -> str:
    """Return a path or URI that may stand in logs, the plan and the published sheets."""
    if WITH_CREDENTIALS.match(location):
        raise ValueError(
            "holds a user name or password, which would stand in logs; give it to Nextflow in its own configuration"
        )
    return location


Location = Annotated[str, Field(min_length=1), AfterValidator(_without_credentials)]
"""A file, relative to the sheet's folder, or a URI without credentials."""


@dataclass(frozen=True, config=STRICT)
class SheetRow:
    """One scan of a samplesheet; an empty cell is a field at its default."""

    id: Identifier
    """Name of the scan, used in ids and paths."""
    scan: Location
    """The file, relative to the sheet's folder, or a URI."""
    role: Literal["train", "test", "both"] = "both"
    """`both` stands alone; a train row and a test row of one `object` belong together."""
    object: Identifier | None = None
    """What was measured; the id when absent."""
    split: Literal["none", "region", "scans"] | None = None
    """How this row's frames are split; `--split` when absent."""
    heldout: Heldout = None
    """Frames that no arm reads: a key of the file, or a fraction; `--heldout` when absent."""
    dose: DoseText | None = None
    """Dose that the file must not contradict, photons per frame."""
    N: Side | None = None
    """Side of a frame that the file must have, px; `--N` when absent."""
    layout: Literal["auto", "NHW", "HWN"] = "auto"
    """Frame axis first or last."""
    domain: Literal["auto", "amplitude", "intensity"] = "auto"
    """What the frames hold."""
    pixel_size_m: Annotated[float, Field(gt=0)] | None = None
    """Object pixel size that the file must not contradict, m."""
    photons_per_intensity: Annotated[float, Field(gt=0)] | None = None
    """Photons in one unit of amplitude squared, where the file does not say."""


@dataclass(frozen=True, config=STRICT)
class ReconRow:
    """One reconstruction of a sheet for `--from evaluate`; an empty cell is a field at its default."""

    recon: Location
    """The reconstruction (recon.npz), relative to the sheet's folder, or a URI."""
    scan: Location
    """What it is scored on: frames, probe, and truth or reference."""
    label: Annotated[Identifier, AfterValidator(_method_name)]
    """Name of the method; rows of one label and several seeds are repetitions of it."""
    object: Identifier | None = None
    """Reconstructions of one object are compared with each other; the scan file's name without suffix when absent."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Which repetition."""
    view: Location | None = None
    """A view.npz that was made for exactly this scan file; without one the scan is ingested and prepared."""
    heldout: Heldout = None
    """Frames that no method read: a key of the scan file, or a fraction; `--heldout` when absent."""
    dose: DoseText | None = None
    """Dose that the file must not contradict, photons per frame; beside a view it is taken as it is."""
    N: Side | None = None
    """Side of a frame, px; `--N` when absent."""
    layout: Literal["auto", "NHW", "HWN"] = "auto"
    """Frame axis first or last."""
    domain: Literal["auto", "amplitude", "intensity"] = "auto"
    """What the frames hold."""
    pixel_size_m: Annotated[float, Field(gt=0)] | None = None
    """Object pixel size that the file must not contradict, m."""
    photons_per_intensity: Annotated[float, Field(gt=0)] | None = None
    """Photons in one unit of amplitude squared, where the file does not say."""


@dataclass(frozen=True, config=STRICT)
class ReadyRow:
    """One scan of a sheet for `--from prepare`, taken as it is; an empty cell is a field at its default."""

    id: Identifier
    """Name of the scan, used in ids and paths."""
    scan: Location
    """The scan.npz that ptychoflow made, relative to the sheet's folder, or a URI."""
    role: Literal["train", "test", "both"] = "both"
    """`both` stands alone; a train row and a test row of one `object` belong together."""
    object: Identifier | None = None
    """What was scanned, the first part of the condition's id; the scan's id when absent."""
    split: Literal["none", "region", "scans"] | None = None
    """How this row's frames are split; `--split` when absent."""
    heldout: Heldout = None
    """Frames that no arm reads: a key of the file, a fraction or a list; `--heldout` when absent."""
    dose: DoseText | None = None
    """Dose, photons per frame."""
    N: Side | None = None
    """Side of a frame, px; `--N` when absent."""
    truth: bool = False
    """The file's object is the true one, as it is for a simulated scan."""


@dataclass(frozen=True, config=STRICT)
class ViewRow:
    """One view of a sheet for `--from train`, with the scans that it was made from; all are taken as they are."""

    condition: Identifier
    """What is compared with each other; its views differ in gridsize only."""
    view: Location
    """The view.npz, relative to the sheet's folder, or a URI."""
    gridsize: Annotated[int, Field(ge=1, le=3)]
    """Square root of the number of frames in a group of the view."""
    train: Identifier
    """Name of the train scan."""
    train_scan: Location
    """Its scan.npz."""
    test: Identifier
    """Name of the test scan; that of the train scan where one scan is both."""
    test_scan: Location
    """Its scan.npz."""
    N: Side
    """Side of a frame, px."""
    dose: DoseText | None = None
    """Dose, photons per frame."""
    truth: bool = False
    """The test scan's object is the true one."""
    split: Literal["none", "region", "scans"] = "none"
    """How the view tells train frames from test frames."""
    guard_px: Annotated[float, Field(ge=0)] | None = None
    """Least distance of train and test positions with `region`, px; N when absent."""
    name: Identifier = "all"
    """Name of the view in tables."""


# One class built on another, against the rule of the house: the columns of a view are needed here to the last.
@dataclass(frozen=True, config=STRICT, kw_only=True)
class ModelRow(ViewRow):
    """One reconstruction to make, of a sheet for `--from recon`: a view, the arm that reads it, and its trained model."""

    arm: Annotated[str, Field(min_length=1)]
    """Id in the registry."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Training seed."""
    model: Location | None = None
    """Folder of the trained model; none for an arm that is not trained."""


Row = TypeVar("Row", SheetRow, ReconRow, ReadyRow, ViewRow, ModelRow)


@plain_dataclass(frozen=True)
class Sheet:
    """A sheet as read, unchecked: its cells by row name ("row 2" of a CSV is the first one under the header)."""

    name: str
    rows: tuple[tuple[str, Mapping[str, Any]], ...]


def read_sheet(path: Path) -> Sheet:
    """Return the rows of a CSV, JSON or YAML sheet.

    Raises:
        UsageError: when the file is empty or not of its format.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"samplesheet {path.name}: not text in UTF-8 ({error}); save it as such") from error
    suffix = path.suffix.lower()
    if suffix == ".csv":
        sheet = _read_csv(text, path.name)
    elif suffix in (".json", ".yml", ".yaml"):
        sheet = _read_list(text, path.name, is_json=suffix == ".json")
    else:
        raise UsageError(f"samplesheet {path.name}: expected a .csv, .json, .yml or .yaml file")
    if not sheet.rows:
        raise UsageError(f"samplesheet {path.name}: no rows; give at least one")
    return sheet


def _read_csv(text: str, name: str) -> Sheet:
    try:
        lines = [[cell.strip() for cell in line] for line in csv.reader(io.StringIO(text), strict=True)]
    except csv.Error as error:
        raise UsageError(f"samplesheet {name}: not CSV: {error}") from error
    header = lines[0] if lines else []
    twice = sorted({column for column in header if header.count(column) > 1})
    if twice:
        raise UsageError(f"samplesheet {name}: columns occur twice: {', '.join(map(repr, twice))}")
    numbered = [(f"row {number}", line) for number, line in enumerate(lines[1:], start=2) if any(line)]
    long = [where for where, line in numbered if len(line) > len(header)]
    if long:
        raise UsageError(
            f"samplesheet {name}: more cells than the {len(header)} columns of the header in {', '.join(long)}"
        )
    rows = ((where, dict(zip(header, line, strict=False))) for where, line in numbered)
    return Sheet(name, tuple((where, {key: cell for key, cell in row.items() if cell}) for where, row in rows))


def _read_list(text: str, name: str, *, is_json: bool) -> Sheet:
    try:
        content = json.loads(text) if is_json else read_yaml(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"samplesheet {name}: not {'JSON' if is_json else 'YAML'}: {error}") from error
    if not isinstance(content, list) or not all(isinstance(item, dict) for item in content):
        raise UsageError(f"samplesheet {name}: expected a list of rows, each with named columns")
    rows = ((f"item {number}", item) for number, item in enumerate(content, start=1))
    return Sheet(
        name, tuple((where, {str(k): v for k, v in row.items() if v not in (None, "")}) for where, row in rows)
    )


def check_rows(sheet: Sheet, row_type: type[Row]) -> tuple[list[tuple[str, Row]], list[str]]:
    """Return the good rows by name, and every problem of the others with row and column."""
    columns = [field.name for field in fields(row_type)]
    good: list[tuple[str, Row]] = []
    unknown: dict[str, str] = {}
    problems: list[str] = []
    for where, cells in sheet.rows:
        for column in cells:
            if column not in columns:
                unknown.setdefault(column, f"samplesheet: unknown column '{column}'{nearest(column, columns)}")
        try:
            row = TypeAdapter(row_type).validate_python({k: v for k, v in cells.items() if k in columns})
        except ValidationError as error:
            problems += [_problem(where, cells, item, row_type) for item in error.errors(include_url=False)]
        else:
            good.append((where, row))
    return good, [*unknown.values(), *problems]


def repeated_ids(sheet: Sheet) -> list[str]:
    """Return a problem for every id that an earlier row has, whether that row is a good one or not."""
    problems = []
    first: dict[str, str] = {}
    for where, cells in sheet.rows:
        name = str(cells.get("id", ""))
        if name and first.setdefault(name, where) != where:
            problems.append(f"samplesheet {where}, column 'id': '{name}' is already the id of {first[name]}")
    return problems


def _problem(where: str, cells: Mapping[str, Any], item: Any, row_type: type) -> str:
    column = str(item["loc"][0])
    if column not in cells:
        required = [field.name for field in fields(row_type) if field.default is MISSING]
        return f"samplesheet {where}, column '{column}': missing; required are the columns {', '.join(required)}"
    got = WITH_CREDENTIALS.sub("***@", repr(cells[column]))
    return f"samplesheet {where}, column '{column}': {item['msg']}, got {got}"
