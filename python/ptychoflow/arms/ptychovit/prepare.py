"""Everything that is checked before an external program may train or predict: checkpoint, pairs, config, environment.

All problems are collected, also beyond the first one, as far as each check has what it needs. A run that passes has its folder
(workspace.py) filled, and its checkpoint read by the driver. Source: PtychoViT bridge reference, sections 2, 6, 9 and 14.
"""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ptychoflow.arms.ptychovit import checkout as checkouts
from ptychoflow.arms.ptychovit import judge
from ptychoflow.arms.ptychovit import workspace as spaces
from ptychoflow.arms.ptychovit.contract import MAX_PROBE_MODES, STITCH_PAD, Violation, violation
from ptychoflow.arms.ptychovit.export import PairRecord
from ptychoflow.arms.ptychovit.normalization import (
    check_config,
    check_dictionary,
    make_dictionary,
    write_dictionary,
)
from ptychoflow.arms.ptychovit.restore import (
    BEST,
    CONFIG,
    LATEST,
    RUN_FILES,
    STATE,
    Given,
    PtychoVitConfig,
    Restore,
    State,
    decide,
)
from ptychoflow.arms.ptychovit.task import Pair, Prepared, Task
from ptychoflow.arms.ptychovit.validate import check_leak, check_split, validate_pair
from ptychoflow.data.storage import read_json
from ptychoflow.errors import ContractError
from ptychoflow.provenance import sha256_file

OURS = ("recon.npz", "manifest.json", "status.json", "checkpoints", "bridge_work/config.yaml")
"""What a run writes; an output folder that holds any of it is used up."""


def prepare(
    task: Task, way: checkouts.Way, *, digest: str | None, allow_double: str | None
) -> tuple[Prepared | None, checkouts.Checkout | None, list[Violation]]:
    """Return the run if nothing refuses it (warnings do not), the checkout if there is one, and everything that was found.

    Args:
        task: what is asked.
        way: how the external code is supplied.
        digest: tree digest given from outside.
        allow_double: digest of the contract double that is admitted.

    Raises:
        UsageError: options that contradict each other.
    """
    given = look(task)
    restore, found = decide(task.config, given, device=task.device)
    if any(one.code == "PV-FINETUNE" for one in found):
        return None, None, found  # the guardrail comes before any other work
    tree, more = checkouts.examine(
        way, out_dir=task.out_dir, search_path=task.search_path, digest=digest, allow_double=allow_double
    )
    found += more + _stale(task.out_dir)
    test, more = read_pairs(task.test_pairs, training=False)
    found += more
    train: tuple[Pair, ...] = ()
    if task.train_pairs is not None:
        train, more = read_pairs(task.train_pairs, training=True)
        found += more + _training_problems(task.config, train, test, task.train_pairs)
    base, more = _base(task, restore, tree)
    found += more
    if restore is None or tree is None or not base or _refused(found):
        return None, tree, found
    prepared, more = _fill(task, tree, restore, test, train, base)
    found += more
    if _refused(found):
        return None, tree, found
    prepared, more = _check(prepared, given)
    found += more
    return None if _refused(found) else prepared, tree, found


def _refused(found: Sequence[Violation]) -> bool:
    return any(one.kind == "E" for one in found)


def look(task: Task) -> Given:
    """Return what lies where the task points."""
    path = task.checkpoint
    if path is None:
        return Given("none", (), task.train_pairs is not None)
    own_config = task.base_config is not None and task.base_config.is_file()
    folder = path if path.is_dir() else path.parent
    files = {name for name in RUN_FILES if (folder / name).is_file()} | ({CONFIG} if own_config else set())
    kind: Literal["folder", "file", "absent"] = "folder" if path.is_dir() else "file" if path.is_file() else "absent"
    return Given(kind, files, task.train_pairs is not None, path.name)


def _stale(out_dir: Path) -> list[Violation]:
    first = next((name for name in OURS if (out_dir / name).exists()), None)
    if first is None:
        return []
    return [violation("PV-STALE", f"the output folder holds {first} of an earlier run; nothing of it is used again")]


def read_pairs(folder: Path, *, training: bool) -> tuple[tuple[Pair, ...], list[Violation]]:
    """Return the pairs of a folder as export-pair told of them, and what breaks the contract."""
    path = folder / "manifest.json"
    try:
        manifest = read_json(path)
        records = [_record(entry) for entry in manifest["facts"]["pairs"]]
        changed = [name for name, value in manifest["outputs"].items() if sha256_file(folder / name) != value]
    except (OSError, ContractError, KeyError, TypeError) as error:
        problem = f"{folder.name} must hold pairs and the manifest.json of export-pair: {type(error).__name__}: {error}"
        return (), [violation("PV-PAIR", problem, remedy="make the pairs with ptychoflow export-pair")]
    found = [violation("PV-PAIR", f"{name} is not the file that export-pair wrote") for name in changed]
    if not records:
        found.append(violation("PV-PAIR", f"{folder.name} holds no pair"))
    pairs = tuple(Pair(folder, record) for record in records)
    for pair in pairs:
        found += [_explained(one, pair.record) for one in validate_pair(pair.dp, training=training)]
    return pairs, found


def _explained(found: Violation, record: PairRecord) -> Violation:
    """Return a violation, a wrong probe scale as a warning where the pair's own object is known to explain it.

    R presumes |object| ~ 1. Grid-lines objects have moduli of several, and export found that probe and object make the frames.
    """
    if found.code != "PV-SCALE" or record.object_role == "placeholder":
        return found
    told = f"{found.message}; but probe and object of the pair make the frames to a factor of {record.energy_ratio:.4g} in energy"
    return replace(found, kind="W", message=told)


def _record(entry: Mapping[str, Any]) -> PairRecord:
    """Return a record from its JSON, whose tuples are lists."""
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()}
    return PairRecord(**fields)


def _training_problems(
    config: PtychoVitConfig, train: Sequence[Pair], test: Sequence[Pair], folder: Path
) -> list[Violation]:
    """Return what train and test pairs must not share, and a split that leaves one part empty."""
    found = check_split(sum(pair.record.n_frames for pair in train), config.train_split) if train else []
    found += [one for pair in test if pair.dp.is_file() for one in check_leak(folder, pair.dp)]
    twice = sorted({pair.record.name for pair in train} & {pair.record.name for pair in test})
    return found + [violation("PV-LEAK", f"object name '{name}' is both a train and a test pair's") for name in twice]


def _base(
    task: Task, restore: Restore | None, tree: checkouts.Checkout | None
) -> tuple[dict[str, Any], list[Violation]]:
    """Return the config to start from; empty where it is not known."""
    path = task.base_config
    if path is None and restore is not None and restore.config_from == "checkpoint" and task.checkpoint is not None:
        path = (task.checkpoint if task.checkpoint.is_dir() else task.checkpoint.parent) / CONFIG
    elif path is None and restore is not None and tree is not None:
        path = tree.way.root / CONFIG
    return ({}, []) if path is None else spaces.read_base(path)


def _fill(
    task: Task, tree: checkouts.Checkout, restore: Restore, test: tuple[Pair, ...], train: tuple[Pair, ...], base: dict[str, Any]
) -> tuple[Prepared, list[Violation]]:  # fmt: skip
    """Fill the folder of a run: pairs, dictionary, config, checkpoint files."""
    deadline = time.monotonic() + task.config.time_limit_s
    space = spaces.make_workspace(task.out_dir)
    placed: dict[str, tuple[Pair, ...]] = {}
    for part, pairs in (("test", test), ("train", train)):
        spaces.place_pairs([file for pair in pairs for file in (pair.dp, pair.para)], space.data(part))
        placed[part] = tuple(replace(pair, folder=space.data(part)) for pair in pairs)
    everything = placed["test"] + placed["train"]
    normalization = make_dictionary(pair.dp for pair in everything)
    write_dictionary(space.dictionary, normalization)
    config, found = spaces.effective_config(
        base, space, config=task.config, restore=restore, device=task.device, seed=task.seed,
        max_probe_modes=min(spaces.probe_modes(pair.para for pair in everything), MAX_PROBE_MODES),
        test_dp=test[0].record.files[0],
    )  # fmt: skip
    found += check_dictionary(space.dictionary, normalization) + check_config(config, space.dictionary)
    spaces.write_config(space.config, config)
    seeded: dict[str, str] = {}
    if restore.seeds and task.checkpoint is not None:
        spaces.seed_run(space, task.checkpoint, restore.seeds)
        seeded = {name: sha256_file(space.run / name) for name in restore.seeds}
    elif restore.trains:
        space.checkpoints.mkdir()
    elif task.checkpoint is not None:
        weights = task.checkpoint / BEST if task.checkpoint.is_dir() else task.checkpoint
        shutil.copyfile(weights, space.out / BEST)
        seeded = {BEST: sha256_file(space.out / BEST)}
    prepared = Prepared(
        task=task, checkout=tree, restore=restore, space=space, pairs=placed["test"],
        train_dp=tuple(pair.dp.name for pair in placed["train"]), config=config, normalization=normalization,
        seeded=seeded, deadline=deadline, environment={}, seconds={},
    )  # fmt: skip
    return prepared, found


def _check(prepared: Prepared, given: Given) -> tuple[Prepared, list[Violation]]:
    """Let the driver look at environment, placement and checkpoint; return the run with what it found."""
    space, task = prepared.space, prepared.task
    resumed = prepared.restore.resumes
    weights = [space.run / LATEST] if resumed else [] if prepared.restore.trains else [space.out / BEST]
    case, placed = space.work / "placement.npz", space.work / "placed.npy"
    patches, centres, shape = judge.placement_case()
    np.savez(case, patches=patches, centres=centres, shape=np.array(shape), pad=np.array(STITCH_PAD))
    request = {
        "checkout": str(prepared.checkout.way.root), "device": task.device, "trains": prepared.restore.trains,
        "model": prepared.config["model"], "weights": [str(path) for path in weights],
        "state": str(space.run / STATE) if resumed else None, "placement": str(case), "placed": str(placed),
    }  # fmt: skip
    try:
        ended, answer = prepared.ask("check", request)
    except OSError as error:
        return prepared, [violation("PV-ENV", f"interpreter {prepared.checkout.way.python} cannot be started: {error}")]
    if answer is None:
        found = judge.of_end("the import probe", ended, prepared.logs)
        lines = "; ".join(one.message for one in found) or "it ended with 0 and no answer"
        timed_out = [one for one in found if one.code == "PV-TIMEOUT"]
        return prepared, timed_out or [violation("PV-ENV", f"the import probe fails: {lines}")]
    found = judge.told(answer["problems"], after_launch=False)
    if placed.is_file():
        found += judge.of_placement(np.load(placed))
        placed.unlink()
    case.unlink()
    if answer.get("state") is not None:
        state = State(answer["state"]["current_epoch"], tuple(answer["state"]["devices"]))
        found += decide(task.config, given, device=task.device, epochs=prepared.epochs, state=state)[1]
        found += _rates(prepared.config["training"], answer["state"]["learning_rates"])
    known: dict[str, Any] = {
        key: answer[key] for key in ("python", "versions", "device_name", "n_parameters") if key in answer
    }
    return replace(prepared, environment=known, seconds={"check": ended.seconds}), found


def _rates(training: Mapping[str, Any], restored: Sequence[float]) -> list[Violation]:
    """Return a warning where the restored optimizer has other learning rates than the config, which then do nothing."""
    asked = [float(training[key]) for key in spaces.RATES]
    if len(restored) != len(asked) or np.allclose(asked, restored, rtol=1e-9, atol=0):
        return []
    problem = (
        f"the config asks for the learning rates {asked}, but the restored optimizer goes on with {list(restored)}"
    )
    return [violation("PV-RESUME", problem, kind="W", remedy="start a new training to change them")]
