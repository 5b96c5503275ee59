"""Splits with a guard band (T9, D53), held-out frames, spacing facts."""

import numpy as np
import pytest

from ptychoflow.data.splits import choose_heldout, spacing_facts, split_region, train_test_distance
from ptychoflow.errors import ContractError, UsageError

POINTS = np.random.default_rng(5).uniform((3, -20), (180, 61), (500, 2))


@pytest.mark.parametrize("axis", ["y", "x"])
@pytest.mark.parametrize("at", ["extent", "median"])
def test_train_and_test_keep_their_distance(axis, at):
    """Oracle: all pairs, without a tree."""
    train, test, facts = split_region(POINTS, axis=axis, fraction=0.5, at=at, guard_px=17)
    pairs = np.linalg.norm(POINTS[train][:, None] - POINTS[test][None], axis=2)
    assert pairs.min() >= 17
    assert train_test_distance(POINTS[train], POINTS[test]) == pytest.approx(pairs.min())
    column = 0 if axis == "y" else 1
    assert POINTS[train, column].max() < facts["threshold_px"] - 17
    assert POINTS[test, column].min() >= facts["threshold_px"]
    assert len(train) + len(test) + facts["n_dropped_by_guard"] == 500


def test_median_halves_the_frames_of_an_uneven_scan():
    uneven = np.concatenate([POINTS, POINTS[:100] * [0.05, 1]])
    train, test, _ = split_region(uneven, axis="y", fraction=0.5, at="median", guard_px=0)
    assert abs(len(train) - len(test)) <= 1


def test_a_field_too_small_for_the_guard_says_so():
    with pytest.raises(ContractError, match=r"guard band of 400 px leaves 0 train and \d+ test.*lower guard_px"):
        split_region(POINTS, axis="y", fraction=0.5, at="extent", guard_px=400)


def test_heldout_by_fraction_list_and_key():
    rng = np.random.default_rng(0)
    assert len(choose_heldout(0.1, n_frames=50, column=None, rng=rng)) == 5
    assert choose_heldout([7, 3, 3], n_frames=50, column=None, rng=rng).tolist() == [3, 7]
    flags = np.zeros(50, dtype=bool)
    flags[[4, 9]] = True
    assert choose_heldout("key", n_frames=50, column=flags, rng=rng).tolist() == [4, 9]
    assert choose_heldout("key", n_frames=50, column=np.array([9, 4]), rng=rng).tolist() == [4, 9]
    assert choose_heldout("key", n_frames=50, column=flags.astype(np.int64), rng=rng).tolist() == [4, 9]
    assert len(choose_heldout(None, n_frames=50, column=None, rng=rng)) == 0


@pytest.mark.parametrize(
    ("value", "column", "error", "message"),
    [
        (1.5, None, UsageError, "fraction between 0 and 1"),
        ([50], None, ContractError, "outside the scan's 50 frames"),
        ("key", None, ContractError, "no key 'key'"),
        ("key", np.zeros(49, dtype=bool), ContractError, "49 flags for 50 frames"),
        ("key", np.ones(50, dtype=bool), ContractError, "every frame is held out"),
    ],
)
def test_impossible_heldout_is_refused(value, column, error, message):
    with pytest.raises(error, match=message):
        choose_heldout(value, n_frames=50, column=column, rng=np.random.default_rng(0))


def test_spacing_of_a_raster():
    row, col = np.mgrid[0:6, 0:9]
    facts = spacing_facts(np.stack([row.ravel() * 4.0, col.ravel() * 7.0], 1))
    assert facts["min_px"] == facts["max_px"] == 4
    assert facts["n_duplicates"] == 0
    assert sum(facts["histogram"]["counts"]) == 54
