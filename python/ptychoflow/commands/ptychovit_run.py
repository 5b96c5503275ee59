"""PTYCHOVIT: pairs through the external checkout into one object, by subprocess only.

    pairs (with export-pair's manifest), checkout or image, checkpoint
        -> recon.npz (absent when failed), status.json, manifest.json, history.csv (of a training), stdout.log, stderr.log,
           best_model.pth (inference), checkpoints/run1/ (training), bridge_work/

What refuses a run (kind E) is an error before anything is launched: 69 for checkout, environment and checkpoint, else 65. What
makes it invalid afterwards (kind R) is data: `status.json` says `failed` with codes and reasons, its object goes to `invalid/`.
A manifest is written in every case.
"""

import logging
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from ptychoflow.arms.batches import effective_batch_size
from ptychoflow.arms.ptychovit.arm import Outcome, execute, recon_of
from ptychoflow.arms.ptychovit.bridge import stopped_by_signals
from ptychoflow.arms.ptychovit.checkout import Way
from ptychoflow.arms.ptychovit.contract import Violation, refusal
from ptychoflow.arms.ptychovit.judge import headline
from ptychoflow.arms.ptychovit.prepare import prepare
from ptychoflow.arms.ptychovit.record import manifest, write_history
from ptychoflow.arms.ptychovit.restore import PtychoVitConfig
from ptychoflow.arms.ptychovit.task import Prepared, Task
from ptychoflow.arms.status import write_status
from ptychoflow.data.storage import save_recon, write_json
from ptychoflow.provenance import versions
from ptychoflow.records import Recon

logger = logging.getLogger(__name__)


def run(
    config: PtychoVitConfig,
    *,
    run_meta: Mapping[str, Any],
    way: Way,
    test_pairs: Path,
    train_pairs: Path | None,
    checkpoint: Path | None,
    base_config: Path | None,
    digest: str | None,
    allow_double: str | None,
    device: str,
    attempt: int,
    inherited: Mapping[str, str],
    search_path: Sequence[str],
    out_dir: Path,
) -> str | None:
    """Run the external model, write the files of this stage, and return why the run failed, None when it did not.

    Args:
        config: mode and options.
        run_meta: the run's entry of the plan: `run_id`, `label`, `arm`, `seed`, `condition`, `n`.
        way: how the external code is supplied.
        test_pairs: folder of pairs to reconstruct, with export-pair's manifest.json.
        train_pairs: folder of pairs to train on; None in inference.
        checkpoint: folder of an earlier run, or (inference) a weights file with its config.yaml beside it.
        base_config: config.yaml instead of the checkpoint's or the checkout's.
        digest: tree digest of the checkout, given from outside.
        allow_double: digest of the contract double that is admitted.
        device: `cpu` or `cuda`.
        attempt: 1 for the first try of the task; on a GPU each further one halves the batch of the inference.
        inherited: environment of this process.
        search_path: import path of this process.
        out_dir: folder of the task.

    Raises:
        UsageError: options that contradict each other.
        UnavailableError: checkout, environment or checkpoint are not what they must be.
        ContractError: pairs, configs or checkpoints break the contract.
        DeviceMemoryError: the GPU is too small for the batch.
    """
    started = datetime.now(UTC)
    task = Task(
        config, test_pairs, train_pairs, checkpoint, base_config, device, int(run_meta["seed"]),
        effective_batch_size(config.infer_batch_size, device=device, attempt=attempt), out_dir, inherited, search_path,
    )  # fmt: skip
    with stopped_by_signals():
        prepared, tree, found = prepare(task, way, digest=digest, allow_double=allow_double)
        about: dict[str, Any] = {
            "run_meta": run_meta,
            "task": task,
            "tree": tree,
            "prepared": prepared,
            "started": started,
        }
        if prepared is None:
            if not any(one.code == "PV-STALE" for one in found):  # what lies there is another run's
                ended = datetime.now(UTC)
                document = manifest(**about, outcome=None, found=found, state="refused", ended=ended)
                write_json(out_dir / "manifest.json", document)
            raise refusal(found, what=f"run {run_meta['run_id']} is refused")
        outcome = Outcome(()) if any(one.kind == "R" for one in found) else execute(prepared)
    found = [*found, *outcome.violations]
    failures = [one for one in found if one.kind == "R"]
    for one in found:
        logger.log(logging.WARNING if one.kind == "W" else logging.ERROR, "%s", one.text)
    if outcome.assembled:
        recon = recon_of(prepared.pairs, outcome.assembled, _metadata(prepared, outcome, run_meta, found))
        _save(out_dir, recon, valid=not failures)
    if outcome.losses:
        write_history(out_dir / "history.csv", outcome.losses)
    shutil.rmtree(prepared.space.home)
    state: Literal["ok", "failed"] = "failed" if failures else "ok"
    reason = "; ".join(headline(one) for one in failures) or None
    write_status(
        out_dir,
        run_id=str(run_meta["run_id"]),
        stage="ptychovit",
        state=state,
        reason=reason,
        collapsed=any(one.code == "PV-FLAT" for one in failures),
        device=device,
        seconds=outcome.seconds or prepared.seconds,
        effective_batch_size=task.infer_batch_size,
        attempt=attempt,
    )
    document = manifest(**about, outcome=outcome, found=found, state=state, ended=datetime.now(UTC))
    write_json(out_dir / "manifest.json", document)
    return reason


def _save(out_dir: Path, recon: Recon, *, valid: bool) -> None:
    """Write the reconstruction, or put it aside where nothing will score it."""
    folder = out_dir if valid else out_dir / "invalid"
    folder.mkdir(exist_ok=True)
    save_recon(folder / "recon.npz", recon)


def _metadata(
    prepared: Prepared, outcome: Outcome, run_meta: Mapping[str, Any], found: Sequence[Violation]
) -> dict[str, Any]:
    """Return the metadata of recon.npz."""
    trains = prepared.restore.trains
    names = ("arm", "run_id", "label", "condition", "gridsize", "n", "seed")
    return {
        **{key: run_meta[key] for key in names if key in run_meta},
        "mode": prepared.task.config.mode,
        "device": prepared.task.device,
        "seconds": dict(outcome.seconds),
        "cost": {
            "epochs": prepared.epochs if trains else None,
            "train_seconds": outcome.seconds.get("train", 0.0),
            "reconstruct_seconds": outcome.seconds["predict"] + outcome.seconds["assemble"],
        },
        "sha256": {"weights": outcome.weights["sha256"]},
        "checkout_kind": prepared.checkout.kind,
        "pin_verified": prepared.checkout.pin_verified,
        "objects": [pair.record.name for pair in prepared.pairs],
        "warnings": [headline(one) for one in found if one.kind == "W"],
        "versions": versions(),
    }
