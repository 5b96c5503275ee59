"""Rerun the measured results that docs quote, from nothing, and write docs/evidence/*.json and pictures.

Every figure comes out of the workflow's own outputs: this script only writes samplesheets, starts `nextflow run main.nf`,
reads metrics.json, history.csv and manifest.json, and checks the figures against the bounds of the project's first
milestone. It needs the measured scans in ../shared/data; without them it stops and says so.
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
BEGIN, END = "<!-- evidence:begin -->", "<!-- evidence:end -->"
PRESET = {"mae_weight": 1, "nll_weight": 0}
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
            "models": "pinn_torch,lsqml", "split": "none", "seeds": "0,1,2", "epochs": 24,
            "batch_size": 8, "score_box_px": 120, **PRESET,
        },
        "bounds": {
            "lsqml": {"contrast_heldout": 0.89, "phase_pearson": 0.98},
            "pinn_torch_gs1": {"contrast_heldout": 0.88, "phase_pearson": 0.93},
        },
    },
    "star64_half": {
        "about": "N = 64, trained below the median y minus 16 px, scored on the half above it, which training never saw",
        "sheet": {"id": "star64half", "scan": "siemens_star_N64.npz", "N": 64},
        "params": {
            "models": "pinn_torch", "split": "region", "split_axis": "y", "split_at": "median", "guard_px": 16,
            "seeds": "0,1,2", "epochs": 32, "batch_size": 8, "score_box_px": 120, **PRESET,
        },
        "bounds": {"pinn_torch_gs1": {"contrast_test": 0.86, "phase_pearson": 0.92}},
    },
    "star64_poisson": {
        "about": "as star64, trained on the Poisson deviance instead of the amplitude error (one seed; no bound)",
        "sheet": {"id": "star64", "scan": "siemens_star_N64.npz", "N": 64, "heldout": "heldout_from_objectGuess"},
        "params": {
            "models": "pinn_torch", "split": "none", "epochs": 16, "batch_size": 8, "score_box_px": 120,
            "mae_weight": 0, "nll_weight": 1,
        },
        "bounds": {},
    },
    "star64_full_head": {
        "about": "as star64, with the full N x N output instead of centre and border heads (one seed; no bound)",
        "sheet": {"id": "star64", "scan": "siemens_star_N64.npz", "N": 64, "heldout": "heldout_from_objectGuess"},
        "params": {
            "models": "pinn_torch", "split": "none", "epochs": 16, "batch_size": 8, "score_box_px": 120,
            "model_output": "full", **PRESET,
        },
        "bounds": {},
    },
}  # fmt: skip


def run(name: str, experiment: dict[str, Any]) -> Path:
    """Run one experiment from nothing and return its output folder."""
    folder = SCRATCH / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    sheet = experiment["sheet"] | {"scan": str(DATA / experiment["sheet"]["scan"])}
    with (folder / "sheet.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(sheet))
        writer.writeheader()
        writer.writerow(sheet)
    command = [
        str(ROOT / ".nextflow-dist" / "nextflow"),
        "run",
        str(ROOT / "main.nf"),
        "--input",
        "sheet.csv",
        "--outdir",
        "out",
    ]
    for key, value in experiment["params"].items():
        command += [f"--{key}", str(value)]
    with (folder / "nextflow.log").open("w") as log:
        subprocess.run(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, check=True)
    return folder / "out"


def figures(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return the figures quoted in the documentation for one run."""
    stitched, consistency = metrics["stitched"], metrics["consistency"]
    return {
        "phase_pearson": stitched["phase"]["pearson"]["value"],
        "phase_mae_rad": stitched["phase"]["mae"]["value"],
        "amp_pearson": stitched["amp"]["pearson"]["value"],
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
            for key in ("phase_pearson", "contrast_heldout", "contrast_test", "frc50_nyquist")
            if len(values := [run[key] for run in seeds.values() if run[key] is not None]) == len(seeds)
        }
        for label, seeds in runs.items()
    }
    checks = [
        {
            "label": label,
            "figure": key,
            "at_least": bound,
            "median": medians[label][key],
            "holds": medians[label][key] >= bound,
        }
        for label, bounds in experiment["bounds"].items()
        for key, bound in bounds.items()
    ]
    for kind in PICTURES:
        for picture in sorted(outdir.glob(f"conditions/*/visuals/{kind}.png")):
            shutil.copyfile(picture, OUT / f"{name}_{picture.name}")
    dataset = json.loads(next(outdir.glob("datasets/*/manifest.json")).read_text())
    return {
        "about": experiment["about"],
        "parameters": experiment["params"],
        "input_sha256": dataset["inputs"],
        "versions": dataset["versions"],
        "medians_over_seeds": medians,
        "bounds": checks,
        "file_own_object": [comparison["reference"] for comparison in comparisons],
        "runs": runs,
    }


def table() -> str:
    """Return the Markdown table of all records in docs/evidence: medians over seeds, with their number."""
    lines = [
        "| experiment | arm | seeds | phase Pearson | contrast, held-out frames | contrast, test frames | at least |",
        "|---|---|---|---|---|---|---|",
    ]

    def number(value: float | None) -> str:
        return "–" if value is None else f"{value:.3f}"

    for name in EXPERIMENTS:
        path = OUT / f"{name}.json"
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


def write_readme() -> None:
    """Put the table between the markers of README.md."""
    path = ROOT / "README.md"
    head, rest = path.read_text().split(BEGIN)
    tail = rest.split(END)[1]
    path.write_text(f"{head}{BEGIN}\n{table()}\n{END}{tail}")


def processor() -> str:
    """Return the machine in words: figures of time mean nothing without it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    matrix = "AMX" if any("amx_bf16" in line for line in lines) else "no AMX"
    return f"{os.cpu_count()} cores, {model}, {matrix}"


def main() -> int:
    """Run the experiments named on the command line, or all; return 1 when a bound does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"any of {', '.join(EXPERIMENTS)}; all when none is named")
    parser.add_argument("--table", action="store_true", help="only rewrite the table of README.md from docs/evidence")
    arguments = parser.parse_args()
    if arguments.table:
        write_readme()
        return 0
    names = arguments.names or list(EXPERIMENTS)
    if unknown := [name for name in names if name not in EXPERIMENTS]:
        parser.error(f"unknown experiment {unknown}; there are {list(EXPERIMENTS)}")
    if not DATA.is_dir():
        sys.exit("evidence: the measured scans are not there (../shared/data/siemens_star)")
    OUT.mkdir(parents=True, exist_ok=True)
    revision = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    failed = 0
    for name in names:
        clock = time.monotonic()
        record = collect(name, EXPERIMENTS[name], run(name, EXPERIMENTS[name]))
        record |= {"revision": revision, "machine": processor(), "wall_seconds": round(time.monotonic() - clock, 1)}
        (OUT / f"{name}.json").write_text(json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n")
        for check in record["bounds"]:
            failed += not check["holds"]
            verdict = "holds" if check["holds"] else "MISSED"
            print(
                f"{name}: {check['label']} {check['figure']} {check['median']:.4f} (at least {check['at_least']}: {verdict})"
            )
    write_readme()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
