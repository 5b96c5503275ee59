"""Arms with needs of their own: frames of another N than the study's, and code and weights that the user supplies.

An arm of `--model_n` reads frames of its own N. Simulated scans are made once more at that N, of the same objects: same streams
and seeds, same raster step, the probe of that N. Scans that are given have the N they have.
"""

from collections.abc import Sequence
from dataclasses import replace

from ptychoflow.arms.ptychovit.checkout import choose_way
from ptychoflow.arms.ptychovit.restore import RUN_FILES, Given, PtychoVitConfig, decide
from ptychoflow.arms.registry import Arm
from ptychoflow.config import parse
from ptychoflow.errors import UsageError, nearest
from ptychoflow.study.conditions import Condition, Dataset
from ptychoflow.study.parameters import CONFIG_FIELDS, Parameters, options


def frame_sides(parameters: Parameters, arms: Sequence[Arm], known: list[str]) -> tuple[dict[str, int], list[str]]:
    """Return N by arm for those that have one of their own, and what is wrong with `--model_n`.

    Args:
        parameters: the merged parameters; what `--model_n` leaves out keeps its default.
        arms: the arms that run.
        known: every arm that `--models` takes.
    """
    default = dict(Parameters().model_n)
    sides = {**default, **dict(parameters.model_n)}
    running = [arm.id for arm in arms]
    problems = []
    for name in sides:
        if name not in known:
            problems.append(f"--model_n: unknown arm '{name}'{nearest(name, known)}; known are {', '.join(known)}")
        elif name not in running and name not in default:
            problems.append(f"--model_n {name}={sides[name]} has no effect: --models does not name {name}")
    return {name: n for name, n in sides.items() if name in running}, problems


def condition_of_side(members: Sequence[Condition], n: int | None) -> tuple[Condition, str | None]:
    """Return the condition with the frames that an arm reads, and why it cannot be had, None where it can.

    Args:
        members: the conditions of one id, the one that the study is about first.
        n: side of the arm's frames, px; None takes those of the study.
    """
    main = members[0]
    if n is None:
        return main, None
    given = next((one for one in members if one.test.n == n), None)
    if given is not None:
        return given, None
    if main.views or any(dataset.kind != "simulate" for dataset in (main.train, main.test)):
        why = f"frames of N = {n} can only be made of scans that are simulated here; these are given"
        return main, f"{why}, with N = {main.test.n}"
    train = _of_side(main.train, n)
    test = train if main.train == main.test else _of_side(main.test, n)
    return replace(main, train=train, test=test, other_n=True), _cannot_be_simulated(test, n)


def _of_side(dataset: Dataset, n: int) -> Dataset:
    return replace(dataset, id=f"{dataset.id}_n{n}", config={**dataset.config, "n": n}, n=n)


def _cannot_be_simulated(dataset: Dataset, n: int) -> str | None:
    """Return why frames of this N cannot be made, None where they can."""
    config = dataset.config
    side = min(config["size"], config["size_cols"] or config["size"])
    if config["kind"] != "base" and side < n:
        return f"an object of {side} px is smaller than a frame of N = {n} px; raise --size"
    if config["probe"] == "base":
        return f"the probe of the base file has an N of its own, so there are no frames of N = {n} with it"
    return None


def with_training(arms: Sequence[Arm], parameters: Parameters) -> tuple[Arm, ...]:
    """Return the arms as they run: an external one that is not trained learns from nothing, so it needs no truth."""
    trains = parameters.ptychovit_mode not in (None, "inference")
    return tuple(replace(arm, supervised=trains) if arm.kind == "external" else arm for arm in arms)


def supply_problems(parameters: Parameters, arms: Sequence[Arm]) -> list[str]:
    """Return what is missing or contradictory of external code and weights, where an arm needs them."""
    names = [arm.id for arm in arms if arm.kind == "external"]
    if not names:
        return []
    problems = []
    try:
        choose_way(parameters.ptychovit_repo, parameters.ptychovit_python, parameters.ptychovit_image)
    except UsageError as error:
        problems.append(f"--models {names[0]}: {error}")
    config = parse(PtychoVitConfig, options(parameters, CONFIG_FIELDS[PtychoVitConfig]), what=names[0])
    checkpoint = parameters.ptychovit_checkpoint
    if config.mode == "inference" and checkpoint is None:
        return [
            *problems,
            f"--models {names[0]}: inference (the default of --ptychovit_mode) needs --ptychovit_checkpoint, the folder of a "
            "run or its best_model.pth; a training from random weights is asked for by --ptychovit_mode train",
        ]
    # What lies in the folder is for the bridge to see; here all of it counts as there.
    given = Given("folder", RUN_FILES, config.mode != "inference", checkpoint or "")
    try:
        _, found = decide(config, given if checkpoint else replace(given, checkpoint="none", files=()), device="cpu")
    except UsageError as error:
        return [*problems, f"--models {names[0]}: {error}"]
    return [*problems, *(one.text for one in found)]
