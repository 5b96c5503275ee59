"""The external model as an arm: pairs in, one object in the scan's frame out, or the reasons why there is none.

A run counts only if every program ended with 0 within the time, nothing fell back, the loader used our values in our frame, every
scan point has a finite prediction, and what was assembled is not flat. Patches are placed at their scan positions and divided by
occupancy (assemble.py). Source: PtychoViT bridge reference, sections 9 to 12; recon.npz: design, section 5.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ptychoflow.arms.ptychovit import assemble as assembly
from ptychoflow.arms.ptychovit import judge
from ptychoflow.arms.ptychovit.assemble import Assembled
from ptychoflow.arms.ptychovit.contract import PIXEL_ATTRIBUTES, Violation, loader_centres_rc_px, violation
from ptychoflow.arms.ptychovit.restore import BEST, STATE
from ptychoflow.arms.ptychovit.task import Pair, Prepared
from ptychoflow.errors import DeviceMemoryError
from ptychoflow.frames import Canvas, Positions
from ptychoflow.provenance import sha256_file
from ptychoflow.records import Recon

OUT_OF_MEMORY = "out of memory"
"""What torch says when a GPU is too small."""
GRID = 2.0**19
"""Positions are rounded to 1 / GRID px before they are placed: metres and back must not move a whole pixel."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        violations: why it does not count (kind `R`), and warnings.
        assembled: one object a pair, in the order of the pairs; also of a run that does not count, where it got that far.
        weights: name and sha256 of the weights that made the reconstruction, why these; empty without.
        training_returncode: exit code of the training; None without one.
        losses: loss tracker of the training, by name.
        seconds: wall time by step, s.
        facts: by object name, what the manifest says of loader and assembly.
    """

    violations: tuple[Violation, ...]
    assembled: tuple[Assembled, ...] = ()
    weights: Mapping[str, str] = field(default_factory=dict)
    training_returncode: int | None = None
    losses: Mapping[str, Sequence[str]] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def valid(self) -> bool:
        """Whether the reconstruction counts."""
        return bool(self.assembled) and all(one.kind == "W" for one in self.violations)


def execute(prepared: Prepared) -> Outcome:
    """Train if asked for, predict and assemble.

    Raises:
        DeviceMemoryError: the GPU is too small for the batch of the inference.
    """
    trained = _train(prepared) if prepared.restore.trains else Outcome(())
    if trained.violations:
        return trained
    if prepared.restore.trains:
        name, reason = judge.weights_of(
            prepared.space.run, seeded=prepared.seeded, finetuned=prepared.task.config.mode == "finetune"
        )
        path = prepared.space.run / name
    else:
        path, reason = prepared.space.out / BEST, "the checkpoint that was given"
    weights = {"name": path.relative_to(prepared.space.out).as_posix(), "sha256": sha256_file(path), "reason": reason}
    return _predict(prepared, path, weights, trained)


def _train(prepared: Prepared) -> Outcome:
    """Run upstream's training and judge what it left."""
    space = prepared.space
    ended = prepared.start("training", [str(prepared.checkout.way.root / "main.py")], driver=False)
    seconds = {**prepared.seconds, "train": ended.seconds}
    found = judge.of_program("the training", ended, prepared.logs, prepared.normalization)
    state = None
    if not found and (space.run / STATE).is_file():
        asked, answer = prepared.ask("state", {"state": str(space.run / STATE)})
        found += _answered("driver state", asked.returncode, answer) or judge.of_end(
            "driver state", asked, prepared.logs
        )
        if answer is not None:
            found += judge.told(answer["problems"], after_launch=True)
            state = answer["state"]
    if not found:
        found += judge.of_training(space.run, seeded=prepared.seeded, state=state, epochs=prepared.epochs)
    return Outcome(
        tuple(found),
        training_returncode=ended.returncode,
        losses={} if state is None else state["losses"],
        seconds=seconds,
    )


def _answered(what: str, returncode: int | None, answer: Mapping[str, Any] | None) -> list[Violation]:
    if returncode == 0 and answer is None:
        return [violation("PV-ARTIFACT", f"{what} ended with 0 and left no answer")]
    return []


def _predict(prepared: Prepared, path: Path, weights: Mapping[str, str], trained: Outcome) -> Outcome:
    """Predict every pair with these weights, judge, and assemble."""
    space, pairs = prepared.space, prepared.pairs
    scratch = space.work / "predicted"
    scratch.mkdir()
    files = {pair.record.name: _files(scratch, pair) for pair in pairs}
    request = {
        "device": prepared.task.device,
        "model": prepared.config["model"],
        "weights": str(path),
        "scale": float(prepared.config["data"]["scale"]),
        "normalization": str(space.dictionary),
        "max_probe_modes": prepared.config["data"]["max_probe_modes"],
        "batch_size": prepared.task.infer_batch_size,
        "pairs": [
            {"name": name, "dp": str(pair.dp), **{part: str(file) for part, file in files[name].items()}}
            for name, pair in ((pair.record.name, pair) for pair in pairs)
        ],
    }
    ended, answer = prepared.ask("predict", request)
    seconds = {**prepared.seconds, **trained.seconds, "predict": ended.seconds}
    found = judge.of_program("the prediction", ended, prepared.logs, prepared.normalization)
    if (
        ended.returncode
        and prepared.task.device == "cuda"
        and OUT_OF_MEMORY in "\n".join(judge.tail(prepared.logs)).lower()
    ):
        raise DeviceMemoryError(
            f"{judge.headline(found[0])}; batches of {prepared.task.infer_batch_size} are too large"
        )
    found += _answered("the prediction", ended.returncode, answer)
    known: dict[str, Any] = {
        "weights": weights, "training_returncode": trained.training_returncode, "losses": trained.losses,
    }  # fmt: skip
    if answer is None:
        return Outcome(tuple(found), seconds=seconds, **known)
    found += judge.told(answer["problems"], after_launch=True)
    found += judge.of_loader(
        answer,
        normalization=prepared.normalization,
        shapes={pair.record.name: pair.record.object_shape_px for pair in pairs},
        counts={pair.record.name: pair.record.n_frames for pair in pairs},
    )
    facts = {pair["name"]: {"normalization_loaded": pair["normalization"]} for pair in answer["pairs"]}
    if found:
        return Outcome(tuple(found), seconds=seconds, facts=facts, **known)
    started = time.monotonic()
    assembled: list[Assembled] = []
    for pair in pairs:
        name = pair.record.name
        made, more = _assemble(pair, files[name])
        found += more
        if made is not None:
            assembled.append(made)
            facts[name] |= assembly.facts(made)
    for file in (file for parts in files.values() for file in parts.values()):
        file.unlink()  # half a megabyte a scan point
    scratch.rmdir()
    return Outcome(
        tuple(found), tuple(assembled) if len(assembled) == len(pairs) else (), facts=facts,
        seconds={**seconds, "assemble": time.monotonic() - started}, **known,
    )  # fmt: skip


def _files(scratch: Path, pair: Pair) -> dict[str, Path]:
    return {part: scratch / f"{pair.record.name}_{part}.npy" for part in ("amplitude", "phase", "centres")}


def _assemble(pair: Pair, files: Mapping[str, Path]) -> tuple[Assembled | None, list[Violation]]:
    """Return the object of one pair's predictions, None where they cannot make one, and what is wrong with either."""
    centres = centres_of(pair)
    amplitude, phase = (np.load(files[part], mmap_mode="r") for part in ("amplitude", "phase"))
    index = np.arange(len(amplitude))
    found = judge.of_frame(pair.record.name, np.load(files["centres"]), centres)
    found += assembly.check_predictions(amplitude, phase, index, n_positions=len(centres))
    if found:
        return None, found
    made = assembly.assemble(
        amplitude, phase, index, centres_rc_px=np.round(centres * GRID) / GRID, shape=pair.record.object_shape_px
    )
    return made, assembly.diagnose(made)


def centres_of(pair: Pair) -> Positions:
    """Return the patch middles (row, col) in pixels of a pair's object, as the external loader must have them."""
    with h5py.File(pair.para, "r") as file:
        offsets = np.stack([file["probe_position_y_m"][()], file["probe_position_x_m"][()]], axis=1)
        pixel = float(file["object"].attrs[PIXEL_ATTRIBUTES[0]])
    return loader_centres_rc_px(offsets.astype(np.float64), shape=pair.record.object_shape_px, pixel_size_m=pixel)


def recon_of(pairs: Sequence[Pair], assembled: Sequence[Assembled], metadata: dict[str, Any]) -> Recon:
    """Return the objects of all pairs in the scan's frame, on the smallest canvas that holds them; weight is the occupancy."""
    records = [pair.record for pair in pairs]
    first = np.min([record.object_origin_rc_px for record in records], axis=0)
    last = np.max([np.add(record.object_origin_rc_px, record.object_shape_px) for record in records], axis=0)
    shape = (int(last[0] - first[0]), int(last[1] - first[1]))
    image, weight = np.zeros(shape, dtype=np.complex64), np.zeros(shape, dtype=np.float32)
    for record, made in zip(records, assembled, strict=True):
        row, col = (int(value) for value in np.subtract(record.object_origin_rc_px, first))
        rows, cols = slice(row, row + record.object_shape_px[0]), slice(col, col + record.object_shape_px[1])
        seen = made.occupancy > 0
        image[rows, cols][seen] = made.object[seen]
        weight[rows, cols][seen] = made.occupancy[seen]
    pixel = records[0].pixel_size_m if records[0].pixel_size_known else None
    return Recon(image, weight, Canvas((int(first[0]), int(first[1])), shape), None, metadata, pixel)
