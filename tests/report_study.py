"""A study of any size for the tests of the report: complete documents, and PNG files of noise in realistic sizes."""

import io
import struct
import zlib
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

import report_sample as sample
from ptychoflow.report.sections import ReportInput
from ptychoflow.report.tables import outcomes

LABELS = ("pinn_torch_gs1", "baseline_torch_gs1", "pinn_tf_gs2", "lsqml")
PARTS = ("amp", "phase")


@lru_cache(maxsize=1024)
def png(rows: int, cols: int, *, seed: int = 0, title: str | None = None, rgb: bool = False) -> bytes:
    """Return a PNG of coarse noise over a ramp, grey or in colour."""
    rng = np.random.default_rng(seed)
    shape = (rows, cols, 3) if rgb else (rows, cols, 1)
    ramp = np.linspace(0, 200, rows * cols).reshape(rows, cols, 1)
    values = (ramp + rng.integers(0, 3, shape)).astype(np.uint8)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    text = chunk(b"tEXt", b"Title\0" + title.encode()) if title else b""
    header = struct.pack(">IIBBBBB", cols, rows, 8, 2 if rgb else 0, 0, 0, 0)
    lines = np.concatenate([np.zeros((rows, 1), np.uint8), values.reshape(rows, -1)], axis=1)
    body = zlib.compress(lines.tobytes(), 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + text + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def png_title(data: bytes) -> str | None:
    """Return the title that a PNG states, read by Pillow."""
    return Image.open(io.BytesIO(data)).info.get("Title")


def study(
    *, n_conditions: int = 2, n_seeds: int = 3, labels: tuple[str, ...] = LABELS, scale: float = 1.0
) -> ReportInput:
    """Return a whole study in which the first arm collapses with its last seed and the last arm is the best.

    Args:
        n_conditions: number of conditions.
        n_seeds: training seeds of every arm; an iterative arm has one run.
        labels: names of the arms; `lsqml` is the iterative one.
        scale: side of the pictures, as a share of realistic ones.
    """
    names = [f"lines_d1e{index + 3}" for index in range(n_conditions)]
    runs = [
        sample.planned(name, label, seed)
        for name in names
        for label in labels
        for seed in range(1 if label == "lsqml" else n_seeds)
    ]
    plan = {
        "schema_version": 1,
        "datasets": [{"id": f"{name}-{role}", "kind": "simulate", "n": 64} for name in names for role in ("train", "test")],
        "conditions": [
            {"id": name, "train": f"{name}-train", "test": f"{name}-test", "dose": name[7:], "view": "all"} for name in names
        ],
        "views": [],
        "runs": runs,
        "skipped": [],
        "parameters": {"models": list(labels), "seeds": list(range(n_seeds))},
    }  # fmt: skip
    rng = np.random.default_rng(7)
    documents, statuses = [], []
    for run in runs:
        quality = 0.03 * (len(labels) - labels.index(run["label"])) + 0.004 * rng.standard_normal()
        flat = n_seeds > 2 and run["label"] == labels[0] and run["seed"] == n_seeds - 1
        documents.append(sample.metrics(run, float(quality), pearson=float(0.99 - quality / 2), collapsed=flat))
        stages = ("lsqml",) if run["kind"] == "iterative" else ("train", "reconstruct")
        statuses += [sample.status(run, stage) for stage in stages]

    def side(length: int) -> int:
        return max(9, round(length * scale))

    comparisons = {name: comparison(name, labels) for name in names}
    pictures = {
        name: {
            file: png(side(rows), side(cols), seed=index, rgb=rgb, title=file)
            for index, (file, rows, cols, rgb) in enumerate(files(document["pictures"]))
        }
        for name, document in comparisons.items()
    }
    curves = {run["run_id"]: png(side(320), side(460), seed=index) for index, run in enumerate(runs)}
    return ReportInput(
        plan=plan,
        found=outcomes(plan, statuses, documents),
        comparisons=comparisons,
        pictures=pictures,
        curves=curves,
        versions={"ptychoflow": "0.2.0", "code_rev": "0123456789abcdef", "numpy": "2.3.1"},
    )


def comparison(name: str, labels: tuple[str, ...]) -> dict[str, Any]:
    """Return comparison.json of one condition."""
    pairs = [(first, second) for i, first in enumerate(labels) for second in labels[i + 1 :]]
    own = {"heldout": {"contrast": sample.score(0.99, direction="higher")}}
    return {
        "schema_version": 1,
        "condition": name,
        "reference": {"schema_version": 1, "condition": name, "name": "truth", "consistency": own},
        "pictures": {
            "compare": "compare_amp_phase.png",
            "frc": "frc_curves.png",
            "quality": "quality_time.png",
            "arms": {label: f"amp_phase_{label}.png" for label in labels},
            "errors": {label: f"amp_phase_error_{label}.png" for label in labels},
            "blink": [
                {"name": panel, **{part: f"blink_{panel}_{part}.png" for part in PARTS}} for panel in ("truth", *labels)
            ],
            "blink_limits": "amplitude 0.2 to 1.4, phase -0.5 to 0.7 rad, those of the truth",
        },
        "spatial": [sample.spatial(*pair, part, 0.03, 0.01) for pair in pairs for part in PARTS],
    }


def files(named: dict[str, Any]) -> list[tuple[str, int, int, bool]]:
    """Return name, rows, columns and whether it is in colour for every picture of a condition."""
    found = [(named["compare"], 620, 1400, True), (named["frc"], 420, 660, True), (named["quality"], 420, 660, True)]
    found += [(file, 460, 520, True) for kind in ("arms", "errors") for file in named[kind].values()]
    return found + [(entry[part], 171, 223, False) for entry in named["blink"] for part in PARTS]
