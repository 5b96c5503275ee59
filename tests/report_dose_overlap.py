"""A study over dose and view for the tests of the report: every value follows from dose, view, arm and seed by `quality`."""

from typing import Any

import report_sample as sample
from ptychoflow.report.sections import ReportInput
from ptychoflow.report.tables import outcomes

DOSES = ("1e3", "1e4", "1e5")
VIEWS = {"all": (0.947, {}), "dense": (0.71, {"min_spacing_px": 38.4}), "sparse": (0.28, {"min_spacing_px": 102.4})}
"""Overlap of the test frames, and what PREPARE is asked for."""

LABELS = ("pinn_gs1", "pinn_gs2", "lsqml")
BACKENDS = {"pinn": "tensorflow", "pinn_torch": "torch", "lsqml": "ptychi"}
INFEASIBLE = "infeasible: at most 7 of 5172 (0.135 %) can pass"
DIVERGED = "loss is nan at step 17"


def quality(dose: str, view: str, label: str, seed: int) -> float:
    """Return the phase MS-SSIM of a run; the three seeds lie at q - 0.01, q and q + 0.02, so that median and mean differ."""
    start = {"pinn_gs2": 0.70, "pinn_gs1": 0.66, "lsqml": 0.60}.get(label, 0.5)
    return start + 0.08 * DOSES.index(dose) - 0.05 * list(VIEWS).index(view) + (0.0, -0.01, 0.02)[seed]


def entry(dose: str, view: str, label: str, seed: int, *, scan: str = "fly64") -> dict[str, Any]:
    """Return a run of the plan."""
    condition = f"{scan}_d{dose}_{view}"
    run = sample.planned(condition, label, seed)
    arm, _, gridsize = label.partition("_gs")
    return run | {
        "arm": arm, "gridsize": int(gridsize or 1), "backend": BACKENDS[arm], "view": f"{condition}__gs{gridsize or 1}",
    }  # fmt: skip


def study(
    *,
    doses: tuple[str, ...] = DOSES,
    views: tuple[str, ...] = tuple(VIEWS),
    labels: tuple[str, ...] = LABELS,
    n_seeds: int = 3,
    specified: bool = False,
    measured: bool = True,
    troubles: bool = True,
) -> ReportInput:
    """Return a study of one scan.

    Args:
        doses, views, labels, n_seeds: its size; LSQML has one run a condition.
        specified: pinn_gs1 on the view `all` only, pinn_gs2 on the others only.
        measured: whether the overlap bundles of PREPARE arrived.
        troubles: the sparse view of the last dose is skipped, and one training of the first dose fails.
    """
    conditions = [(dose, view) for dose in doses for view in views]
    planned = [
        entry(dose, view, label, seed)
        for dose, view in conditions
        for label in labels
        if not specified or label == "lsqml" or (label == "pinn_gs1") == (view == "all")
        for seed in range(1 if label == "lsqml" else n_seeds)
    ]
    skipped = {f"fly64_d{doses[-1]}_sparse"} if troubles else set()
    failed = {entry(doses[0], views[0], labels[0], 1)["run_id"]} if troubles else set()
    plan = {
        "schema_version": 1,
        "datasets": [{"id": f"fly64_d{dose}", "kind": "simulate", "n": 128} for dose in doses],
        "conditions": [
            {"id": f"fly64_d{d}_{v}", "train": f"fly64_d{d}", "test": f"fly64_d{d}", "dose": d, "view": v} for d, v in conditions
        ],
        "views": [view_entry(dose, view, gridsize) for dose, view in conditions for gridsize in (1, 2)],
        "runs": planned,
        "skipped": [],
        "parameters": {},
    }  # fmt: skip
    statuses, documents = [], []
    for run in planned:
        _, dose, view = run["condition"].split("_")
        if run["condition"] in skipped:
            continue
        stages = ("lsqml",) if run["kind"] == "iterative" else ("train", "reconstruct")
        if run["run_id"] in failed:
            statuses.append(sample.status(run, "train", "failed", reason=DIVERGED))
            continue
        statuses += [sample.status(run, stage) for stage in stages]
        documents.append(metrics(run, quality(dose[1:], view, run["label"], run["seed"])))
    for view in plan["views"]:
        if view["condition"] in skipped:
            prepared = sample.status(planned[0], "prepare", "skipped", reason=INFEASIBLE)
            statuses.append({**prepared, "run_id": view["id"]})
    built = [view for view in plan["views"] if view["condition"] not in skipped]
    return ReportInput(
        plan=plan,
        found=outcomes(plan, statuses, documents),
        bundles={view["id"]: bundle(view) for view in built} if measured else {},
        versions={"ptychoflow": "0.3.0"},
    )


def view_entry(dose: str, view: str, gridsize: int) -> dict[str, Any]:
    """Return a view of the plan."""
    condition = f"fly64_d{dose}_{view}"
    config = {
        "split": "region", "gridsize": gridsize, "s_img": 1.0, "n_groups": None, "oversample": False, "view_gridsize": 2,
        "min_spacing_px": None, "max_groups": None,
    }  # fmt: skip
    return {
        "id": f"{condition}__gs{gridsize}",
        "condition": condition,
        "folder": f"gs{gridsize}",
        "gridsize": gridsize,
        "config": config | VIEWS[view][1],
    }


def bundle(view: dict[str, Any]) -> dict[str, Any]:
    """Return metrics_bundle.json; the train side overlaps a little more."""
    overlap = VIEWS[view["condition"].split("_")[2]][0]

    def side(name: str, value: float, n: int) -> dict[str, Any]:
        measures = {
            "gridsize": view["gridsize"], "n_images_total": 5172, "n_images_subsampled": 5172, "n_unique_images": n,
            "n_groups_actual": n, "metric_2_image_based_avg": value, "acceptance_rate": n / 5172,
            "geometry_acceptance_bound": 0.25,
        }  # fmt: skip
        return {"output_path": "view.npz", "spacing_stats_path": f"{name}_spacing.json", "metrics": measures}

    return {"train": side("train", overlap + 0.01, 301), "test": side("test", overlap, 287)}


def metrics(run: dict[str, Any], phase_ms_ssim: float) -> dict[str, Any]:
    """Return metrics.json with a phase MS-SSIM, and all other scores derived from it."""
    document = sample.metrics(run, 1 - phase_ms_ssim, pearson=phase_ms_ssim)
    settings = {"levels": 5, "sigma": 1.0}
    document["stitched"]["phase"]["ms_ssim"] = sample.score(phase_ms_ssim, direction="higher", settings=settings)
    document["stitched"]["amp"]["psnr"] = sample.score(20 + 10 * phase_ms_ssim, unit="dB", direction="higher")
    return document
