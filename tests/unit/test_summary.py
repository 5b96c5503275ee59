"""The summary in Markdown: the report's verdicts and numbers, for a terminal."""

import pytest

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
