"""Break-even of training and iterating, with numbers that can be checked by hand."""

import pytest

import report_sample as sample
from ptychoflow.report.costs import break_evens
from ptychoflow.report.tables import Outcome, outcomes


def state(epoch, train, reconstruct, final, **values):
    scores = {name.replace("_", "."): sample.score(value, direction="higher") for name, value in values.items()}
    return {
        "epoch": epoch, "train_seconds": train, "reconstruct_seconds": reconstruct, "final": final, "scores": scores,
    }  # fmt: skip


def ran(label, *states, seed=0, condition="lines", device="cpu"):
    run = sample.planned(condition, label, seed)
    return Outcome(run, "ok", metrics={"snapshots": list(states), "fairness": {"device": device}})


def net(*, seed=0, score=0.9, train=100.0, infer=2.0, device="cpu"):
    return ran(
        "pinn_gs1",
        state(10, train / 5, infer, False, phase_pearson=0.6 * score),
        state(50, train, infer, True, phase_pearson=score),
        seed=seed,
        device=device,
    )


def steps(*scores, each=5.0, device="cpu"):
    states = [
        state(10 * index, 0.0, each * index, index == len(scores), phase_pearson=score)
        for index, score in enumerate(scores, start=1)
    ]
    return ran("lsqml", *states, device=device)


def test_training_pays_from_the_scan_on_that_makes_up_for_it():
    """100 s of training; each scan saves 15 - 2 = 13 s: 7 scans cost 114 s against 105 s, 8 scans 116 s against 120 s."""
    (found,) = break_evens([net(), steps(0.7, 0.85, 0.93, 0.98)])
    assert (found.condition, found.trained, found.iterative, found.scans) == ("lines", "pinn_gs1", "lsqml", 8)
    assert found.text == (
        "phase Pearson: pinn_gs1 ends at 0.9 after 50 epochs of training (100 s) and 2 s of inference a scan, one seed; "
        "lsqml is first scored at least as good after 30 epochs, 15 s a scan (0.93); "
        "with its training, pinn_gs1 costs no more time from 8 scans on; "
        "lsqml ends at 0.98 after 40 epochs (20 s a scan), better than pinn_gs1 at any scored epoch (at best 0.9, epoch 50)"
    )


def test_the_first_state_as_good_counts_even_if_later_ones_are_worse():
    (found,) = break_evens([net(), steps(0.7, 0.9, 0.5)])
    assert "after 20 epochs, 10 s a scan (0.9)" in found.text
    assert found.scans == 13  # 100 / (10 - 2) = 12.5
    assert "better than pinn_gs1 at any scored epoch" not in found.text


def test_an_iteration_that_is_faster_than_inference_never_pays():
    (found,) = break_evens([net(infer=2.9), steps(0.95, each=1.2)])
    assert found.scans is None
    assert "never: lsqml reaches the same score in 1.2 s, inference alone takes 2.9 s" in found.text
    assert "only the final state of lsqml was scored" in found.text


def test_equal_times_never_pay():
    assert break_evens([net(infer=10.0), steps(0.7, 0.95)])[0].scans is None


def test_an_iteration_that_never_gets_as_good_is_compared_with_its_full_time():
    (found,) = break_evens([net(score=0.99), steps(0.7, 0.85)])
    assert found.scans == 13  # 100 / (10 - 2) = 12.5
    assert "lsqml does not reach this in 20 epochs (0.85 after 10 s a scan); its full time is compared" in found.text
    assert "better than" not in found.text


def test_a_net_that_only_once_was_better_is_compared_at_its_best():
    spoilt = ran(
        "pinn_gs1",
        state(10, 20.0, 2.0, False, phase_pearson=0.95),
        state(50, 100.0, 2.0, True, phase_pearson=0.8),
    )
    assert "better than" not in break_evens([spoilt, steps(0.7, 0.9)])[0].text
    assert "(at best 0.95, epoch 10)" in break_evens([spoilt, steps(0.7, 0.96)])[0].text


def test_seeds_enter_by_their_median():
    seeds = [
        net(seed=seed, score=score, train=train)
        for seed, (score, train) in enumerate([(0.5, 80), (0.9, 100), (0.91, 900)])
    ]
    (found,) = break_evens([*seeds, steps(0.7, 0.85, 0.93)])
    assert found.scans == 8
    assert "ends at 0.9 after 50 epochs of training (100 s)" in found.text
    assert "medians of 3 seeds" in found.text


def test_states_that_a_seed_lacks_are_left_out():
    short = ran("pinn_gs1", state(50, 100.0, 2.0, True, phase_pearson=0.2), seed=1)
    early = net(score=0.9)
    early.metrics["snapshots"][0]["scores"]["phase.pearson"]["value"] = 0.97
    assert "at best 0.97, epoch 10" in break_evens([early, steps(0.99)])[0].text
    assert "at best 0.55, epoch 50" in break_evens([early, short, steps(0.99)])[0].text


def test_seeds_without_the_final_score_are_left_out():
    without = net(seed=1, score=0.1)
    without.metrics["snapshots"][-1]["scores"]["phase.pearson"] = sample.score(None, reason="flat")
    (found,) = break_evens([net(), without, steps(0.7, 0.85, 0.93)])
    assert "ends at 0.9 " in found.text
    assert "one seed" in found.text


@pytest.mark.parametrize(
    ("name", "title"), [("amp_pearson", "amplitude Pearson"), ("heldout_contrast", "held-out contrast")]
)
def test_other_scores_stand_in_where_there_is_no_phase(name, title):
    nothing = sample.score(None, reason="truth_phase_constant")
    trained = ran("pinn_gs1", state(50, 100.0, 2.0, True, **{name: 0.9}))
    iterated = ran("lsqml", state(10, 0.0, 5.0, False, **{name: 0.92}), state(20, 0.0, 10.0, True, **{name: 0.95}))
    for outcome in (trained, iterated):
        for entry in outcome.metrics["snapshots"]:
            entry["scores"]["phase.pearson"] = nothing
    (found,) = break_evens([trained, iterated])
    assert found.text.startswith(f"{title}: pinn_gs1 ends at 0.9 ")
    assert found.scans == 34  # 100 / (5 - 2) = 33.3


def test_times_of_different_devices_are_called_so():
    text = break_evens([net(device="cuda"), steps(0.95, device="cpu")])[0].text
    assert "different devices (cpu, cuda)" in text
    assert "different devices" not in break_evens([net(), steps(0.95)])[0].text


def test_without_snapshots_or_good_runs_there_is_nothing_to_compare():
    bare = Outcome(sample.planned("lines", "lsqml", 0), "ok", metrics={"snapshots": []})
    older = Outcome(sample.planned("lines", "lsqml", 0), "ok", metrics={})
    flat = Outcome(net().run, "failed", "collapsed: flat", metrics=net().metrics)
    elsewhere = ran("lsqml", state(10, 0.0, 5.0, True, phase_pearson=0.99), condition="other")
    unlike = ran("lsqml", state(10, 0.0, 5.0, True, amp_pearson=0.99))
    assert break_evens([]) == []
    for found in ([net()], [net(), bare], [net(), older], [flat, steps(0.99)], [net(), elsewhere], [net(), unlike]):
        assert break_evens(found) == []


def test_every_trained_arm_of_the_sample_meets_the_iterative_one():
    found = break_evens(outcomes(sample.PLAN, sample.STATUSES, sample.METRICS))
    assert [(entry.trained, entry.iterative, entry.scans) for entry in found] == [
        ("pinn_torch_gs1", "lsqml", 6),  # 10.5 / (4.8 - 2.9) = 5.5; the collapsed seed is left out
        ("pinn_tf_gs1", "lsqml", 6),  # 11 / 1.9 = 5.8
    ]
