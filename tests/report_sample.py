"""A small study for the tests of tables and report: two conditions, and a run for everything that can become of one.

`pinn_torch_gs1` has four seeds (two ok, one collapsed, one whose reconstruction never came), `pinn_tf_gs1` three that
differ from it by noise only, `lsqml` is one run and better; `star` was never reconstructed.
"""

from typing import Any


def score(value: float | None, *, unit: str = "1", direction: str = "lower", **extra: Any) -> dict[str, Any]:
    return {"value": value, "unit": unit, "direction": direction, "range": None, **extra}


def planned(condition: str, label: str, seed: int) -> dict[str, Any]:
    iterative = label == "lsqml"
    return {
        "run_id": f"{condition}__{label}__n64__s{seed}",
        "condition": condition,
        "view": f"{condition}__gs1",
        "train": f"{condition}-train",
        "test": f"{condition}-test",
        "label": label,
        "arm": label.removesuffix("_gs1"),
        "kind": "iterative" if iterative else "train",
        "gridsize": 1,
        "n": 64,
        "seed": seed,
    }


PINN = [planned("lines_d1e9", "pinn_torch_gs1", seed) for seed in (0, 1, 2, 3)]
TWIN = [planned("lines_d1e9", "pinn_tf_gs1", seed) for seed in (0, 1, 2)]
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
        {"id": "lines-train", "kind": "simulate", "n": 64, "dose": "1e9", "truth": True},
        {"id": "lines-test", "kind": "simulate", "n": 64, "dose": "1e9", "truth": True},
        {"id": "star", "kind": "ingest", "n": 64, "dose": None, "truth": False},
    ],
    "conditions": [
        {
            **{"id": "lines_d1e9", "object": "lines", "train": "lines-train", "test": "lines-test", "dose": "1e9"},
            **{"view": "all", "sides": [64]},
        },
        {"id": "star", "object": "star", "train": "star", "test": "star", "dose": None, "view": "all", "sides": [64]},
    ],
    "views": [{"id": "lines_d1e9__gs1"}, {"id": "star__gs1"}],
    "runs": [*PINN, *TWIN, LSQML, LOST, UNPREPARED],
    "skipped": [SKIPPED],
    "parameters": {"models": ["pinn_torch", "pinn_tf", "lsqml"], "seeds": [0, 1, 2, 3]},
}


def status(run: dict[str, Any], stage: str, state: str = "ok", **extra: Any) -> dict[str, Any]:
    seconds = {"import": 5.0, stage: 10.0 + run["seed"]}
    return {
        "schema_version": 1, "run_id": run["run_id"], "stage": stage, "state": state, "reason": None, "collapsed": False,
        "device": "cpu", "seconds": seconds, "attempt": 1, **extra,
    }  # fmt: skip


def metrics(run: dict[str, Any], value: float, *, pearson: float = 0.9, collapsed: bool = False) -> dict[str, Any]:
    """Return metrics.json with the amplitude error `value` and the phase correlation `pearson`."""
    iterative = run["kind"] == "iterative"
    region = [[2, 12, 3, 18]]
    amp = {
        "mae": score(value, region=region),
        "ssim": score(1 - value, direction="higher", region=region),
        "ms_ssim": score(1 - value / 2, direction="higher", region=region, settings={"levels": 5, "sigma": 0.0}),
        "pearson": score(1 - value / 2, direction="higher", region=region),
        "contrast_ratio": score(0.05 if collapsed else 0.9, direction="one", region=region),
        "legacy_mae": score(2 * value, region=region),
    }
    phase = {
        "mae": score(1 - pearson, unit="rad", region=region),
        "ms_ssim": score(None, direction="higher", reason="image_smaller_than_window", region=region),
        "pearson": score(pearson, direction="higher", region=region),
        "legacy_mae": score(2 * (1 - pearson), unit="rad", region=region),
    }
    whole = {
        "nrmse": score(value, region=region),
        "frc50": score(1 - value, unit="Nyquist", direction="higher", status="crossed", region=region),
    }
    record = {
        "mode": "gauge", "gauge_abs": 2.0, "gauge_arg_rad": 0.5, "scale_error": 1.0, "ramp_rad_per_px": None,
        "correlation": 0.97, "twin_correlation": 0.2, "twin_warning": False,
        "corrected": ["one complex factor was applied"], "not_corrected": ["a phase ramp, if there is one, remains"],
    }  # fmt: skip
    heldout = {
        "contrast": score(0.9 - value, direction="higher"),
        "r_factor": score(0.1 + value),
        "deviance": score(1 + value, unit="1/photon"),
        "frames": {"available": 3, "chosen": 3, "uncovered": 0, "scored": 3},
        "probe": "scan",
    }
    stitched = {"amp": amp, "phase": phase, "complex": whole}
    return {
        "schema_version": 1,
        **{name: run[name] for name in ("run_id", "condition", "label", "arm", "gridsize", "n", "seed")},
        "against": "truth",
        "collapsed": collapsed,
        "coverage": 1.0,
        "grid": {"step_px": 1.0, "shapes": [[10, 15]]},
        "pixel_size_m": 1e-8,
        "alignment": {"by_object": [record]},
        "stitched": stitched,
        "by_object": [{"object": 0, **stitched}],
        "patch": {"not_applicable": "this arm has no patch metrics"},
        "consistency": {"heldout": heldout},
        "snapshots": snapshots(run, stitched, heldout, iterative=iterative),
        "fairness": {
            "reads_test_frames": iterative,
            "saw_truth": False,
            "train_test": "no training" if iterative else "separate scans",
            "min_train_test_distance_px": None,
            "n_train_frames": 0 if iterative else 40,
            "n_test_frames": 40,
            "n_heldout_frames": 3,
            "epochs": 40 if iterative else 50,
            "device": "cpu",
            "train_seconds": 0.0 if iterative else 10.0 + run["seed"],
            "reconstruct_seconds": 10.0 if iterative else 2.9,
            "notes": ["fitted to the test frames themselves"] if iterative else [],
        },
    }


def snapshots(run: dict[str, Any], stitched: Any, heldout: Any, *, iterative: bool) -> list[dict[str, Any]]:
    """Return the states that an arm passed: the net's last pearson is first reached by the iteration after 4.8 s."""
    if iterative:
        times = [(5, 0.0, 1.2, 0.6), (10, 0.0, 2.4, 0.85), (20, 0.0, 4.8, 0.93), (40, 0.0, 10.0, None)]
    else:
        times = [(5, 1.0, 2.9, 0.5), (20, 4.0, 2.9, 0.8), (50, 10.0 + run["seed"], 2.9, None)]
    last = {
        "phase.pearson": stitched["phase"]["pearson"],
        "amp.pearson": stitched["amp"]["pearson"],
        "complex.frc50": stitched["complex"]["frc50"],
        "heldout.contrast": heldout["contrast"],
    }
    return [
        {
            "epoch": epoch,
            "train_seconds": train,
            "reconstruct_seconds": reconstruct,
            "final": share is None,
            "scores": {name: {**entry, "value": entry["value"] * (share or 1.0)} for name, entry in last.items()},
        }
        for epoch, train, reconstruct, share in times
    ]


def spatial(first: str, second: str, part: str, mean: float, half: float) -> dict[str, Any]:
    """Return one entry of `spatial` in comparison.json: `first` minus `second`, mean absolute error."""
    verdict = "no difference shown" if abs(mean) <= half else ("first" if mean < 0 else "second")
    return {
        "first": first, "second": second, "part": part, "metric": "mae", "seeds": [0, 0], "block_px": 32, "n": 16,
        "mean": mean, "low": mean - half, "high": mean + half, "method": "bootstrap", "verdict": verdict,
    }  # fmt: skip


LABELS = ("pinn_torch_gs1", "pinn_tf_gs1", "lsqml")
COMPARISONS: dict[str, dict[str, Any]] = {
    "lines_d1e9": {
        "schema_version": 1,
        "condition": "lines_d1e9",
        "reference": {
            "schema_version": 1,
            "condition": "lines_d1e9",
            "name": "truth",
            "consistency": {"heldout": {"contrast": score(0.99, direction="higher")}},
        },
        "pictures": {
            "compare": "compare_amp_phase.png",
            "frc": "frc_curves.png",
            "quality": "quality_time.png",
            "arms": {label: f"amp_phase_{label}.png" for label in LABELS},
            "errors": {label: f"amp_phase_error_{label}.png" for label in LABELS},
            "blink": [
                {"name": name, "amp": f"blink_{name}_amp.png", "phase": f"blink_{name}_phase.png"}
                for name in ("truth", *LABELS)
            ],
            "blink_limits": "amplitude 0.2 to 1.4, phase -0.5 to 0.7 rad",
        },
        "spatial": [
            spatial("pinn_torch_gs1", "pinn_tf_gs1", "amp", -0.010, 0.020),
            spatial("pinn_torch_gs1", "lsqml", "amp", 0.050, 0.010),
            spatial("pinn_tf_gs1", "lsqml", "amp", 0.060, 0.012),
            spatial("pinn_torch_gs1", "pinn_tf_gs1", "phase", -0.002, 0.004),
            spatial("pinn_torch_gs1", "lsqml", "phase", 0.070, 0.010),
            spatial("pinn_tf_gs1", "lsqml", "phase", 0.072, 0.011),
        ],
    }
}

STATUSES = [
    *(status(run, "train") for run in (*PINN, *TWIN)),
    *(status(run, "reconstruct") for run in (*PINN[:3], *TWIN)),
    status(LSQML, "lsqml"),
    {**status(UNPREPARED, "prepare", "skipped", reason="3 frames are too few"), "run_id": "star__gs1"},
]
METRICS = [
    metrics(PINN[0], 0.10, pearson=0.905),
    metrics(PINN[1], 0.30, pearson=0.900),
    metrics(PINN[2], 0.6, pearson=0.1, collapsed=True),
    metrics(TWIN[0], 0.11, pearson=0.903),
    metrics(TWIN[1], 0.28, pearson=0.901),
    metrics(TWIN[2], 0.19, pearson=0.904),
    metrics(LSQML, 0.05, pearson=0.975),
]
