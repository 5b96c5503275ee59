"""TRAIN: one neural arm on one view; checkpoints outside the task folder, so that a killed run goes on where it was."""

import contextlib
import csv
import logging
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ptychoflow.arms.batches import effective_batch_size
from ptychoflow.arms.status import write_status
from ptychoflow.config import ModelConfig, TrainConfig
from ptychoflow.data.checkpoints import CheckpointStore
from ptychoflow.data.storage import load_scan, load_view, write_json
from ptychoflow.errors import DeviceMemoryError
from ptychoflow.provenance import check_scan, code_revision, sha256_file, sha256_json, versions, write_manifest
from ptychoflow.report.figures import training_curve
from ptychoflow.study.manifests import bundle_sha256, training_loss

logger = logging.getLogger(__name__)


def run(
    *,
    run_meta: dict[str, Any],
    model: ModelConfig,
    config: TrainConfig,
    backend: str,
    supervised: bool,
    train_scan: Path,
    view: Path,
    device: str,
    checkpoint_dir: Path,
    attempt: int,
    out_dir: Path,
) -> str | None:
    """Write `model/` (weights, probe.npy, card.json, history.csv, loss.png, snapshots/), `status.json` and `manifest.json`.

    A trained probe lies beside them as `probe_refined.npy`. A loss that is not finite ends as `failed` in status.json, without
    a model and with exit code 0. Of the seconds, `import` and `compile` are of the last try, `train` is of all tries.

    `history.csv` has one row an epoch, of both frameworks: `epoch`, `step`, `loss` and `validation_loss`, which are what a Keras
    history calls `loss` and `val_loss`, `learning_rate`, and `seconds` of training up to there.

    On a GPU a further try halves the batch, unless a try before it left a checkpoint: that one was cut short, not short of
    memory, and is gone on with as it was.
    """
    started = time.monotonic()
    from ptychoflow.arms.neural import framework, train

    framework(backend)
    import_seconds = time.monotonic() - started
    scan, the_view = load_scan(train_scan), load_view(view)
    found = check_scan(train_scan, the_view, "train")
    if attempt > 1:
        logger.info("attempt %d", attempt)
    view_sha256 = sha256_file(view)
    same = [backend, found, view_sha256, run_meta["run_id"], run_meta["seed"], asdict(model), device, code_revision()]

    def store_of(tried: TrainConfig) -> CheckpointStore:
        return CheckpointStore(checkpoint_dir, sha256_json([*same, asdict(tried)])[:32])

    asked = config
    sizes = [effective_batch_size(asked.batch_size, device=device, attempt=k + 1) for k in range(attempt)]
    tries = [replace(asked, batch_size=size) for size in sizes]
    config = next((earlier for earlier in tries if store_of(earlier).started), tries[-1])
    if config.batch_size != asked.batch_size:
        logger.warning("%d groups a step instead of %d: try %d on a GPU", config.batch_size, asked.batch_size, attempt)
    folder = out_dir / "model"
    folder.mkdir(parents=True, exist_ok=True)
    with store_of(config) as store, _stop_flag() as stop:
        try:
            trained = train(
                scan, the_view, arm=run_meta["arm"], backend=backend, supervised=supervised, model=model, config=config,
                seed=run_meta["seed"], device=device, store=store, model_dir=folder, stop_requested=lambda: bool(stop),
            )  # fmt: skip
        except DeviceMemoryError:
            store.clear()
            raise
        store.clear()
    history = trained.outcome.progress.history
    inputs = {"train_scan": train_scan, "view": view}
    failed = trained.outcome.reason
    outputs = ["status.json"]
    if failed is None:
        _write_history(folder / "history.csv", history)
        training_curve(history, folder / "loss.png")
        write_json(folder / "card.json", {**trained.card, "view_sha256": view_sha256, "versions": versions()})
        outputs += [
            f"model/{name}" for name in (trained.card["weights"], "probe.npy", "card.json", "history.csv", "loss.png")
        ]
        outputs += [
            f"model/{entry[key]}" for entry in trained.card["snapshots"] for key in ("file", "probe") if key in entry
        ]
        if trained.card["probe_refined"]:
            outputs.append(f"model/{trained.card['probe_refined']['file']}")
    else:
        logger.error("training failed: %s", failed)
        folder.rmdir()
    write_status(
        out_dir,
        run_id=run_meta["run_id"],
        stage="train",
        state="ok" if failed is None else "failed",
        reason=failed,
        device=device,
        seconds={
            "import": import_seconds,
            "compile": trained.compile_seconds,
            "train": trained.outcome.progress.seconds,
        },
        effective_batch_size=config.batch_size,
        attempt=attempt,
    )
    sums = {name: sha256_file(out_dir / name) for name in outputs}
    bundle = bundle_sha256(sums) if failed is None else None
    last = history[-1] if failed is None else {}
    facts = {
        "weights_sha256": trained.card["weights_sha256"],
        "resumed_from_step": trained.outcome.resumed_from,
        "final_loss": last.get("loss"),
        "final_validation_loss": last.get("validation_loss"),
        "loss_name": training_loss(asdict(asked), supervised=supervised)[0],
        "epochs": trained.outcome.progress.epoch,
        "bundle_sha256": bundle,
    }
    parameters = {"run": run_meta, "model": asdict(model), "train": asdict(asked), "device": device}
    write_manifest(out_dir, command="train", inputs=inputs, outputs=sums, parameters=parameters, facts=facts)
    return bundle


def _write_history(path: Path, history: list[dict[str, float]]) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(history[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)


@contextlib.contextmanager
def _stop_flag() -> Iterator[list[int]]:
    """Yield a list that is non-empty once SIGTERM or SIGUSR2 has come; the old handlers come back afterwards."""
    received: list[int] = []
    signals = (signal.SIGTERM, signal.SIGUSR2)
    before = {number: signal.signal(number, lambda got, frame: received.append(got)) for number in signals}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
