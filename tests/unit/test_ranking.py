"""Verdicts over arms: what may be said from several seeds, from one, and what never enters."""

import json

import pytest

import report_sample as sample
from ptychoflow.report.ranking import (
    AMP_PEARSON,
    COMPARISON_COLUMNS,
    FRC50,
    PHASE_PEARSON,
    comparison_rows,
    verdicts,
)
from ptychoflow.report.tables import Outcome, delimited, outcomes

PHASE_MAE = ("stitched", "phase", "mae")
AMP_MAE = ("stitched", "amp", "mae")
CONTRAST = ("consistency", "heldout", "contrast")


def ok(label, seed, value=0.1, pearson=0.9, condition="lines_d1e9"):
    run = sample.planned(condition, label, seed)
    return Outcome(run, "ok", metrics=json.loads(json.dumps(sample.metrics(run, value, pearson=pearson))))


def by_key(found, comparisons=None):
    return {verdict.key: verdict for verdict in verdicts(found, comparisons or {})}


@pytest.fixture
def judged():
    return by_key(outcomes(sample.PLAN, sample.STATUSES, sample.METRICS), sample.COMPARISONS)


@pytest.fixture
def decided():
    """One iterative run and three seeds of a net that is clearly worse."""
    nets = [ok("pinn_tf_gs1", seed, pearson=value) for seed, value in enumerate((0.903, 0.901, 0.904))]
    return by_key([ok("lsqml", 0, pearson=0.975), *nets])


def test_the_best_arm_leads_where_the_interval_leaves_out_zero(decided):
    verdict = decided[PHASE_PEARSON]
    assert verdict.leader == "lsqml"
    assert verdict.text.startswith("phase Pearson: lsqml leads; ")
    # by hand: differences 0.072, 0.074, 0.071; t(2, 0.975) = 4.303, half width 4.303 * 0.00152753 / sqrt(3) = 0.00379
    assert "pinn_tf_gs1 is lower by 0.0723 (95 % interval 0.0685 to 0.0761, n = 3 seeds)" in verdict.text


def test_where_lower_is_better_the_others_are_higher(decided):
    assert decided[PHASE_MAE].leader == "lsqml"
    assert (
        "pinn_tf_gs1 is higher by 0.0723 rad (95 % interval 0.0685 to 0.0761, n = 3 seeds)" in decided[PHASE_MAE].text
    )
    assert decided[PHASE_MAE].comparisons[0].paired.mean == pytest.approx(-0.0723333)


def test_every_pair_is_compared_the_best_arm_first(judged):
    pairs = [(comparison.first, comparison.second) for comparison in judged[PHASE_PEARSON].comparisons]
    assert pairs == [("lsqml", "pinn_tf_gs1"), ("lsqml", "pinn_torch_gs1"), ("pinn_tf_gs1", "pinn_torch_gs1")]
    assert all(comparison.kind == "seeds" for comparison in judged[PHASE_PEARSON].comparisons)


def test_a_verdict_holds_over_all_ranked_scores(judged):
    """Two seeds: the interval leaves out zero at 95 %, but with five scores t(1, 0.995) = 63.7 instead of 12.7 is asked for."""
    verdict = judged[PHASE_PEARSON]
    assert verdict.leader is None
    assert "interval 0.0407 to 0.104, n = 2 seeds: not enough for a verdict over all ranked scores" in verdict.text


def test_arms_that_differ_by_noise_are_not_ranked():
    found = [ok("pinn_torch_gs1", seed, pearson=value) for seed, value in enumerate((0.905, 0.900, 0.902))]
    found += [ok("pinn_tf_gs1", seed, pearson=value) for seed, value in enumerate((0.903, 0.901, 0.9045))]
    verdict = by_key(found)[PHASE_PEARSON]
    assert verdict.leader is None
    # by hand: differences -0.002, 0.001, 0.0025
    assert verdict.text == (
        "phase Pearson: no difference shown between pinn_tf_gs1 and pinn_torch_gs1 (difference 0.0005, "
        "interval -0.00519 to 0.00619, n = 3 seeds)"
    )


def test_no_arm_leads_that_is_not_better_than_every_other():
    found = [ok("a_gs1", seed, pearson=0.9 + seed / 100) for seed in range(3)]
    found += [ok("b_gs1", seed, pearson=0.9 + seed / 100 - (-1) ** seed / 1000) for seed in range(3)]
    found += [ok("c_gs1", seed, pearson=0.5 + seed / 100 + seed / 1000) for seed in range(3)]
    verdict = by_key(found)[PHASE_PEARSON]
    assert verdict.leader is None
    assert verdict.text.startswith(
        "phase Pearson: a_gs1 has the best mean (0.91) without a lead over all others; no diff"
    )
    assert "; c_gs1 is lower by 0.399 (95 % interval" in verdict.text


def test_only_seeds_that_both_have_enter_a_pair(judged):
    pair = next(pair for pair in judged[PHASE_PEARSON].comparisons if pair.second == "pinn_torch_gs1")
    assert (pair.paired.n, pair.paired.seeds) == (2, (0, 1))  # 2 collapsed, 3 was never reconstructed


def test_a_best_mean_that_the_common_seeds_contradict_is_no_lead():
    found = [ok("a_gs1", seed, pearson=value) for seed, value in enumerate((0.5, 0.51, 0.52, 0.99, 0.99))]
    found += [ok("b_gs1", seed, pearson=value) for seed, value in enumerate((0.6, 0.612, 0.62))]
    verdict = by_key(found)[PHASE_PEARSON]
    assert verdict.leader is None
    assert (
        "on the 3 seeds that both have, however, a_gs1 is lower than b_gs1 by 0.101 (95 % interval 0.0" in verdict.text
    )


def test_an_arm_without_training_is_one_run_beside_every_seed(judged):
    first, *others = judged.values()
    assert first.text.endswith(
        ". lsqml has one run: its result does not depend on the seed, and intervals with it are over the seeds of the other arm"
    )
    assert not any("has one run" in verdict.text for verdict in others)  # once a condition
    last = by_key(
        [ok("lsqml", 0, pearson=0.5), *(ok("pinn_gs1", seed, pearson=0.9 + seed / 500) for seed in (3, 4, 5))]
    )
    (pair,) = last[PHASE_PEARSON].comparisons
    assert (pair.first, pair.second, pair.paired.n, pair.paired.verdict) == ("pinn_gs1", "lsqml", 3, "first")


def test_two_arms_without_training_are_one_run_each():
    other = ok("lsqml", 0, pearson=0.8)
    other = Outcome({**other.run, "label": "epie"}, "ok", metrics=other.metrics)
    verdict = by_key([ok("lsqml", 0, pearson=0.9), other])[PHASE_PEARSON]
    assert verdict.comparisons[0].paired.verdict == "one run each"
    assert verdict.text == "phase Pearson: lsqml and epie: one run each (n = 1), no verdict from seeds (0.9 and 0.8)"


def test_one_run_each_says_what_one_image_tells():
    found = [ok("pinn_torch_gs1", 0, value=0.10, pearson=0.905), ok("lsqml", 0, value=0.05, pearson=0.975)]
    judged = by_key(found, sample.COMPARISONS)
    verdict = judged[AMP_MAE]
    assert verdict.leader is None
    assert verdict.text == (
        "amplitude MAE: lsqml and pinn_torch_gs1: one run each (n = 1), no verdict from seeds; within this one image "
        "pinn_torch_gs1 is higher by 0.05 (95 % interval 0.04 to 0.06, n = 16 blocks)"
    )
    image = verdict.comparisons[1]  # the file has pinn_torch_gs1 - lsqml = 0.05, second is better
    assert (image.kind, image.first, image.paired.verdict) == ("image", "lsqml", "first")
    assert (image.paired.mean, image.paired.low, image.paired.high) == pytest.approx((-0.05, -0.06, -0.04))
    assert "within this one image" not in judged[PHASE_PEARSON].text


def test_noise_within_one_image_is_said_too():
    found = [ok("pinn_torch_gs1", 0, value=0.10), ok("pinn_tf_gs1", 0, value=0.11)]
    assert (
        "within this one image no difference shown between pinn_torch_gs1 and pinn_tf_gs1 (difference -0.01, "
        "interval -0.03 to 0.01, n = 16 blocks)"
    ) in by_key(found, sample.COMPARISONS)[AMP_MAE].text


def test_an_image_too_small_for_blocks_tells_nothing():
    entry = sample.spatial("pinn_torch_gs1", "lsqml", "amp", 0.05, 0.01)
    entry |= {"n": 1, "low": None, "high": None, "method": "none", "verdict": "one run each"}
    found = [ok("pinn_torch_gs1", 0, value=0.10), ok("lsqml", 0, value=0.05)]
    verdict = by_key(found, {"lines_d1e9": {"spatial": [entry]}})[AMP_MAE]
    assert verdict.text.endswith("no verdict from seeds (0.05 and 0.1)")


def test_arms_without_a_common_seed_get_no_verdict():
    verdict = by_key([ok("a_gs1", 0, pearson=0.9), ok("b_gs1", 1, pearson=0.8)])[PHASE_PEARSON]
    assert verdict.leader is None
    assert "a_gs1 and b_gs1 have no seed in common" in verdict.text


def test_ties_are_no_difference():
    found = [ok(label, seed, value=0.1 + seed / 10) for label in ("a_gs1", "b_gs1") for seed in range(3)]
    for verdict in by_key(found).values():
        assert verdict.leader is None
        assert "no difference shown between a_gs1 and b_gs1 (difference 0" in verdict.text


def test_collapsed_and_failed_runs_never_enter():
    good = ok("a_gs1", 0, pearson=0.8)
    flat = Outcome(
        sample.planned("lines_d1e9", "b_gs1", 0), "failed", "collapsed: flat", metrics=ok("b_gs1", 0).metrics
    )
    verdict = by_key([good, flat])[PHASE_PEARSON]
    assert verdict.text == "phase Pearson: only a_gs1 has this score; nothing to compare it with"
    assert (verdict.leader, verdict.comparisons) == (None, [])
    assert verdicts([flat], {}) == []
    assert verdicts([flat, Outcome(good.run, "failed", "collapsed: flat", metrics=good.metrics)], {}) == []


def test_a_score_missing_in_some_seeds_leaves_these_out():
    found = [ok("a_gs1", seed, pearson=0.9 + seed / 500) for seed in range(4)]
    found += [ok("b_gs1", seed, pearson=0.8 + seed / 400) for seed in range(4)]
    found[1].metrics["stitched"]["phase"]["pearson"] = sample.score(None, direction="higher", reason="flat")
    del found[6].metrics["stitched"]["phase"]["pearson"]
    (pair,) = by_key(found)[PHASE_PEARSON].comparisons
    assert pair.paired.seeds == (0, 3)


def test_the_amplitude_stands_in_where_the_truth_has_no_phase():
    found = [ok("a_gs1", 0), ok("b_gs1", 0)]
    for outcome in found:
        nothing = sample.score(None, reason="truth_phase_constant")
        outcome.metrics["stitched"]["phase"] = dict.fromkeys(("mae", "pearson", "legacy_mae"), nothing)
    keys = list(by_key(found))
    assert keys == [FRC50, AMP_PEARSON, AMP_MAE, ("stitched", "complex", "nrmse")]


def test_without_an_object_held_out_frames_are_ranked():
    found = [ok("a_gs1", 0, value=0.1), ok("b_gs1", 0, value=0.2)]
    for outcome in found:
        outcome.metrics["stitched"] = {"not_applicable": "no object in the scan"}
    judged = by_key(found)
    assert list(judged) == [CONTRAST, ("consistency", "heldout", "deviance")]
    assert judged[CONTRAST].comparisons[0].first == "a_gs1"
    assert judged["consistency", "heldout", "deviance"].text.endswith("(1.1 and 1.2 1/photon)")


def test_legacy_scores_are_never_ranked(judged):
    assert not any("legacy" in name for key in judged for name in key)


def test_values_that_are_bounds_are_named():
    found = [ok("a_gs1", 0, value=0.1), ok("b_gs1", 0, value=0.2)]
    found[0].metrics["stitched"]["complex"]["frc50"]["status"] = "never"
    assert "Of a_gs1 the curve does not cross in every run" in by_key(found)[FRC50].text
    assert "does not cross" not in by_key(found)[AMP_MAE].text


def test_conditions_stay_apart():
    found = [ok(label, 0, condition=name) for name in ("lines_d1e9", "other") for label in ("a_gs1", "b_gs1")]
    judged = verdicts(found, {})
    assert {verdict.condition for verdict in judged} == {"lines_d1e9", "other"}
    assert all(len(verdict.comparisons) == 1 for verdict in judged)


def test_comparisons_are_a_table(judged):
    rows = comparison_rows(list(judged.values()))
    assert all(set(row) == set(COMPARISON_COLUMNS) for row in rows)
    row = next(row for row in rows if row["metric"] == "mae" and row["part"] == "phase")
    assert (row["first"], row["second"], row["verdict"], row["seeds"]) == ("lsqml", "pinn_tf_gs1", "first", (0, 1, 2))
    assert ",first,0 1 2\n" in delimited([row], COMPARISON_COLUMNS)
