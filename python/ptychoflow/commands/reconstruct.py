"""RECONSTRUCT: a trained network over the test frames, stitched into one object, streaming."""

import logging
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from ptychoflow.arms.batches import effective_batch_size
from ptychoflow.arms.card import read_card
from ptychoflow.arms.status import write_status
from ptychoflow.config import ReconstructConfig
from ptychoflow.data.reassembly import REASSEMBLY, save_reassembly
from ptychoflow.data.storage import load_scan, load_view, save_recon, save_snapshots, write_json
from ptychoflow.errors import NumericalError
from ptychoflow.metrics.patch import patch_scores
from ptychoflow.provenance import check_scan, versions, write_manifest
from ptychoflow.records import Recon, View

logger = logging.getLogger(__name__)

FLAT = 1e-3
"""Relative standard deviation of the modulus, and circular one of the phase (rad), below which a picture is flat."""


def run(
    config: ReconstructConfig,
    *,
    run_meta: dict[str, Any],
    model: Path,
    test_scan: Path,
    view: Path,
    device: str,
    precision: str,
    allow_mismatch: bool,
    attempt: int,
    out_dir: Path,
) -> None:
    """Write `recon.npz`, `snapshots.npz` where the model has any, `patch_metrics.json`, `status.json` and `manifest.json`.

    With `keep_reassembly` also `tmp/torch_reassembly/reassembly_test.npz`, which alone holds the object; no arm sees it.

    A flat picture is written and `failed` with `collapsed` set: it is scored, flagged and left out of rankings. Patches that
    are not finite end as `failed` without a picture (D41).
    """
    started = time.monotonic()
    from ptychoflow.arms.neural import framework, reconstruct

    card = read_card(model)
    framework(card["backend"])
    import_seconds = time.monotonic() - started
    scan, the_view = load_scan(test_scan), load_view(view)
    scan_sha256 = check_scan(test_scan, the_view, "test")
    batch_size = effective_batch_size(config.infer_batch_size, device=device, attempt=attempt)
    status: dict[str, Any] = {
        "run_id": run_meta["run_id"],
        "stage": "reconstruct",
        "device": device,
        "effective_batch_size": batch_size,
        "attempt": attempt,
    }
    manifest: dict[str, Any] = {
        "command": "reconstruct",
        "inputs": {
            "weights": model / card["weights"],
            "card": model / "card.json",
            "test_scan": test_scan,
            "view": view,
            **{f"snapshot_{entry['epoch']}": model / entry["file"] for entry in card["snapshots"]},
            **({"probe_refined": model / card["probe_refined"]["file"]} if card.get("probe_refined") else {}),
        },
        "parameters": {
            "run": run_meta,
            "reconstruct": asdict(config),
            "device": device,
            "allow_mismatch": allow_mismatch,
        },
    }
    try:
        result = reconstruct(
            scan, the_view, card=card, model_dir=model, device=device, precision=precision,
            infer_batch_size=batch_size, stitching=config.stitching, allow_mismatch=allow_mismatch,
        )  # fmt: skip
    except NumericalError as error:
        logger.error("the reconstruction failed: %s", error)
        write_status(out_dir, **status, state="failed", reason=str(error), seconds={"import": import_seconds})
        write_manifest(out_dir, **manifest, outputs=["status.json"])
        return
    metadata = {
        **result.recon.metadata,
        **{name: run_meta[name] for name in ("run_id", "condition", "label", "arm", "gridsize", "n", "seed")},
        "device": device,
        "seconds": {"train": card["seconds"], "reconstruct": result.seconds},
        "cost": {
            "epochs": card["epochs"],
            "train_seconds": card["seconds"],
            "reconstruct_seconds": result.seconds,
        },
        "sha256": {"test_scan": scan_sha256, "weights": card["weights_sha256"]},
        "versions": versions(),
    }
    recon = replace(result.recon, metadata=metadata)
    save_recon(out_dir / "recon.npz", recon)
    outputs = ["recon.npz", "patch_metrics.json", "status.json"]
    if config.keep_reassembly:
        save_reassembly(out_dir / REASSEMBLY, scan, the_view.test.frames)
        outputs.append(str(REASSEMBLY))
    if result.snapshots is not None:
        save_snapshots(out_dir / "snapshots.npz", result.snapshots)
        outputs.append("snapshots.npz")
    write_json(
        out_dir / "patch_metrics.json",
        patch_scores(
            result.sample_patches, result.sample_positions_rc_px, scan.object, scan.probe, role=scan.object_role
        ),
    )
    flat = flatness(recon, the_view)
    if flat:
        logger.error("the reconstruction collapsed: %s", flat)
    write_status(
        out_dir,
        **status,
        state="failed" if flat else "ok",
        reason=f"collapsed: {flat}" if flat else None,
        collapsed=bool(flat),
        seconds={"import": import_seconds, "compile": result.compile_seconds, "reconstruct": result.seconds},
    )
    write_manifest(out_dir, **manifest, outputs=outputs)


def flatness(recon: Recon, view: View) -> str | None:
    """Return in words how the picture is flat on the scored rectangles, None when it is not (D31)."""
    parts = [recon.object[recon.canvas.slices_of(region)].ravel() for region in view.score_regions]
    values = np.concatenate(parts)
    modulus = np.abs(values)
    spread = float(modulus.std() / modulus.mean()) if modulus.any() else 0.0
    phasor = values[modulus > 0] / modulus[modulus > 0]
    phase = float(np.sqrt(max(0.0, 2 * (1 - np.abs(phasor.mean()))))) if len(phasor) else 0.0
    if spread < FLAT and phase < FLAT:
        return f"relative standard deviation of the modulus {spread:.1e}, of the phase {phase:.1e} rad"
    return None
