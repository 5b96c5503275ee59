"""The study's manifests: which data were made, what was trained, skipped and compared, as four JSON documents.

    plan, statuses, TRAIN's and the datasets' manifests -> run_manifest.json, training_manifest.json, skip_summary.json,
                                                           comparison_manifest.json

Every planned job keeps its entry, whatever became of it, and a plan without runs gives documents without jobs (T10, D73).
Paths are relative to the output folder and there are no dates: the same inputs give the same bytes. Source: study reference,
section 2.2.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from ptychoflow.study.parameters import read_parameters

Json = Mapping[str, Any]

SCHEMA_VERSION = 1
TRAINING, SKIPS = "training_manifest.json", "skip_summary.json"
DATA, COMPARISONS = "run_manifest.json", "comparison_manifest.json"

FILTERS = {"dose": "doses", "view": "views", "gridsize": "gridsizes", "arm": "models", "seed": "seeds"}
"""Field of a job -> parameter that chooses among its values."""

LOSSES = {"nll_weight": ("deviance", "1"), "mae_weight": ("mae", "photon^(1/2)"), "realspace_weight": ("tv", "1")}
"""Weight in TrainConfig -> name and unit of its term: deviance per mean count, amplitude error, total variation."""

LABEL_LOSS = ("label_mae", "1 + rad")
"""Loss of a supervised arm: error of the amplitude plus error of the phase."""


def bundle_sha256(outputs: Mapping[str, str], folder: str = "model") -> str:
    """Return one sha256 for a folder: that of the lines `<sha256>  <name>` of its files, ordered by name.

    `cd model && find * -type f | LC_ALL=C sort | xargs sha256sum | sha256sum` gives the same number.

    Args:
        outputs: sha256 of files by relative name, as a manifest's `outputs`; those outside of the folder do not count.
        folder: name of the folder.
    """
    inside = {
        name.removeprefix(f"{folder}/"): value for name, value in outputs.items() if name.startswith(f"{folder}/")
    }
    lines = "".join(f"{inside[name]}  {name}\n" for name in sorted(inside))
    return hashlib.sha256(lines.encode()).hexdigest()


def bundle_path(run: Json) -> str:
    """Return where a run's trained model lies in the output folder."""
    return f"conditions/{run['condition']}/runs/{run['label']}/s{run['seed']}/train/model"


def training_loss(weights: Json, *, supervised: bool) -> tuple[str, str]:
    """Return name and unit of the loss that a training minimizes; factors are part of the name, since they scale the value.

    Args:
        weights: fields of TrainConfig.
        supervised: the arm learns from labels, and the weights do not count.
    """
    if supervised:
        return LABEL_LOSS
    terms = [(weights[field], *LOSSES[field]) for field in LOSSES if weights[field]]
    names = [term if weight == 1 else f"{weight:g} {term}" for weight, term, _ in terms]
    return " + ".join(names), " + ".join(dict.fromkeys(unit for _, _, unit in terms))


def dose_key(dose: str) -> str:
    """Return the name of a dose as an integer of photons: `1e3` is `dose_1000`."""
    return f"dose_{Decimal(dose):f}"


def documents(
    plan: Json,
    *,
    statuses: Sequence[Json] = (),
    train_manifests: Sequence[Json] = (),
    dataset_manifests: Sequence[Json] = (),
    compared: Collection[str] = (),
    scored: Collection[str] = (),
    versions: Mapping[str, str],
    dry_run: bool = False,
) -> dict[str, dict[str, Any]]:
    """Return the four documents by the names of their files.

    Args:
        plan: plan.json.
        statuses: status.json of every stage that reported.
        train_manifests: manifest.json of every training.
        dataset_manifests: manifest.json of every dataset that was made.
        compared: ids of the conditions whose comparison arrived.
        scored: ids of the runs whose scores arrived.
        versions: versions of the software.
        dry_run: only the plan was made; every job is `planned`.
    """
    head = {"schema_version": SCHEMA_VERSION, "dry_run": dry_run, "filters": filters(plan), "versions": dict(versions)}
    reports = _reports(statuses)
    skipped = skipped_views(plan, reports)
    trained = {document["parameters"]["run"]["run_id"]: document for document in train_manifests}
    made = {document["parameters"]["dataset"]: document for document in dataset_manifests}
    skips = {"skipped_views": skipped, "skipped_count": len(skipped)}
    jobs = training_jobs(plan, reports, trained, dry_run=dry_run)
    return {
        DATA: {**head, "datasets": datasets(plan, made, dry_run=dry_run)},
        TRAINING: {**head, "jobs": jobs, **skips, "skip_summary_path": SKIPS},
        SKIPS: {**head, **skips},
        COMPARISONS: {**head, **comparisons(plan, compared, scored, dry_run=dry_run)},
    }


def placed_bundles(plan: Json, bundles: Sequence[Json]) -> dict[str, dict[str, Any]]:
    """Return the metrics bundles of the views as files of the output folder: `metrics/<dose>/<view>_gs<g>.json`.

    A scan other than the plan's first at that dose, or one without a dose, goes by its id in place of the dose. Paths in the
    bundles become relative to the output folder.
    """
    found: dict[str, dict[str, Any]] = {}
    by_id = {bundle["test"]["view"]: bundle for bundle in bundles}
    conditions = {condition["id"]: condition for condition in plan["conditions"]}
    for view in plan["views"]:
        if view["id"] not in by_id:
            continue
        condition = conditions[view["condition"]]
        folder = f"conditions/{condition['id']}/views/{view['folder']}"
        sides = {
            side: {**entry, **{key: f"{folder}/{entry[key]}" for key in ("output_path", "spacing_stats_path")}}
            for side, entry in by_id[view["id"]].items()
        }
        leaf = f"{condition['view']}_{view['folder']}.json"
        names = [condition["test"]] if condition["dose"] is None else [dose_key(condition["dose"]), condition["test"]]
        name = next(path for one in names if (path := f"metrics/{one}/{leaf}") not in found)
        found[name] = sides
    return found


def filters(plan: Json) -> dict[str, list[Any] | None]:
    """Return what the user restricted the study to, by field of a job; null where all of the study's values count."""
    asked = {field: plan["parameters"].get(name) for field, name in FILTERS.items()}
    parsed, _ = read_parameters({FILTERS[field]: value for field, value in asked.items()}, {})
    return {field: None if value is None else list(getattr(parsed, FILTERS[field])) for field, value in asked.items()}


def datasets(plan: Json, made: Mapping[str, Json], *, dry_run: bool) -> dict[str, dict[str, Any]]:
    """Return train and test scan by dose: `dose_1000`, with the test scan's id behind it where several share a dose.

    A scan without a dose goes by its id. A scan that was given as it is lies outside the output folder and has no path.

    Args:
        plan: plan.json.
        made: manifest.json by dataset id.
        dry_run: nothing was made.
    """
    entries = {dataset["id"]: dataset for dataset in plan["datasets"]}
    pairs = {(c["dose"], c["train"], c["test"]): None for c in plan["conditions"]}
    found = {}
    for dose, train, test in pairs:
        alone = sum(other == dose for other, _, _ in pairs) == 1
        key = test if dose is None else dose_key(dose) if alone else f"{dose_key(dose)}_{test}"
        found[key] = {
            "dose": dose,
            "train": _scan_path(entries[train]),
            "test": _scan_path(entries[test]),
            "intermediate_dir": None if entries[train]["kind"] == "ready" else f"datasets/{train}",
            "scans": {
                part: _scan(entries[name], made.get(name), dry_run=dry_run)
                for part, name in (("train", train), ("test", test))
            },
        }
    return found


def _scan_path(entry: Json) -> str | None:
    return None if entry["kind"] == "ready" else f"datasets/{entry['id']}/scan.npz"


def _scan(entry: Json, manifest: Json | None, *, dry_run: bool) -> dict[str, Any]:
    facts = manifest["facts"] if manifest else {}
    state = "planned" if dry_run else "given" if entry["kind"] == "ready" else "ok" if manifest else "missing"
    return {
        "dataset": entry["id"],
        "status": state,
        "sha256": manifest["outputs"]["scan.npz"] if manifest else None,
        "n_frames": facts.get("n_frames"),
        "dose_measured_photons": facts.get("dose_measured_mean"),
    }


def training_jobs(
    plan: Json, reports: Mapping[tuple[str, str], Json], trained: Mapping[str, Json], *, dry_run: bool
) -> list[dict[str, Any]]:
    """Return one entry for every training that was planned, or refused by the plan, in the plan's order.

    A model that was given is no training of this run.

    `final_loss` is the mean training loss over the last epoch, `final_validation_loss` the one on the validation groups after
    it; both are null unless the training ended with success.

    Args:
        plan: plan.json.
        reports: status.json by run (or view) id and stage.
        trained: TRAIN's manifest.json by run id.
        dry_run: nothing was started.
    """
    of_condition = {condition["id"]: condition for condition in plan["conditions"]}
    jobs = []
    for run in plan["runs"]:
        if run["kind"] != "train" or run.get("model"):
            continue
        state, reason = ("planned", None) if dry_run else _training_state(run, reports)
        manifest = trained.get(run["run_id"]) if state == "success" else None
        if state == "success" and manifest is None:
            reason = "the manifest.json of the training did not arrive"
        facts = manifest["facts"] if manifest else {}
        loss_name, loss_unit = training_loss(run["config"]["train"], supervised=run["supervised"])
        jobs.append(
            {
                **_names(run, of_condition[run["condition"]]),
                "status": state,
                "reason": reason,
                "loss_name": loss_name,
                "loss_unit": loss_unit,
                "final_loss": facts.get("final_loss"),
                "final_validation_loss": facts.get("final_validation_loss"),
                "epochs_completed": facts.get("epochs"),
                "bundle_path": bundle_path(run) if manifest else None,
                "bundle_sha256": facts.get("bundle_sha256"),
                "inputs": {name: entry["sha256"] for name, entry in manifest["inputs"].items()} if manifest else {},
                "parameters": {name: run["config"][name] for name in ("model", "train")},
            }
        )
    return jobs + [
        {**_names(row, row), "status": "skipped", "reason": row["reason"], **_NOTHING}
        for row in _refused(plan)
        if row["kind"] == "train"
    ]


_NOTHING: dict[str, Any] = {
    **dict.fromkeys(("loss_name", "loss_unit", "final_loss", "final_validation_loss", "epochs_completed")),
    **{"bundle_path": None, "bundle_sha256": None, "inputs": {}, "parameters": {}},
}
"""What is not known of a training that the plan refused."""


def _names(run: Json, condition: Json) -> dict[str, Any]:
    own = {name: run[name] for name in ("run_id", "condition", "gridsize", "seed", "arm", "backend")}
    return {
        **own,
        "dose": condition["dose"],
        "view": condition["view"],
        "train_data": run["train"],
        "test_data": run["test"],
    }


def _training_state(run: Json, reports: Mapping[tuple[str, str], Json]) -> tuple[str, str | None]:
    """Return what became of a training, and why."""
    report = reports.get((run["run_id"], "train"))
    if report is not None:
        return ("success", None) if report["state"] == "ok" else ("failed", str(report["reason"]))
    prepared = reports.get((run["view"], "prepare"))
    if prepared is not None and prepared["state"] == "skipped":
        return "skipped", str(prepared["reason"])
    return "missing", "no status arrived: the task did not finish, see its log"


def skipped_views(plan: Json, reports: Mapping[tuple[str, str], Json]) -> list[dict[str, Any]]:
    """Return the views that the data could not give (`arm` is null), then what the plan refused, once for all seeds."""
    of_condition = {condition["id"]: condition for condition in plan["conditions"]}
    rows = []
    for view in plan["views"]:
        report = reports.get((view["id"], "prepare"))
        if report is not None and report["state"] == "skipped":
            rows.append(_skip(view, of_condition[view["condition"]], report["reason"], arm=None))
    refused = [_skip(row, row, row["reason"], arm=row["arm"]) for row in _refused(plan)]
    return rows + [row for place, row in enumerate(refused) if row not in refused[:place]]


def _refused(plan: Json) -> list[dict[str, Any]]:
    """Return the rows that the plan skipped, with dose and view; a condition without any run is not in the plan's list."""
    of_condition = {condition["id"]: condition for condition in plan["conditions"]}
    unsaid = dict.fromkeys(("kind", "backend", "gridsize", "train", "test", "dose"))
    return [
        {**unsaid, **row, "view": row.get("view_name"), **of_condition.get(row["condition"], {})}
        for row in plan["skipped"]
    ]


def _skip(where: Json, condition: Json, reason: str, *, arm: str | None) -> dict[str, Any]:
    names = {"condition": where["condition"], "dose": condition["dose"], "view": condition["view"]}
    return {**names, "gridsize": where["gridsize"], "arm": arm, "reason": reason}


def comparisons(plan: Json, compared: Collection[str], scored: Collection[str], *, dry_run: bool) -> dict[str, Any]:
    """Return one job and one result for every condition: dose ascending, then views by name (dense before sparse).

    A job holds all runs of a condition, which are compared on its test scan. The comparison writes nothing unless it ends
    with 0, so another return code is not known here, and its log stays in the task's folder.

    Args:
        plan: plan.json.
        compared: ids of the conditions whose comparison arrived.
        scored: ids of the runs whose scores arrived.
        dry_run: nothing was started.
    """
    jobs, results = [], []
    for condition in sorted(plan["conditions"], key=_dose_then_view):
        runs = [run for run in plan["runs"] if run["condition"] == condition["id"]]
        names = {"condition": condition["id"], "dose": condition["dose"], "view": condition["view"], "split": "test"}
        jobs.append(
            {
                **names,
                "test_data": condition["test"],
                "runs": [run["run_id"] for run in runs],
                "evaluate": runs[0]["evaluate"],
            }
        )
        arrived = [run["run_id"] for run in runs if run["run_id"] in scored]
        state, reason = ("planned", None) if dry_run else _comparison_state(condition["id"] in compared, arrived)
        results.append(
            {
                **names,
                "state": state,
                "reason": reason,
                "runs": arrived,
                "returncode": 0 if state == "ok" else None,
                "log_path": None,
            }
        )
    counts = {f"n_{name}": _count(results, states) for name, states in _COUNTED.items()}
    return {"n_jobs": len(jobs), "jobs": jobs, "execution_results": results, **counts}


_COUNTED = {"success": ("ok",), "failed": ("missing",), "skipped": ("skipped",)}


def _count(results: Iterable[Json], states: Collection[str]) -> int:
    return sum(result["state"] in states for result in results)


def _comparison_state(arrived: bool, runs: Sequence[str]) -> tuple[str, str | None]:
    if arrived:
        return "ok", None
    if not runs:
        return "skipped", "no run of the condition was scored"
    return "missing", "the comparison did not arrive: the task did not finish, see its log"


def _dose_then_view(condition: Json) -> tuple[Decimal, str, str]:
    dose = Decimal("Infinity") if condition["dose"] is None else Decimal(condition["dose"])
    return dose, condition["view"], condition["id"]


def _reports(statuses: Sequence[Json]) -> dict[tuple[str, str], Json]:
    """Return the last try's status by id and stage."""
    ordered = sorted(statuses, key=lambda status: status.get("attempt") or 1)
    return {(status["run_id"], status["stage"]): status for status in ordered}
