"""`status.json`: how one stage of a run ended, written by every command that a run passes through.

A *scientific* failure (diverged, flat, not finite) is data: it ends here as `failed` with its reason, and the command exits 0.
"""

import math
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from ptychoflow.data.schema import SCHEMA_VERSION
from ptychoflow.data.storage import write_json

Stage = Literal["prepare", "train", "reconstruct", "lsqml", "ptychovit"]
State = Literal["ok", "failed", "skipped"]


def peak_memory_bytes() -> int:
    """Return the largest resident memory of this process so far, bytes (host memory only, not the GPU's)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024


def write_status(
    out_dir: Path,
    *,
    run_id: str,
    stage: Stage,
    state: State,
    reason: str | None = None,
    collapsed: bool = False,
    device: str,
    seconds: Mapping[str, float],
    effective_batch_size: int | None = None,
    attempt: int = 1,
) -> None:
    """Write `status.json` into `out_dir`.

    Args:
        out_dir: folder of the task.
        run_id: id of the run; of the view for stage `prepare`.
        stage: which command wrote it.
        state: `ok`, `failed` (scientifically: bad numbers, not a crash) or `skipped`.
        reason: why, in words; required unless the state is `ok`.
        collapsed: the picture exists but is flat; it is scored and left out of rankings.
        device: `cpu` or `cuda`, as used.
        seconds: wall time by stage (`import`, `compile`, `train`, ...), s.
        effective_batch_size: batch that was used in the end, where there is one.
        attempt: 1 for the first try of the task.

    Raises:
        ValueError: `failed` or `skipped` without a reason, or a time that is negative or not finite.
    """
    if state != "ok" and not reason:
        raise ValueError(f"state '{state}' of {run_id} needs a reason in words, got {reason!r}")
    wrong = {name: value for name, value in seconds.items() if not (math.isfinite(value) and value >= 0)}
    if wrong:
        raise ValueError(f"seconds of {run_id} must be finite and not negative, got {wrong}")
    write_json(
        out_dir / "status.json",
        {
            "schema_version": SCHEMA_VERSION,
            "run_id": run_id,
            "stage": stage,
            "state": state,
            "reason": reason,
            "collapsed": collapsed,
            "device": device,
            "seconds": {name: round(float(value), 6) for name, value in seconds.items()},
            "peak_memory_bytes": peak_memory_bytes(),
            "effective_batch_size": effective_batch_size,
            "attempt": attempt,
        },
    )
