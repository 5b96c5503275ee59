"""Tiling (physics 12.1, D39, D40): tiles of a raster lie where the object's pixels do, and nothing else is tiled."""

import numpy as np
import pytest

from ptychoflow.errors import ContractError, NumericalError
from ptychoflow.imaging.regions import score_region
from ptychoflow.imaging.tiling import Tiler, kept_span, why_no_raster
from ptychoflow.physics.patches import gather

SHAPE = (57, 83)


def places(n: int, step: int, rows: int = 4, cols: int = 6, first=(0, 0)) -> np.ndarray:
    """Return the raster whose first patch begins at object pixel `first`, rows slow."""
    row, col = np.meshgrid(np.arange(rows), np.arange(cols), indexing="ij")
    return np.stack([row.ravel(), col.ravel()], 1) * float(step) + n // 2 + np.asarray(first)


def one_object(points: np.ndarray) -> np.ndarray:
    return np.zeros(len(points), dtype=np.int64)


def some_object() -> np.ndarray:
    rng = np.random.default_rng(11)
    return (rng.normal(size=SHAPE) + 1j * rng.normal(size=SHAPE)).astype(np.complex64)


def tiled(points: np.ndarray, patches: np.ndarray, batch: int = 1000) -> Tiler:
    tiler = Tiler(points, patches.shape[-1])
    for start in range(0, len(points), batch):
        tiler.add(patches[start : start + batch], points[start : start + batch])
    return tiler


@pytest.mark.parametrize(
    ("n", "step", "first", "last"), [(64, 10, 27, 36), (17, 4, 7, 10), (16, 5, 6, 10), (13, 13, 0, 12), (8, 8, 0, 7)]
)
def test_what_a_tile_keeps(n, step, first, last):
    """Physics 12.1 by hand: left = ceil((N - s) / 2). D39: without a border the whole patch, not an empty slice."""
    assert list(range(n))[kept_span(n, step)] == list(range(first, last + 1))


@pytest.mark.parametrize(("n", "step"), [(18, 4), (18, 5), (17, 4), (17, 5), (9, 9), (10, 10), (8, 1)])
def test_true_patches_give_the_pixels_of_the_object_at_their_places(n, step):
    """T1, D18, D43: exact, odd and even sides and steps, non-square. Oracle: the object itself, cut at the canvas."""
    truth, points = some_object(), places(n, step, first=(3, 5))
    tiler = tiled(points, gather(truth, points, n))
    object_, weight = tiler.result()
    (r0, c0), (h, w) = tiler.canvas.origin_rc_px, tiler.canvas.shape
    assert (h, w) == (4 * step, 6 * step) == object_.shape
    np.testing.assert_array_equal(object_, truth[r0 : r0 + h, c0 : c0 + w])
    np.testing.assert_array_equal(weight, np.ones((h, w), np.float32))


def test_tiles_are_put_row_by_row_as_specified():
    """Oracle: the words of physics 12.1 in plain NumPy, patches of noise: [left, N - right), row-major, y slow."""
    n, step, rows, cols = 11, 4, 3, 5
    points, rng = places(n, step, rows, cols), np.random.default_rng(2)
    patches = (rng.normal(size=(15, n, n)) + 1j).astype(np.complex64)
    left, right = 4, 3  # border 7
    kept = [patch[left : n - right, left : n - right] for patch in patches]
    want = np.block([[kept[row * cols + col] for col in range(cols)] for row in range(rows)])
    np.testing.assert_array_equal(tiled(points, patches).result()[0], want)


def test_neither_batches_nor_the_order_of_the_frames_can_be_seen():
    """D46, D15: a tile goes where its position says."""
    truth, points = some_object(), places(17, 4)
    whole = tiled(points, gather(truth, points, 17)).result()[0]
    mixed = points[np.random.default_rng(0).permutation(len(points))]
    assert why_no_raster(mixed, one_object(mixed), 17) is None
    np.testing.assert_array_equal(tiled(mixed, gather(truth, mixed, 17), batch=7).result()[0], whole)


@pytest.mark.parametrize("n", [15, 16])
@pytest.mark.parametrize("step", [1, 2, 3, 4, 7, 15])
def test_the_scored_rectangle_is_always_on_the_canvas(n, step):
    """EVALUATE refuses a rectangle outside the canvas. Oracle: what PREPARE scores with a probe that covers the patch."""
    points = places(n, step, first=(-2, 9))
    tiler = Tiler(points, n)
    region = score_region(points, np.ones((n, n), np.complex64), object_shape=None)
    assert region.shape == (3 * step + 1, 5 * step + 1)
    tiler.canvas.slices_of(region)


RASTER = places(12, 5)


@pytest.mark.parametrize(
    ("points", "index", "n", "reason"),
    [
        (RASTER, one_object(RASTER), 12, None),
        (RASTER + 1e-7, one_object(RASTER), 12, None),
        (np.add(RASTER, [1000, -37]), one_object(RASTER), 5, None),
        (RASTER, one_object(RASTER), 4, "the step of 5 px is larger than a patch of 4 px"),
        (RASTER, np.arange(24) // 12, 12, "2 objects"),
        (np.add(RASTER, [0, 0.5]), one_object(RASTER), 12, "up to 0.5 px off the whole pixels"),
        (np.add(RASTER, [1e-5, 0]), one_object(RASTER), 12, "up to 1e-05 px off the whole pixels"),
        (np.delete(RASTER, 8, axis=0), one_object(RASTER[1:]), 12, "23 positions do not fill the 4 x 6 places"),
        (RASTER[[*range(23), 3]], one_object(RASTER), 12, "24 positions do not fill the 4 x 6 places"),
        (np.multiply(RASTER, [2, 1]), one_object(RASTER), 12, "the steps of the raster differ: 5, 10 px"),
        (np.delete(RASTER, slice(6, 12), axis=0), one_object(RASTER[6:]), 12, "the steps of the raster differ"),
        (RASTER[:6], one_object(RASTER[:6]), 12, "1 x 6 places have no step along both axes"),
        (np.random.default_rng(1).uniform(0, 40, (24, 2)), one_object(RASTER), 12, "off the whole pixels"),
    ],
)
def test_what_cannot_be_tiled_is_said_in_words(points, index, n, reason):
    """Physics 12.1: a missing frame is not hidden by rounding; one object, one whole step, no gaps."""
    found = why_no_raster(np.asarray(points, dtype=float), index, n)
    assert found is None if reason is None else reason in found


def test_patches_of_groups_are_refused():
    """D40: the four members of a gridsize-2 group come several times; as a raster they would be a checkerboard."""
    truth, points = some_object(), places(17, 4)
    groups = np.stack([np.arange(12), np.arange(1, 13), np.arange(6, 18), np.arange(7, 19)], axis=1).ravel()
    with pytest.raises(ContractError, match=r"one patch a position \(gridsize 1\)"):
        Tiler(points, 17).add(gather(truth, points[groups], 17), points[groups])


@pytest.mark.parametrize("move", [(0, 1), (0.4, 0), (-4, 0), (0, 4)])
def test_a_patch_of_another_place_is_refused(move):
    """D19: the last of the first row, moved off the raster or beyond it; up and right there is none."""
    points = places(17, 4)
    patch = np.ones((1, 17, 17), np.complex64)
    tiler = Tiler(points, 17)
    with pytest.raises(ContractError, match="none of the raster"):
        tiler.add(patch, points[[5]] + move)
    tiler.add(patch, points[[5]])


def test_counts_that_do_not_match_and_nan_are_refused():
    """D15, D41."""
    points = places(17, 4)
    with pytest.raises(ContractError, match="2 patches came with 1 positions"):
        Tiler(points, 17).add(np.ones((2, 17, 17), np.complex64), points[:1])
    with pytest.raises(NumericalError, match="NaN"):
        Tiler(points, 17).add(np.full((1, 17, 17), np.nan, np.complex64), points[:1])
