"""The plan: every run that was asked for, with its complete configuration, before the first task starts.

Nothing is decided later: a run carries all values of its configurations, defaults included (D34), and a combination that an arm
cannot take is a `skipped` row with its reason. A mistake of the user is an error, and all mistakes are reported together.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ptychoflow.arms.registry import Arm, Registry
from ptychoflow.config import EvaluateConfig, LsqmlConfig, ModelConfig, PrepareConfig, ReconstructConfig, TrainConfig
from ptychoflow.errors import UsageError, nearest
from ptychoflow.study.conditions import ALL, Condition, StudyFile, ViewSpec, gather_conditions, read_study
from ptychoflow.study.imported import ImportedRun, from_recons
from ptychoflow.study.parameters import (
    CONFIG_FIELDS,
    REGION_ONLY,
    SIMULATION_ONLY,
    Parameters,
    complete,
    options,
    read_parameters,
)
from ptychoflow.study.samplesheet import Sheet

SCHEMA_VERSION = 1
STARTS = ["start", "evaluate"]
"""What `--from` takes: the whole flow, or the scoring of reconstructions that are there."""


@dataclass(frozen=True)
class Plan:
    """The content of `plan.json`; the entries are plain data, ready for JSON."""

    datasets: list[dict[str, Any]]
    conditions: list[dict[str, Any]]
    views: list[dict[str, Any]]
    runs: list[dict[str, Any]]
    skipped: list[dict[str, Any]]
    parameters: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """The plan with its schema version."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}


def make_plan(
    given: Mapping[str, Any], sheet: Sheet | None, study: Mapping[str, Any] | None, registry: Registry
) -> Plan:
    """Return the plan of everything that was asked for.

    Only what a run needs is planned: datasets, conditions and views without a run are left out.

    Args:
        given: parameters by name as the user gave them; None means not given. `from` is not one of Parameters, since it
            says what the sheet is: one of scans (`start`) or of reconstructions (`evaluate`).
        sheet: rows of the sheet, where there is one.
        study: content of the study file, where there is one.
        registry: the known arms.

    Raises:
        UsageError: naming everything that is wrong.
    """
    study_file = read_study(study) if study is not None else None
    asked = {name: value for name, value in given.items() if value is not None}
    preset, problems = _preset(study_file, asked.get("preset"))
    parameters, more = read_parameters({k: v for k, v in asked.items() if k != "from"}, preset)
    problems += more
    start = asked.get("from", "start")
    if start not in STARTS:
        problems.append(f"--from: unknown '{start}'{nearest(str(start), STARTS)}; known are {', '.join(STARTS)}")
    if start == "evaluate":
        imports, more = from_recons(sheet, asked, parameters)
        problems += more
        if study_file and study_file.datasets:
            problems.append("--study brings scans to simulate; with --from evaluate it may only set parameters")
        if problems:
            raise UsageError(_together(problems))
        return _expand_imported(imports, registry.imported, parameters, asked)
    arms: tuple[Arm, ...] = ()
    try:
        arms = registry.select(parameters.models)
    except UsageError as error:
        problems.append(str(error))
    conditions, more = gather_conditions(sheet, study_file, parameters)
    problems += more
    problems += _for_simulated_only({*asked, *preset}, sheet) if sheet else []
    problems += _without_effect(asked, conditions)
    problems += _contradictions(asked, parameters, arms)
    specs = study_file.views if study_file else {}
    problems += _view_contradictions(specs, parameters)
    if problems:
        raise UsageError(_together(problems))
    return _expand(conditions, arms, parameters, asked, specs)


def _preset(study: StudyFile | None, name: str | None) -> tuple[dict[str, Any], list[str]]:
    """Return the parameters that the study sets, those of the preset before its general ones."""
    params = dict(study.params) if study else {}
    if name is None:
        return params, []
    known = list(study.presets) if study else []
    if study is None or name not in study.presets:
        listed = f"known are {', '.join(known)}" if known else "the study has none"
        return params, [f"--preset: unknown '{name}'{nearest(str(name), known) if known else ''}; {listed}"]
    return {**params, **study.presets[name]}, []


def _together(problems: Sequence[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    return "\n".join([f"{len(problems)} problems", *(f"  - {problem}" for problem in problems)])


def _for_simulated_only(names: Collection[str], sheet: Sheet) -> list[str]:
    scans = ", ".join(str(cells.get("id", where)) for where, cells in sheet.rows)
    problems = []
    for name in sorted(SIMULATION_ONLY.intersection(names)):
        hint = "; the dose you expect of a scan goes into the sheet's column 'dose'" if name == "doses" else ""
        problems.append(
            f"--{name} is for simulated scans, but --input {sheet.name} names measured ones ({scans}){hint}"
        )
    return problems


def _without_effect(asked: Mapping[str, Any], conditions: Sequence[Condition]) -> list[str]:
    """Return the parameters that would change nothing: who gives them expects something that will not happen."""
    problems = []
    if conditions and all(condition.has_truth and condition.train == condition.test for condition in conditions):
        names = sorted({"nimgs_test", "step_test_px"}.intersection(asked))
        problems += [f"--{name} has no effect: no scan of this study is for testing only" for name in names]
    if "base" in asked:
        names = sorted({"size", "size_cols", "nimgs_train", "set_phi", "probe_smoothing_sigma_px"}.intersection(asked))
        problems += [f"--{name} has no effect with --base: the object comes from {asked['base']}" for name in names]
    if conditions and not any(condition.split == "region" for condition in conditions):
        problems += [
            f"--{name} has no effect without --split region" for name in sorted(REGION_ONLY.intersection(asked))
        ]
    return problems


def _contradictions(asked: Collection[str], parameters: Parameters, arms: Sequence[Arm]) -> list[str]:
    """Return the options that exclude each other, or that leave nothing to do."""
    problems = []
    steps = [name for name in ("step_train_px", "step_test_px") if name in asked]
    if "n_frames" in asked and steps:
        problems.append(f"--n_frames asks for a random scan, --{steps[0]} for a raster; leave one of them out")
    prepare = complete(PrepareConfig, options(parameters, CONFIG_FIELDS[PrepareConfig]), what="grouping")
    if parameters.n_groups and parameters.min_spacing_px:
        problems.append("--n_groups and --min_spacing_px both choose groups; use --max_groups with a spacing")
    if parameters.n_subsample and parameters.s_img:
        problems.append("--n_subsample and --s_img both choose frames; leave one of them out")
    members = max(parameters.gridsizes) ** 2
    if members > 1 and prepare["n_neighbors"] < members:
        problems.append(
            f"--n_neighbors {prepare['n_neighbors']} is less than the {members} members of a group; use at least {members}"
        )
    train = complete(TrainConfig, options(parameters, CONFIG_FIELDS[TrainConfig]), what="training")
    if train["mae_weight"] + train["nll_weight"] == 0 and any(
        arm.kind == "train" and not arm.supervised for arm in arms
    ):
        problems.append(
            "--mae_weight and --nll_weight are both 0: nothing ties the training to the data; set one of them"
        )
    return problems


def _view_contradictions(specs: Mapping[str, ViewSpec], parameters: Parameters) -> list[str]:
    """Return the views of the study that choose what a parameter chooses too."""
    problems = []
    for name in specs.keys() & set(parameters.views):
        if specs[name].overlap is not None and parameters.n_groups:
            problems.append(f"view '{name}' keeps a spacing, and --n_groups chooses groups too; use --max_groups")
        if specs[name].s_img is not None and parameters.n_subsample:
            problems.append(
                f"view '{name}' keeps a share of the frames, and --n_subsample another number; leave it out"
            )
    return sorted(problems)


def _expand(
    conditions: Sequence[Condition],
    arms: Sequence[Arm],
    parameters: Parameters,
    asked: dict[str, Any],
    specs: Mapping[str, ViewSpec],
) -> Plan:
    views: dict[str, dict[str, Any]] = {}
    runs: list[dict[str, Any]] = []
    skipped: list[dict[str, Any]] = []
    used: dict[str, Condition] = {}
    for condition in conditions:
        gridsizes = _gridsizes(condition, parameters)
        spec = specs.get(condition.view, ViewSpec())
        for arm in arms:
            # A reconstruction without training is one run: its frames do not depend on gridsize or training seed.
            once = arm.kind == "iterative"
            for gridsize in gridsizes[:1] if once else gridsizes:
                for seed in parameters.seeds[:1] if once else parameters.seeds:
                    row = _row(condition, arm, gridsize, seed)
                    reason = arm.refusal(
                        n=condition.test.n,
                        gridsize=gridsize,
                        has_truth=condition.has_truth,
                        split=condition.split,
                        guard_px=condition.test.n if parameters.guard_px is None else parameters.guard_px,
                    )
                    if reason:
                        facts = {"kind": arm.kind, "backend": arm.backend, "gridsize": gridsize}
                        scans = {"train": condition.train.id, "test": condition.test.id}
                        origin = {"dose": condition.test.dose, "view_name": condition.view}
                        skipped.append({**row, **facts, **scans, **origin, "reason": reason})
                        continue
                    view = _view(condition, gridsize, parameters, spec)
                    views[view["id"]] = view
                    used[condition.id] = condition
                    runs.append({**row, **_run(condition, arm, gridsize, view["id"], parameters)})
    return _plan(used, views, runs, skipped, asked)


def _expand_imported(imports: Sequence[ImportedRun], arm: Arm, parameters: Parameters, asked: dict[str, Any]) -> Plan:
    """Return the plan of reconstructions that are there: every one is a run, and scored with the view of its row."""
    views: dict[tuple[str, str | None], dict[str, Any]] = {}
    runs: list[dict[str, Any]] = []
    for one in imports:
        condition = one.condition
        key = (condition.id, one.view)
        if key not in views:
            view = _view(condition, 1, parameters, ViewSpec())
            own = sum(name == condition.id for name, _ in views) + 1
            views[key] = (
                view
                if one.view is None
                else {**view, "id": f"{condition.id}__view{own}", "file": one.view, "config": {}}
            )
        names = {"run_id": one.run_id, "condition": condition.id, "label": one.label, "arm": arm.id, "seed": one.seed}
        facts = _run(condition, arm, 1, views[key]["id"], parameters)
        runs.append({**names, **facts, "recon": one.recon})
    used = {one.condition.id: one.condition for one in imports}
    return _plan(used, {view["id"]: view for view in views.values()}, runs, [], asked)


def _plan(
    used: Mapping[str, Condition],
    views: Mapping[str, dict[str, Any]],
    runs: list[dict[str, Any]],
    skipped: list[dict[str, Any]],
    asked: dict[str, Any],
) -> Plan:
    datasets = {d.id: asdict(d) for condition in used.values() for d in (condition.train, condition.test)}
    listed = [
        {"id": c.id, "train": c.train.id, "test": c.test.id, "dose": c.test.dose, "view": c.view} for c in used.values()
    ]
    return Plan(list(datasets.values()), listed, list(views.values()), runs, skipped, asked)


def _row(condition: Condition, arm: Arm, gridsize: int, seed: int) -> dict[str, Any]:
    """Return what names a run, planned or skipped."""
    label = arm.label(gridsize)
    run_id = f"{condition.id}__{label}__n{condition.test.n}__s{seed}"
    return {"run_id": run_id, "condition": condition.id, "label": label, "arm": arm.id, "seed": seed}


def _gridsizes(condition: Condition, parameters: Parameters) -> list[int]:
    """Return the gridsizes that meet a condition's view; in the specified matrix one each (study 2.1)."""
    gridsizes = sorted(parameters.gridsizes)
    if parameters.matrix != "specified":
        return gridsizes
    return gridsizes[:1] if condition.view == ALL else gridsizes[-1:]


def _view(condition: Condition, gridsize: int, parameters: Parameters, spec: ViewSpec) -> dict[str, Any]:
    """Return PREPARE's entry: parameters < the view's own values. All gridsizes of a condition read the same frames."""
    values = {
        **options(parameters, CONFIG_FIELDS[PrepareConfig]),
        **{
            name: value for name, value in (("s_img", spec.s_img), ("max_groups", spec.max_groups)) if value is not None
        },
        **{"split": condition.split, "heldout": condition.heldout, "gridsize": gridsize},
    }
    if spec.overlap is not None:
        # Rounded, so that 0.7 and 128 px give 38.4 px and not the neighbouring float.
        values["min_spacing_px"] = round((1 - spec.overlap) * condition.test.n, 9)
    if "min_spacing_px" in values:
        values["view_gridsize"] = max(parameters.gridsizes)
    view_id = f"{condition.id}__gs{gridsize}"
    return {
        "id": view_id,
        "condition": condition.id,
        "gridsize": gridsize,
        "train": condition.train.id,
        "test": condition.test.id,
        "file": None,
        "config": complete(PrepareConfig, values, what=view_id),
    }


def _run(condition: Condition, arm: Arm, gridsize: int, view_id: str, parameters: Parameters) -> dict[str, Any]:
    by_kind: dict[str, dict[str, type]] = {
        "train": {"model": ModelConfig, "train": TrainConfig, "reconstruct": ReconstructConfig},
        "iterative": {"lsqml": LsqmlConfig},
        "imported": {},
    }
    sections = by_kind[arm.kind]
    config = {key: complete(cls, options(parameters, CONFIG_FIELDS[cls]), what=arm.id) for key, cls in sections.items()}
    return {
        "view": view_id,
        "kind": arm.kind,
        "backend": arm.backend,
        "supervised": arm.supervised,
        "gridsize": gridsize,
        "n": condition.test.n,
        "train": condition.train.id,
        "test": condition.test.id,
        "config": config,
        "evaluate": complete(EvaluateConfig, options(parameters, CONFIG_FIELDS[EvaluateConfig]), what=arm.id),
    }


def table(plan: Plan) -> str:
    """Return the plan for people: the runs, what is skipped and why, and the counts."""
    doses = {condition["id"]: condition["dose"] or "-" for condition in plan.conditions}
    rows = [("run_id", "arm", "N", "gs", "dose", "seed", "datasets")]
    for run in plan.runs:
        scans = run["train"] if run["train"] == run["test"] else f"{run['train']}, {run['test']}"
        gridsize = str(run["gridsize"]) if run["kind"] == "train" else "-"
        dose = doses[run["condition"]]
        rows.append((run["run_id"], run["arm"], str(run["n"]), gridsize, dose, str(run["seed"]), scans))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if plan.skipped:
        lines += ["", "skipped"]
        lines += [f"  {row['run_id']}: {row['reason']}" for row in plan.skipped]
    counts = {"runs": plan.runs, "skipped": plan.skipped, "conditions": plan.conditions, "datasets": plan.datasets}
    lines += ["", ", ".join(f"{len(entries)} {name}" for name, entries in counts.items())]
    return "\n".join(lines) + "\n"
