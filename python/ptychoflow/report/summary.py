"""The summary in Markdown: the report's first page for terminals and issue threads."""

from collections.abc import Sequence

from ptychoflow.report.html import ReportInput, Section, sections, show


def summary_markdown(given: ReportInput) -> str:
    """Return `summary.md`: counts, one table of arms per condition, failures and skips with their reasons."""
    states = {
        state: sum(outcome.state == state for outcome in given.found)
        for state in ("ok", "failed", "missing", "skipped")
    }
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    lines = ["# ptychoflow summary", "", f"{len(given.found)} planned runs: {counts}."]
    if states["ok"] < given.min_success:
        lines += ["", f"**Fewer than the {given.min_success} ok runs that were asked for.**"]
    for section in sections(given):
        lines += ["", f"## {section.name}", "", *_arms(section)]
    bad = [outcome for outcome in given.found if outcome.state != "ok"]
    if bad:
        lines += ["", "## Failures and skips", ""]
        lines += [f"- `{outcome.run_id}` {outcome.state}: {' '.join(outcome.reason.split())}" for outcome in bad]
    if given.notes:
        lines += ["", "## Notes", "", *(f"- {note}" for note in given.notes)]
    return "\n".join(lines) + "\n"


def _arms(section: Section) -> list[str]:
    """Return the table of arms; medians over the seeds that ended ok."""
    titles = [
        f"{column.title} {column.arrow}" + (f" ({column.unit})" if column.unit else "") for column in section.columns
    ]
    lines = [_row(["arm", "ok", *titles, "training (s)", "reconstruction (s)"])]
    lines.append("|---|" + "---:|" * (len(titles) + 3))
    for row in section.rows:
        ok = f"{row.states.get('ok', 0)} of {sum(row.states.values())}" if row.states else "–"
        scores = [show(row.scores.get(column.key, (None, 0))[0]) for column in section.columns]
        lines.append(_row([row.label, ok, *scores, show(row.train_s), show(row.reconstruct_s)]))
    return lines


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
