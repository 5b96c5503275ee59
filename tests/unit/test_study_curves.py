"""Dose and overlap: what the cells hold, what is said where a value is missing, and what the curves draw from it."""

import csv
import io
import statistics
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from PIL import Image

import report_dose_overlap as made
import report_sample as sample
from ptychoflow.report import study_curves, study_text
from ptychoflow.report.sections import ReportInput
from ptychoflow.report.study_curves import all_curves, draw, study_pictures
from ptychoflow.report.study_tables import study_of
from ptychoflow.report.study_text import deviations, tallies, view_facts
from ptychoflow.report.styles import styles
from ptychoflow.report.tables import STATISTIC_COLUMNS, arm_rows, delimited, outcomes, statistic_rows

PHASE = ("stitched", "phase", "ms_ssim")


@pytest.fixture(scope="module")
def given():
    return made.study()


@pytest.fixture(scope="module")
def study(given):
    return study_of(given)


@pytest.fixture(scope="module")
def specified():
    return study_of(made.study(specified=True, troubles=False))


@pytest.fixture
def drawn(monkeypatch):
    """Return the list of figures that were saved, instead of files."""
    found = []
    monkeypatch.setattr(study_curves, "save", lambda figure, *_, **__: found.append(figure))
    return found


def cell_of(study, dose, view, label, key=PHASE):
    return study.cells[f"fly64_d{dose}_{view}", label, key]


def with_runs(given, change):
    """Return the input with every run of the plan passed through `change`, and everything that arrived for it."""
    runs = [change(dict(run)) for run in given.plan["runs"]]
    documents = [made.metrics(run, 0.5 + 0.01 * run["seed"]) for run in runs]
    statuses = [
        sample.status(run, stage)
        for run in runs
        for stage in (("lsqml",) if run["kind"] == "iterative" else ("train", "reconstruct"))
    ]
    plan = {**given.plan, "runs": runs}
    return replace(given, plan=plan, found=outcomes(plan, statuses, documents))


def curve(study, kind, key=PHASE):
    return next(one for one in all_curves(study) if (one.axis == "dose") is (kind == "dose") and one.score.key == key)


def lines(axes, gid):
    return [line for line in axes.get_lines() if line.get_gid() == gid]


# tables


@pytest.mark.parametrize("view", ["all", "dense"])
def test_one_dose_and_one_view_are_no_study(view):
    given = made.study(doses=("1e4",), views=(view,), troubles=False)
    assert study_of(given) is None
    assert study_pictures(given) == ({}, [])
    plain = ReportInput(plan=sample.PLAN, found=outcomes(sample.PLAN, sample.STATUSES, sample.METRICS))
    assert study_of(plain) is None


def test_scans_of_different_doses_are_not_a_dose_series():
    """A samplesheet's scans have the doses they have: of each there is one."""
    entries = [{"id": f"scan{dose}", "train": "t", "test": "t", "dose": dose, "view": "all"} for dose in made.DOSES]
    assert study_of(ReportInput(plan={**sample.PLAN, "conditions": entries, "skipped": []}, found=[])) is None


def test_rows_go_by_dose_as_a_number_then_by_view_in_the_order_of_the_plan():
    plan = made.study(troubles=False).plan
    swapped = {"1e3": "1e10", "1e4": "9e3", "1e5": "2.5e4"}
    conditions = [
        {**entry, "dose": swapped[entry["dose"]], "id": f"fly64_d{swapped[entry['dose']]}_{entry['view']}"}
        for entry in plan["conditions"]
    ]
    found = study_of(ReportInput(plan={**plan, "conditions": conditions[::-1], "runs": []}, found=[]))
    assert [(row.dose, row.view) for row in found.rows[:4]] == [
        ("9e3", "sparse"), ("9e3", "dense"), ("9e3", "all"), ("2.5e4", "sparse"),
    ]  # fmt: skip
    assert found.rows[-1].dose == "1e10"
    assert found.scans == ["fly64"]


def test_columns_have_the_larger_gridsize_first_and_the_arms_in_the_order_of_the_plan(study):
    assert [entrant.title for entrant in study.entrants] == ["pinn_gs2", "pinn_gs1", "lsqml"]
    assert [entrant.backend for entrant in study.entrants] == ["tensorflow", "tensorflow", "ptychi"]


def test_a_cell_is_the_row_of_statistics_csv_with_the_median(given, study):
    """Oracle: statistics.csv as COLLECT writes it, and the median of Python's own statistics module."""
    text = delimited(statistic_rows(arm_rows(given.found)), STATISTIC_COLUMNS)
    rows = {
        (row["condition"], row["model"], (row["block"], row["part"], row["metric"])): row
        for row in csv.DictReader(io.StringIO(text))
    }
    seen = 0
    for (condition, label, key), cell in study.cells.items():
        if cell.spread.n:
            row = rows[condition, label, key]
            seen += 1
            assert (cell.spread.n, cell.spread.median) == (int(row["n"]), float(row["median"]))
            assert (cell.spread.low, cell.spread.high) == tuple(
                float(row[n]) if row[n] else None for n in ("low", "high")
            )
    assert seen == 144  # 6 scores, 9 conditions less the skipped one, 3 arms
    expected = statistics.median(made.quality("1e4", "dense", "pinn_gs2", seed) for seed in range(3))
    assert cell_of(study, "1e4", "dense", "pinn_gs2").spread.median == pytest.approx(expected)
    # 0.73, 0.72, 0.75: mean 0.73333, t(0.975, 2) = 4.303, std 0.015275
    assert cell_of(study, "1e4", "dense", "pinn_gs2").text == "0.73 [0.6954, 0.7713] n = 3"


def test_the_primary_score_comes_first_and_scores_that_nobody_has_are_named(study):
    titles = [score.title for score in study.scores]
    assert titles == [
        "phase MS-SSIM", "amplitude MS-SSIM", "phase MAE", "amplitude MAE", "amplitude PSNR", "complex FRC 0.5",
    ]  # fmt: skip
    assert study.absent == []  # phase PSNR is in no metrics.json of this study at all
    given = made.study(troubles=False)
    for outcome in given.found:
        outcome.metrics["stitched"]["phase"]["ms_ssim"] = sample.score(None, reason="image_smaller_than_window")
    flat = study_of(given)
    assert flat.scores[0].title == "amplitude MS-SSIM"
    assert flat.absent == ["phase MS-SSIM: image smaller than window"]


def test_failed_and_skipped_runs_are_words_with_a_numbered_reason(study):
    failed = cell_of(study, "1e3", "all", "pinn_gs1")
    assert failed.text.endswith("n = 2 of 3; 1 failed [1]")
    assert {cell_of(study, "1e5", "sparse", label).text for label in made.LABELS} == {"skipped [2]"}
    assert study.reasons == [made.DIVERGED, made.INFEASIBLE]


def test_collapsed_missing_and_inapplicable_are_told_apart():
    given = made.study(troubles=False)
    found = {outcome.run_id: outcome for outcome in given.found}
    name = "fly64_d1e4_dense__pinn_gs2__n64__s{}".format
    found[name(0)] = replace(found[name(0)], state="failed", reason="collapsed: phase contrast 0.1 of the truth's")
    found[name(1)] = replace(found[name(1)], state="missing", reason="no status arrived:\n see its log", metrics=None)
    found[name(2)].metrics["stitched"]["phase"]["ms_ssim"] = sample.score(None, reason="image_smaller_than_window")
    study = study_of(replace(given, found=list(found.values())))
    cell = cell_of(study, "1e4", "dense", "pinn_gs2")
    assert cell.spread.n == 0
    assert cell.text == "1 collapsed [1], 1 missing [2], 1 not applicable [3]"
    assert study.reasons == [
        "collapsed: phase contrast 0.1 of the truth's",
        "no status arrived: see its log",
        "phase MS-SSIM: image smaller than window",
    ]
    assert cell_of(study, "1e4", "dense", "pinn_gs2", ("stitched", "amp", "mae")).text.endswith(
        "n = 1 of 3; 1 collapsed [1], 1 missing [2]"
    )


def test_a_curve_that_does_not_cross_is_said():
    given = made.study(troubles=False)
    for outcome in given.found:
        if outcome.run["label"] == "lsqml":
            outcome.metrics["stitched"]["complex"]["frc50"] |= {"value": 1.0, "status": "never"}
    cell = cell_of(study_of(given), "1e3", "all", "lsqml", ("stitched", "complex", "frc50"))
    assert cell.text == "1 n = 1; never below"


def test_two_backends_never_share_a_cell(given):
    """One label with runs of two backends becomes two columns, each with its own seeds."""

    def change(run):
        return {**run, "backend": "torch"} if run["label"] == "pinn_gs2" and run["seed"] == 2 else run

    study = study_of(with_runs(given, change))
    assert [entrant.title for entrant in study.entrants] == [
        "pinn_gs2 (tensorflow)", "pinn_gs2 (torch)", "pinn_gs1", "lsqml",
    ]  # fmt: skip
    values = [cell_of(study, "1e4", "all", entrant.title).spread for entrant in study.entrants[:2]]
    assert [(known.n, known.maximum) for known in values] == [(2, 0.51), (1, 0.52)]


def test_a_backend_that_is_not_everywhere_borrows_nothing_from_another_view(given):
    def change(run):
        return {**run, "backend": "torch"} if run["label"] == "pinn_gs2" and run["view"].endswith("all__gs2") else run

    study = study_of(with_runs(given, change))
    assert not study.borrows
    assert cell_of(study, "1e4", "dense", "pinn_gs2 (torch)").text == "not planned"


def test_the_specified_matrix_borrows_gridsize_1_from_the_view_all_with_a_dagger(specified):
    for view in ("dense", "sparse"):
        cell = cell_of(specified, "1e4", view, "pinn_gs1")
        assert cell.borrowed
        assert cell.spread == cell_of(specified, "1e4", "all", "pinn_gs1").spread
        assert cell.text.startswith("0.74 † [")
    assert not cell_of(specified, "1e4", "all", "pinn_gs1").borrowed
    assert cell_of(specified, "1e4", "all", "pinn_gs2").text == "not planned"
    assert specified.borrows


def test_the_full_matrix_borrows_nothing_even_where_runs_are_skipped(study):
    assert not study.borrows


def test_a_condition_that_the_plan_skipped_as_a_whole_keeps_its_row(given):
    lost = {
        "run_id": "x",
        "condition": "fly64_d1e6_sparse",
        "label": "lsqml",
        "arm": "lsqml",
        "seed": 0,
        "reason": "too small",
    }
    plan = {**given.plan, "skipped": [lost]}
    study = study_of(ReportInput(plan=plan, found=[*given.found, *outcomes({**plan, "runs": []}, [], [])]))
    assert (study.rows[-1].condition, study.name(study.rows[-1])) == ("fly64_d1e6_sparse", "fly64_d1e6_sparse")
    assert study.cell(study.rows[-1], study.entrants[-1], study.scores[0]).text == "skipped [3]"
    assert [entrant.backend for entrant in study.entrants] == ["tensorflow", "tensorflow", "ptychi"]
    assert all_curves(study)


# facts and deviations


def test_every_condition_is_counted(given, study):
    rows = {tally.row.condition: tally for tally in tallies(study, given.found)}
    assert (rows["fly64_d1e3_all"].n_success, rows["fly64_d1e3_all"].n_failed) == (6, 1)
    skipped = rows["fly64_d1e5_sparse"]
    assert (skipped.n_success, skipped.n_failed, skipped.n_skipped) == (0, 0, 7)
    assert rows["fly64_d1e4_dense"].said == "phase MS-SSIM (median): pinn_gs2 0.73, pinn_gs1 0.69, lsqml 0.63"
    lost = [replace(outcome, state="missing") for outcome in given.found]
    assert sum(tally.n_failed for tally in tallies(study, lost)) == len(lost)


def test_views_say_frames_spacing_bound_branch_and_overlap(given):
    facts = {row.view: row for row in view_facts(given)}
    dense = facts["fly64_d1e4_dense__gs2"]
    assert (dense.state, dense.frames, dense.available, dense.spacing) == (
        "ok",
        "301 / 287",
        "5172 / 5172",
        "38.4 (gs2)",
    )
    assert (dense.accepted, dense.bound, dense.overlap) == ("5.82 % / 5.55 %", "25 % / 25 %", "0.72 / 0.71")
    assert (dense.branch, dense.oversampling, dense.reason) == ("plain", "off", "")
    assert facts["fly64_d1e4_dense__gs1"].branch == "single"
    everything = facts["fly64_d1e4_all__gs2"]
    assert (everything.spacing, everything.accepted, everything.bound) == ("none", "–", "–")
    skipped = facts["fly64_d1e5_sparse__gs1"]
    assert (skipped.state, skipped.reason, skipped.frames) == ("skipped", made.INFEASIBLE, "–")


def test_without_bundles_frames_come_from_what_trained_runs_read():
    given = made.study(measured=False)
    facts = {row.view: row for row in view_facts(given)}
    assert (facts["fly64_d1e4_dense__gs2"].frames, facts["fly64_d1e4_dense__gs2"].overlap) == ("40 / 40", "–")
    assert facts["fly64_d1e4_dense__gs2"].state == "ok"
    nothing = view_facts(replace(given, found=outcomes(given.plan, [], [])))
    assert {row.state for row in nothing} == {"unknown"}


@pytest.mark.parametrize(
    ("n_groups", "branch", "said"),
    [
        (5172, "plain", "allowed, not needed"),
        (5173, "k_choose_c", "5173 groups of 5172 frames"),
    ],
)
def test_oversampling_is_used_from_one_group_more_than_frames_on(given, n_groups, branch, said):
    """Oracle: the branches of data/grouping.py."""
    view = dict(given.plan["views"][1])
    view["config"] = view["config"] | {"oversample": True, "n_groups": n_groups}
    bundle = made.bundle(view)
    bundle["train"]["metrics"]["n_groups_actual"] = n_groups
    plan = {**given.plan, "views": [view]}
    (facts,) = view_facts(replace(given, plan=plan, bundles={view["id"]: bundle}))
    assert (facts.gridsize, facts.branch, facts.oversampling) == (2, branch, said)
    (unmeasured,) = view_facts(replace(given, plan=plan, bundles={}))
    assert (unmeasured.branch, unmeasured.oversampling) == ("–", "allowed")


def test_deviations_are_those_that_apply(given, study, specified):
    full = " ".join(deviations(study, given))
    for words in ("guard band", "Oler", "object of ones", "Training seeds", "gridsize-1 PINN", "Every gridsize meets"):
        assert words in full
    assert "share of frames" not in full
    assert "frameworks" not in full
    assert "Every gridsize meets" not in " ".join(deviations(specified, given))
    bare = made.study(views=("all",), labels=("lsqml",), troubles=False, measured=False)
    few = " ".join(deviations(study_of(bare), bare))
    assert "Oler" not in few
    assert "gridsize-1" not in few
    assert "stored groups" not in few
    assert {when for when, _ in study_text.DEVIATIONS} == set(get_args(study_text.When))


# curves


def test_dose_curves_have_a_panel_per_view_and_overlap_curves_one_per_dose(study):
    dose, overlap = curve(study, "dose"), curve(study, "overlap")
    assert list(dose.panels) == ["view all", "view dense", "view sparse"]
    assert list(overlap.panels) == ["dose 1e3", "dose 1e4", "dose 1e5"]
    assert dose.ticks == [(1e3, "1e3"), (1e4, "1e4"), (1e5, "1e5")]
    assert [one.score.title for one in all_curves(study)][:2] == ["phase MS-SSIM"] * 2
    assert len({one.file for one in all_curves(study)}) == len(all_curves(study)) == 12
    assert len({one.alt for one in all_curves(study)}) == 12


@pytest.mark.parametrize(("size", "kinds"), [({"doses": ("1e4",)}, {"overlap"}), ({"views": ("all",)}, {"dose"})])
def test_what_does_not_vary_has_no_curve(size, kinds):
    study = study_of(made.study(**size, n_seeds=2, troubles=False))
    assert {one.axis for one in all_curves(study)} == kinds


def test_points_are_medians_at_their_dose_and_bars_the_interval(tmp_path, study, drawn):
    draw(curve(study, "dose"), tmp_path / "x.png")
    dense = drawn[0].axes[1]
    (line,) = lines(dense, "pinn_gs2")
    np.testing.assert_allclose(line.get_xdata(), [1e3, 1e4, 1e5])
    np.testing.assert_allclose(line.get_ydata(), [0.65, 0.73, 0.81])
    assert dense.get_xscale() == "log"
    bars = lines(dense, "pinn_gs2 interval")
    expected = [cell_of(study, dose, "dense", "pinn_gs2").spread for dose in made.DOSES]
    np.testing.assert_allclose([bar.get_ydata() for bar in bars], [(known.low, known.high) for known in expected])
    assert lines(dense, "lsqml interval") == []  # one run has no interval
    assert to_hex(line.get_color()) == styles(made.LABELS)["pinn_gs2"].colour.lower()
    assert [label.get_text() for label in drawn[0].axes[2].get_xticklabels()] == list(made.DOSES)


def test_a_missing_value_breaks_the_line_and_is_a_cross(tmp_path, drawn):
    """The first arm has no value at the middle dose: nothing may join the doses around it."""
    given = made.study(troubles=False)
    lost = "fly64_d1e4_dense__pinn_gs2"
    found = [
        replace(outcome, state="failed", reason="nan", metrics=None) if outcome.run_id.startswith(lost) else outcome
        for outcome in given.found
    ]
    draw(curve(study_of(replace(given, found=found)), "dose"), tmp_path / "x.png")
    dense = drawn[0].axes[1]
    np.testing.assert_allclose(lines(dense, "pinn_gs2")[0].get_ydata(), [0.65, np.nan, 0.81])
    (cross,) = lines(dense, "pinn_gs2 missing")
    assert (cross.get_xdata()[0], cross.get_ydata()[0], cross.get_marker()) == (1e4, 0.0, "x")
    legend = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert legend == ["lsqml", "pinn_gs1", "pinn_gs2", "no value: see the table"]
    # The same over overlap, where names of views are placed beside lines with a gap.
    draw(curve(study_of(replace(given, found=found)), "overlap"), tmp_path / "x.png")
    assert np.isnan(lines(drawn[-1].axes[1], "pinn_gs2")[0].get_ydata()).any()


def test_overlap_is_that_of_the_test_side(tmp_path, study, drawn):
    draw(curve(study, "overlap"), tmp_path / "x.png")
    first, _, last = drawn[0].axes
    np.testing.assert_allclose(lines(first, "lsqml")[0].get_xydata(), [(0.28, 0.50), (0.71, 0.55), (0.947, 0.60)])
    np.testing.assert_allclose(lines(last, "lsqml")[0].get_xdata(), [0.71, 0.947])
    words = [text.get_text() for text in last.texts]
    assert "neither value nor overlap: sparse" in words
    assert {"all", "dense", "sparse"} == {text.get_text() for text in first.texts}


def test_without_measures_the_names_of_the_views_are_the_axis(tmp_path, drawn):
    found = curve(study_of(made.study(measured=False)), "overlap")
    assert (found.axis, [name for _, name in found.ticks]) == ("view", ["all", "dense", "sparse"])
    draw(found, tmp_path / "x.png")
    np.testing.assert_allclose(lines(drawn[0].axes[0], "lsqml")[0].get_xydata(), [(0, 0.60), (1, 0.55), (2, 0.50)])
    (cross,) = lines(drawn[0].axes[2], "lsqml missing")
    assert cross.get_xdata()[0] == 2


def test_one_view_without_its_measure_puts_all_views_by_name(given):
    bundles = {name: bundle for name, bundle in given.bundles.items() if "1e4_dense" not in name}
    assert curve(study_of(replace(given, bundles=bundles)), "overlap").axis == "view"


def test_views_with_a_limit_on_their_groups_have_a_line_of_their_own(tmp_path, given, drawn):
    views = [
        {**view, "config": view["config"] | {"max_groups": 64 if "dense" in view["id"] else None}}
        for view in given.plan["views"]
    ]
    draw(curve(study_of(replace(given, plan={**given.plan, "views": views})), "overlap"), tmp_path / "x.png")
    drawn_lines = lines(drawn[0].axes[0], "lsqml")
    assert [(line.get_xdata().tolist(), line.get_linewidth()) for line in drawn_lines] == [
        ([0.28, 0.947], 1.3),
        ([0.71], 0.7),
    ]


def test_borrowed_values_are_hollow_over_dose_and_stay_in_their_view_over_overlap(tmp_path, specified, drawn):
    draw(curve(specified, "dose"), tmp_path / "x.png")
    draw(curve(specified, "overlap"), tmp_path / "x.png")
    everything, dense, _ = drawn[0].axes
    assert len(lines(dense, "pinn_gs1 borrowed")) == 3
    assert {to_hex(line.get_markerfacecolor()) for line in lines(dense, "pinn_gs1 borrowed")} == {"#ffffff"}
    assert lines(everything, "pinn_gs1 borrowed") == []
    np.testing.assert_allclose(lines(drawn[1].axes[0], "pinn_gs1")[0].get_xdata(), [0.947])


def test_arms_at_one_place_stand_apart_on_the_screen_only(tmp_path, study, drawn):
    draw(curve(study, "dose"), tmp_path / "x.png")
    FigureCanvasAgg(drawn[0]).draw()
    dense = drawn[0].axes[1]
    places = [
        lines(dense, label)[0].get_transform().transform(lines(dense, label)[0].get_xydata())[0, 0]
        for label in sorted(made.LABELS)
    ]
    np.testing.assert_allclose(np.diff(places), 4 / 72 * 100, rtol=1e-6)


def test_words_keep_clear_of_one_another_and_of_the_edge(tmp_path, specified, drawn):
    """The legend, the small print and the axis of the lowest panel share the foot of the picture."""
    for kind in ("dose", "overlap"):
        draw(curve(specified, kind), tmp_path / "x.png")
    for figure in drawn:
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        foot = [figure.axes[-1].xaxis.label.get_window_extent(), figure.legends[0].get_window_extent()]
        ticks = [label.get_window_extent() for label in figure.axes[-1].get_xticklabels() if label.get_text()]
        assert not foot[0].overlaps(foot[1])
        assert not any(foot[0].overlaps(tick) for tick in ticks)
        for box in (*foot, *(axes.yaxis.label.get_window_extent() for axes in figure.axes)):
            assert box.x0 >= 0
            assert box.y0 >= 0
            assert box.x1 <= figure.bbox.width


def test_pictures_repeat_byte_for_byte_and_fit_a_phone(given, monkeypatch):
    monkeypatch.setattr(study_curves, "all_curves", lambda study: all_curves(study)[1:2])
    first, notes = study_pictures(given)
    assert notes == []
    assert first == study_pictures(given)[0]
    ((name, png),) = first.items()
    assert name == "fly64_overlap_phase_ms_ssim.png"
    assert len(png) < 40_000
    with Image.open(io.BytesIO(png)) as image:
        assert image.width == 460  # letters of 7 points are 10 px high there, 7.6 px on a screen of 360 px
        assert image.info["Title"] == "fly64: phase MS-SSIM over overlap"


def test_a_picture_that_fails_is_a_note_and_a_warning_and_costs_no_other(given, monkeypatch, caplog):
    """D76: plots never cost a scored run."""

    def broken(curves, path):
        if curves.axis == "dose":
            raise RuntimeError("no font")
        path.write_bytes(b"png")

    monkeypatch.setattr(study_curves, "draw", broken)
    pictures, notes = study_pictures(given)
    assert len(pictures) == len(notes) == 6
    assert notes[0] == (
        "fly64_dose_phase_ms_ssim.png could not be drawn, the tables have its numbers: RuntimeError('no font')"
    )
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 6
