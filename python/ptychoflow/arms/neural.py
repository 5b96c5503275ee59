"""The neural arms on either framework: train on a view, reconstruct a scan.

The physics arms (`pinn`, `pinn_torch`) never receive an object; the supervised ones (`baseline`, `baseline_torch`) receive
object patches of the train scan as labels. A group of C frames gives C patches at its members' positions, or, without
`object_big`, one at the group's centre. The frameworks answer to the same names (models/torch, models/tf) and never share a
process: only the one asked for is imported.
"""

import importlib
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Complex64, Float32, Float64, Int64

from ptychoflow.arms.card import check_card, exposure_ratio, probe_sha256
from ptychoflow.config import ModelConfig, TrainConfig, parse
from ptychoflow.data.checkpoints import CheckpointStore
from ptychoflow.data.normalize import network_input
from ptychoflow.data.npz import read_npy
from ptychoflow.data.storage import write_npy
from ptychoflow.errors import ContractError, NumericalError, UnavailableError, UsageError, nearest
from ptychoflow.imaging.stitch import Stitcher
from ptychoflow.imaging.tiling import Tiler, why_no_raster
from ptychoflow.models.forward import member_offsets, padding_px
from ptychoflow.models.spec import network_spec, parameter_count
from ptychoflow.models.training import Outcome, fit
from ptychoflow.physics.patches import gather
from ptychoflow.records import Recon, Scan, Snapshots, View

logger = logging.getLogger(__name__)

FRAMEWORKS = {"torch": "ptychoflow.models.torch.backend", "tensorflow": "ptychoflow.models.tf.backend"}
"""Where each back end of the registry lives."""

Stitching = Literal["position", "tiling"]

SAMPLED_PATCHES = 512
"""Patches kept for the patch metrics, evenly spaced over the scan."""


@dataclass(frozen=True)
class Trained:
    """A trained network's outcome, the facts for its card, and what building and compiling took, s."""

    outcome: Outcome
    card: dict[str, Any]
    compile_seconds: float


def framework(backend: str) -> Any:
    """Return the module behind a back end of the registry; the framework is imported at the first call.

    Raises:
        UsageError: there is no such back end.
        UnavailableError: its framework is not installed, as in the image cpu.
    """
    if backend not in FRAMEWORKS:
        raise UsageError(
            f"unknown backend '{backend}'{nearest(backend, list(FRAMEWORKS))}; known are {', '.join(FRAMEWORKS)}"
        )
    try:
        return importlib.import_module(FRAMEWORKS[backend])
    except ModuleNotFoundError as error:
        raise UnavailableError(
            f"arms of back end {backend} need {error.name}, which is not installed here; arms run in the image cuda"
        ) from error


def patch_positions(
    positions_rc_px: Float64[np.ndarray, "m 2"], groups: Int64[np.ndarray, "b c"], n_patches: int
) -> Float64[np.ndarray, "b k 2"]:
    """Return where a group's patches lie: at its members, or, of a single patch, at the middle of the members, px."""
    members = positions_rc_px[groups]
    return members if n_patches == groups.shape[1] else members.mean(axis=1, keepdims=True)


def train(
    scan: Scan,
    view: View,
    *,
    arm: str,
    backend: str,
    supervised: bool,
    model: ModelConfig,
    config: TrainConfig,
    seed: int,
    device: str,
    store: CheckpointStore,
    model_dir: Path,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Trained:
    """Train one network on the train groups of a view; weights, probes and snapshots are written only when training succeeded.

    Compiling is building the network and what trains it, in both frameworks, and, in TensorFlow, tracing its steps; training,
    its history and its snapshots do not count it.

    Raises:
        ContractError: unsupported N, or a supervised arm without a true object.
        UnavailableError: the device is not there.
    """
    spec = network_spec(scan.n, view.gridsize, model)
    module = framework(backend)
    clock = time.monotonic()
    runtime = module.choose_runtime(device, config.precision)
    network = module.build_network(spec, model, runtime, seed=seed)
    groups, normalization = view.train.groups, view.normalization

    def input_of(batch: Int64[np.ndarray, "b"]) -> np.ndarray:
        return _frames(scan, groups[batch], view)

    if supervised:
        if scan.object is None or scan.object_role != "truth":
            raise ContractError(
                f"{arm} learns from the true object, but the train scan has object role {scan.object_role}"
            )
        labels = scan.object / np.float32(normalization.object_scale)

        def label_of(batch: Int64[np.ndarray, "b"]) -> np.ndarray:
            at = patch_positions(scan.positions_rc_px, groups[batch], spec.channels_out)
            return gather(labels, at.reshape(-1, 2), scan.n).reshape(*at.shape[:2], scan.n, scan.n)

        learner = module.SupervisedBackend(network, runtime, config, input_of, label_of=label_of, probe=scan.probe)
    else:
        offsets = member_offsets(scan.positions_rc_px, groups)
        learner = module.PhysicsBackend(
            network, runtime, config, input_of,
            offsets_of=lambda batch: offsets[batch], probe=scan.probe, normalization=normalization,
            pad_px=padding_px(offsets, jitter_px=model.extraction_jitter_px), seed=seed,
        )  # fmt: skip
    built_in = time.monotonic() - clock
    outcome = fit(learner, len(groups), config, seed=seed, store=store, stop_requested=stop_requested)
    snapshots: list[dict[str, Any]] = []
    refined: dict[str, str] | None = None
    weights = f"weights{module.WEIGHTS_SUFFIX}"
    if outcome.reason is None:
        module.save_weights(network, model_dir / weights)
        write_npy(model_dir / "probe.npy", scan.probe)
        if model.trainable_probe and not supervised:
            probe = learner.probe()
            write_npy(model_dir / "probe_refined.npy", probe)
            refined = {"file": "probe_refined.npy", "sha256": probe_sha256(probe)}
        snapshots = _write_snapshots(store, model_dir, backend, epochs=outcome.progress.epoch)
    card = {
        "arm": arm,
        "backend": backend,
        "weights": weights,
        "spec": asdict(spec),
        "model": asdict(model),
        "train": asdict(config),
        "normalization": asdict(normalization),
        "gridsize": view.gridsize,
        "n": scan.n,
        "seed": seed,
        "probe_sha256": probe_sha256(scan.probe),
        "probe_refined": refined,
        "scans": view.metadata["scans"],
        "n_parameters": parameter_count(spec),
        "n_train_groups": len(groups),
        "precision": runtime.precision,
        "device": device,
        "threads": runtime.threads,
        "weights_sha256": module.weights_sha256(network),
        "epochs": outcome.progress.epoch,
        "steps": outcome.progress.step,
        "stopped": outcome.stopped,
        "seconds": outcome.progress.seconds,
        "snapshots": snapshots,
    }
    return Trained(outcome, card, compile_seconds=built_in + learner.compile_seconds)


def _write_snapshots(store: CheckpointStore, model_dir: Path, backend: str, *, epochs: int) -> list[dict[str, Any]]:
    """Write the kept weights as `snapshots/epoch_00005.<suffix>` into the model, refined probes beside them as
    `epoch_00005_probe.npy`; return what the card says of them.

    A try that was killed may have come further than the one that then ran into the time limit: only epochs below `epochs` count.
    """
    module = framework(backend)
    entries = []
    for kept in store.kept():
        if kept.epoch < epochs:
            name, weights = f"snapshots/epoch_{kept.epoch:05d}", dict(kept.weights)
            (model_dir / "snapshots").mkdir(exist_ok=True)
            entry = {"epoch": kept.epoch, "train_seconds": kept.train_seconds, "file": name + module.WEIGHTS_SUFFIX}
            if "probe" in weights:
                entry["probe"] = f"{name}_probe.npy"
                write_npy(model_dir / entry["probe"], weights.pop("probe"))
            module.write_weights(weights, model_dir / entry["file"])
            entries.append(entry)
    return entries


@dataclass(frozen=True)
class Reconstructed:
    """A stitched object, a sample of single patches for the patch metrics, and the object after earlier epochs.

    `seconds` is from frames to object, `compile_seconds` what building and compiling the network took before.
    """

    recon: Recon
    sample_patches: Complex64[np.ndarray, "s n n"]
    sample_positions_rc_px: Float64[np.ndarray, "s 2"]
    seconds: float
    compile_seconds: float = 0.0
    snapshots: Snapshots | None = None


def reconstruct(
    scan: Scan,
    view: View,
    *,
    card: dict[str, Any],
    model_dir: Path,
    device: str,
    precision: str,
    infer_batch_size: int,
    stitching: Stitching = "position",
    allow_mismatch: bool = False,
) -> Reconstructed:
    """Reconstruct the test frames of a view: predict and stitch batch by batch, so memory is one canvas and one batch.

    The object never enters: only frames, positions, probe and weights do. Each snapshot of the model takes the same path as
    the final weights and is timed alone; the final ones go first, so what a first call costs beyond compiling is theirs.
    Where tiling was asked for and cannot be, stitching is by position, and the metadata say why.

    Raises:
        ContractError: scan or view are not what the model was trained for, unless `allow_mismatch`, which is recorded.
        DeviceMemoryError: the GPU is too small for this batch size.
        NumericalError: a patch predicted with the final weights is not finite.
    """
    trained_probe = read_npy(model_dir / "probe.npy")
    problems = check_card(card, trained_probe, scan, view)
    if problems and not allow_mismatch:
        raise ContractError("; ".join(problems) + " (allow_mismatch goes on all the same and records it)")
    model = parse(ModelConfig, card["model"], what="model/card.json")
    module = framework(card["backend"])
    groups = view.test.groups
    at_once = max(1, infer_batch_size // groups.shape[1])
    clock = time.monotonic()
    runtime = module.choose_runtime(device, precision)
    network = module.build_network(network_spec(card["n"], card["gridsize"], model), model, runtime, seed=0)
    module.trace_inference(
        network, sorted({len(groups[start : start + at_once]) for start in range(0, len(groups), at_once)}), runtime
    )
    compile_seconds = time.monotonic() - clock
    exposure = exposure_ratio(trained_probe, scan.probe)[0] if card["n"] == scan.n else 1.0
    chosen = _choose_stitching(stitching, scan, view)

    def infer(weights: str, probe: str | None) -> Reconstructed:
        module.load_weights(network, model_dir / weights)

        def predict(x: np.ndarray) -> np.ndarray:
            return module.predict_patches(network, x, runtime)

        found = _infer(scan, view, predict, tiled=chosen["used"] == "tiling", exposure=exposure, at_once=at_once)
        if probe is None:
            return found
        # Members of a group have a probe each, or share one; they are no incoherent modes of one illumination (D29).
        own = read_npy(model_dir / probe).mean(axis=0, keepdims=True) * np.float32(exposure)
        return replace(found, recon=replace(found.recon, probe=own))

    final = infer(card["weights"], (card.get("probe_refined") or {}).get("file"))
    metadata = {
        "precision": runtime.precision,
        "n_frames": len(view.test.frames),
        "n_groups": len(view.test.groups),
        "exposure_ratio": exposure,
        "overridden": problems,
        "stitching": chosen,
    }
    recon = replace(final.recon, metadata=metadata, pixel_size_m=scan.pixel_size_m)
    snapshots = _snapshots(card["snapshots"], infer)
    return replace(final, recon=recon, compile_seconds=compile_seconds, snapshots=snapshots)


def _choose_stitching(asked: Stitching, scan: Scan, view: View) -> dict[str, str | None]:
    """Return how the patches are put together (`used`), and why not as asked; tiling is for gridsize 1 on a raster (D40)."""
    frames, reason = view.test.frames, None
    if asked == "tiling" and view.gridsize > 1:
        reason = f"groups of {view.test.groups.shape[1]} frames give patches that overlap; tiling is for gridsize 1"
    elif asked == "tiling":
        reason = why_no_raster(scan.positions_rc_px[frames], scan.scan_index[frames], scan.n)
    if reason is not None:
        logger.warning("patches are stitched by position, not tiled: %s", reason)
    return {"asked": asked, "used": asked if reason is None else "position", "reason": reason}


def _infer(
    scan: Scan,
    view: View,
    predict: Callable[[np.ndarray], np.ndarray],
    *,
    tiled: bool,
    exposure: float,
    at_once: int,
) -> Reconstructed:
    """Return the test frames as one object, by the weights that the network has now: every patch of every group."""
    groups = view.test.groups
    positions = scan.positions_rc_px[view.test.frames]
    stitcher = Tiler(positions, scan.n) if tiled else Stitcher(positions, scan.probe)
    every = -(-len(groups) // SAMPLED_PATCHES)
    sample, sampled_at = [], []
    clock = time.monotonic()
    for start in range(0, len(groups), at_once):
        batch = groups[start : start + at_once]
        patches = predict(_frames(scan, batch, view) / np.float32(exposure)) * np.float32(
            view.normalization.object_scale
        )
        at = patch_positions(scan.positions_rc_px, batch, patches.shape[1])
        stitcher.add(patches.reshape(-1, scan.n, scan.n), at.reshape(-1, 2))
        chosen = np.flatnonzero(np.arange(start, start + len(batch)) % every == 0)
        sample.append(patches[chosen, 0])
        sampled_at.append(at[chosen, 0])
    object_, weight = stitcher.result()
    return Reconstructed(
        Recon(object_, weight, stitcher.canvas),
        np.concatenate(sample),
        np.concatenate(sampled_at),
        seconds=time.monotonic() - clock,
    )


def _frames(scan: Scan, groups: Int64[np.ndarray, "b c"], view: View) -> Float32[np.ndarray, "b c n n"]:
    """Return the frames of groups at network scale."""
    flat = network_input(scan.amplitude[groups.ravel()], view.normalization)
    return flat.reshape(*groups.shape, scan.n, scan.n)


def _snapshots(entries: list[dict[str, Any]], infer: Callable[[str, str | None], Reconstructed]) -> Snapshots | None:
    """Return the object by the weights after each epoch of the card; one that is not finite is said and left out."""
    usable: list[tuple[dict[str, Any], Reconstructed]] = []
    for entry in entries:
        try:
            found = infer(entry["file"], entry.get("probe"))
        except NumericalError as error:
            logger.warning("the snapshot after epoch %d is left out: %s", entry["epoch"], error)
            continue
        logger.info("snapshot after epoch %d: %.2f s", entry["epoch"], found.seconds)
        usable.append((entry, found))
    if not usable:
        return None
    probes = [found.recon.probe for _, found in usable if found.recon.probe is not None]
    return Snapshots(
        epochs=np.array([entry["epoch"] for entry, _ in usable], dtype=np.int64),
        train_seconds=np.array([entry["train_seconds"] for entry, _ in usable], dtype=np.float64),
        reconstruct_seconds=np.array([found.seconds for _, found in usable], dtype=np.float64),
        objects=np.stack([found.recon.object for _, found in usable]),
        canvas=usable[0][1].recon.canvas,
        probes=np.stack(probes) if probes else None,
    )
