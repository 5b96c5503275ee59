"""Whether an external run counts: exit code 0 proves nothing.

Every stream of every program is searched, the loader must have used our normalization and our frame, checkpoints must be new and
complete, losses finite, and the checkout's own placement must be the required one. Each function returns what it found wrong.
Source: PtychoViT bridge reference, sections 5, 9 to 11 and 14.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from ptychoflow.arms.ptychovit.assemble import place
from ptychoflow.arms.ptychovit.bridge import Ended
from ptychoflow.arms.ptychovit.contract import STITCH_PAD, STITCH_TRIM, Violation, violation
from ptychoflow.arms.ptychovit.normalization import check_loaded, check_streams
from ptychoflow.arms.ptychovit.restore import BEST, LATEST, RUN_FILES, STATE
from ptychoflow.frames import Positions
from ptychoflow.provenance import sha256_file

TAIL_LINES = 40
"""Lines of a log that a message shows."""
HEADLINE = "=== ptychoflow: "
"""Stands in both logs before the output of each program."""
FRAME_PX = 1e-6
"""Positions of the loader and ours may differ by what metres and back cost."""
SAME_PLACEMENT = 1e-3
"""Largest difference of our placement and the checkout's on test patches of unit variance: float32 transforms."""

INVALIDATING = {
    re.compile(r"Checkpoint not found at"): "PV-RESUME",
    re.compile(r"Skipped backend execution"): "PV-ARTIFACT",
    re.compile(r"Traceback \(most recent call last\)"): "PV-EXIT",
}
"""Texts beside the fallback warnings that make a run invalid whatever its exit code (section 10), and their codes."""


def of_program(what: str, ended: Ended, logs: Sequence[Path], objects: Iterable[str]) -> list[Violation]:
    """Return how a program ended badly, and every invalidating text in the logs; a crash is told once."""
    end = of_end(what, ended, logs)
    return end + [one for one in of_streams(logs, objects) if not (end and one.code == "PV-EXIT")]


def of_end(what: str, ended: Ended, logs: Sequence[Path]) -> list[Violation]:
    """Return how a program ended badly, with the last lines of its logs."""
    if ended.timed_out:
        problem = (
            f"{what} was stopped after {ended.seconds:.1f} s, with a time limit of {ended.limit_s:.1f} s left to it"
        )
        return [violation("PV-TIMEOUT", problem)]
    if ended.returncode == 0:
        return []
    lines = tail(logs)
    last = lines[-1].strip() if lines else "nothing was printed"
    shown = "".join(f"\n    {line}" for line in lines)
    return [violation("PV-EXIT", f"{what} ended with exit code {ended.returncode}: {last}{shown}")]


def tail(logs: Sequence[Path]) -> list[str]:
    """Return the last lines that the last program wrote into the first log where it wrote any."""
    for log in logs:
        lines = [line for line in _lines(log) if line.strip()]
        started = max((place for place, line in enumerate(lines) if line.startswith(HEADLINE)), default=-1)
        if lines[started + 1 :]:
            return lines[started + 1 :][-TAIL_LINES:]
    return []


def _lines(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines()


def of_streams(logs: Sequence[Path], objects: Iterable[str]) -> list[Violation]:
    """Return every invalidating text in the logs of a run."""
    streams = {log.name: _lines(log) for log in logs}
    found = check_streams(streams, objects)
    for name, lines in streams.items():
        for number, line in enumerate(lines, start=1):
            for text, code in INVALIDATING.items():
                if text.search(line):
                    problem = f"the run is invalid: {name}, line {number}: '{line.strip()}'"
                    found.append(violation(code, problem, kind="R"))
    return found


def of_training(
    run: Path, *, seeded: Mapping[str, str], state: Mapping[str, Any] | None, epochs: int
) -> list[Violation]:
    """Return what is wrong with what a training left.

    Args:
        run: upstream's run folder.
        seeded: sha256 by name of the checkpoint files that were copied there before.
        state: content of checkpoint.state as the driver read it; None where there is none.
        epochs: epochs in total that were asked for.
    """
    losses = {} if state is None else state["losses"]
    found = [
        violation("PV-NAN", f"{name} is {value} in epoch {epoch}")
        for name, values in losses.items()
        for epoch, value in list(enumerate(values))
        if not math.isfinite(float(value))
    ][:1]
    missing = [name for name in RUN_FILES if not (run / name).is_file() and not (name == BEST and found)]
    if missing:
        there = sorted(path.name for path in run.iterdir()) if run.is_dir() else []
        problem = f"the training ended with 0, but {run.name} lacks {', '.join(missing)}; it has {there}"
        found.append(violation("PV-ARTIFACT", problem))
    for name in (LATEST, STATE):
        if name in seeded and name not in missing and sha256_file(run / name) == seeded[name]:
            found.append(
                violation("PV-ARTIFACT", f"the training ended with 0, but {name} is still the one from before it")
            )
    if state is not None and state["current_epoch"] != epochs:
        problem = f"the training ended with 0 after {state['current_epoch']} epochs, {epochs} were asked for"
        found.append(violation("PV-ARTIFACT", problem))
    return found


def weights_of(run: Path, *, seeded: Mapping[str, str], finetuned: bool) -> tuple[str, str]:
    """Return which weights of a training make the reconstruction, and why.

    The best loss is inherited on resume. After fine-tuning on other data, best_model.pth may therefore be that of before.
    """
    if finetuned and seeded.get(BEST) == sha256_file(run / BEST):
        return LATEST, f"{BEST} is unchanged by the fine-tuning, whose inherited best loss is of other data"
    return BEST, "best validation loss"


def of_loader(
    answered: Mapping[str, Any],
    *,
    normalization: Mapping[str, float],
    shapes: Mapping[str, tuple[int, int]],
    counts: Mapping[str, int],
) -> list[Violation]:
    """Return where the external loader used other values than the pairs hold.

    Args:
        answered: the driver's answer.
        normalization: max(dp) by object name.
        shapes: object (H, W) by object name, px.
        counts: patterns by object name.
    """
    used = {pair["name"]: pair for pair in answered["pairs"]}
    loaded = {name: pair["normalization"] for name, pair in used.items()}
    found = check_loaded(loaded, {name: normalization[name] for name in shapes})
    for name, pair in used.items():
        if tuple(pair["object_shape"]) != shapes[name]:
            problem = f"object '{name}': the loader sees {tuple(pair['object_shape'])} px, the pair has {shapes[name]}"
            found.append(violation("PV-COUNT", problem))
        if pair["n_predicted"] != counts[name]:
            problem = f"object '{name}': {pair['n_predicted']} predictions for {counts[name]} scan points"
            found.append(violation("PV-COUNT", problem))
    return found


def of_frame(name: str, loaded: Positions, ours: Positions) -> list[Violation]:
    """Return whether the loader puts patches elsewhere than our reading of the pair does, both (n, 2) in object pixels."""
    distance = np.abs(loaded - ours).max(axis=1)
    # Not a number is farther than anything.
    wrong = ~(distance <= FRAME_PX)
    if not wrong.any():
        return []
    first = int(np.argmax(wrong))
    problem = (
        f"object '{name}': the loader has scan point {first} at {loaded[first].tolist()} px (row, col), the pair says "
        f"{ours[first].tolist()}"
    )
    return [
        violation("PV-FRAME", problem, kind="R", remedy="the loader reads another frame than the contract's; report it")
    ]


def placement_case() -> tuple[Float32[np.ndarray, "3 128 128"], Float64[np.ndarray, "3 2"], tuple[int, int]]:
    """Return patches without symmetry, sub-pixel centres (one beyond the canvas) and a canvas that is not square."""
    side = 2 * STITCH_TRIM
    patches = np.random.default_rng(8).normal(size=(3, side, side)).astype(np.float32)
    return patches, np.array([[70.3125, 81.75], [96.5, 40.0], [150.90625, 199.25]]), (173, 211)


def of_placement(placed: np.ndarray) -> list[Violation]:
    """Return whether the checkout's placement of `placement_case` is another method than ours.

    So our assembly is known to be the required one before anything is trained or predicted.
    """
    patches, centres, shape = placement_case()
    expected = np.zeros(shape)
    place(np.pad(patches, ((0, 0), (STITCH_TRIM, STITCH_TRIM), (STITCH_TRIM, STITCH_TRIM))), centres, expected)
    difference = float(np.abs(placed - expected).max())
    if difference <= SAME_PLACEMENT:
        return []
    problem = (
        f"place_patches_fourier_shift differs from the required placement by {difference:.3g}, pad {STITCH_PAD} px"
    )
    return [violation("PV-STITCH", problem)]


def told(problems: Iterable[Sequence[str]], *, after_launch: bool) -> list[Violation]:
    """Return the driver's problems as violations; what would refuse a run makes it invalid once it was launched."""
    return [violation(code, message, kind="R" if after_launch else None) for code, message in problems]


def headline(found: Violation) -> str:
    """Return a violation in one line, without the log that it may show."""
    return f"{found.code}: {found.message.splitlines()[0]}; {found.remedy}"
