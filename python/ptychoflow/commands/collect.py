"""COLLECT: every planned run accounted for, from whatever arrived.

    plan.json, status.json ..., metrics.json ..., pictures -> metrics.csv, run_status.tsv, summary.md, report.html

Files arrive under arbitrary names. A JSON file says inside whose it is; a PNG says so in its own title text; a history (CSV)
is called `<run_id>.csv` or `<run_id>.<anything>.csv`. A file that cannot be assigned is named in the report.
"""

import csv
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ptychoflow.data.storage import atomic_write, read_json
from ptychoflow.provenance import sha256_file, versions, write_manifest
from ptychoflow.report.figures import training_curve
from ptychoflow.report.html import ReportInput, png_title, render
from ptychoflow.report.summary import summary_markdown
from ptychoflow.report.tables import (
    METRIC_COLUMNS,
    STATUS_COLUMNS,
    delimited,
    outcomes,
    status_rows,
    tidy_rows,
    unplanned,
)

logger = logging.getLogger(__name__)


def run(
    *,
    plan: Path,
    statuses: list[Path],
    metrics: list[Path],
    pictures: list[Path],
    compares: list[Path],
    reference_metrics: list[Path],
    histories: list[Path],
    min_success: int,
    out_dir: Path,
) -> int:
    """Write tables, summary and report; return the number of runs that ended ok.

    Too few of them is the workflow's verdict to pass: the tables are written either way.

    Raises:
        ContractError: when the plan, a status or a metrics file is not strict JSON.
    """
    the_plan = read_json(plan)
    status_documents = [read_json(path) for path in statuses]
    metric_documents = [read_json(path) for path in metrics]
    references = {document["condition"]: document for document in map(read_json, reference_metrics)}
    found = outcomes(the_plan, status_documents, metric_documents)
    runs = [outcome.run_id for outcome in found]
    notes = [
        f"{name} reported, but the plan does not know it"
        for name in unplanned(the_plan, status_documents, metric_documents)
    ]
    conditions = list(dict.fromkeys(str(outcome.run["condition"]) for outcome in found))
    report = ReportInput(
        plan=the_plan,
        found=found,
        pictures=_by_title(pictures, runs, notes),
        curves=_curves(histories, runs, notes),
        compares=_by_title(compares, conditions, notes),
        references=references,
        versions=versions(),
        notes=notes,
        min_success=min_success,
    )
    place = {run_id: index for index, run_id in enumerate(runs)}
    rows = tidy_rows(sorted(metric_documents, key=lambda document: place.get(document["run_id"], len(place))))
    rows += tidy_rows([_as_metrics(references[name]) for name in sorted(references)])
    _write(out_dir / "metrics.csv", delimited(rows, METRIC_COLUMNS))
    _write(out_dir / "run_status.tsv", delimited(status_rows(found), STATUS_COLUMNS, delimiter="\t"))
    _write(out_dir / "summary.md", summary_markdown(report))
    _write(out_dir / "report.html", render(report))
    lists = {
        "status": statuses,
        "metrics": metrics,
        "picture": pictures,
        "compare": compares,
        "reference": reference_metrics,
        "history": histories,
    }
    # Numbered by content, so that the order of arrival cannot show.
    inputs = {
        f"{kind}_{index}": path
        for kind, paths in lists.items()
        for index, path in enumerate(sorted(paths, key=sha256_file))
    }
    outputs = ["metrics.csv", "run_status.tsv", "summary.md", "report.html"]
    write_manifest(
        out_dir,
        command="collect",
        inputs={"plan": plan, **inputs},
        outputs=outputs,
        parameters={"min_success": min_success},
    )
    n_ok = sum(outcome.state == "ok" for outcome in found)
    for note in notes:
        logger.warning("%s", note)
    logger.info("%d of %d planned runs ended ok", n_ok, len(found))
    return n_ok


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as stream:
        stream.write(text.encode())


def _as_metrics(reference: dict[str, Any]) -> dict[str, Any]:
    """Return the scores of the scan's own object in the form of a run's: its label is what it is, it has no arm."""
    return {"run_id": "", "label": reference["name"], "against": None, **reference}


def _by_title(paths: Sequence[Path], ids: Sequence[str], notes: list[str]) -> dict[str, bytes]:
    """Return PNG bytes by the id that the picture's title starts with; add a note for those without a known one."""
    found = {}
    for path in paths:
        png = path.read_bytes()
        owner = (png_title(png) or "").partition(":")[0]
        if owner in ids:
            found[owner] = png
        else:
            notes.append(
                f"{path.name} is left out: expected a PNG whose title starts with a planned id, got '{owner or 'none'}'"
            )
    return found


def _curves(paths: Sequence[Path], runs: Sequence[str], notes: list[str]) -> dict[str, bytes]:
    """Return a loss curve as PNG bytes for every history, by run id."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for path in paths:
            # The longest id wins: ids may hold dots, and one may begin with another.
            owner = max((name for name in runs if path.name.startswith(f"{name}.")), key=len, default=None)
            if owner is None:
                notes.append(f"{path.name} is left out: expected a history called <run_id>.csv")
                continue
            with path.open(newline="") as stream:
                history = list(csv.DictReader(stream))
            training_curve(history, Path(folder) / "curve.png")
            found[owner] = (Path(folder) / "curve.png").read_bytes()
    return found
