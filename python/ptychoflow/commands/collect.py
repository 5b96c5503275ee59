"""COLLECT: every planned run accounted for, from whatever arrived.

    plan.json, status.json ..., metrics.json ..., visuals/ ... -> metrics.csv, statistics.csv, comparisons.csv, run_status.tsv,
                                                                  summary.md, report.html, recons.csv, manifest.json

Files arrive under arbitrary names. A JSON file says inside whose it is, a folder of pictures in its comparison.json; a history
(CSV) is called `<run_id>.csv` or `<run_id>.<anything>.csv`. A file that cannot be assigned is named in the report.
"""

import csv
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ptychoflow.data.storage import atomic_write, read_json
from ptychoflow.provenance import sha256_file, versions, write_manifest
from ptychoflow.report.figures import training_curve
from ptychoflow.report.html import render
from ptychoflow.report.ranking import COMPARISON_COLUMNS, comparison_rows
from ptychoflow.report.sections import ReportInput
from ptychoflow.report.summary import summary_markdown
from ptychoflow.report.tables import (
    METRIC_COLUMNS,
    STATISTIC_COLUMNS,
    STATUS_COLUMNS,
    arm_rows,
    delimited,
    outcomes,
    statistic_rows,
    status_rows,
    tidy_rows,
    unplanned,
)
from ptychoflow.study.resheet import recon_sheet

logger = logging.getLogger(__name__)


def run(
    *,
    plan: Path,
    statuses: list[Path],
    metrics: list[Path],
    comparisons: list[Path],
    histories: list[Path],
    min_success: int,
    out_dir: Path,
) -> int:
    """Write tables, summary, report and the sheet for re-entry; return the number of runs that ended ok.

    Too few of them is the workflow's verdict to pass: the tables are written either way.

    Args:
        plan: plan.json.
        statuses: status.json of every stage of every run.
        metrics: metrics.json of every scored run.
        comparisons: folders of pictures with a comparison.json, one per condition.
        histories: loss histories.
        min_success: fewest ok runs for success, as the report says it.
        out_dir: folder to write into.

    Raises:
        ContractError: when the plan, a status, a metrics file or a comparison is not strict JSON.
    """
    the_plan = read_json(plan)
    status_documents = [read_json(path) for path in statuses]
    metric_documents = [read_json(path) for path in metrics]
    found = outcomes(the_plan, status_documents, metric_documents)
    runs = [outcome.run_id for outcome in found]
    notes = [
        f"{name} reported, but the plan does not know it"
        for name in unplanned(the_plan, status_documents, metric_documents)
    ]
    compared, pictures = read_visuals(comparisons)
    known = {str(outcome.run["condition"]) for outcome in found}
    notes += [
        f"the pictures of '{name}' are left out: the plan has no such condition" for name in sorted({*compared} - known)
    ]
    report = ReportInput(
        plan=the_plan,
        found=found,
        comparisons={name: document for name, document in compared.items() if name in known},
        pictures=pictures,
        curves=_curves(histories, runs, notes),
        versions=versions(),
        notes=notes,
        min_success=min_success,
    )
    place = {run_id: index for index, run_id in enumerate(runs)}
    ordered = sorted(metric_documents, key=lambda document: place.get(document["run_id"], len(place)))
    outputs = write_tables(out_dir, report, ordered)
    _write(out_dir / "run_status.tsv", delimited(status_rows(found), STATUS_COLUMNS, delimiter="\t"))
    scored = {document["run_id"] for document in metric_documents}
    _write(out_dir / "recons.csv", recon_sheet(the_plan, scored))
    lists = {"status": statuses, "metrics": metrics, "history": histories}
    lists["comparison"] = [folder / "comparison.json" for folder in comparisons]
    # Numbered by content, so that the order of arrival cannot show.
    inputs = {
        f"{kind}_{index}": path
        for kind, paths in lists.items()
        for index, path in enumerate(sorted(paths, key=sha256_file))
    }
    write_manifest(
        out_dir,
        command="collect",
        inputs={"plan": plan, **inputs},
        outputs=[*outputs, "run_status.tsv", "recons.csv"],
        parameters={"min_success": min_success},
    )
    n_ok = sum(outcome.state == "ok" for outcome in found)
    for note in notes:
        logger.warning("%s", note)
    logger.info("%d of %d planned runs ended ok", n_ok, len(found))
    return n_ok


def write_tables(out_dir: Path, report: ReportInput, metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """Write what scores alone decide; return the names of the files.

    Args:
        out_dir: folder to write into.
        report: everything that the report shows.
        metrics: metrics.json of every run, in the order of the tables.
    """
    own = [_as_metrics(document["reference"]) for document in report.comparisons.values() if document["reference"]]
    files = {
        "metrics.csv": delimited(tidy_rows([*metrics, *own]), METRIC_COLUMNS),
        "statistics.csv": delimited(statistic_rows(arm_rows(report.found)), STATISTIC_COLUMNS),
        "comparisons.csv": delimited(comparison_rows(report.verdicts), COMPARISON_COLUMNS),
        "summary.md": summary_markdown(report),
        "report.html": render(report),
    }
    for name, text in files.items():
        _write(out_dir / name, text)
    return list(files)


def read_visuals(folders: Sequence[Path]) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, bytes]]]:
    """Return comparison.json and the PNG files of every folder, by condition, in the order of their ids.

    Raises:
        ContractError: a folder without a comparison.json in strict JSON.
    """
    documents, pictures = {}, {}
    for folder in folders:
        document = read_json(folder / "comparison.json")
        documents[document["condition"]] = document
        pictures[document["condition"]] = {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}
    return {name: documents[name] for name in sorted(documents)}, pictures


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as stream:
        stream.write(text.encode())


def _as_metrics(reference: dict[str, Any]) -> dict[str, Any]:
    """Return the scores of the scan's own object in the form of a run's: its label is what it is, it has no arm."""
    return {"run_id": "", "label": reference["name"], "against": None, **reference}


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
