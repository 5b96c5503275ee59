"""What an arm was given, so that a comparison can be judged: test frames, truth, distance, epochs, seconds.

A leak (an arm that could have seen what it is scored on, against the rules of its split) is an error and never scored. An
advantage that lies in the nature of an arm is a note that the report shows.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ptychoflow.errors import refuse
from ptychoflow.records import Recon, View

TRAIN_TEST = {"scans": "separate scans", "region": "two regions of one scan", "none": "the same frames"}


def check_leaks(view: View, *, supervised: bool) -> None:
    """Refuse a view whose sets overlap where they must not.

    Args:
        view: index sets and the facts of their split.
        supervised: whether the run learned from the true object of the train scan.

    Raises:
        ContractError: naming every leak.
    """
    split, scans = view.metadata["split"], view.metadata["scans"]
    one_scan = scans["train"] == scans["test"]
    problems = []
    for name, frames in (("test", view.test.frames), ("test", view.test.groups)):
        if len(shared := np.intersect1d(frames, view.heldout)):
            problems.append(f"{len(shared)} held-out frames are also {name} frames (first: {shared[0]})")
            break
    if one_scan and len(shared := np.intersect1d(view.train.frames, view.heldout)):
        problems.append(f"{len(shared)} held-out frames are also train frames (first: {shared[0]})")
    if split["kind"] == "scans" and one_scan:
        problems.append("train and test scan are the same file, although the split says separate scans")
    if split["kind"] == "region" and len(shared := np.intersect1d(view.train.frames, view.test.frames)):
        problems.append(f"{len(shared)} train frames are also test frames (first: {shared[0]})")
    if supervised and split["kind"] == "none":
        problems.append("a supervised arm learned from the truth of the frames that it is scored on")
    refuse(problems, what="this run leaks what it is scored on")


def fairness(view: View, recon: Recon, *, kind: str, supervised: bool) -> dict[str, Any]:
    """Return the block `fairness` of metrics.json.

    Args:
        view: index sets and the facts of their split.
        recon: its metadata tell epochs, seconds and device.
        kind: `train`, `iterative`, `external` or `imported`, as the registry has it.
        supervised: whether the run learned from the true object of the train scan.
    """
    split = view.metadata["split"]
    cost: Mapping[str, Any] = recon.metadata.get("cost") or {}
    # An external arm that is trained here learns from the truth; otherwise its weights came with it.
    given_weights = kind == "external" and not supervised
    trained = kind == "train" or (kind == "external" and supervised)
    known = kind != "imported" and not given_weights
    reads = kind == "iterative" or split["kind"] == "none"
    notes = []
    if kind == "iterative":
        notes.append(
            "fitted to the test frames themselves, as every iterative reconstruction is; held-out frames are not read"
        )
    elif trained and split["kind"] == "none":
        notes.append(
            "trained on the test frames themselves: it reconstructs this scan, it does not generalize to another"
        )
    elif given_weights:
        notes.append("its weights were given: what they were trained on, and for how long, is not known here")
    elif not known:
        notes.append("imported: what it was fitted to, and for how long, is not known here")
    if supervised:
        notes.append("learned from the true object of the train scan, which a measurement does not have")
    return {
        "reads_test_frames": reads if known else None,
        "saw_truth": supervised if known else None,
        "train_test": TRAIN_TEST[split["kind"]] if trained else "no training",
        "min_train_test_distance_px": split.get("min_train_test_distance_px") if trained else None,
        "n_train_frames": len(view.train.frames) if trained else 0,
        "n_test_frames": len(view.test.frames),
        "n_heldout_frames": len(view.heldout),
        "epochs": cost.get("epochs"),
        "device": str(recon.metadata.get("device", "")),
        "train_seconds": cost.get("train_seconds"),
        "reconstruct_seconds": cost.get("reconstruct_seconds"),
        "notes": notes,
    }
