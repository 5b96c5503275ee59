"""The report: one HTML file that needs nothing else, built from plain tables and PNG bytes; no dates, the same bytes each time."""

import base64
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ptychoflow.report.tables import ArmRow, Json, Key, Outcome, arm_rows, medians, scores_of

HEADLINE: tuple[tuple[str, Key], ...] = (
    ("complex FRC 0.5", ("stitched", "complex", "frc50")),
    ("phase MAE", ("stitched", "phase", "mae")),
    ("phase SSIM", ("stitched", "phase", "ssim")),
    ("phase Pearson", ("stitched", "phase", "pearson")),
    ("amplitude MAE", ("stitched", "amp", "mae")),
    ("amplitude SSIM", ("stitched", "amp", "ssim")),
    ("amplitude Pearson", ("stitched", "amp", "pearson")),
    ("held-out contrast", ("consistency", "heldout", "contrast")),
    ("held-out R-factor", ("consistency", "heldout", "r_factor")),
    ("test-frame contrast", ("consistency", "test", "contrast")),
    ("test-frame R-factor", ("consistency", "test", "r_factor")),
)
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
ARROWS = {"lower": "↓", "higher": "↑", "one": "→1"}
PARTS = {"amp": "amplitude", "heldout": "held-out frames", "test": "test frames"}


@dataclass(frozen=True)
class ReportInput:
    """Everything the report shows.

    Attributes:
        plan: content of plan.json.
        found: one outcome per planned run.
        pictures: PNG bytes by run id.
        curves: PNG bytes of loss curves by run id.
        compares: PNG bytes by condition.
        references: reference_metrics.json by condition: the scan's own object under the same code.
        versions: versions by package, `code_rev` among them.
        notes: what did not fit the plan.
        min_success: fewest ok runs for success.
    """

    plan: Json
    found: Sequence[Outcome]
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    curves: Mapping[str, bytes] = field(default_factory=dict)
    compares: Mapping[str, bytes] = field(default_factory=dict)
    references: Mapping[str, Json] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    min_success: int = 1


@dataclass(frozen=True)
class Column:
    """A column of scores: title with the direction of better values, unit, key."""

    title: str
    unit: str
    arrow: str
    key: Key


@dataclass(frozen=True)
class Scoring:
    """How one run was scored, in words."""

    run_id: str
    against: str
    region: str
    covered_percent: float | None
    alignment: str


@dataclass(frozen=True)
class Section:
    """One condition of the report.

    Attributes:
        name: id of the condition.
        facts: what it consists of, as (term, description).
        rows: its arms; the last one is the scan's own object where there is one.
        columns: headline scores that at least one row has.
        everything: all other scores, one table row each.
        scoring: how each run was aligned and where it was scored.
        notes: reasons why scores do not apply.
    """

    name: str
    facts: list[tuple[str, str]]
    rows: list[ArmRow]
    columns: list[Column]
    everything: list[Column]
    scoring: list[Scoring]
    notes: list[str]


def show(value: float | None) -> str:
    """Return a number with four significant digits, a dash for none."""
    if value is None:
        return "–"
    return f"{value:.4g}"


def data_uri(png: bytes) -> str:
    """Return PNG bytes as a data URI."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def png_size(png: bytes) -> tuple[int, int]:
    """Return width and height of a PNG, px, from its header."""
    width, height = struct.unpack(">II", png[16:24])
    return int(width), int(height)


def png_title(png: bytes) -> str | None:
    """Return the `Title` text of a PNG; None when it has none or the bytes are not a PNG."""
    if not png.startswith(PNG_SIGNATURE):
        return None
    place = len(PNG_SIGNATURE)
    while place + 8 <= len(png):
        length, kind = struct.unpack(">I4s", png[place : place + 8])
        key, _, text = png[place + 8 : place + 8 + length].partition(b"\0")
        if kind == b"tEXt" and key == b"Title":
            return text.decode("latin-1")
        place += length + 12
    return None


def sections(given: ReportInput) -> list[Section]:
    """Return one section per condition, in the order of the plan."""
    arms = arm_rows(given.found)
    names = list(dict.fromkeys(row.condition for row in arms))
    return [_section(given, name, [row for row in arms if row.condition == name]) for name in names]


def _section(given: ReportInput, name: str, rows: list[ArmRow]) -> Section:
    documents = [
        outcome.metrics for outcome in given.found if outcome.run["condition"] == name and outcome.metrics is not None
    ]
    reference = given.references.get(name)
    if reference is not None:
        scores, own_notes = medians([reference])
        label = reference_label(reference)
        rows = [*rows, ArmRow(name, label, scores, own_notes, None, None, "", {})]
        documents = [*documents, reference]
    records = {key: score for document in documents for key, score in scores_of(document).items()}
    keys = [key for key in records if any(row.scores.get(key, (None, 0))[0] is not None for row in rows)]
    headline = [_column(title, key, records[key]) for title, key in HEADLINE if key in keys]
    if any(column.key[1] == "heldout" for column in headline):  # frames nobody read say more than those of the test set
        headline = [column for column in headline if column.key[:2] != ("consistency", "test")]
    notes = sorted({f"{_title(key)}: {reason}" for row in rows for key, reason in row.notes.items()})
    for document in documents:
        for block in ("stitched", "patch", "consistency"):
            if reason := (document.get(block) or {}).get("not_applicable"):
                notes.append(f"{block} scores: {reason}")
    scored = [document for document in documents if document is not reference]
    return Section(
        name,
        _facts(given.plan, name),
        rows,
        headline,
        [_column(_title(key), key, records[key]) for key in keys],
        [_scoring(document) for document in scored],
        list(dict.fromkeys(notes)),
    )


def reference_label(reference: Json) -> str:
    """Return what the scan's own object is called in the tables."""
    return "truth" if reference.get("name") == "truth" else "file's own object"


def _column(title: str, key: Key, score: Json) -> Column:
    unit = str(score.get("unit") or "1")
    return Column(title, "" if unit == "1" else unit, ARROWS.get(str(score.get("direction")), ""), key)


def _title(key: Key) -> str:
    block, part, metric = key
    words = [
        *([] if block == "stitched" else [block]),
        PARTS.get(part, part.replace(".", " ")),
        metric.replace("_", " "),
    ]
    return " ".join(word for word in words if word)


def _facts(plan: Json, name: str) -> list[tuple[str, str]]:
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


def _scoring(document: Json) -> Scoring:
    """Return against what, where and after which alignment a run was scored."""
    regions: list[list[int]] = next(
        (score["region"] for score in scores_of(document).values() if score.get("region")), []
    )
    records = alignments(document)
    words = [f"object {index}: {_alignment(record)}" for index, record in enumerate(records)]
    return Scoring(
        run_id=str(document["run_id"]),
        against=str(document.get("against") or "nothing: the scan holds no object"),
        region="; ".join(f"rows {r0} to {r1}, columns {c0} to {c1}" for r0, r1, c0, c1 in regions) or "–",
        covered_percent=None if document.get("coverage") is None else 100 * float(document["coverage"]),
        alignment=_alignment(records[0]) if len(records) == 1 else "; ".join(words) or "–",
    )


def alignments(document: Json) -> list[Json]:
    """Return the alignment records of a run, one per scored object."""
    return list((document.get("alignment") or {}).get("by_object") or [])


def _alignment(record: Json) -> str:
    """Return one alignment in words."""
    gauge, angle = record.get("gauge_abs"), record.get("gauge_arg_rad")
    words = []
    if record.get("mode") == "none":
        words.append("none applied")
    elif gauge is None or angle is None:
        words.append("no complex factor: the reconstruction is zero")
    else:
        words.append(f"complex factor {gauge:.4g} · exp({angle:.4g} i)")
    if record.get("ramp_rad_per_px"):
        row, col = record["ramp_rad_per_px"]
        words.append(f"phase ramp {row:.3g}, {col:.3g} rad/px (row, column)")
    if record.get("correlation") is not None:
        words.append(
            f"correlation {record['correlation']:.4g}, of the twin image {record.get('twin_correlation', 0):.4g}"
        )
    if record.get("twin_warning"):
        words.append("WARNING: the twin image fits better")
    return "; ".join(words)


def render(given: ReportInput) -> str:
    """Return the report as HTML text."""
    environment = Environment(
        loader=PackageLoader("ptychoflow.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"show": show, "data_uri": data_uri, "png_size": png_size}
    states = {
        state: sum(outcome.state == state for outcome in given.found)
        for state in ("ok", "failed", "missing", "skipped")
    }
    context: dict[str, Any] = {
        "given": given,
        "sections": sections(given),
        "states": states,
        "total": len(given.found),
        "bad": [outcome for outcome in given.found if outcome.state != "ok"],
        "parameters": sorted(given.plan.get("parameters", {}).items()),
        "versions": sorted(given.versions.items()),
    }
    return environment.get_template("report.html.j2").render(context)
