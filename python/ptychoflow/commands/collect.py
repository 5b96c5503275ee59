"""COLLECT: every planned run accounted for, from whatever arrived.

    plan.json, status.json ..., metrics.json ..., visuals/ ... -> metrics.csv, statistics.csv, comparisons.csv, run_status.tsv,
                                                                  summary.md, report.html, manifest.json
    manifest.json of every task                                -> training_manifest.json, skip_summary.json,
                                                                  run_manifest.json, comparison_manifest.json, versions.yml
    what arrived, what was given                               -> scans.csv, views.csv, models.csv, recons.csv
    training_manifest.json of a validated run                  -> loss_check.json

Files arrive under arbitrary names. A JSON file says inside whose it is, a folder of pictures in its comparison.json; a history
(CSV) is called `<run_id>.csv` or `<run_id>.<anything>.csv`. A file that cannot be assigned is named in the report.
"""

import csv
import logging
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from ptychoflow.data.storage import atomic_write, read_json, write_json
from ptychoflow.errors import ContractError
from ptychoflow.provenance import process_versions, sha256_file, used_versions, versions, write_manifest
from ptychoflow.report.figures import training_curve
from ptychoflow.report.html import render
from ptychoflow.report.ranking import COMPARISON_COLUMNS, comparison_rows
from ptychoflow.report.sections import ReportInput
from ptychoflow.report.study_curves import study_pictures
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
from ptychoflow.study.guardrail import ABS_TOLERANCE, TOLERANCE, check_all, unshared, verdict
from ptychoflow.study.manifests import TRAINING, documents, placed_bundles
from ptychoflow.study.resheet import Arrived, sheets

logger = logging.getLogger(__name__)


def run(
    *,
    plan: Path,
    statuses: list[Path],
    metrics: list[Path],
    comparisons: list[Path],
    histories: list[Path],
    manifests: list[Path],
    bundles: Sequence[Path] = (),
    min_success: int,
    loss_reference: Path | None = None,
    loss_tolerance: float = TOLERANCE,
    given: Mapping[str, Any] | None = None,
    out_dir: Path,
) -> int:
    """Write tables, summary, report, the study's manifests and the sheets for re-entry; return the number of runs that ended ok.

    Too few of them, or a loss beyond its limit, is the workflow's verdict to pass: the tables are written either way.

    Args:
        plan: plan.json.
        statuses: status.json of every stage of every run.
        metrics: metrics.json of every scored run.
        comparisons: folders of pictures with a comparison.json, one per condition.
        histories: loss histories.
        manifests: manifest.json of every task.
        bundles: metrics_bundle.json of every view that was made.
        min_success: fewest ok runs for success, as the report says it.
        loss_reference: training_manifest.json of a validated run, where there is one.
        loss_tolerance: share of a reference's loss by which this run's may exceed it.
        given: paths of scans and views that were given, relative to the folder of the sheets (study/resheet.py).
        out_dir: folder to write into.

    Raises:
        ContractError: when the plan, a status, a metrics file or a comparison is not strict JSON.
    """
    the_plan = read_json(plan)
    status_documents = [read_json(path) for path in statuses]
    metric_documents = [read_json(path) for path in metrics]
    records = [read_json(path) for path in manifests]
    datasets = [record for record in records if record["command"] in ("simulate", "ingest")]
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
    scored = {document["run_id"] for document in metric_documents}
    study = documents(
        the_plan,
        statuses=status_documents,
        train_manifests=[record for record in records if record["command"] == "train"],
        dataset_manifests=datasets,
        compared=compared.keys(),
        scored=scored,
        versions=versions(),
    )
    for name, document in study.items():
        write_json(out_dir / name, document)
    written, verdicts = [*study], list[str]()
    bundle_documents = [read_json(path) for path in bundles]
    for name, document in placed_bundles(the_plan, bundle_documents).items():
        (out_dir / name).parent.mkdir(parents=True, exist_ok=True)
        write_json(out_dir / name, document)
        written.append(name)
    if loss_reference is not None:
        check = _loss_check(loss_reference, study[TRAINING], loss_tolerance)
        write_json(out_dir / "loss_check.json", check)
        written.append("loss_check.json")
        verdicts.append(check["verdict"])
        logger.log(logging.INFO if check["passed"] else logging.ERROR, "%s", check["verdict"])
    report = ReportInput(
        plan=the_plan,
        found=found,
        comparisons={name: document for name, document in compared.items() if name in known},
        pictures=pictures,
        curves=_curves(histories, runs, notes),
        versions=versions(),
        notes=[*notes, *verdicts],
        min_success=min_success,
        bundles={document["test"]["view"]: document for document in bundle_documents},
    )
    drawn, undrawn = study_pictures(report)
    report = replace(report, study_pictures=drawn, notes=[*report.notes, *undrawn])
    for name, picture in drawn.items():
        (out_dir / "study").mkdir(exist_ok=True)
        with atomic_write(out_dir / "study" / name) as stream:
            stream.write(picture)
        written.append(f"study/{name}")
    place = {run_id: index for index, run_id in enumerate(runs)}
    ordered = sorted(metric_documents, key=lambda document: place.get(document["run_id"], len(place)))
    outputs = write_tables(out_dir, report, ordered)
    _write(out_dir / "run_status.tsv", delimited(status_rows(found), STATUS_COLUMNS, delimiter="\t"))
    arrived = _arrived(the_plan, status_documents, datasets, scored)
    for name, text in sheets(the_plan, arrived, given or {}).items():
        _write(out_dir / name, text)
        written.append(name)
    own = {"command": "collect", "versions": used_versions()}
    _write(out_dir / "versions.yml", yaml.safe_dump({"processes": process_versions([*records, own])}))
    lists = {
        "status": statuses,
        "metrics": metrics,
        "history": histories,
        "manifest": manifests,
        "bundle": list(bundles),
    }
    lists["loss_reference"] = [] if loss_reference is None else [loss_reference]
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
        outputs=[*outputs, *written, "run_status.tsv"],
        parameters={"min_success": min_success, "loss_tolerance": loss_tolerance},
    )
    n_ok = sum(outcome.state == "ok" for outcome in found)
    for note in notes:
        logger.warning("%s", note)
    logger.info("%d of %d planned runs ended ok", n_ok, len(found))
    return n_ok


def _arrived(
    plan: Mapping[str, Any],
    statuses: Sequence[Mapping[str, Any]],
    datasets: Sequence[Mapping[str, Any]],
    scored: Collection[str],
) -> Arrived:
    """Return what a later run could begin from: what was given, and what ended ok."""
    done = {
        stage: {one["run_id"] for one in statuses if (one["stage"], one["state"]) == (stage, "ok")}
        for stage in ("prepare", "train")
    }
    return Arrived(
        scans={one["id"] for one in plan["datasets"] if one["kind"] == "ready"}
        | {one["parameters"]["dataset"] for one in datasets},
        views={view["id"] for view in plan["views"] if view["file"]} | done["prepare"],
        models=done["train"],
        recons=scored,
    )


def _loss_check(reference: Path, training: Mapping[str, Any], tolerance: float) -> dict[str, Any]:
    """Return loss_check.json; a reference that cannot be used is a failed check, never a lost table."""
    document: dict[str, Any] = {
        "schema_version": 1,
        "tolerance": tolerance,
        "abs_tolerance": ABS_TOLERANCE,
        "reference": {"name": reference.name, "sha256": sha256_file(reference)},
        "results": [],
        "not_checked": [],
    }
    try:
        wanted = read_json(reference)
        results, left = check_all(wanted, training, tolerance), unshared(wanted, training)
    except ContractError as error:
        return {**document, "passed": False, "verdict": f"loss guardrail: {error}"}
    passed, text = verdict(results, left)
    return {
        **document,
        "passed": passed,
        "verdict": text,
        "results": [asdict(result) for result in results],
        "not_checked": [dict(zip(("dose", "view", "gridsize", "arm"), cell, strict=True)) for cell in left],
    }


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
