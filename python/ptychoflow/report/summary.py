"""The summary in Markdown: the report's first page for terminals and issue threads."""

from collections.abc import Sequence

from ptychoflow.report.ranking import pairs_sentence
from ptychoflow.report.sections import Cell, ReportInput, Section, counts, sections, show


def summary_markdown(given: ReportInput) -> str:
    """Return `summary.md`: counts; for each condition which arm wins, what it costs and the table of arms; what went wrong."""
    states = counts(given.found)
    lines = ["# ptychoflow summary", ""]
    lines.append(
        f"{len(given.found)} planned runs: {', '.join(f'{count} {state}' for state, count in states.items())}."
    )
    if states["ok"] < given.min_success:
        lines += ["", f"**Fewer than the {given.min_success} ok runs that were asked for.**"]
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
