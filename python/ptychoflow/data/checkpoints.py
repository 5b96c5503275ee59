"""Checkpoints outside the task folder: written whole or not at all, two kept, one owner at a time."""

import fcntl
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ptychoflow.data.storage import read_npz, write_npz
from ptychoflow.errors import ContractError, TransientError

logger = logging.getLogger(__name__)

KEPT = 2
PROGRESS = "__progress__"


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
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise TransientError(
                f"another process is training this run (it holds {self.folder.name}/lock); try again"
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.close()

    def save(self, step: int, state: Mapping[str, np.ndarray], progress: Mapping[str, Any]) -> None:
        """Write a checkpoint atomically and drop all but the two newest."""
        write_npz(self.folder / f"step-{step:09d}.npz", {**state, PROGRESS: json.dumps(progress, allow_nan=False)})
        for old in sorted(self.folder.glob("step-*.npz"))[:-KEPT]:
            old.unlink()

    def newest(self) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """Return state and progress of the newest readable checkpoint, None without one; a damaged file is said and passed over."""
        for path in sorted(self.folder.glob("step-*.npz"), reverse=True):
            try:
                arrays = read_npz(path)
                progress = json.loads(str(arrays.pop(PROGRESS)))
            except (ContractError, OSError, KeyError, ValueError) as error:
                logger.warning("checkpoint %s cannot be read (%s); trying the one before", path.name, error)
                continue
            return {name: np.array(value) for name, value in arrays.items()}, progress
        return None

    def clear(self) -> None:
        """Remove the folder of a finished run, with what a killed writer may have left in it."""
        shutil.rmtree(self.folder)
