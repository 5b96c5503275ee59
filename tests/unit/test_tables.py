"""What became of every planned run, and the tables made of it."""

import csv
import io
import json

import pytest

import report_sample as sample
from ptychoflow.report.tables import (
    METRIC_COLUMNS,
    STATISTIC_COLUMNS,
    STATUS_COLUMNS,
    arm_rows,
    delimited,
    outcomes,
    statistic_rows,
    status_rows,
    tidy_rows,
    unplanned,
)


@pytest.fixture
def found():
    return {outcome.run_id: outcome for outcome in outcomes(sample.PLAN, sample.STATUSES, sample.METRICS)}


def test_every_planned_run_has_exactly_one_outcome(found):
    planned = [run["run_id"] for run in (*sample.PLAN["runs"], *sample.PLAN["skipped"])]
    assert list(found) == planned


def test_ok_needs_the_last_stage_and_scores(found):
    assert found["lines_d1e9__pinn_torch_gs1__n64__s0"].state == "ok"
    assert found["lines_d1e9__lsqml__n64__s0"].state == "ok"
    trained_only = found["lines_d1e9__pinn_torch_gs1__n64__s3"]
    assert trained_only.state == "missing"
    assert "reconstruct did not report after train" in trained_only.reason


def test_scores_that_never_came_are_missing():
    found = outcomes(sample.PLAN, sample.STATUSES, [])
    assert found[0].state == "missing"
    assert "no metrics" in found[0].reason


def test_nothing_arrived_is_missing(found):
    assert found["lines_d1e9__baseline_torch_gs1__n64__s0"].state == "missing"


def test_a_collapsed_picture_fails_with_its_numbers(found):
    flat = found["lines_d1e9__pinn_torch_gs1__n64__s2"]
    assert flat.state == "failed"
    assert flat.reason == "collapsed: amp contrast 0.05 of the truth's"
    assert flat.metrics is not None


def test_a_collapse_seen_by_the_arm_fails_even_without_scores():
    run = sample.LSQML
    seen = sample.status(run, "lsqml", collapsed=True, reason="the object is flat")
    outcome = outcomes({**sample.PLAN, "runs": [run], "skipped": []}, [seen], [])[0]
    assert (outcome.state, outcome.reason) == ("failed", "collapsed: the object is flat")


def test_skips_of_plan_and_prepare_keep_their_reason(found):
    by_prepare = found["star__lsqml__n64__s0"]
    assert (by_prepare.state, by_prepare.reason, by_prepare.stage) == ("skipped", "3 frames are too few", "prepare")
    by_plan = found["star__baseline_torch_gs1__n64__s0"]
    assert (by_plan.state, by_plan.stage) == ("skipped", "plan")
    assert by_plan.reason.startswith("needs a truth")


def test_a_failed_stage_is_failed_whatever_came_before():
    run = sample.PINN[0]
    statuses = [sample.status(run, "train"), sample.status(run, "reconstruct", "failed", reason="NaN", attempt=2)]
    outcome = outcomes({**sample.PLAN, "runs": [run], "skipped": []}, statuses, [])[0]
    assert (outcome.state, outcome.reason, outcome.stage, outcome.attempts) == ("failed", "NaN", "reconstruct", 2)


def test_the_latest_attempt_of_a_stage_counts_in_any_order_of_arrival():
    run = sample.LSQML
    statuses = [
        sample.status(run, "lsqml", attempt=2),
        sample.status(run, "lsqml", "failed", reason="out of memory", attempt=1),
    ]
    for arrived in (statuses, statuses[::-1]):
        outcome = outcomes({**sample.PLAN, "runs": [run], "skipped": []}, arrived, [sample.metrics(run, 0.1)])[0]
        assert (outcome.state, outcome.attempts) == ("ok", 2)


def test_strangers_are_named():
    stranger = sample.planned("other", "lsqml", 0)
    assert unplanned(sample.PLAN, [sample.status(stranger, "lsqml")], sample.METRICS) == [stranger["run_id"]]


def test_seconds_leave_imports_out(found):
    # 10 + seed for each of the two stages, the 5 s of import in both left out
    assert found["lines_d1e9__pinn_torch_gs1__n64__s1"].work_seconds() == 22.0
    assert found["lines_d1e9__pinn_torch_gs1__n64__s1"].work_seconds("train") == 11.0
    assert found["lines_d1e9__lsqml__n64__s0"].work_seconds("train") is None


def row_of(found, label):
    return next(row for row in arm_rows(list(found.values())) if row.label == label)


def test_collapsed_runs_are_listed_and_not_averaged(found):
    row = row_of(found, "pinn_torch_gs1")
    mae = row.scores["stitched", "amp", "mae"]
    assert (mae.n, mae.mean, mae.minimum, mae.maximum) == (2, pytest.approx(0.2), 0.1, 0.3)
    assert row.states == {"ok": 2, "failed": 1, "missing": 1}
    assert any(row["seed"] == 2 and row["collapsed"] for row in tidy_rows(sample.METRICS))


def test_a_score_that_applies_to_no_run_has_no_values_and_a_reason(found):
    row = row_of(found, "pinn_torch_gs1")
    assert (row.scores["stitched", "phase", "ms_ssim"].n, row.scores["stitched", "phase", "ms_ssim"].median) == (
        0,
        None,
    )
    assert row.notes["stitched", "phase", "ms_ssim"] == "image_smaller_than_window"


def test_a_score_missing_in_one_seed_counts_the_others():
    documents = json.loads(json.dumps(sample.METRICS))
    documents[0]["stitched"]["complex"]["frc50"] = sample.score(None, direction="higher", reason="ring without energy")
    found = {outcome.run_id: outcome for outcome in outcomes(sample.PLAN, sample.STATUSES, documents)}
    row = row_of(found, "pinn_torch_gs1")
    frc50 = row.scores["stitched", "complex", "frc50"]
    assert (frc50.n, frc50.median, frc50.std) == (1, pytest.approx(0.7), None)
    assert row.notes["stitched", "complex", "frc50"] == "ring without energy"


def test_times_are_medians_and_say_of_how_many(found):
    row = row_of(found, "pinn_torch_gs1")
    assert (row.train_s, row.train_n, row.reconstruct_s, row.reconstruct_n) == (10.5, 2, 10.5, 2)
    iterative = row_of(found, "lsqml")
    assert (iterative.train_s, iterative.train_n, iterative.reconstruct_s, iterative.reconstruct_n) == (
        None,
        0,
        10.0,
        1,
    )


def test_an_arm_whose_runs_all_collapsed_has_no_scores():
    run = sample.PINN[0]
    statuses = [sample.status(run, "train"), sample.status(run, "reconstruct")]
    plan = {**sample.PLAN, "runs": [run], "skipped": []}
    (row,) = arm_rows(outcomes(plan, statuses, [sample.metrics(run, 0.5, collapsed=True)]))
    assert (row.scores, row.train_s, row.train_n, row.states) == ({}, None, 0, {"failed": 1})


def test_statistics_have_one_row_per_arm_and_score_that_is_there(found):
    rows = list(
        csv.DictReader(io.StringIO(delimited(statistic_rows(arm_rows(list(found.values()))), STATISTIC_COLUMNS)))
    )
    assert tuple(rows[0]) == STATISTIC_COLUMNS
    keys = [(row["condition"], row["model"], row["block"], row["part"], row["metric"]) for row in rows]
    assert len(set(keys)) == len(keys)
    row = next(
        row for row in rows if row["model"] == "pinn_tf_gs1" and (row["part"], row["metric"]) == ("phase", "mae")
    )
    assert (row["n"], row["unit"], row["method"]) == ("3", "rad", "student")
    assert float(row["median"]) == pytest.approx(0.097)
    assert float(row["low"]) < float(row["minimum"])
    one = next(row for row in rows if row["model"] == "lsqml")
    assert (one["n"], one["std"], one["low"], one["method"]) == ("1", "", "", "none")
    assert ("phase", "ms_ssim") not in {(row["part"], row["metric"]) for row in rows}


def test_tidy_table_starts_with_model_metric_part_and_reads_back():
    text = delimited(tidy_rows(sample.METRICS), METRIC_COLUMNS)
    assert text.startswith("model,metric,part,value,unit,range,seed,condition,run_id,")
    rows = list(csv.DictReader(io.StringIO(text)))
    first = rows[0]
    assert (first["model"], first["metric"], first["part"], first["value"]) == ("pinn_torch_gs1", "mae", "amp", "0.1")
    assert (first["block"], first["condition"], first["seed"], first["arm"]) == (
        "stitched",
        "lines_d1e9",
        "0",
        "pinn_torch",
    )
    assert (first["collapsed"], first["object"], first["settings"]) == ("false", "", "")
    without = next(row for row in rows if (row["part"], row["metric"]) == ("phase", "ms_ssim"))
    assert (without["value"], without["reason"]) == ("", "image_smaller_than_window")
    patch = next(row for row in rows if row["block"] == "patch")
    assert (patch["metric"], patch["value"], patch["reason"]) == ("all", "", "this arm has no patch metrics")
    assert "nan" not in text.lower()


def test_settings_of_a_score_are_json_in_one_cell():
    rows = list(csv.DictReader(io.StringIO(delimited(tidy_rows(sample.METRICS), METRIC_COLUMNS))))
    row = next(row for row in rows if (row["part"], row["metric"]) == ("amp", "ms_ssim"))
    assert row["settings"] == '{"levels":5,"sigma":0.0}'


def test_legacy_scores_are_in_the_table():
    rows = tidy_rows(sample.METRICS)
    assert sum(row["metric"] == "legacy_mae" for row in rows) == 2 * len(sample.METRICS)


def test_patch_scores_give_part_and_metric():
    document = sample.metrics(sample.PINN[0], 0.1) | {"patch": {"n_patches": 4, "mae_amp": sample.score(0.25)}}
    row = next(row for row in tidy_rows([document]) if row["block"] == "patch")
    assert (row["part"], row["metric"], row["value"]) == ("amp", "mae", 0.25)


def test_several_objects_get_a_row_each():
    document = sample.metrics(sample.PINN[0], 0.1)
    document["by_object"] = [{"object": index, "amp": {"mae": sample.score(index / 10)}} for index in (0, 1)]
    rows = [row for row in tidy_rows([document]) if row["object"] is not None]
    assert [(row["object"], row["value"]) for row in rows] == [(0, 0.0), (1, 0.1)]


def test_status_table_has_one_line_a_run_even_if_a_reason_has_more():
    run = sample.LSQML
    failed = sample.status(run, "lsqml", "failed", reason="first\n\tsecond")
    found = outcomes({**sample.PLAN, "runs": [run], "skipped": []}, [failed], [])
    text = delimited(status_rows(found), STATUS_COLUMNS, delimiter="\t")
    assert text.splitlines() == [
        "run_id\tstate\treason\tstage\tseconds\tattempts",
        f"{run['run_id']}\tfailed\tfirst second\tlsqml\t10.0\t1",
    ]
