"""The summary in Markdown: the report's verdicts and numbers, for a terminal."""

import pytest

import report_dose_overlap
import report_sample as sample
from ptychoflow.report.sections import ReportInput, sections
from ptychoflow.report.summary import summary_markdown
from ptychoflow.report.tables import outcomes


@pytest.fixture(scope="module")
def given():
    found = outcomes(sample.PLAN, sample.STATUSES, sample.METRICS)
    return ReportInput(plan=sample.PLAN, found=found, comparisons=sample.COMPARISONS, notes=["stray.png is left out"])


def test_counts_come_first(given):
    assert summary_markdown(given).splitlines()[2] == "11 planned runs: 6 ok, 1 failed, 2 missing, 2 skipped."


def test_verdicts_and_costs_are_those_of_the_report_and_come_before_the_table(given):
    lines = summary_markdown(given).splitlines()
    section = sections(given)[0]
    said = [f"- {verdict.text}." for verdict in section.verdicts]
    said += [f"- Costs, {cost.title}: {cost.text}." for cost in section.costs]
    start = lines.index("## lines_d1e9") + 2
    assert len(said) > 2
    assert lines[start : start + len(said)] == said
    assert lines[start + len(said) + 1].startswith("| arm |")


def test_a_row_has_mean_interval_and_n(given):
    text = summary_markdown(given)
    columns = next(line for line in text.splitlines() if line.startswith("| arm |")).split(" | ")
    row = next(line for line in text.splitlines() if line.startswith("| pinn_tf_gs1")).split(" | ")
    cells = dict(zip(columns, row, strict=True))
    # 0.11, 0.28, 0.19: mean 0.1933, t(0.975, 2) = 4.303, std 0.08505
    assert cells["amplitude MAE ↓"] == "0.1933 [-0.01794, 0.4046] n=3"
    assert cells["ok"] == "3 of 3"
    single = next(line for line in text.splitlines() if line.startswith("| lsqml")).split(" | ")
    assert dict(zip(columns, single, strict=True))["amplitude MAE ↓"] == "0.05 n=1"
    own = next(line for line in text.splitlines() if line.startswith("| truth")).split(" | ")
    assert dict(zip(columns, own, strict=True))["held-out contrast ↑"] == "0.99 n=1"


def test_legacy_scores_are_not_in_the_summary(given):
    assert "legacy" not in summary_markdown(given)


def test_a_bar_in_a_name_does_not_break_the_table(given):
    plan = {**sample.PLAN, "runs": [{**sample.LSQML, "label": "a|b"}], "skipped": []}
    text = summary_markdown(ReportInput(plan=plan, found=outcomes(plan, sample.STATUSES, sample.METRICS)))
    assert "| a\\|b | 1 of 1 |" in text


def test_failures_skips_and_notes_are_named(given):
    text = summary_markdown(given)
    assert "- `star__lsqml__n64__s0` skipped: 3 frames are too few" in text
    assert "- stray.png is left out" in text


def test_too_few_ok_runs_are_said_in_the_first_lines(given):
    short = ReportInput(plan=given.plan, found=given.found, min_success=7)
    assert summary_markdown(short).splitlines()[4] == "**Fewer than the 7 ok runs that were asked for.**"


def section_of(text, heading):
    """Return the lines below a heading, up to the next one."""
    lines = text.splitlines()
    start = lines.index(heading) + 1
    end = next((i for i in range(start, len(lines)) if lines[i].startswith("#")), len(lines))
    return [line for line in lines[start:end] if line]


def test_a_study_over_dose_and_view_has_a_table_per_score_before_the_conditions():
    given = report_dose_overlap.study(specified=True)
    text = summary_markdown(given)
    table = section_of(text, "### phase MS-SSIM ↑")
    assert table[0] == "| condition | dose | view | pinn_gs2 | pinn_gs1 | lsqml |"
    assert len(table) == 2 + 9
    assert table[6] == (
        "| fly64_d1e4_dense | 1e4 | dense | 0.73 [0.6954, 0.7713] n = 3 | 0.74 † [0.7054, 0.7813] n = 3 | 0.63 n = 1 |"
    )
    assert {line.count("|") for line in table} == {7}
    assert "| fly64_d1e4_dense | 1e4 | dense |" in "\n".join(section_of(text, "### phase MAE ↓ (rad)"))
    assert text.index("## Dose and overlap") < text.index("## fly64_d1e3_all")


def test_reasons_counts_views_and_deviations_follow_the_tables():
    text = summary_markdown(report_dose_overlap.study())
    assert section_of(text, "### Why values are missing") == [
        f"- [1] {report_dose_overlap.DIVERGED}",
        f"- [2] {report_dose_overlap.INFEASIBLE}",
    ]
    became = section_of(text, "### What became of every condition")
    assert became[1] == (
        "- fly64_d1e3_all: n_success 6, n_failed 1, n_skipped 0; phase MS-SSIM (median): pinn_gs2 0.7, pinn_gs1 0.67, lsqml 0.6."
    )
    assert len(became) == 1 + 9
    views = section_of(text, "### Views")
    assert len(views) == 2 + 18
    assert {line.count("|") for line in views} == {views[0].count("|")}
    assert sum(report_dose_overlap.INFEASIBLE in line for line in views) == 2
    assert len(section_of(text, "### Deviations from the specification")) > 5


def test_without_several_doses_or_views_the_summary_is_as_before(given):
    assert "Dose and overlap" not in summary_markdown(given)
