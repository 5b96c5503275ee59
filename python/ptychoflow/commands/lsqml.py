"""`ptychoflow lsqml`: the test frames of a view, reconstructed iteratively.

    scan.npz, view.npz -> recon.npz and snapshots.npz (absent when failed), history.csv, status.json, manifest.json

Takes the unique frames of the test groups, whatever the gridsize; frames in `heldout` and any `objectGuess` are never read.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Complex64, Float32, Int64

from ptychoflow.arms import lsqml
from ptychoflow.arms.batches import effective_batch_size
from ptychoflow.arms.status import write_status
from ptychoflow.config import LsqmlConfig
from ptychoflow.data.storage import atomic_write, load_scan, load_view, save_recon, save_snapshots
from ptychoflow.errors import ContractError
from ptychoflow.frames import Canvas, canvas_for, topleft_from_centre
from ptychoflow.provenance import check_scan, sha256_file, versions, write_manifest
from ptychoflow.records import Recon, Scan, Snapshots, View

logger = logging.getLogger(__name__)


def run(
    config: LsqmlConfig,
    *,
    run_meta: Mapping[str, Any],
    test_scan: Path,
    view: Path,
    device: str,
    attempt: int,
    out_dir: Path,
) -> None:
    """Reconstruct and write the files of this stage into `out_dir`.

    Args:
        config: epochs, batch size, plateau stop, epochs to keep.
        run_meta: the run's entry of the plan: `run_id`, `label`, `arm`, `seed`, `condition`, `n`.
        test_scan: scan.npz.
        view: view.npz that indexes it.
        device: `cpu` or `cuda`.
        attempt: 1 for the first try of the task; on a GPU each further one halves the batch.
        out_dir: folder of the task.

    Raises:
        ContractError: view and scan do not belong together, or the scan is not what LSQML needs.
        UnavailableError: ptychi 2.2.0 or the GPU is absent.
    """
    scan, table = load_scan(test_scan), load_view(view)
    scan_sha256 = check_scan(test_scan, table, "test")
    frames = usable_frames(scan, table)
    counts, photons_per_intensity, unit = counts_of(scan, frames)
    canvas = canvas_for(scan.positions_rc_px[table.test.frames], scan.n)
    logger.info("LSQML on %d frames of %d px, %d epochs, %s", len(frames), scan.n, config.lsqml_epochs, device)
    batch_size = effective_batch_size(config.lsqml_batch_size, device=device, attempt=attempt)
    result = lsqml.reconstruct(
        counts,
        topleft_from_centre(canvas.to_local(scan.positions_rc_px[frames]), scan.n),
        scan.probe,
        shape=canvas.shape,
        config=replace(config, lsqml_batch_size=batch_size),
        device=device,
        seed=int(run_meta["seed"]),
    )
    write_history(out_dir / "history.csv", result)
    outputs = ["history.csv", "status.json"]
    if result.failure is None:
        metadata = {
            **{key: run_meta[key] for key in ("arm", "run_id", "label", "condition", "n", "seed") if key in run_meta},
            **result.facts,
            "device": device,
            "seconds": result.seconds,
            "cost": {
                "epochs": len(result.loss),
                "train_seconds": 0.0,
                "reconstruct_seconds": result.seconds["setup"] + result.seconds["run"],
            },
            "final_loss": float(result.loss[-1]),
            "initial_probe": "from the file",
            "intensity_unit": unit,
            "photons_per_intensity": photons_per_intensity,
            "scan_sha256": scan_sha256,
            "view_sha256": sha256_file(view),
            "versions": versions(),
        }
        probe = _file_unit(result.probe, photons_per_intensity)
        recon = Recon(result.object, result.weight, canvas, probe, metadata, pixel_size_m=scan.pixel_size_m)
        save_recon(out_dir / "recon.npz", recon)
        outputs.append("recon.npz")
        if result.snapshots:
            snapshots = snapshots_of(result, canvas, photons_per_intensity=photons_per_intensity)
            save_snapshots(out_dir / "snapshots.npz", snapshots)
            outputs.append("snapshots.npz")
    write_status(
        out_dir,
        run_id=str(run_meta["run_id"]),
        stage="lsqml",
        state="ok" if result.failure is None else "failed",
        reason=result.failure,
        device=device,
        seconds=result.seconds,
        effective_batch_size=min(batch_size, len(frames)),
        attempt=attempt,
    )
    write_manifest(
        out_dir,
        command="lsqml",
        inputs={"test_scan": test_scan, "view": view},
        outputs=outputs,
        parameters={"lsqml": config.__dict__, "run": dict(run_meta), "device": device},
        facts={**result.facts, "intensity_unit": unit, "photons_per_intensity": photons_per_intensity},
    )


def usable_frames(scan: Scan, view: View) -> Int64[np.ndarray, "m"]:
    """Return the frames to reconstruct from, sorted: every frame of the test groups, each once.

    Raises:
        ContractError: the view names frames that the scan does not have, or that it holds out.
    """
    frames = np.unique(view.test.groups)
    if len(frames) == 0 or frames[0] < 0 or frames[-1] >= scan.n_frames:
        span = f"{frames[0]} to {frames[-1]}" if len(frames) else "none"
        raise ContractError(f"the view's test frames ({span}) are not frames of this scan, which has {scan.n_frames}")
    both = np.intersect1d(frames, view.heldout)
    if len(both):
        raise ContractError(f"{len(both)} test frames are also held out (first: {both[0]}); no arm may read those")
    return frames


def counts_of(scan: Scan, frames: Int64[np.ndarray, "m"]) -> tuple[Float32[np.ndarray, "m n n"], float, str]:
    """Return the frames' intensity in counts, the photons in one unit of amplitude squared, and where that came from."""
    intensity = np.square(np.asarray(scan.amplitude[frames], dtype=np.float32))
    photons = scan.photons_per_intensity
    if photons is not None:
        return intensity * np.float32(photons), photons, "photons, by metadata.photons_per_intensity"
    # Normalised data do not pass: the reconstruction refuses frames with fewer than 100 counts on average.
    return intensity, 1.0, "amplitude squared taken as counts: the file states no photons_per_intensity"


def _file_unit(probe: Complex64[np.ndarray, "*a n n"], photons_per_intensity: float) -> Complex64[np.ndarray, "*a n n"]:
    """Return probes in the file's unit: |F(probe * patch of object)| predicts the amplitudes as they are stored."""
    return (probe / math.sqrt(photons_per_intensity)).astype(np.complex64)


def snapshots_of(result: lsqml.LsqmlResult, canvas: Canvas, *, photons_per_intensity: float) -> Snapshots:
    """Return the snapshots of a result as a file holds them, of which there must be one."""
    kept = result.snapshots
    return Snapshots(
        epochs=np.array([one.epochs for one in kept], dtype=np.int64),
        train_seconds=np.zeros(len(kept)),
        reconstruct_seconds=np.array([one.seconds for one in kept]),
        objects=np.stack([one.object for one in kept]),
        canvas=canvas,
        probes=_file_unit(np.stack([one.probe for one in kept]), photons_per_intensity),
    )


def write_history(path: Path, result: lsqml.LsqmlResult) -> None:
    """Write one line an epoch: number, loss (empty when not finite), wall time in s."""
    lines = ["epoch,loss,seconds"]
    for epoch, (loss, seconds) in enumerate(zip(result.loss.tolist(), result.epoch_seconds.tolist(), strict=True)):
        lines.append(f"{epoch},{loss if math.isfinite(loss) else ''},{seconds:.6f}")
    with atomic_write(path) as stream:
        stream.write(("\n".join(lines) + "\n").encode())
