"""Rerun the measured results that docs quote, from nothing, and write docs/evidence/*.json and pictures.

Every figure comes out of the workflow's own outputs: this script only writes samplesheets, starts `nextflow run main.nf`,
reads what that wrote, and checks the figures against bounds where there are any. Experiments with a `sheet` or a `base` need
the measured scans in ../shared/data and stop in words without them; the others simulate their scans.
"""

import argparse
import csv
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data" / "siemens_star"
OUT = ROOT / "docs" / "evidence"
SCRATCH = ROOT / ".evidence"
BEGIN, END = "<!-- {}:begin -->", "<!-- {}:end -->"
PRESET = {"mae_weight": 1, "nll_weight": 0}
STAR = {"batch_size": 8, "score_box_px": 120, "learning_rate": 1e-3}
LINES = {
    "nimgs_train": 1, "nimgs_test": 1, "epochs": 20, "batch_size": 16, "plateau_patience": 0, "seeds": "0,1,2",
    "legacy_metrics": True, "snapshots": "none",
}  # fmt: skip
PUBLISHED = {
    "legacy_amp_mae": ("at most", 0.2625),
    "legacy_amp_ssim": ("at least", 0.294),
    "legacy_amp_ms_ssim": ("at least", 0.678),
    "legacy_amp_frc50": ("at least", 16.7),
    "legacy_phase_mae": ("at most", 0.0645),
}
"""What the reference implementation reached on the grid-lines workload (its seed 0, its early stopping)."""
LEGACY = ("legacy_amp_mae", "legacy_amp_ssim", "legacy_amp_ms_ssim", "legacy_amp_frc50", "legacy_phase_mae")
MEDIANS = ("phase_pearson", "contrast_heldout", "contrast_test", "frc50_nyquist", "amp_ssim", "amp_pearson", *LEGACY)
PICTURES = ("compare_amp_phase", "frc_curves", "quality_time")

EXPERIMENTS: dict[str, dict[str, Any]] = {
    "lsqml_n128": {
        "about": "LSQML, N = 128, all 516 frames, against the file's own object in the central 240 px",
        "sheet": {"id": "star128", "scan": "siemens_star_N128.npz", "N": 128},
        "params": {"models": "lsqml", "split": "none", "score_box_px": 240},
        "bounds": {"lsqml": {"phase_pearson": 0.97}},
    },
    "star64": {
        "about": "N = 64, 451 frames (those not held out), LSQML and the physics-trained net, three seeds, central 120 px",
        "sheet": {"id": "star64", "scan": "siemens_star_N64.npz", "N": 64, "heldout": "heldout_from_objectGuess"},
        "params": {
            "models": "pinn_torch,lsqml", "split": "none", "seeds": "0,1,2", "epochs": 24, **STAR, **PRESET,
        },
        "bounds": {
            "lsqml": {"contrast_heldout": 0.89, "phase_pearson": 0.98},
            "pinn_torch_gs1": {"contrast_heldout": 0.88, "phase_pearson": 0.93},
        },
    },
    "star64_pinn": {
        "about": "as star64, with the TensorFlow net (one seed)",
        "sheet": {"id": "star64", "scan": "siemens_star_N64.npz", "N": 64, "heldout": "heldout_from_objectGuess"},
        "params": {
            "models": "pinn", "split": "none", "epochs": 24, "snapshots": "none", **STAR, **PRESET,
        },
        "bounds": {"pinn_gs1": {"contrast_heldout": 0.88, "phase_pearson": 0.93}},
    },
    "grid_lines": {
        "about": "grid-lines, N = 64, gridsize 1, ideal disk: 441 train groups, 1,089 test positions, 20 epochs, three seeds",
        "study": "lines",
        "params": {
            "models": "pinn,pinn_torch", "step_train_px": 16, "step_test_px": 10, **LINES,
        },
        "bounds": {"pinn_gs1": PUBLISHED},
    },
    "grid_lines_supervised": {
        "about": "the same data, the supervised nets (one seed)",
        "study": "lines",
        "params": {
            "models": "baseline,baseline_torch", "step_train_px": 16, "step_test_px": 10, **LINES, "seeds": "0",
        },
        "bounds": {},
    },
    "lines_overlap": {
        "about": "grid-lines at 8 px steps, 441 train groups: single frames against groups of four neighbours, two seeds",
        "study": "lines",
        "params": {
            "models": "pinn_torch", "gridsizes": "1,2", "step_train_px": 8, "step_test_px": 8, "n_groups": 441, **LINES,
            "epochs": 12, "seeds": "0,1",
        },
        "bounds": {},
    },
    "star64_half": {
        "about": "N = 64, trained below the median y minus 16 px, scored on the half above it, which training never saw",
        "sheet": {"id": "star64half", "scan": "siemens_star_N64.npz", "N": 64},
        "params": {
            "models": "pinn_torch", "split": "region", "split_axis": "y", "split_at": "median", "guard_px": 16,
            "seeds": "0,1,2", "epochs": 32, **STAR, **PRESET,
        },
        "bounds": {"pinn_torch_gs1": {"contrast_test": 0.86, "phase_pearson": 0.92}},
    },
    "star64_poisson": {
        "about": "as star64, trained on the Poisson deviance instead of the amplitude error (one seed; no bound)",
        "sheet": {"id": "star64", "scan": "siemens_star_N64.npz", "N": 64, "heldout": "heldout_from_objectGuess"},
        "params": {
            "models": "pinn_torch", "split": "none", "epochs": 16, "mae_weight": 0, "nll_weight": 1, **STAR,
        },
        "bounds": {},
    },
    "star64_full_head": {
        "about": "as star64, with the full N x N output instead of centre and border heads (one seed; no bound)",
        "sheet": {"id": "star64", "scan": "siemens_star_N64.npz", "N": 64, "heldout": "heldout_from_objectGuess"},
        "params": {
            "models": "pinn_torch", "split": "none", "epochs": 16, "model_output": "full", **STAR, **PRESET,
        },
        "bounds": {},
    },
}  # fmt: skip

STUDIES: dict[str, dict[str, Any]] = {
    "star_dose_overlap": {
        "about": "dose and share of frames on the object that LSQML found on the measured star (lsqml_n128), at N = 128",
        "study": "fly64_dose_overlap",
        "base": ("lsqml_n128", "conditions/star128/recons/lsqml/s0/recon.npz"),
        "params": {
            "models": "pinn_torch,lsqml", "doses": "1e3,1e5", "views": "all,s_img_050,s_img_025", "gridsizes": "1,2",
            "seeds": "0,1", "split_fraction": 0.7, "step_train_px": 12, "n_filters_scale": 1, "learning_rate": 5e-4, "epochs": 12,
            "batch_size": 8, **PRESET, "lsqml_epochs": 50, "snapshots": "none", "min_success": 0,
        },
    },
}  # fmt: skip
"""Studies of many conditions: a table of medians, no bounds. They start from the reconstruction of an experiment above."""
STUDY_SCORES = (("phase", "mae"), ("phase", "pearson"), ("amp", "mae"), ("complex", "frc50"))


def run(name: str, experiment: dict[str, Any]) -> Path:
    """Run one experiment from nothing and return its output folder."""
    folder = SCRATCH / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if "study" in experiment:
        source = ["--study", experiment["study"]]
        if "base" in experiment:
            source += ["--base", str(base_of(experiment))]
    else:
        sheet = experiment["sheet"] | {"scan": str(DATA / experiment["sheet"]["scan"])}
        with (folder / "sheet.csv").open("w", newline="") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(sheet))
            writer.writeheader()
            writer.writerow(sheet)
        source = ["--input", "sheet.csv"]
    command = [str(ROOT / ".nextflow-dist" / "nextflow"), "run", str(ROOT / "main.nf"), *source, "--outdir", "out"]
    for key, value in experiment["params"].items():
        command += [f"--{key}", str(value)]
    with (folder / "nextflow.log").open("w") as log:
        subprocess.run(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, check=True)
    return folder / "out"


def base_of(experiment: dict[str, Any]) -> Path:
    """Return the reconstruction that a study starts from; its experiment is run where its output is not there."""
    name, part = experiment["base"]
    path = SCRATCH / name / "out" / part
    if not path.exists():
        run(name, EXPERIMENTS[name])
    return path


def figures(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return the figures quoted in the documentation for one run."""
    stitched, consistency = metrics["stitched"], metrics["consistency"]
    legacy = {
        f"legacy_{part}_{name}": stitched[part][f"legacy_{name}"]["value"]
        for part in ("amp", "phase")
        for name in ("mae", "ssim", "ms_ssim", "frc50")
        if f"legacy_{name}" in stitched[part]
    }
    return legacy | {
        "phase_pearson": stitched["phase"]["pearson"]["value"],
        "phase_mae_rad": stitched["phase"]["mae"]["value"],
        "amp_pearson": stitched["amp"]["pearson"]["value"],
        "amp_ssim": stitched["amp"]["ssim"]["value"],
        "frc50_nyquist": stitched["complex"]["frc50"]["value"],
        "frc1over7_nyquist": stitched["complex"]["frc1over7"]["value"],
        "contrast_heldout": consistency["heldout"]["contrast"]["value"],
        "contrast_test": consistency["test"]["contrast"]["value"],
        "r_factor_heldout": consistency["heldout"]["r_factor"]["value"],
        "region": stitched["phase"]["pearson"]["region"],
        "against": metrics["against"],
        "collapsed": metrics["collapsed"],
    }


def curve(path: Path) -> dict[str, list[float]]:
    """Return a CSV of numbers as columns."""
    with path.open() as stream:
        rows = list(csv.DictReader(stream))
    return {key: [float(row[key]) for row in rows] for key in rows[0]}


def frc_curve(path: Path) -> dict[str, list[float | None]]:
    """Return the FRC of the complex images of the first object."""
    with path.open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["part"] == "complex" and row["object"] == "0"]
    return {
        "frequency_nyquist": [float(row["frequency_nyquist"]) for row in rows],
        "frc": [float(row["frc"]) if row["frc"] else None for row in rows],
    }


def origin(experiment: dict[str, Any], outdir: Path) -> dict[str, Any]:
    """Return what an experiment is and what it was made from and with."""
    datasets = [json.loads(path.read_text()) for path in sorted(outdir.glob("datasets/*/manifest.json"))]
    return {
        "about": experiment["about"],
        "parameters": experiment["params"],
        "input_sha256": {name: entry for dataset in datasets for name, entry in dataset["inputs"].items()},
        "versions": datasets[0]["versions"],
    }


def collect(name: str, experiment: dict[str, Any], outdir: Path) -> dict[str, Any]:
    """Return one experiment's record: runs, medians over seeds, bounds and whether they hold."""
    runs: dict[str, dict[str, Any]] = {}
    for path in sorted(outdir.glob("conditions/*/runs/*/s*/evaluate/metrics.json")):
        metrics = json.loads(path.read_text())
        base = path.parents[1]
        status = json.loads((base / "reconstruct" / "status.json").read_text())
        history = [
            p for p in (base / "train" / "model" / "history.csv", base / "reconstruct" / "history.csv") if p.exists()
        ]
        runs.setdefault(metrics["label"], {})[str(metrics["seed"])] = {
            **figures(metrics),
            "state": status["state"],
            "seconds": status["seconds"],
            "history": curve(history[0]),
            "frc": frc_curve(path.parent / "frc.csv"),
            "over_time": [
                {key: value for key, value in entry.items() if key != "scores"}
                | {key: score["value"] for key, score in entry["scores"].items()}
                for entry in metrics["snapshots"]
            ],
        }
    comparisons = [json.loads(path.read_text()) for path in sorted(outdir.glob("conditions/*/visuals/comparison.json"))]
    medians = {
        label: {
            key: statistics.median(values)
            for key in MEDIANS
            if len(values := [run[key] for run in seeds.values() if run.get(key) is not None]) == len(seeds)
        }
        for label, seeds in runs.items()
    }
    checks = []
    for label, bounds in experiment["bounds"].items():
        for key, bound in bounds.items():
            sense, limit = bound if isinstance(bound, tuple) else ("at least", bound)
            median = medians[label][key]
            holds = median >= limit if sense == "at least" else median <= limit
            checks.append(
                {"label": label, "figure": key, sense.replace(" ", "_"): limit, "median": median, "holds": holds}
            )
    for kind in PICTURES:
        for picture in sorted(outdir.glob(f"conditions/*/visuals/{kind}.png")):
            shutil.copyfile(picture, OUT / f"{name}_{picture.name}")
    return origin(experiment, outdir) | {
        "medians_over_seeds": medians,
        "bounds": checks,
        "file_own_object": [comparison["reference"] for comparison in comparisons],
        "runs": runs,
    }


def collect_study(name: str, experiment: dict[str, Any], outdir: Path) -> dict[str, Any]:
    """Return the medians over seeds of every condition and arm, with how many runs ended ok and why the others did not."""
    summary = outdir / "summary"
    with (summary / "statistics.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["block"] == "stitched"]
    spreads = {(row["condition"], row["model"], row["part"], row["metric"]): row for row in rows}
    with (summary / "run_status.tsv").open(newline="") as stream:
        statuses = list(csv.DictReader(stream, delimiter="\t"))
    cells: dict[str, dict[str, Any]] = {}
    for status in statuses:
        condition, label = status["run_id"].split("__")[:2]
        cell = cells.setdefault(condition, {}).setdefault(label, {"n": 0, "n_ok": 0, "not_ok": {}})
        cell["n"] += 1
        cell["n_ok"] += status["state"] == "ok"
        if status["state"] != "ok":
            cell["not_ok"][status["run_id"]] = status["reason"]
        for part, metric in STUDY_SCORES:
            spread = spreads.get((condition, label, part, metric))
            cell[f"{part}_{metric}"] = float(spread["median"]) if spread and spread["median"] else None
    pictures = [*summary.glob("study/*_phase_mae.png"), *outdir.glob("conditions/*_all/visuals/compare_amp_phase.png")]
    for picture in pictures:
        owner = f"{picture.parents[1].name}_" if picture.parent.name == "visuals" else ""
        shutil.copyfile(picture, OUT / f"{name}_{owner}{picture.name}")
    return origin(experiment, outdir) | {"cells": cells}


def study_table() -> str:
    """Return the Markdown table of the studies: median over the seeds that ended ok, with their number."""
    lines = []
    for name in STUDIES:
        path = OUT / f"{name}.json"
        if not path.exists():
            return f"{name}: not measured"
        cells = json.loads(path.read_text())["cells"]
        labels = list(next(iter(cells.values())))
        head = [f"{score} of {label}" for score in ("phase MAE, rad,", "FRC50, Nyquist,") for label in labels]
        lines += ["| " + " | ".join([f"[{name}](evidence/{name}.json)", *head]) + " |", "|" + "---|" * (1 + len(head))]
        for condition, arms in cells.items():
            row = [condition]
            for key in ("phase_mae", "complex_frc50"):
                for label in labels:
                    value, ok, n = arms[label][key], arms[label]["n_ok"], arms[label]["n"]
                    row.append(f"{value:.3f} ({ok} of {n} ok)" if value is not None else f"– ({ok} of {n} ok)")
            lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def lines_table() -> str:
    """Return the Markdown table of the simulated experiments: median over seeds [least, largest], legacy definitions."""
    head = ["experiment", "arm", "amplitude MAE", "SSIM", "MS-SSIM", "FRC50, bins", "phase MAE", "*amplitude SSIM*"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, experiment in EXPERIMENTS.items():
        path = OUT / f"{name}.json"
        if "study" not in experiment or not path.exists():
            continue
        for label, seeds in json.loads(path.read_text())["runs"].items():
            cells = [f"[{name}](evidence/{name}.json)", label]
            for key in (*LEGACY, "amp_ssim"):
                values = [run[key] for run in seeds.values() if run.get(key) is not None]
                spread = f"{statistics.median(values):.3g} [{min(values):.3g}, {max(values):.3g}]" if values else "–"
                cells.append(spread)
            collapsed = sum(run["collapsed"] for run in seeds.values())
            cells[1] += f", {len(seeds)} seeds" + (f", {collapsed} collapsed" if collapsed else "")
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def table() -> str:
    """Return the Markdown table of the measured scans: medians over seeds, with their number."""
    lines = [
        "| experiment | arm | seeds | phase Pearson | contrast, held-out frames | contrast, test frames | at least |",
        "|---|---|---|---|---|---|---|",
    ]

    def number(value: float | None) -> str:
        return "–" if value is None else f"{value:.3f}"

    for name, experiment in EXPERIMENTS.items():
        path = OUT / f"{name}.json"
        if "study" in experiment:
            continue
        if not path.exists():
            lines.append(f"| {name} | | | not measured | | | |")
            continue
        record = json.loads(path.read_text())
        for label, medians in record["medians_over_seeds"].items():
            bounds = [
                f"{b['figure'].replace('_', ' ')} {b['at_least']}" for b in record["bounds"] if b["label"] == label
            ]
            columns = [number(medians.get(key)) for key in ("phase_pearson", "contrast_heldout", "contrast_test")]
            cells = [
                f"[{name}](docs/evidence/{name}.json)",
                label,
                str(len(record["runs"][label])),
                *columns,
                ", ".join(bounds) or "–",
            ]
            lines.append("| " + " | ".join(cells) + " |")
        for own in record["file_own_object"]:
            contrast = [own["consistency"][part]["contrast"]["value"] for part in ("heldout", "test")]
            lines.append(f"| {name} | *the file's own object* | | | {number(contrast[0])} | {number(contrast[1])} | |")
    return "\n".join(lines)


def write_tables() -> None:
    """Put the tables between the markers of README.md, docs/arms.md and docs/studies.md."""
    for path, marker, text in (
        (ROOT / "README.md", "evidence", table()),
        (ROOT / "docs/arms.md", "lines", lines_table()),
        (ROOT / "docs/studies.md", "star", study_table()),
    ):
        begin, end = BEGIN.format(marker), END.format(marker)
        head, rest = path.read_text().split(begin)
        path.write_text(f"{head}{begin}\n{text}\n{end}{rest.split(end)[1]}")


def processor() -> str:
    """Return the machine in words: figures of time mean nothing without it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    matrix = "AMX" if any("amx_bf16" in line for line in lines) else "no AMX"
    return f"{os.cpu_count()} cores, {model}, {matrix}"


def main() -> int:
    """Run the experiments named on the command line, or all; return 1 when a bound does not hold."""
    everything = EXPERIMENTS | STUDIES
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"any of {', '.join(everything)}; all when none is named")
    parser.add_argument("--table", action="store_true", help="only rewrite the tables of README.md and docs")
    arguments = parser.parse_args()
    if arguments.table:
        write_tables()
        return 0
    names = arguments.names or list(everything)
    if unknown := [name for name in names if name not in everything]:
        parser.error(f"unknown experiment {unknown}; there are {list(everything)}")
    if not DATA.is_dir() and any({"sheet", "base"} & everything[name].keys() for name in names):
        sys.exit("evidence: the measured scans are not there (../shared/data/siemens_star)")
    OUT.mkdir(parents=True, exist_ok=True)
    revision = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    failed = 0
    for name in names:
        clock = time.monotonic()
        experiment, collector = everything[name], collect_study if name in STUDIES else collect
        record = collector(name, experiment, run(name, experiment))
        record |= {"revision": revision, "machine": processor(), "wall_seconds": round(time.monotonic() - clock, 1)}
        (OUT / f"{name}.json").write_text(json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n")
        for check in record.get("bounds", []):
            failed += not check["holds"]
            verdict = "holds" if check["holds"] else "MISSED"
            limit = f"at least {check['at_least']}" if "at_least" in check else f"at most {check['at_most']}"
            print(f"{name}: {check['label']} {check['figure']} {check['median']:.4f} ({limit}: {verdict})")
    write_tables()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
