"""What a run of the external model leaves on record: `manifest.json`, whether it counted, failed or was refused.

The keys of the contract (mode, ptychovit_repo, train_dp, ... checkpoint_artifacts) lie at the top; paths are relative to the folder
of the manifest's run. Source: PtychoViT bridge reference, section 12.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from ptychoflow.arms.ptychovit import checkout as checkouts
from ptychoflow.arms.ptychovit.arm import Outcome
from ptychoflow.arms.ptychovit.contract import Violation
from ptychoflow.arms.ptychovit.restore import BEST, CONFIG, LATEST, STATE
from ptychoflow.arms.ptychovit.task import Prepared, Task
from ptychoflow.arms.ptychovit.workspace import RATES, Workspace
from ptychoflow.data.schema import SCHEMA_VERSION
from ptychoflow.data.storage import atomic_write
from ptychoflow.provenance import sha256_file, versions

ARTIFACTS = {"best_model": BEST, "checkpoint_model": LATEST, "checkpoint_state": STATE, "config": CONFIG}
"""Names of the checkpoint files in the manifest."""


def manifest(
    *,
    run_meta: Mapping[str, Any],
    task: Task,
    tree: checkouts.Checkout | None,
    prepared: Prepared | None,
    outcome: Outcome | None,
    found: Sequence[Violation],
    state: Literal["ok", "failed", "refused"],
    started: datetime,
    ended: datetime,
) -> dict[str, Any]:
    """Return the manifest of one run; what is not known is null or empty.

    Args:
        run_meta: the run's entry of the plan.
        task: what was asked.
        tree: the checkout, where it was admitted.
        prepared: the run, where nothing refused it.
        outcome: how it ended, where it was started.
        found: every violation, warnings included.
        state: how it ended.
        started: when.
        ended: when.
    """
    space = Workspace(task.out_dir.resolve())
    weights = dict(outcome.weights) if outcome else {}
    return {
        "schema_version": SCHEMA_VERSION,
        "command": "ptychovit run",
        "run_id": str(run_meta["run_id"]),
        "state": state,
        "mode": task.config.mode,
        **({"ptychovit_repo": None, "checkout_kind": None, "pin": None} if tree is None else checkouts.facts(tree)),
        **_pairs(space, prepared),
        "recon_npz": "recon.npz" if state == "ok" else None,
        "checkpoint": weights.get("name"),
        "checkpoint_sha256": weights.get("sha256"),
        "checkpoint_reason": weights.get("reason"),
        "checkpoint_requested": None if prepared is None else {
            "name": None if task.checkpoint is None else task.checkpoint.name, "sha256": dict(prepared.seeded),
        },
        "resume_from_checkpoint": prepared.restore.resumes if prepared else bool(task.config.resume_from_checkpoint),
        "training_returncode": outcome.training_returncode if outcome else None,
        "checkpoint_artifacts": {key: _existing(space, name) for key, name in ARTIFACTS.items()},
        "started": started.isoformat(),
        "ended": ended.isoformat(),
        "device": task.device,
        "seed": task.seed,
        "infer_batch_size": task.infer_batch_size,
        "environment": dict(prepared.environment) if prepared else {},
        "training": {key: prepared.config["training"][key] for key in ("epochs", "batch_size", "learning_rate", *RATES)}
        if prepared
        else {},
        "normalization": dict(prepared.normalization) if prepared else {},
        "objects": _objects(prepared, outcome),
        "violations": [asdict(one) for one in found],
        "log_verdict": _verdict(found, outcome),
        "inputs": _inputs(task),
        "outputs": outputs(task.out_dir),
        "parameters": {"ptychovit": asdict(task.config), "run": dict(run_meta)},
        "seconds": dict(outcome.seconds) if outcome else {},
        "versions": versions(),
    }  # fmt: skip


def _pairs(space: Workspace, prepared: Prepared | None) -> dict[str, list[str]]:
    """Return the paths of the pairs' files, by part and kind."""
    test = [] if prepared is None else [pair.dp.name for pair in prepared.pairs]
    names = {"train": [] if prepared is None else list(prepared.train_dp), "test": test}
    return {
        f"{part}_{kind}": [
            (space.data(part) / name.replace("_dp.hdf5", f"_{kind}.hdf5")).relative_to(space.out).as_posix()
            for name in names[part]
        ]
        for part in names
        for kind in ("dp", "para")
    }


def _existing(space: Workspace, name: str) -> str | None:
    """Return where a checkpoint file of the run lies; an inference has its weights and its config in other places."""
    places = (space.run / name, *([space.out / BEST] if name == BEST else [space.config] if name == CONFIG else []))
    return next((path.relative_to(space.out).as_posix() for path in places if path.is_file()), None)


def _objects(prepared: Prepared | None, outcome: Outcome | None) -> dict[str, Any]:
    """Return what is known of every object: how its pair was made, what the loader used, what was assembled."""
    if prepared is None:
        return {}
    facts = outcome.facts if outcome else {}
    return {pair.record.name: {**asdict(pair.record), **facts.get(pair.record.name, {})} for pair in prepared.pairs}


def _verdict(found: Sequence[Violation], outcome: Outcome | None) -> str:
    if outcome is None:
        return "not run"
    return "invalid" if any(one.kind == "R" for one in found) else "clean"


def _inputs(task: Task) -> dict[str, Any]:
    """Return checksums of what was read, by role: manifests of the pairs (which hold those of their files), base config."""
    files = {"test_pairs": task.test_pairs / "manifest.json", "base_config": task.base_config}
    if task.train_pairs is not None:
        files["train_pairs"] = task.train_pairs / "manifest.json"
    if task.checkpoint is not None and task.checkpoint.is_file():
        files["checkpoint"] = task.checkpoint
    there = {role: path for role, path in files.items() if path is not None and path.is_file()}
    return {role: {"name": path.name, "sha256": sha256_file(path)} for role, path in there.items()}


def outputs(out_dir: Path) -> dict[str, str]:
    """Return sha256 by relative path of everything that a run left, pairs and checkpoints included."""
    kept = [
        "recon.npz",
        "invalid/recon.npz",
        "status.json",
        "history.csv",
        "stdout.log",
        "stderr.log",
        "invocation.json",
        BEST,
    ]
    paths = [out_dir / name for name in kept]
    for folder in ("bridge_work", "checkpoints"):
        paths += sorted(path for path in (out_dir / folder).rglob("*") if "home" not in path.relative_to(out_dir).parts)
    return {path.relative_to(out_dir).as_posix(): sha256_file(path) for path in paths if path.is_file()}


def write_history(path: Path, losses: Mapping[str, Sequence[str]]) -> None:
    """Write the loss tracker of a training, one line an epoch, epochs before a resume included; empty when not finite."""
    columns = list(losses)
    lines = [",".join(["epoch", *columns])]
    for epoch, row in enumerate(zip(*losses.values(), strict=True)):
        lines.append(",".join([str(epoch), *(value if math.isfinite(float(value)) else "" for value in row)]))
    with atomic_write(path) as stream:
        stream.write(("\n".join(lines) + "\n").encode())
