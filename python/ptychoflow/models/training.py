"""One training loop for every framework: epochs, validation, step size, checkpoints that survive SIGKILL.

The order of the groups is a function of (seed, epoch) alone and a checkpoint holds everything else that the next step
depends on, so a resumed run takes the same steps as an uninterrupted one (same machine, threads and precision). Snapshots
of the weights go to the same store, before any later checkpoint, so a resumed run has them too.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

from ptychoflow.config import TrainConfig
from ptychoflow.data.checkpoints import CheckpointStore
from ptychoflow.errors import ContractError, TransientError

logger = logging.getLogger(__name__)


@runtime_checkable
class Backend(Protocol):
    """What a framework must do; groups are named by their index into the train table.

    Attributes:
        compile_seconds: wall time that this process has spent on compiling within `train_step` and `loss` so far, s.
    """

    compile_seconds: float

    def train_step(self, batch: Int64[np.ndarray, "b"], learning_rate: float) -> float:
        """Take one optimizer step and return the loss before it."""
        ...

    def loss(self, batch: Int64[np.ndarray, "b"]) -> float:
        """Return the loss without a step."""
        ...

    def state(self) -> dict[str, np.ndarray]:
        """Return weights and optimizer state as arrays."""
        ...

    def weights(self) -> dict[str, np.ndarray]:
        """Return the weights by name, as inference needs them, and `probe` where it is refined."""
        ...

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Take over a state returned by `state`."""
        ...


@dataclass
class Progress:
    """Where a training run stands; everything but the weights. `seconds` is wall time of all tries without compiling, s."""

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    learning_rate: float = 0.0
    best_validation: float = math.inf
    epochs_without_gain: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """How training ended: `reason` is None for a finished run, else why it failed."""

    progress: Progress
    resumed_from: int
    reason: str | None
    stopped: str = "all epochs"


def split_validation(
    n_groups: int, fraction: float, seed: int
) -> tuple[Int64[np.ndarray, "t"], Int64[np.ndarray, "v"]]:
    """Return train and validation group indices; both have at least one member.

    Raises:
        ContractError: fewer than two groups.
    """
    if n_groups < 2:
        raise ContractError(f"{n_groups} train group(s) cannot be split into training and validation; use at least 2")
    order = np.random.default_rng([seed, 1]).permutation(n_groups)
    n = min(max(1, round(fraction * n_groups)), n_groups - 1)
    return np.sort(order[n:]), np.sort(order[:n])


def fit(
    backend: Backend,
    n_groups: int,
    config: TrainConfig,
    *,
    seed: int,
    store: CheckpointStore,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train and return how it went.

    A loss that is not finite ends the training with a reason that names epoch, step and groups (D36).

    Args:
        backend: network, optimizer and data of one framework.
        n_groups: rows of the train group table.
        config: epochs, batch size, step size and the rest.
        seed: decides the validation set and the order of the groups.
        store: where checkpoints and snapshots are kept.
        stop_requested: asked after every step; when true, a checkpoint is written first.

    Raises:
        TransientError: when asked to stop, after saving.
    """
    train, validation = split_validation(n_groups, config.validation_fraction, seed)
    progress = Progress(learning_rate=config.learning_rate)
    resumed_from = _resume(backend, store, progress)
    clock = time.monotonic()
    before, saved = progress.seconds + backend.compile_seconds, clock
    while progress.epoch < config.epochs:
        order = np.random.default_rng([seed, 2, progress.epoch]).permutation(train)
        for start in range(progress.step_in_epoch * config.batch_size, len(order), config.batch_size):
            batch = order[start : start + config.batch_size]
            loss = backend.train_step(batch, progress.learning_rate)
            if not math.isfinite(loss):
                where = f"epoch {progress.epoch + 1}, step {progress.step + 1}, groups {batch.tolist()}"
                return Outcome(progress, resumed_from, f"the loss is {loss} at {where}")
            progress.loss_sum += loss * len(batch)
            progress.step += 1
            progress.step_in_epoch += 1
            now = time.monotonic()
            progress.seconds = before + now - clock - backend.compile_seconds
            if stop_requested():
                _save(backend, store, progress)
                raise TransientError(
                    f"stopped by a signal at step {progress.step}; a checkpoint is kept, run again to go on"
                )
            if now - saved >= config.checkpoint_every_s:
                _save(backend, store, progress)
                saved = time.monotonic()
        _end_of_epoch(backend, config, progress, n_train=len(train), validation=validation)
        if not math.isfinite(progress.history[-1]["validation_loss"]):
            return Outcome(progress, resumed_from, f"the validation loss is not finite after epoch {progress.epoch}")
        if config.max_seconds is not None and progress.seconds >= config.max_seconds:
            return Outcome(
                progress, resumed_from, None, f"time limit of {config.max_seconds:g} s after epoch {progress.epoch}"
            )
        if progress.epoch in config.snapshots and progress.epoch < config.epochs:
            pause = time.monotonic()
            store.keep(progress.epoch, backend.weights(), train_seconds=progress.seconds)
            clock += time.monotonic() - pause  # measuring the run is not part of it
    return Outcome(progress, resumed_from, None)


def _end_of_epoch(
    backend: Backend, config: TrainConfig, progress: Progress, *, n_train: int, validation: Int64[np.ndarray, "v"]
) -> None:
    """Record the epoch, log one line, lower the step size on a plateau."""
    parts = [validation[start : start + config.batch_size] for start in range(0, len(validation), config.batch_size)]
    validation_loss = sum(backend.loss(part) * len(part) for part in parts) / len(validation)
    loss = progress.loss_sum / n_train
    progress.epoch += 1
    progress.step_in_epoch, progress.loss_sum = 0, 0.0
    row = {
        "epoch": progress.epoch,
        "step": progress.step,
        "loss": loss,
        "validation_loss": validation_loss,
        "learning_rate": progress.learning_rate,
        "seconds": round(progress.seconds, 3),
    }
    progress.history.append(row)
    left = progress.seconds / progress.epoch * (config.epochs - progress.epoch)
    logger.info(
        "epoch %d/%d  loss %.5g  validation %.5g  step size %.2g  %.0f s, about %.0f s left",
        progress.epoch, config.epochs, loss, validation_loss, progress.learning_rate, progress.seconds, left,
    )  # fmt: skip
    if validation_loss < progress.best_validation:
        progress.best_validation, progress.epochs_without_gain = validation_loss, 0
        return
    progress.epochs_without_gain += 1
    if config.plateau_patience and progress.epochs_without_gain >= config.plateau_patience:
        progress.learning_rate = max(progress.learning_rate / 2, config.learning_rate / 10)
        progress.epochs_without_gain = 0


def _save(backend: Backend, store: CheckpointStore, progress: Progress) -> None:
    values = asdict(progress)
    if not math.isfinite(progress.best_validation):
        values["best_validation"] = None
    store.save(progress.step, backend.state(), values)


def _resume(backend: Backend, store: CheckpointStore, progress: Progress) -> int:
    """Load the newest readable checkpoint into backend and progress; return its step, 0 without one."""
    found = store.newest()
    if found is None:
        return 0
    state, values = found
    backend.load_state(state)
    if values["best_validation"] is None:
        values["best_validation"] = math.inf
    for name, value in values.items():
        setattr(progress, name, value)
    logger.info("resumed from step %d (epoch %d)", progress.step, progress.epoch + 1)
    return progress.step
