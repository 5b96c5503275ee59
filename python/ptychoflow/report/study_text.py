"""What a study says beside its numbers: facts of every view, what became of every condition, deviations from the specification."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ptychoflow.report.sections import ReportInput, show
from ptychoflow.report.study_tables import Row, Study
from ptychoflow.report.tables import Json, Outcome

When = Literal["always", "spacing", "share", "region", "n", "lsqml", "gridsize 1", "full", "backends", "overlap"]

DEVIATIONS: tuple[tuple[When, str], ...] = (
    (
        "spacing",
        "A spaced view is chosen on groups of the study's largest gridsize, and every arm reads the frames of these groups, "
        "whatever its own gridsize: arms of one condition see the same frames. The spacing holds between group centres.",
    ),
    (
        "spacing",
        "Groups are spaced by a greedy pass over their centres. The rule that comes first in the specification drops both members "
        "of a close pair and keeps nothing of a dense scan.",
    ),
    (
        "spacing",
        "The bound on how many groups a field can hold is a proven one (Oler 1961), and an acceptance that exceeds it skips the "
        "view with the reason; the acceptance is never lowered to fit.",
    ),
    (
        "share",
        "Overlap is also set by the share of frames that a view keeps, since spacing alone empties a dense scan.",
    ),
    (
        "region",
        "A guard band lies between the halves, N px wide unless asked otherwise; from N px on no train patch overlaps a test "
        "patch.",
    ),
    (
        "n",
        "N and the number of frames in either half are read from the data, and the spacing (1 - f) N follows from that N.",
    ),
    ("overlap", "Overlap is measured on the stored groups, those that are trained on and reconstructed from."),
    (
        "lsqml",
        "LSQML starts from an object of ones, never from the true object, and reads all test frames of the view.",
    ),
    ("lsqml", "LSQML reconstructs the test side only."),
    (
        "gridsize 1",
        "The study's baseline is the gridsize-1 PINN and is called by its own name, ending in _gs1; an arm called baseline is "
        "the supervised network.",
    ),
    ("full", "Every gridsize meets every view; the specification trains gridsize 1 on all frames only."),
    ("backends", "Arms of different frameworks stand in columns of their own and never share a cell."),
    (
        "always",
        "Training seeds are listed apart from the seeds of simulation, grouping and subsampling: intervals are over training "
        "seeds alone, on one scan and one set of views.",
    ),
    (
        "always",
        "All views of a scan are scored on one rectangle, which depends on scan, probe and truth. The peak of PSNR is the range of "
        "the truth's amplitude, 2 pi for the phase; MS-SSIM states its blur and its number of scales.",
    ),
)
"""Where the study differs from its specification (design section 9, study sections 1 to 5), and when a line applies."""


@dataclass(frozen=True)
class ViewFacts:
    """One prepared view as a row of texts; a dash is what did not arrive.

    Attributes:
        view: its id.
        gridsize: that of the groups that are read.
        state: `ok`, `skipped`, `failed`, or `unknown` where nothing tells.
        frames: train and test frames that it keeps.
        available: frames of the two sides before anything is left out.
        share: share of frames kept before the grouping.
        spacing: least distance between group centres, px, with the gridsize of these groups.
        accepted, bound: share of groups that the spacing left, and the proven bound on it; train, test.
        branch: how groups are formed: `single`, `plain` or `k_choose_c`.
        oversampling: whether more groups than frames were allowed, and whether there are.
        overlap: metric 2 of train and test.
        reason: why there is no such view.
    """

    view: str
    gridsize: int
    state: str
    frames: str
    available: str
    share: str
    spacing: str
    accepted: str
    bound: str
    branch: str
    oversampling: str
    overlap: str
    reason: str


VIEW_COLUMNS = {
    "view": "view", "gridsize": "gridsize", "state": "state", "frames": "frames, train / test",
    "available": "of, train / test", "share": "share of frames",
    "spacing": "spacing (px)", "accepted": "accepted, train / test", "bound": "bound, train / test", "branch": "grouping",
    "oversampling": "oversampling", "overlap": "overlap (metric 2), train / test", "reason": "reason",
}  # fmt: skip


@dataclass(frozen=True)
class Tally:
    """What became of the runs of one condition: `n_failed` counts failed, collapsed and missing ones."""

    row: Row
    n_success: int
    n_failed: int
    n_skipped: int
    said: str

    @property
    def text(self) -> str:
        """Counts and the first score of every arm, in one sentence."""
        return f"n_success {self.n_success}, n_failed {self.n_failed}, n_skipped {self.n_skipped}; {self.said}"


def tallies(study: Study, found: Sequence[Outcome]) -> list[Tally]:
    """Return one tally per condition, with the study's first score of every planned arm in words."""
    rows = []
    for row in study.rows:
        states = [outcome.state for outcome in found if outcome.run["condition"] == row.condition]
        failed = states.count("failed") + states.count("missing")
        rows.append(Tally(row, states.count("ok"), failed, states.count("skipped"), _first_score(study, row)))
    return rows


def _first_score(study: Study, row: Row) -> str:
    if not study.scores:
        return "no score"
    first = study.scores[0]
    cells = [(entrant.title, study.cell(row, entrant, first)) for entrant in study.entrants]
    said = [f"{title} {cell.value if cell.spread.n else cell.words}" for title, cell in cells if cell.n_planned]
    return f"{first.title} (median): {', '.join(said)}"


def view_facts(given: ReportInput) -> list[ViewFacts]:
    """Return the facts of every view of the plan, in its order."""
    return [
        _view(view, [outcome for outcome in given.found if outcome.run.get("view") == view["id"]], given.bundles)
        for view in given.plan["views"]
    ]


def _view(view: Json, runs: Sequence[Outcome], bundles: Mapping[str, Json]) -> ViewFacts:
    config: Json = view.get("config") or {}
    bundle = bundles.get(str(view["id"]))
    sides = [_side(bundle, side) for side in ("train", "test")]
    gridsize = int(view.get("gridsize") or config.get("gridsize") or 1)
    stopped = next((outcome for outcome in runs if outcome.stage == "prepare" and outcome.state != "ok"), None)
    built = bundle is not None or any(outcome.stage not in ("", "prepare") for outcome in runs)
    branch = _branch(config, gridsize, sides[0])
    spacing = config.get("min_spacing_px")
    chosen_on = config.get("view_gridsize") or gridsize
    return ViewFacts(
        view=str(view["id"]),
        gridsize=gridsize,
        state=stopped.state if stopped else "ok" if built else "unknown",
        frames=_pair(sides, lambda side: _count(side.get("n_unique_images"))) if bundle else _frames_read(runs),
        available=_pair(sides, lambda side: _count(side.get("n_images_total"))),
        share=show(config.get("s_img", 1.0)),
        spacing="none" if spacing is None else f"{show(spacing)} (gs{chosen_on})",
        accepted=_pair(sides, lambda side: _percent(side.get("acceptance_rate"))) if spacing else "–",
        bound=_pair(sides, lambda side: _percent(side.get("geometry_acceptance_bound"))) if spacing else "–",
        branch=branch,
        oversampling=_oversampling(config, branch, sides[0]),
        overlap=_pair(sides, lambda side: show(side.get("metric_2_image_based_avg"))),
        reason=" ".join(stopped.reason.split()) if stopped else "",
    )


def _side(bundle: Json | None, side: str) -> Json:
    """Return the measures of one side; nothing where the bundle did not arrive."""
    return {} if bundle is None else bundle[side]["metrics"]


def _pair(sides: Sequence[Json], text: Any) -> str:
    train, test = (text(side) for side in sides)
    return "–" if train == test == "–" else f"{train} / {test}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.3g} %"


def _count(number: int | None) -> str:
    return "–" if number is None else str(number)


def _frames_read(runs: Sequence[Outcome]) -> str:
    """Return the frames that a scored, trained run read; a dash where there is none."""
    for outcome in runs:
        if (read := (outcome.metrics or {}).get("fairness")) and read["n_train_frames"]:
            return f"{read['n_train_frames']} / {read['n_test_frames']}"
    return "–"


def _branch(config: Json, gridsize: int, train: Json) -> str:
    """Return the branch of data/grouping.py: `k_choose_c` only where there are more groups than frames to seed them."""
    if gridsize == 1:
        return "single"
    if config.get("n_groups") is None:
        return "plain"
    if not train:
        return "–"
    return "k_choose_c" if train["n_groups_actual"] > train["n_images_subsampled"] else "plain"


def _oversampling(config: Json, branch: str, train: Json) -> str:
    if not config.get("oversample"):
        return "off"
    if branch == "–":
        return "allowed"
    if branch != "k_choose_c":
        return "allowed, not needed"
    return f"{train['n_groups_actual']} groups of {train['n_images_subsampled']} frames"


def deviations(study: Study, given: ReportInput) -> list[str]:
    """Return the lines of `DEVIATIONS` that apply to a plan."""
    holds = _traits(study, given)
    return [text for when, text in DEVIATIONS if when in holds]


def _traits(study: Study, given: ReportInput) -> set[When]:
    configs: list[Json] = [view.get("config") or {} for view in given.plan["views"]]
    labels = {entrant.label for entrant in study.entrants}
    several_gridsizes = len({view.get("gridsize") for view in given.plan["views"]}) > 1
    spaced = any(config.get("min_spacing_px") for config in configs)
    facts: dict[When, bool] = {
        "always": True,
        "spacing": spaced,
        "n": spaced,
        "share": any(config.get("s_img", 1.0) < 1 for config in configs),
        "region": any(config.get("split") == "region" for config in configs),
        "overlap": bool(given.bundles),
        "lsqml": "lsqml" in labels,
        "gridsize 1": bool(labels & {"pinn_gs1", "pinn_torch_gs1"}),
        "full": several_gridsizes and not study.borrows,
        "backends": len({entrant.backend for entrant in study.entrants if entrant.label != "lsqml"}) > 1,
    }
    return {when for when, applies in facts.items() if applies}
