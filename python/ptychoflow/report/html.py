"""The report: one HTML file that needs nothing else, built from plain tables and PNG bytes; no dates, the same bytes each time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from ptychoflow.report.embed import PICTURE_BYTES, Layout, Picture, galleries
from ptychoflow.report.ranking import Verdict, pairs_sentence
from ptychoflow.report.sections import Column, ReportInput, Section, counts, sections, show
from ptychoflow.report.strips import strips
from ptychoflow.report.study_curves import all_curves
from ptychoflow.report.study_tables import CELLS_SAY, DAGGER_SAYS, Study, study_of
from ptychoflow.report.study_text import VIEW_COLUMNS, deviations, tallies, view_facts
from ptychoflow.report.tables import Key

OPEN_CONDITIONS = 6
"""With more conditions than this, all but the first are folded."""

OPEN_ROWS = 40
"""Longer tables are folded."""

OPEN_PICTURES = 8
"""More pictures of one kind are folded."""

PANEL_WIDTH_PX, PANEL_HEIGHT_PX = 900, 640
"""Largest size to which the viewer enlarges a picture, by whole pixels."""


@dataclass(frozen=True)
class StudyPart:
    """One score of a study: its table, and its curves as far as they arrived."""

    score: Column
    figures: Sequence[Picture]


def render(given: ReportInput, *, budget: int = PICTURE_BYTES) -> str:
    """Return the report as HTML text.

    Args:
        given: everything it shows.
        budget: most PNG bytes in it.
    """
    environment = Environment(
        loader=PackageLoader("ptychoflow.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"show": show, "enlarged": enlarged}
    layout = Layout(beside=given.visuals_beside)
    runs = [outcome.run for outcome in given.found]
    ranked = given.verdicts
    found = sections(given)
    study = study_of(given)
    parts = study_parts(study, given.study_pictures, budget=budget) if study is not None else []
    left = budget - sum(len(picture.png or b"") for part in parts for picture in part.figures)
    context: dict[str, Any] = {
        "given": given,
        "sections": found,
        "galleries": galleries(runs, given.comparisons, given.pictures, given.curves, layout=layout, budget=left),
        "budget_mb": f"{budget / 1e6:g}",
        "strips": {section.name: strips(section) for section in found},
        "leaders": leaders(found),
        "ranked_titles": list(dict.fromkeys(verdict.title for verdict in ranked)),
        "pairs": pairs_sentence() if any(verdict.comparisons for verdict in ranked) else "",
        "run_links": {o.run_id: layout.run(o.run) for o in given.found if o.metrics is not None},
        "states": counts(given.found),
        "total": len(given.found),
        "bad": [outcome for outcome in given.found if outcome.state != "ok"],
        "scored": [row for section in found for row in section.scoring],
        "parameters": sorted(given.plan.get("parameters", {}).items()),
        "versions": sorted(given.versions.items()),
        "study": study,
        "study_parts": parts,
        "study_tallies": tallies(study, given.found) if study is not None else [],
        "study_views": view_facts(given) if study is not None else [],
        "study_deviations": deviations(study, given) if study is not None else [],
        "cells_say": CELLS_SAY,
        "dagger_says": DAGGER_SAYS,
        "view_columns": VIEW_COLUMNS,
        "open_conditions": OPEN_CONDITIONS,
        "open_rows": OPEN_ROWS,
        "open_pictures": OPEN_PICTURES,
    }
    return environment.get_template("report.html.j2").render(context)


def study_parts(study: Study, pictures: Mapping[str, bytes], *, budget: int) -> list[StudyPart]:
    """Return the scores of a study with their curves: those of the primary score go in first, what does not fit is linked.

    Args:
        study: its tables.
        pictures: PNG bytes by file name.
        budget: most PNG bytes in all.
    """
    found: dict[Key, list[Picture]] = {score.key: [] for score in study.scores}
    for curves in all_curves(study):
        if (png := pictures.get(curves.file)) is None:
            continue
        fits = len(png) <= budget
        budget -= len(png) if fits else 0
        found[curves.score.key].append(
            Picture(curves.title, curves.alt, f"study/{quote(curves.file, safe='')}", png if fits else None)
        )
    return [StudyPart(score, found[score.key]) for score in study.scores]


def leaders(found: Sequence[Section]) -> dict[tuple[str, str], str]:
    """Return who leads by condition and title of the score, in words."""
    return {
        (section.name, verdict.title): verdict.leader or _undecided(verdict)
        for section in found
        for verdict in section.verdicts
    }


def _undecided(verdict: Verdict) -> str:
    """Return why a score has no leader."""
    if not verdict.comparisons:
        return "one arm only"
    judged = {comparison.paired.verdict for comparison in verdict.comparisons if comparison.kind == "seeds"}
    if judged & {"first", "no difference shown"}:
        return "no arm ahead of all"
    return "one run each"


def enlarged(size: tuple[int, int]) -> int:
    """Return the width at which the viewer shows a picture, px: a whole multiple of its own, so that its pixels stay even."""
    width, height = size
    return width * max(1, min(PANEL_WIDTH_PX // width, PANEL_HEIGHT_PX // height))
