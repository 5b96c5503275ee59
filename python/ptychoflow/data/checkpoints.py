"""Checkpoints outside the task folder: written whole or not at all, two kept, one owner at a time.

Beside them lie snapshots: the weights after chosen epochs, which stay until the run is done.
"""

import fcntl
import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ptychoflow.data.npz import read_npz
from ptychoflow.data.storage import write_npz
from ptychoflow.errors import ContractError, TransientError

logger = logging.getLogger(__name__)

KEPT = 2
PATIENCE_S = 120.0  # a step and a checkpoint of a training that was told to stop
PROGRESS = "__progress__"


@dataclass(frozen=True)
class Kept:
    """The weights after `epoch` epochs and `train_seconds` of training."""

    epoch: int
    train_seconds: float
    weights: dict[str, np.ndarray]


class CheckpointStore:
    """The checkpoints of one training run, in a folder named by everything that the result depends on.

    Use as a context manager: an advisory lock keeps a second process, such as one left over from a killed head job, out.
    """

    def __init__(self, root: Path, key: str) -> None:
        """Use the folder `root/key`; it is made when the lock is taken."""
        self.folder = root / key
        self._lock: Any = None

    def __enter__(self) -> "CheckpointStore":
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / "lock").open("w")
        # A cancelled training ends its step and writes a checkpoint, while its retry may have begun.
        last = time.monotonic() + PATIENCE_S
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > last:
                    self._lock.close()
                    raise TransientError(
                        f"another process is training this run (it holds {self.folder.name}/lock); try again"
                    ) from error
            time.sleep(0.5)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.close()

    @property
    def started(self) -> bool:
        """Whether a checkpoint is there to go on from."""
        return any(self.folder.glob("step-*.npz"))

    def save(self, step: int, state: Mapping[str, np.ndarray], progress: Mapping[str, Any]) -> None:
        """Write a checkpoint atomically and drop all but the two newest."""
        self._write(f"step-{step:09d}.npz", state, progress)
        for old in sorted(self.folder.glob("step-*.npz"))[:-KEPT]:
            old.unlink()

    def newest(self) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """Return state and progress of the newest readable checkpoint, None without one; a damaged file is said and passed over."""
        for path in sorted(self.folder.glob("step-*.npz"), reverse=True):
            if (found := _read(path)) is not None:
                return found
        return None

    def keep(self, epoch: int, weights: Mapping[str, np.ndarray], *, train_seconds: float) -> None:
        """Write the weights after an epoch atomically, in place of any that are there."""
        self._write(f"epoch-{epoch:05d}.npz", weights, {"epoch": epoch, "train_seconds": train_seconds})

    def kept(self) -> Iterator[Kept]:
        """Yield what was kept, by epoch; a damaged file is said and left out, for no training is worth less without it."""
        for path in sorted(self.folder.glob("epoch-*.npz")):
            if (found := _read(path)) is not None:
                weights, facts = found
                yield Kept(facts["epoch"], facts["train_seconds"], weights)

    def _write(self, name: str, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        write_npz(self.folder / name, {**arrays, PROGRESS: json.dumps(facts, allow_nan=False)})

    def clear(self) -> None:
        """Remove the folder of a finished run, with what a killed writer may have left in it."""
        shutil.rmtree(self.folder)


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """Return arrays and facts of a file of the store; None, with a warning, when it is damaged."""
    try:
        arrays = read_npz(path)
        facts = json.loads(str(arrays.pop(PROGRESS)))
    except (ContractError, OSError, KeyError, ValueError) as error:
        logger.warning("%s in the checkpoints cannot be read (%s) and is passed over", path.name, error)
        return None
    return {name: np.array(value) for name, value in arrays.items()}, facts
