"""Small charts: places as shares of the width, in the direction of growing values."""

import pytest

import report_sample as sample
from ptychoflow.report.sections import ReportInput, sections
from ptychoflow.report.strips import MARGIN, strips
from ptychoflow.report.tables import outcomes

AMP_MAE = ("stitched", "amp", "mae")


@pytest.fixture(scope="module")
def found():
    given = ReportInput(plan=sample.PLAN, found=outcomes(sample.PLAN, sample.STATUSES, sample.METRICS))
    return strips(sections(given)[0])


def test_every_ranked_score_has_a_strip_with_its_arms(found):
    assert ("stitched", "phase", "pearson") in found
    assert all(key[2] != "ssim" for key in found)
    assert [mark.label for mark in found[AMP_MAE].marks] == ["pinn_torch_gs1", "pinn_tf_gs1", "lsqml"]
    assert len({mark.colour for mark in found[AMP_MAE].marks}) == 3


def test_places_grow_with_the_values(found):
    # amplitude errors: 0.10 and 0.30; 0.11, 0.28 and 0.19; 0.05. The ends are 0.05 and 0.30 with a margin.
    room = MARGIN * 0.25
    strip = found[AMP_MAE]
    assert (strip.start, strip.end) == pytest.approx((0.05 - room, 0.30 + room))
    width = 0.25 + 2 * room
    torch, tf, lsqml = strip.marks
    assert torch.place == pytest.approx(100 * (0.20 - strip.start) / width, abs=0.01)
    assert torch.seen == pytest.approx(
        (100 * (0.10 - strip.start) / width, 100 * (0.30 - strip.start) / width), abs=0.01
    )
    assert lsqml.place == pytest.approx(100 * room / width, abs=0.01)
    assert tf.low < tf.place < tf.high


def test_an_interval_is_cut_off_at_the_ends_and_one_run_has_none(found):
    torch, _, lsqml = found[AMP_MAE].marks
    assert (torch.low, torch.high) == (0, 100)  # two seeds: the interval is -1.07 to 1.47
    assert (lsqml.low, lsqml.high) == (None, None)


def test_equal_values_lie_in_the_middle():
    documents = [sample.metrics(run, 0.2) for run in (sample.PINN[0], sample.LSQML)]
    given = ReportInput(plan=sample.PLAN, found=outcomes(sample.PLAN, sample.STATUSES, documents))
    assert [mark.place for mark in strips(sections(given)[0])[AMP_MAE].marks] == [50, 50]


def test_nothing_to_rank_gives_no_strips():
    given = ReportInput(plan=sample.PLAN, found=outcomes(sample.PLAN, [], []))
    assert [strips(section) for section in sections(given)] == [{}, {}]
