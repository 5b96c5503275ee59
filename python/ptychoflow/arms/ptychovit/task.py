"""The records of one run of the external model: its pairs, what is asked, and the run that may start, which starts programs."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptychoflow.arms.ptychovit.bridge import Ended, environment, run_program
from ptychoflow.arms.ptychovit.checkout import Checkout
from ptychoflow.arms.ptychovit.export import PairRecord
from ptychoflow.arms.ptychovit.judge import HEADLINE
from ptychoflow.arms.ptychovit.restore import PtychoVitConfig, Restore
from ptychoflow.arms.ptychovit.workspace import Workspace
from ptychoflow.data.storage import read_json, write_json


@dataclass(frozen=True)
class Pair:
    """One pair of a folder that export-pair wrote."""

    folder: Path
    record: PairRecord

    @property
    def dp(self) -> Path:
        """Patterns."""
        return self.folder / self.record.files[0]

    @property
    def para(self) -> Path:
        """Object, probe and positions."""
        return self.folder / self.record.files[1]


@dataclass(frozen=True)
class Task:
    """What one run is asked to do.

    Attributes:
        config: mode and options.
        test_pairs: folder of the pairs that are reconstructed, with export-pair's manifest.
        train_pairs: folder of the pairs that are trained on; None in inference.
        checkpoint: folder of an earlier run, or a weights file.
        base_config: config.yaml to start from; None is the one beside the checkpoint, or the checkout's.
        device: `cpu` or `cuda`.
        seed: seed of split and sampler.
        infer_batch_size: patterns per call of the network, as this try can hold them.
        out_dir: folder of the outputs.
        inherited: environment of this process, of which little goes on.
        search_path: import path of this process, on which the checkout must not be.
    """

    config: PtychoVitConfig
    test_pairs: Path
    train_pairs: Path | None
    checkpoint: Path | None
    base_config: Path | None
    device: str
    seed: int
    infer_batch_size: int
    out_dir: Path
    inherited: Mapping[str, str]
    search_path: Sequence[str]


@dataclass(frozen=True)
class Prepared:
    """A run that may start.

    Attributes:
        task, checkout, restore: what is done with what.
        space: its folders, filled.
        pairs: the pairs to reconstruct.
        train_dp: names of the pairs that are trained on.
        config: the effective config.yaml.
        normalization: max(dp) by object name.
        seeded: sha256 by name of the checkpoint files that the run starts from.
        deadline: when all external programs must be done, on the monotonic clock, s.
        environment: what the driver found out about interpreter, device and checkpoint.
        seconds: wall time so far by step, s.
    """

    task: Task
    checkout: Checkout
    restore: Restore
    space: Workspace
    pairs: tuple[Pair, ...]
    train_dp: tuple[str, ...]
    config: Mapping[str, Any]
    normalization: Mapping[str, float]
    seeded: Mapping[str, str]
    deadline: float
    environment: Mapping[str, Any]
    seconds: Mapping[str, float]

    @property
    def epochs(self) -> int:
        """Epochs in total of the effective config."""
        return int(self.config["training"]["epochs"])

    @property
    def logs(self) -> tuple[Path, Path]:
        """Both logs, the one that tells of errors first."""
        return self.space.stderr, self.space.stdout

    def start(self, what: str, command: Sequence[str], *, driver: bool) -> Ended:
        """Run an external program to its end in what is left of the time, under a headline in both logs.

        Args:
            what: the headline.
            command: arguments of the interpreter.
            driver: it is our driver, which finds the checkout on its import path.
        """
        space, way = self.space, self.checkout.way
        for log in self.logs:
            with log.open("a") as stream:
                stream.write(f"{HEADLINE}{what} ===\n")
        env = environment(
            self.task.inherited, home=space.home, device=self.task.device, import_path=way.root if driver else None
        )
        limit_s = max(0.0, self.deadline - time.monotonic())
        return run_program(
            [str(way.python), *command],
            cwd=space.work,
            env=env,
            stdout=space.stdout,
            stderr=space.stderr,
            limit_s=limit_s,
        )

    def ask(self, stage: str, request: Mapping[str, Any]) -> tuple[Ended, dict[str, Any] | None]:
        """Run a stage of the driver; return how it ended and its answer, None without one."""
        asked, answered = (self.space.work / f"{stage}.{part}.json" for part in ("request", "answer"))
        write_json(asked, dict(request))
        ended = self.start(f"driver {stage}", [str(self.space.driver), stage, str(asked), str(answered)], driver=True)
        return ended, read_json(answered) if answered.is_file() else None
