"""The summary in Markdown: the report's first page for terminals and issue threads."""

from collections.abc import Sequence

from ptychoflow.report.ranking import pairs_sentence
from ptychoflow.report.sections import Cell, ReportInput, Section, counts, sections, show
from ptychoflow.report.study_tables import CELLS_SAY, DAGGER_SAYS, Study, study_of
from ptychoflow.report.study_text import VIEW_COLUMNS, deviations, tallies, view_facts


def summary_markdown(given: ReportInput) -> str:
    """Return `summary.md`: counts; the tables of a study over dose and view, where it is one; what went wrong.

    For each condition it says which arm wins and what it costs, and has the table of arms.
    """
    states = counts(given.found)
    lines = ["# ptychoflow summary", ""]
    lines.append(
        f"{len(given.found)} planned runs: {', '.join(f'{count} {state}' for state, count in states.items())}."
    )
    if states["ok"] < given.min_success:
        lines += ["", f"**Fewer than the {given.min_success} ok runs that were asked for.**"]
    if (study := study_of(given)) is not None:
        lines += _study(study, given)
    for section in sections(given):
        lines += ["", f"## {section.name}", ""]
        if section.verdicts or section.costs:
            lines += [f"- {verdict.text}." for verdict in section.verdicts]
            lines += [f"- Costs, {cost.title}: {cost.text}." for cost in section.costs]
            lines += [""]
        lines += _arms(section)
    lines += [
        "",
        "Scores are means over the seeds that ended ok, with the 95 % interval of the mean and the number of seeds n.",
    ]
    if any(verdict.comparisons for verdict in given.verdicts):
        lines[-1] += f" {pairs_sentence()}"
    bad = [outcome for outcome in given.found if outcome.state != "ok"]
    if bad:
        lines += ["", "## Failures and skips", ""]
        lines += [f"- `{outcome.run_id}` {outcome.state}: {' '.join(outcome.reason.split())}" for outcome in bad]
    if given.notes:
        lines += ["", "## Notes", "", *(f"- {note}" for note in given.notes)]
    return "\n".join(lines) + "\n"


def _study(study: Study, given: ReportInput) -> list[str]:
    """Return a study: a table per score, one line per condition, facts of the views and deviations from the specification."""
    lines = ["", "## Dose and overlap", "", f"Cells are the {CELLS_SAY}."]
    lines += [f"{DAGGER_SAYS}."] if study.borrows else []
    titles = [entrant.title for entrant in study.entrants]
    for score in study.scores:
        unit = f" ({score.unit})" if score.unit else ""
        lines += ["", f"### {score.title} {score.arrow}{unit}", ""]
        lines += [_row(["condition", "dose", "view", *titles]), "|---|---:|---|" + "---:|" * len(titles)]
        for row in study.rows:
            cells = [study.cell(row, entrant, score).text for entrant in study.entrants]
            lines.append(_row([row.condition, row.dose or "–", row.view or "–", *cells]))
    if study.absent:
        lines += ["", f"No run has: {'; '.join(study.absent)}."]
    if study.reasons:
        lines += ["", "### Why values are missing", ""]
        lines += [f"- [{number}] {reason}" for number, reason in enumerate(study.reasons, start=1)]
    lines += ["", "### What became of every condition", "", "n_failed counts failed, collapsed and missing runs.", ""]
    lines += [f"- {tally.row.condition}: {tally.text}." for tally in tallies(study, given.found)]
    lines += ["", "### Views", "", _row(list(VIEW_COLUMNS.values())), "|---" * len(VIEW_COLUMNS) + "|"]
    lines += [_row([str(getattr(facts, name)) for name in VIEW_COLUMNS]) for facts in view_facts(given)]
    lines += ["", "### Deviations from the specification", ""]
    return lines + [f"- {text}" for text in deviations(study, given)]


def _arms(section: Section) -> list[str]:
    """Return the table of arms."""
    titles = [
        f"{column.title} {column.arrow}" + (f" ({column.unit})" if column.unit else "") for column in section.columns
    ]
    lines = [_row(["arm", "ok", *titles, "training (s)", "reconstruction (s)"])]
    lines.append("|---|" + "---:|" * (len(titles) + 3))
    for arm in section.arms:
        ok = "–" if arm.own else f"{arm.n_ok} of {arm.n_planned}"
        scores = [_score(arm.cell(column)) for column in section.columns]
        lines.append(_row([arm.label, ok, *scores, show(arm.row.train_s), show(arm.row.reconstruct_s)]))
    return lines


def _score(cell: Cell) -> str:
    if not cell.spread.n:
        return cell.text
    return " ".join(part for part in (cell.text, cell.interval, f"n={cell.spread.n}") if part)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
