"""Group tables (T4, D9-D12): seed first, members near, deterministic, the guards of K choose C."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from ptychoflow.data.grouping import group_frames, nearest_neighbours
from ptychoflow.errors import ContractError, UsageError


def positions(n: int, seed: int = 0) -> np.ndarray:
    """Positions on an anisotropic, asymmetric field: a transposition would show."""
    return np.random.default_rng(seed).uniform((0, 0), (31, 97), (n, 2))


def table(n: int = 40, seed: int = 1, **options) -> np.ndarray:
    points = options.pop("points", positions(n))
    index = options.pop("index", np.zeros(len(points), dtype=np.int64))
    frames = options.pop("frames", np.arange(len(points)))
    return group_frames(frames, points, index, rng=np.random.default_rng(seed), **{"gridsize": 2, **options}).groups


@settings(deadline=None, max_examples=25)
@given(n=st.integers(8, 60), seed=st.integers(0, 99))
def test_members_are_distinct_near_and_start_with_the_seed(n, seed):
    """Oracle: distances computed in full, without a tree."""
    points = positions(n, seed)
    groups = table(points=points, seed=seed, n_neighbors=7)
    assert groups.shape == (n, 4)
    assert np.array_equal(groups[:, 0], np.arange(n))
    assert all(len(set(row)) == 4 for row in groups.tolist())
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    radius = np.sort(distance, axis=1)[:, 7]
    assert (distance[groups[:, :1], groups] <= radius[:, None] + 1e-9).all()


def test_members_are_in_reading_order():
    points = positions(40)
    rest = table(points=points)[:, 1:]
    keys = [[tuple(points[i]) for i in row] for row in rest]
    assert all(row == sorted(row) for row in keys)


def test_coincident_positions_keep_the_seed_and_leave_it_out_of_its_neighbours():
    points = np.repeat(positions(12), 3, axis=0)
    groups = table(points=points)
    assert np.array_equal(groups[:, 0], np.arange(36))
    assert all(len(set(row)) == 4 for row in groups.tolist())


def test_ties_are_broken_by_frame_index():
    row, col = np.mgrid[0:7, 0:5]
    points = np.stack([row.ravel(), col.ravel()], 1).astype(float)
    found = nearest_neighbours(points, np.zeros(35, dtype=np.int64), 4)
    assert found[17].tolist() == [12, 16, 18, 22]


def test_no_group_spans_two_objects():
    points = np.concatenate([positions(20), positions(20) + np.array([0, 2.0])])
    index = np.repeat([0, 1], 20)
    groups = table(points=points, index=index)
    assert (index[groups] == index[groups[:, :1]]).all()


def test_same_seed_same_table_other_seed_other_table():
    assert np.array_equal(table(seed=3), table(seed=3))
    assert not np.array_equal(table(seed=3), table(seed=4))
    sequential = [table(seed=s, seed_sampling="sequential", n_groups=9) for s in (1, 2)]
    assert np.array_equal(sequential[0][:, 0], np.arange(9))
    assert not np.array_equal(*sequential)


def test_oversampling_draws_seeds_evenly_and_never_repeats_a_group():
    groups = table(n=30, n_groups=600, n_neighbors=7, oversample=True)
    assert len({tuple(row) for row in groups.tolist()}) == 600
    counts = np.bincount(groups[:, 0], minlength=30)
    assert chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_groups": 41}, "set oversample"),
        ({"n_groups": 41, "n_neighbors": 4, "oversample": True}, "n_neighbors > 4"),
        ({"n_groups": 40 * 35 + 1, "n_neighbors": 7, "oversample": True}, "form only 1400"),
        ({"n_neighbors": 3}, "less than the 4 members"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        table(**options)


def test_too_few_frames_are_refused():
    with pytest.raises(ContractError, match="3 frames cannot form groups of 4"):
        table(n=3)
    with pytest.raises(ContractError, match="object 0 has 5 frames, but 7 neighbours"):
        table(n=5)


def test_gridsize_one_uses_each_frame_once():
    groups = table(gridsize=1, n_groups=100)
    assert np.array_equal(groups[:, 0], np.arange(40))


def test_without_seed_the_members_come_from_the_neighbours():
    groups = table(include_seed=False, n_neighbors=6)
    assert groups.shape == (40, 4)
    assert (groups != np.arange(40)[:, None]).all()
