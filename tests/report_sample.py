"""A small study for the tests of tables and report: two conditions, and a run for everything that can become of one."""

from typing import Any


def score(value: float | None, *, unit: str = "1", direction: str = "lower", **extra: Any) -> dict[str, Any]:
    return {"value": value, "unit": unit, "direction": direction, "range": None, **extra}


def planned(condition: str, label: str, seed: int) -> dict[str, Any]:
    iterative = label == "lsqml"
    return {
        "run_id": f"{condition}__{label}__n64__s{seed}",
        "condition": condition,
        "view": f"{condition}__gs1",
        "label": label,
        "arm": label.removesuffix("_gs1"),
        "kind": "iterative" if iterative else "train",
        "gridsize": 1,
        "n": 64,
        "seed": seed,
    }


PINN = [planned("lines_d1e9", "pinn_torch_gs1", seed) for seed in (0, 1, 2, 3)]
LSQML = planned("lines_d1e9", "lsqml", 0)
LOST = planned("lines_d1e9", "baseline_torch_gs1", 0)
UNPREPARED = planned("star", "lsqml", 0)
SKIPPED = {
    **{key: value for key, value in planned("star", "baseline_torch_gs1", 0).items() if key != "view"},
    "reason": "needs a truth; <star> has only a reference",
}

PLAN: dict[str, Any] = {
    "schema_version": 1,
    "datasets": [
        {"id": "lines-train", "kind": "simulate", "n": 64, "dose": "1e9"},
        {"id": "lines-test", "kind": "simulate", "n": 64, "dose": "1e9"},
        {"id": "star", "kind": "ingest", "n": 64, "dose": None},
    ],
    "conditions": [
        {"id": "lines_d1e9", "train": "lines-train", "test": "lines-test", "dose": "1e9", "view": "all"},
        {"id": "star", "train": "star", "test": "star", "dose": None, "view": "all"},
    ],
    "views": [{"id": "lines_d1e9__gs1"}, {"id": "star__gs1"}],
    "runs": [*PINN, LSQML, LOST, UNPREPARED],
    "skipped": [SKIPPED],
    "parameters": {"models": ["pinn_torch", "lsqml"], "seeds": [0, 1, 2, 3]},
}


def status(run: dict[str, Any], stage: str, state: str = "ok", **extra: Any) -> dict[str, Any]:
    seconds = {"import": 5.0, stage: 10.0 + run["seed"]}
    return {
        "schema_version": 1, "run_id": run["run_id"], "stage": stage, "state": state, "reason": None, "collapsed": False,
        "device": "cpu", "seconds": seconds, "attempt": 1, **extra,
    }  # fmt: skip


def metrics(run: dict[str, Any], value: float, *, collapsed: bool = False) -> dict[str, Any]:
    region = [[2, 12, 3, 18]]
    part = {
        "mae": score(value, region=region),
        "ssim": score(1 - value, direction="higher", region=region),
        "contrast_ratio": score(0.05 if collapsed else 0.9, direction="one", region=region),
    }
    record = {
        "mode": "gauge", "gauge_abs": 2.0, "gauge_arg_rad": 0.5, "scale_error": 1.0, "ramp_rad_per_px": None,
        "correlation": 0.97, "twin_correlation": 0.2, "twin_warning": False,
    }  # fmt: skip
    return {
        "schema_version": 1,
        **{name: run[name] for name in ("run_id", "condition", "label", "arm", "gridsize", "n", "seed")},
        "against": "truth",
        "collapsed": collapsed,
        "coverage": 1.0,
        "alignment": {"by_object": [record]},
        "stitched": {"amp": part, "phase": {"mae": score(None, unit="rad", reason="truth_phase_constant")}},
        "by_object": [{"object": 0, "amp": part}],
        "patch": {"not_applicable": "this arm has no patch metrics"},
        "consistency": {"heldout": {"contrast": score(0.9 - value, direction="higher"), "frames": {"available": 3}}},
    }


STATUSES = [
    *(status(run, "train") for run in PINN),
    *(status(run, "reconstruct") for run in PINN[:3]),
    status(LSQML, "lsqml"),
    {**status(UNPREPARED, "prepare", "skipped", reason="3 frames are too few"), "run_id": "star__gs1"},
]
METRICS = [metrics(PINN[0], 0.10), metrics(PINN[1], 0.30), metrics(PINN[2], 0.6, collapsed=True), metrics(LSQML, 0.05)]
