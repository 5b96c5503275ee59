"""The neural arms on the PyTorch back end: train on a view, reconstruct a scan.

`pinn_torch` never receives an object; `baseline_torch` receives object patches of the train scan as labels.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Complex64, Float64, Int64

from ptychoflow.config import ModelConfig, TrainConfig, parse
from ptychoflow.data.checkpoints import CheckpointStore
from ptychoflow.data.normalize import network_input
from ptychoflow.errors import ContractError
from ptychoflow.imaging.stitch import Stitcher
from ptychoflow.models.spec import network_spec, parameter_count
from ptychoflow.models.torch.backend import (
    PhysicsBackend,
    Runtime,
    SupervisedBackend,
    build_network,
    choose_runtime,
    load_weights,
    predict_patches,
    save_weights,
    weights_sha256,
)
from ptychoflow.models.training import Outcome, fit
from ptychoflow.physics.patches import gather
from ptychoflow.records import Recon, Scan, View

logger = logging.getLogger(__name__)

SAMPLED_PATCHES = 512
"""Patches kept for the patch metrics, evenly spaced over the scan."""


@dataclass(frozen=True)
class Trained:
    """A trained network's outcome and the facts for its card."""

    outcome: Outcome
    card: dict[str, Any]


SAME_PROBE = 1e-4
"""Relative difference, after one complex factor, up to which two probes are the same illumination."""


def probe_sha256(probe: Complex64[np.ndarray, "n n"]) -> str:
    """Return the sha256 of a probe's bytes."""
    return hashlib.sha256(np.ascontiguousarray(probe).tobytes()).hexdigest()


def exposure_ratio(trained: Complex64[np.ndarray, "n n"], probe: Complex64[np.ndarray, "n n"]) -> tuple[float, float]:
    """Return how much stronger `probe` is than the trained one (modulus ratio), and how much its shape differs (relative).

    Two scans with the same illumination and another exposure have probes that differ by one factor. Dividing the
    amplitudes by it shows the network the frames that the trained illumination would have given.
    """
    a, b = trained.astype(np.complex128).ravel(), probe.astype(np.complex128).ravel()
    factor = np.vdot(a, b) / np.vdot(a, a).real
    return float(abs(factor)), float(np.linalg.norm(b - factor * a) / np.linalg.norm(b))


def train(
    scan: Scan,
    view: View,
    *,
    arm: str,
    supervised: bool,
    model: ModelConfig,
    config: TrainConfig,
    seed: int,
    device: str,
    store: CheckpointStore,
    model_dir: Path,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Trained:
    """Train one network on the train groups of a view; weights and probe are written only when training succeeded.

    Raises:
        ContractError: unsupported N, or a supervised arm without a true object.
        UnavailableError: the device is not there.
    """
    spec = network_spec(scan.n, view.gridsize, model)
    runtime = choose_runtime(device, config.precision)
    network = build_network(spec, model, runtime, seed=seed)
    groups, normalization = view.train.groups, view.normalization

    def input_of(batch: Int64[np.ndarray, "b"]) -> np.ndarray:
        frames = groups[batch]
        flat = network_input(scan.amplitude[frames.ravel()], normalization)
        return flat.reshape(*frames.shape, scan.n, scan.n)

    if supervised:
        if scan.object is None or scan.object_role != "truth":
            raise ContractError(
                f"{arm} learns from the true object, but the train scan has object role {scan.object_role}"
            )
        labels = scan.object / np.float32(normalization.object_scale)

        def label_of(batch: Int64[np.ndarray, "b"]) -> np.ndarray:
            return gather(labels, scan.positions_rc_px[groups[batch, 0]], scan.n)[:, None]

        backend: Any = SupervisedBackend(network, runtime, config, input_of, label_of=label_of)
    else:
        backend = PhysicsBackend(network, runtime, config, input_of, probe=scan.probe, normalization=normalization)
    outcome = fit(backend, len(groups), config, seed=seed, store=store, stop_requested=stop_requested)
    if outcome.reason is None:
        save_weights(network, model_dir / "weights.pt")
        np.save(model_dir / "probe.npy", scan.probe)
    card = {
        "arm": arm,
        "spec": asdict(spec),
        "model": asdict(model),
        "train": asdict(config),
        "normalization": asdict(normalization),
        "gridsize": view.gridsize,
        "n": scan.n,
        "seed": seed,
        "probe_sha256": probe_sha256(scan.probe),
        "scans": view.metadata["scans"],
        "n_parameters": parameter_count(spec),
        "n_train_groups": len(groups),
        "precision": runtime.precision,
        "device": device,
        "threads": runtime.threads,
        "weights_sha256": weights_sha256(network),
        "epochs": outcome.progress.epoch,
        "steps": outcome.progress.step,
        "stopped": outcome.stopped,
        "seconds": outcome.progress.seconds,
    }
    return Trained(outcome, card)


def check_card(card: dict[str, Any], probe: Complex64[np.ndarray, "n n"], scan: Scan, view: View) -> list[str]:
    """Return how scan and view differ from what the model was trained for; empty when they agree (D21, D70).

    Args:
        card: the model's card.
        probe: the probe that it was trained with.
        scan: scan to reconstruct.
        view: its view.
    """
    problems = []
    if card["n"] != scan.n:
        problems.append(f"the model was trained on frames of {card['n']} px, the scan has {scan.n}")
    elif (difference := exposure_ratio(probe, scan.probe)[1]) > SAME_PROBE:
        problems.append(
            f"the scan's probe is not the one that the model was trained with (they differ by {difference:.1%})"
        )
    if card["gridsize"] != view.gridsize:
        problems.append(f"the model was trained with gridsize {card['gridsize']}, the view has {view.gridsize}")
    if card["normalization"] != asdict(view.normalization):
        problems.append("the view's normalization is not the model's: it must come from the model's own train frames")
    return problems


@dataclass(frozen=True)
class Reconstructed:
    """A stitched object, and a sample of single patches for the patch metrics."""

    recon: Recon
    sample_patches: Complex64[np.ndarray, "s n n"]
    sample_positions_rc_px: Float64[np.ndarray, "s 2"]
    seconds: float


def reconstruct(
    scan: Scan,
    view: View,
    *,
    card: dict[str, Any],
    model_dir: Path,
    device: str,
    precision: str,
    infer_batch_size: int,
    allow_mismatch: bool = False,
) -> Reconstructed:
    """Reconstruct the test frames of a view: predict and stitch batch by batch, so memory is one canvas and one batch.

    The object never enters: only frames, positions, probe and weights do.

    Raises:
        ContractError: scan or view are not what the model was trained for, unless `allow_mismatch`, which is recorded.
        NumericalError: a predicted patch is not finite.
    """
    trained_probe = np.load(model_dir / "probe.npy")
    problems = check_card(card, trained_probe, scan, view)
    if problems and not allow_mismatch:
        raise ContractError("; ".join(problems) + " (allow_mismatch goes on all the same and records it)")
    model = parse(ModelConfig, card["model"], what="model/card.json")
    runtime = choose_runtime(device, precision)
    network = build_network(network_spec(card["n"], card["gridsize"], model), model, runtime, seed=0)
    load_weights(network, model_dir / "weights.pt")
    exposure = exposure_ratio(trained_probe, scan.probe)[0] if card["n"] == scan.n else 1.0
    frames = view.test.frames
    stitcher = Stitcher(scan.positions_rc_px[frames], scan.probe)
    every = -(-len(frames) // SAMPLED_PATCHES)
    sample, sampled_at = [], []
    clock = time.monotonic()
    for batch in _batches(frames, infer_batch_size):
        patches = _predict(scan, batch, view, network, runtime, exposure)
        stitcher.add(patches, scan.positions_rc_px[batch])
        chosen = np.flatnonzero(np.searchsorted(frames, batch) % every == 0)
        sample.append(patches[chosen])
        sampled_at.append(batch[chosen])
    object_, weight = stitcher.result()
    seconds = time.monotonic() - clock
    metadata = {
        "precision": runtime.precision,
        "n_frames": len(frames),
        "exposure_ratio": exposure,
        "overridden": problems,
    }
    return Reconstructed(
        Recon(object_, weight, stitcher.canvas, metadata=metadata),
        np.concatenate(sample),
        scan.positions_rc_px[np.concatenate(sampled_at)],
        seconds,
    )


def _batches(frames: Int64[np.ndarray, "m"], size: int) -> Iterator[Int64[np.ndarray, "b"]]:
    for start in range(0, len(frames), size):
        yield frames[start : start + size]


def _predict(
    scan: Scan, frames: Int64[np.ndarray, "b"], view: View, network: Any, runtime: Runtime, exposure: float
) -> Complex64[np.ndarray, "b n n"]:
    """Return object patches of frames in the object's own unit."""
    x = network_input(scan.amplitude[frames] / np.float32(exposure), view.normalization)[:, None]
    return predict_patches(network, x, runtime)[:, 0] * np.float32(view.normalization.object_scale)


def read_card(model_dir: Path) -> dict[str, Any]:
    """Return the card of a model folder.

    Raises:
        ContractError: the folder has no card or weights.
    """
    missing = [name for name in ("card.json", "weights.pt", "probe.npy") if not (model_dir / name).is_file()]
    if missing:
        raise ContractError(f"{model_dir.name} is not a model: {', '.join(missing)} is not in it")
    return dict(json.loads((model_dir / "card.json").read_text()))
