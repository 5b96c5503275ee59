"""PLAN: from parameters, samplesheet or study file to `plan.json` and a table of runs for people."""

import json
import logging
from pathlib import Path
from typing import Any

from ptychoflow.arms.registry import load_registry
from ptychoflow.data.plain_yaml import read_yaml
from ptychoflow.data.storage import atomic_write, write_json
from ptychoflow.errors import UsageError
from ptychoflow.provenance import versions, write_manifest
from ptychoflow.study.manifests import documents
from ptychoflow.study.parameters import OF_THIS_MACHINE
from ptychoflow.study.plan import make_plan, table
from ptychoflow.study.samplesheet import read_sheet

log = logging.getLogger(__name__)


def run(params_text: str, sheet: Path | None, study: Path | None, arms: Path, out_dir: Path) -> None:
    """Write `plan.json`, `plan.txt` and, in `planned/`, the study's manifests as they are before anything ran.

    Args:
        params_text: a JSON object of parameters by name; null means not given.
        sheet: samplesheet (CSV, JSON or YAML) of measured scans.
        study: study file (YAML).
        arms: the arm registry (JSON).
        out_dir: folder for the two files.

    Raises:
        UsageError: when anything in parameters, sheet, study or registry is wrong; all of it is named.
    """
    parameters = _parameters(params_text)
    plan = make_plan(
        parameters,
        read_sheet(sheet) if sheet else None,
        _study(study) if study else None,
        load_registry(arms),
    )
    text = table(plan)
    write_json(out_dir / "plan.json", plan.as_json())
    planned = documents(plan.as_json(), versions=versions(), dry_run=True)
    (out_dir / "planned").mkdir()
    for name, document in planned.items():
        write_json(out_dir / "planned" / name, document)
    with atomic_write(out_dir / "plan.txt") as stream:
        stream.write(text.encode())
    inputs = {name: path for name, path in (("arms", arms), ("sheet", sheet), ("study", study)) if path is not None}
    write_manifest(
        out_dir,
        command="plan",
        inputs=inputs,
        outputs=["plan.json", "plan.txt", *(f"planned/{name}" for name in planned)],
        parameters={name: value for name, value in parameters.items() if name not in OF_THIS_MACHINE},
    )
    log.info("%s", text.splitlines()[-1])


def _parameters(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise UsageError(f"--params: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"--params: expected a JSON object of names and values, got {type(values).__name__}")
    return values


def _study(path: Path) -> dict[str, Any]:
    try:
        content = read_yaml(path.read_text())
    except ValueError as error:
        raise UsageError(f"{path.name}: not YAML: {error}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path.name}: expected a study with 'description', 'params' and 'datasets'")
    return content
