"""What a run of the external model starts from: one table of mode, files and flags.

    mode        needs                                            starts from                           upstream resumes
    inference   best_model.pth or a named file, its config.yaml  those weights, nothing is trained     -
    resume      checkpoint_model.pth, checkpoint.state,          both, copied into the new run folder  yes
                config.yaml, train pairs, epochs > current
    finetune    resume_from_checkpoint=true, then as resume      as resume, on the new train pairs     yes
    train       train pairs, no checkpoint at all                random weights                        no

A missing checkpoint never becomes a training. Source: PtychoViT bridge reference, sections 9 and 14.
"""

from collections.abc import Collection
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from ptychoflow.arms.ptychovit.contract import Violation, violation
from ptychoflow.config import STRICT, Count, Fraction
from ptychoflow.errors import UsageError

BEST, LATEST, STATE, CONFIG = "best_model.pth", "checkpoint_model.pth", "checkpoint.state", "config.yaml"
"""Files of a run folder: best weights, weights after the last epoch, optimizer with epochs and losses, config."""
RUN_FILES = (BEST, LATEST, STATE, CONFIG)

Mode = Literal["inference", "resume", "finetune", "train"]

PROGRESSIVE = (
    "finetune_policy 'progressive' is not supported: its second stage trains the decoders and only the top blocks of the encoder, "
    "and the config of the pinned checkout has one learning rate for the whole encoder; use 'resume'"
)
"""Why the planned later policy is refused (design section 9)."""


@dataclass(frozen=True, config=STRICT)
class PtychoVitConfig:
    """One run of the external model."""

    mode: Mode = "inference"
    """What is done; see the table above."""
    resume_from_checkpoint: bool | None = None
    """Guardrail of `finetune`, which needs it to be said: true. None is what the mode sets."""
    finetune_policy: Literal["resume", "progressive"] = "resume"
    """How to fine-tune; `progressive` is refused with its reason."""
    epochs: Count | None = None
    """Epochs in total, not additional ones; None is the base config's."""
    batch_size: Count | None = None
    """Patterns per step of a training; None is the base config's."""
    train_split: Fraction = 0.9
    """Share of the patterns of the train pairs that is trained on; the rest validates."""
    infer_batch_size: Count = 8
    """Patterns per call of the network in inference; no influence on the result beyond rounding."""
    time_limit_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 14400.0
    """Wall time of all external processes of the run together, s."""


@plain_dataclass(frozen=True)
class State:
    """What `checkpoint.state` holds, as the driver reads it.

    Attributes:
        current_epoch: epochs done.
        devices: where its tensors lived when it was written.
        learning_rates: rates of the optimizer's groups; a resumed training goes on with these, whatever its config says.
    """

    current_epoch: int
    devices: tuple[str, ...]
    learning_rates: tuple[float, ...] = ()


@plain_dataclass(frozen=True)
class Given:
    """What the user gave and what lies there.

    Attributes:
        checkpoint: `none`, a weights `file`, a run `folder`, or `absent` where the named path does not exist.
        files: which of `RUN_FILES` there are; for a weights file only whether a config goes with it.
        train_pairs: whether train pairs were given.
        name: the checkpoint as messages name it.
    """

    checkpoint: Literal["none", "absent", "file", "folder"]
    files: Collection[str] = ()
    train_pairs: bool = False
    name: str = ""


@plain_dataclass(frozen=True)
class Restore:
    """What a run does with its checkpoint.

    Attributes:
        trains: upstream's training is started.
        resumes: `training.resume_from_checkpoint` of the effective config.
        seeds: files that are copied into the run folder before.
        config_from: `checkpoint` or `checkout`.
    """

    trains: bool
    resumes: bool
    seeds: tuple[str, ...]
    config_from: Literal["checkpoint", "checkout"]


def decide(
    config: PtychoVitConfig, given: Given, *, device: str, epochs: int | None = None, state: State | None = None
) -> tuple[Restore | None, list[Violation]]:
    """Return what a run starts from, or every reason why it cannot.

    Args:
        config: mode and flags.
        given: checkpoint, files, pairs.
        device: `cpu` or `cuda`, where the run will be.
        epochs: epochs in total of the effective config; None while it is not known.
        state: content of checkpoint.state; None while it has not been read.

    Raises:
        UsageError: options that contradict each other, or the policy that is not supported.
    """
    mode, flag = config.mode, config.resume_from_checkpoint
    if config.finetune_policy == "progressive":
        raise UsageError(PROGRESSIVE)
    if mode == "finetune" and flag is not True:
        told = "false" if flag is False else "not set"
        problem = f"mode finetune only resumes in this version: resume_from_checkpoint must be true, it is {told}"
        return None, [violation("PV-FINETUNE", problem)]
    _refuse_usage(mode, flag, given)
    if given.checkpoint == "absent":
        return None, [violation("PV-CKPT", f"mode {mode}: the checkpoint {given.name} does not exist")]
    if mode == "train":
        return Restore(trains=True, resumes=False, seeds=(), config_from="checkout"), []
    if mode == "inference":
        found = _for_inference(given)
        return (None, found) if found else (Restore(False, False, (), "checkpoint"), [])
    found = _for_resume(mode, given, device, epochs, state)
    seeds = (*((BEST,) if BEST in given.files else ()), LATEST, STATE)
    return (None, found) if found else (Restore(True, True, seeds, "checkpoint"), [])


def _refuse_usage(mode: Mode, flag: bool | None, given: Given) -> None:
    problems = []
    if flag is not None and flag != (mode in ("resume", "finetune")):
        problems.append(f"resume_from_checkpoint = {str(flag).lower()} contradicts mode {mode}")
    if mode == "train" and given.checkpoint != "none":
        problems.append("mode train starts from random weights; leave the checkpoint out, or use resume or finetune")
    if mode != "inference" and not given.train_pairs:
        problems.append(f"mode {mode} needs train pairs")
    if mode == "inference" and given.train_pairs:
        problems.append("mode inference trains nothing; leave the train pairs out")
    if problems:
        raise UsageError("; ".join(problems))


def _for_inference(given: Given) -> list[Violation]:
    if given.checkpoint == "none":
        return [violation("PV-CKPT", f"mode inference needs {BEST} of a run, or another weights file, and got none")]
    missing = [
        name for name in (BEST, CONFIG) if name not in given.files and not (given.checkpoint == "file" and name == BEST)
    ]
    return [violation("PV-CKPT", f"mode inference: {given.name} has no {name}") for name in missing]


def _for_resume(mode: Mode, given: Given, device: str, epochs: int | None, state: State | None) -> list[Violation]:
    if given.checkpoint != "folder":
        what = "a single weights file" if given.checkpoint == "file" else "no checkpoint"
        problem = f"mode {mode} needs the folder of a run with {LATEST}, {STATE} and {CONFIG}, got {what}"
        return [violation("PV-RESUME", problem)]
    found = [
        violation("PV-RESUME", f"mode {mode}: {given.name} has no {name}")
        for name in (LATEST, STATE, CONFIG)
        if name not in given.files
    ]
    if state is None:
        return found
    if epochs is not None and epochs <= state.current_epoch:
        problem = f"{STATE} has done {state.current_epoch} epochs and epochs (the total) is {epochs}: nothing is left to train"
        found.append(violation("PV-RESUME", problem))
    foreign = [name for name in state.devices if device == "cpu" and name != "cpu"]
    if foreign:
        problem = (
            f"{STATE} was written on {', '.join(foreign)} and is loaded without mapping, so it cannot resume on cpu"
        )
        found.append(violation("PV-RESUME", problem, remedy="resume on such a device"))
    return found
