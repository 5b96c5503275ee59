"""The plan: every run that was asked for, with its complete configuration, before the first task starts.

Nothing is decided later: a run carries all values of its configurations, defaults included (D34), and a combination that an arm
cannot take is a `skipped` row with its reason. A mistake of the user is an error, and all mistakes are reported together.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ptychoflow.arms.ptychovit.restore import PtychoVitConfig
from ptychoflow.arms.registry import Arm, Registry
from ptychoflow.config import EvaluateConfig, LsqmlConfig, ModelConfig, PrepareConfig, ReconstructConfig, TrainConfig
from ptychoflow.errors import UsageError, nearest
from ptychoflow.study.conditions import ALL, Condition, StudyFile, ViewSpec, gather_conditions, read_study
from ptychoflow.study.external import condition_of_side, frame_sides, supply_problems, with_training
from ptychoflow.study.imported import ImportedRun, from_recons
from ptychoflow.study.parameters import (
    CONFIG_FIELDS,
    OF_THIS_MACHINE,
    REGION_ONLY,
    SIMULATION_ONLY,
    Parameters,
    complete,
    options,
    read_parameters,
)
from ptychoflow.study.reentry import Wanted, from_models, from_views
from ptychoflow.study.samplesheet import Sheet

SCHEMA_VERSION = 1
STARTS = ["start", "prepare", "train", "recon", "evaluate"]
"""What `--from` takes: the whole flow, or its first stage of which not everything is there."""


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
            says what the sheet names: measured scans (`start`), or what earlier stages made (study/resheet.py).
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
    if start == "recon":
        wanted, more = from_models(sheet, asked, registry)
        problems += more + supply_problems(parameters, [one.arm for one in wanted])
        if problems:
            raise UsageError(_together(problems))
        ready_made = (replace(one, arm=with_training([one.arm], parameters)[0]) for one in wanted)
        return _expand(ready_made, parameters, asked, {})
    arms: tuple[Arm, ...] = ()
    try:
        arms = with_training(registry.select(parameters.models), parameters)
    except UsageError as error:
        problems.append(str(error))
    specs = study_file.views if study_file else {}
    if start == "train":
        conditions, more = from_views(sheet, asked)
        problems += more
    else:
        ready = start == "prepare"
        conditions, more = gather_conditions(sheet, study_file, parameters, ready=ready)
        problems += more
        # A study's own scans are not made when ready ones are given, and what it says of them is not asked for.
        problems += _for_simulated_only(asked if ready else {*asked, *preset}, sheet) if sheet else []
        problems += ["--base has no effect with --from prepare: scans are given"] if ready and "base" in asked else []
        problems += _without_effect(asked, conditions)
        problems += _view_contradictions(specs, parameters)
    problems += _contradictions(asked, parameters, arms)
    sides, more = frame_sides(parameters, arms, registry.ids)
    problems += more + supply_problems(parameters, arms)
    if problems:
        raise UsageError(_together(problems))
    return _expand(_combinations(conditions, arms, sides, parameters), parameters, asked, specs)


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
            f"--{name} is for scans to simulate, but --input {sheet.name} names scans that are there ({scans}){hint}"
        )
    return problems


def _without_effect(asked: Mapping[str, Any], conditions: Sequence[Condition]) -> list[str]:
    """Return the parameters that would change nothing: who gives them expects something that will not happen."""
    problems = []
    if conditions and all(c.test.kind == "simulate" and c.train == c.test for c in conditions):
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


def _combinations(
    conditions: Sequence[Condition], arms: Sequence[Arm], sides: Mapping[str, int], parameters: Parameters
) -> Iterator[Wanted]:
    """Yield every arm on every condition, with its own frame side and with every gridsize and seed that it distinguishes."""
    by_id: dict[str, list[Condition]] = {}
    for condition in conditions:
        by_id.setdefault(condition.id, []).append(condition)
    for members in by_id.values():
        for arm in arms:
            condition, reason = condition_of_side(members, sides.get(arm.id))
            gridsizes = sorted(condition.views) or _gridsizes(condition, parameters)
            # Arms that read single frames run once for all gridsizes, those without a training once for all seeds.
            untrained = arm.kind == "iterative" or (arm.kind == "external" and not arm.supervised)
            for gridsize in gridsizes if arm.kind == "train" else gridsizes[:1]:
                for seed in parameters.seeds[:1] if untrained else parameters.seeds:
                    yield Wanted(condition, arm, gridsize, seed, reason=reason)


def _expand(
    wanted: Iterable[Wanted], parameters: Parameters, asked: dict[str, Any], specs: Mapping[str, ViewSpec]
) -> Plan:
    views: dict[str, dict[str, Any]] = {}
    runs: list[dict[str, Any]] = []
    skipped: list[dict[str, Any]] = []
    used: dict[tuple[str, int], Condition] = {}
    for one in wanted:
        condition, arm, gridsize = one.condition, one.arm, one.gridsize
        row = _row(condition, arm, gridsize, one.seed)
        guard_px = condition.guard_px if condition.views else parameters.guard_px
        reason = one.reason or arm.refusal(
            n=condition.test.n,
            gridsize=gridsize,
            has_truth=condition.test.truth,
            split=condition.split,
            guard_px=condition.test.n if guard_px is None else guard_px,
        )
        if reason:
            facts = {"kind": arm.kind, "backend": arm.backend, "gridsize": gridsize}
            scans = {"train": condition.train.id, "test": condition.test.id}
            origin = {"dose": condition.test.dose, "view_name": condition.view}
            skipped.append({**row, **facts, **scans, **origin, "reason": reason})
            continue
        if condition.views:
            known = {"split": condition.split, "guard_px": condition.guard_px}
            view = _view_entry(condition, gridsize, file=condition.views[gridsize], config=known)
        else:
            view = _view(condition, gridsize, parameters, specs.get(condition.view, ViewSpec()))
        views[view["id"]] = view
        used[condition.id, condition.test.n] = condition
        run = {**row, **_run(condition, arm, gridsize, view["id"], parameters)}
        if one.model is not None:
            # Of a training that is over only the precision matters, which inference shares.
            trained = {"train": {"precision": run["config"]["train"]["precision"]}}
            run |= {"model": one.model, "config": {**trained, "reconstruct": run["config"]["reconstruct"]}}
        runs.append(run)
    return _plan(used, views, runs, skipped, asked)


def _expand_imported(imports: Sequence[ImportedRun], arm: Arm, parameters: Parameters, asked: dict[str, Any]) -> Plan:
    """Return the plan of reconstructions that are there: every one is a run, and scored with the view of its row."""
    views: dict[tuple[str, str | None], dict[str, Any]] = {}
    runs: list[dict[str, Any]] = []
    for one in imports:
        condition = one.condition
        key = (condition.test.id, one.view)
        if key not in views:
            view = _view(condition, 1, parameters, ViewSpec())
            own = sum(entry["condition"] == condition.id for entry in views.values()) + 1
            given = {
                **_view_entry(condition, 1, file=one.view, config={}),
                **{"id": f"{condition.id}__view{own}", "folder": f"view{own}"},
            }
            views[key] = view if one.view is None else given
        names = {"run_id": one.run_id, "condition": condition.id, "label": one.label, "arm": arm.id, "seed": one.seed}
        facts = _run(condition, arm, 1, views[key]["id"], parameters)
        runs.append({**names, **facts, "recon": one.recon})
    used = {(one.condition.id, one.condition.test.n): one.condition for one in imports}
    return _plan(used, {view["id"]: view for view in views.values()}, runs, [], asked)


def _plan(
    used: Mapping[tuple[str, int], Condition],
    views: Mapping[str, dict[str, Any]],
    runs: list[dict[str, Any]],
    skipped: list[dict[str, Any]],
    asked: dict[str, Any],
) -> Plan:
    datasets = {d.id: asdict(d) for condition in used.values() for d in (condition.train, condition.test)}
    by_id: dict[str, list[Condition]] = {}
    for condition in used.values():
        by_id.setdefault(condition.id, []).append(condition)
    kept = {name: value for name, value in asked.items() if name not in OF_THIS_MACHINE}
    return Plan(
        list(datasets.values()), [_listed(one) for one in by_id.values()], list(views.values()), runs, skipped, kept
    )


def _listed(members: Sequence[Condition]) -> dict[str, Any]:
    """Return a condition's entry: the scans that the study is about, and the sides of all frames that are compared in it."""
    main, *others = sorted(members, key=lambda one: one.other_n)
    return {
        **{"id": main.id, "object": main.object or main.id, "train": main.train.id, "test": main.test.id},
        **{"dose": main.test.dose, "view": main.view, "sides": [main.test.n, *(one.test.n for one in others)]},
    }


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
    return _view_entry(condition, gridsize, file=None, config=complete(PrepareConfig, values, what=condition.id))


def _view_entry(condition: Condition, gridsize: int, *, file: str | None, config: dict[str, Any]) -> dict[str, Any]:
    folder = f"n{condition.test.n}_gs{gridsize}" if condition.other_n else f"gs{gridsize}"
    return {
        "id": f"{condition.id}__{folder}",
        "condition": condition.id,
        "folder": folder,
        "gridsize": gridsize,
        "train": condition.train.id,
        "test": condition.test.id,
        "file": file,
        "config": config,
    }


def _run(condition: Condition, arm: Arm, gridsize: int, view_id: str, parameters: Parameters) -> dict[str, Any]:
    by_kind: dict[str, dict[str, type]] = {
        "train": {"model": ModelConfig, "train": TrainConfig, "reconstruct": ReconstructConfig},
        "iterative": {"lsqml": LsqmlConfig},
        "external": {"ptychovit": PtychoVitConfig},
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
