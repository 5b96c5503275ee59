"""Stitching (T1, T5, D15-D18, D32, D41-D46): true patches at sub-pixel positions give the object back."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ptychoflow.errors import ContractError, NumericalError
from ptychoflow.frames import Region
from ptychoflow.imaging.regions import largest_rectangle, score_region
from ptychoflow.imaging.stitch import Stitcher
from ptychoflow.physics.patches import gather

N = 18
SHAPE = (71, 104)


def smooth_object() -> np.ndarray:
    """A non-square object without symmetry, smooth enough for bilinear interpolation."""
    rng = np.random.default_rng(7)
    amplitude = 1 + 0.3 * gaussian_filter(rng.normal(size=SHAPE), 3) / 0.1
    phase = gaussian_filter(rng.normal(size=SHAPE), 4) / 0.07
    return (amplitude * np.exp(1j * phase)).astype(np.complex64)


def probe() -> np.ndarray:
    row, col = np.mgrid[0:N, 0:N] - N // 2
    return np.exp(-(row**2 / 30 + col**2 / 18) + 0.1j * row).astype(np.complex64)


def scan_positions(step: float = 3.0, seed: int = 2) -> np.ndarray:
    row, col = np.meshgrid(
        np.arange(N / 2, SHAPE[0] - N / 2, step), np.arange(N / 2, SHAPE[1] - N / 2, step), indexing="ij"
    )
    points = np.stack([row.ravel(), col.ravel()], 1)
    return points + np.random.default_rng(seed).uniform(-0.5, 0.5, points.shape)


def stitched(points: np.ndarray, patches: np.ndarray, batch: int = 10_000) -> Stitcher:
    stitcher = Stitcher(points, probe())
    for start in range(0, len(points), batch):
        stitcher.add(patches[start : start + batch], points[start : start + batch])
    return stitcher


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float(abs(np.vdot(a, b)) / np.linalg.norm(a) / np.linalg.norm(b))


def test_true_patches_give_the_object_back_the_right_way_round():
    """T1. Oracle: the object itself; mirrored, transposed or half a pixel shifted it correlates worse."""
    truth, points = smooth_object(), scan_positions()
    stitcher = stitched(points, gather(truth, points, N))
    object_, weight = stitcher.result()
    region = score_region(points, probe(), object_shape=SHAPE)
    got = object_[stitcher.canvas.slices_of(region)]
    want = truth[region.r0 : region.r1, region.c0 : region.c1]
    assert (weight[stitcher.canvas.slices_of(region)] > 0).all()
    assert correlation(got, want) > 0.999
    # Bilinear gather and scatter each blur by up to half a pixel: 0.022 here, half a pixel of shift 0.06 (next test).
    assert abs(got - want).mean() < 0.03
    assert correlation(got[::-1], want) < 0.9
    assert correlation(got[:, ::-1], want) < 0.9
    assert correlation(got[1:], want[:-1]) < correlation(got, want) - 0.01


def test_half_a_pixel_is_seen():
    truth, points = smooth_object(), scan_positions()
    moved = stitched(points + 0.5, gather(truth, points, N)).result()[0]
    right = stitched(points, gather(truth, points, N)).result()[0]
    h, w = min(moved.shape[0], right.shape[0]), min(moved.shape[1], right.shape[1])
    assert abs(moved[9 : h - 9, 9 : w - 9] - right[9 : h - 9, 9 : w - 9]).mean() > 0.05


def test_gridsize_two_patches_stitch_by_position():
    """D18, D40: members of groups go where they were measured, whatever order they come in."""
    truth, points = smooth_object(), scan_positions()
    groups = np.random.default_rng(0).permutation(len(points))[: len(points) // 4 * 4].reshape(-1, 4)
    flat = groups.ravel()
    object_, _ = stitched(points[flat], gather(truth, points[flat], N)).result()
    in_order, _ = stitched(points[np.sort(flat)], gather(truth, points[np.sort(flat)], N)).result()
    assert np.allclose(object_, in_order, atol=1e-5)


def test_where_patches_disagree_the_brighter_illumination_counts_more():
    """Closed form (physics 12.3): two constant patches a, b over each other give (w_a a + w_b b) / (w_a + w_b), w = |P|^2.

    Three rows apart, so that the weights differ; without weights the overlap would be the plain mean.
    """
    centres, values = np.array([[30.0, 40.0], [33.0, 40.0]]), (2.0, 1j)
    patches = np.stack([np.full((N, N), value, np.complex64) for value in values])
    stitcher = stitched(centres, patches)
    object_, weight = stitcher.result()
    row, col = np.meshgrid(np.arange(24, 39), np.arange(34, 47), indexing="ij")
    w = [np.exp(-2 * ((row - r) ** 2 / 30 + (col - c) ** 2 / 18)) for r, c in centres]  # |probe()|^2
    r0, c0 = stitcher.canvas.origin_rc_px
    cut = slice(24 - r0, 39 - r0), slice(34 - c0, 47 - c0)
    np.testing.assert_allclose(object_[cut], (w[0] * values[0] + w[1] * values[1]) / (w[0] + w[1]), rtol=1e-4)
    np.testing.assert_allclose(weight[cut], w[0] + w[1], rtol=1e-4)


def test_a_constant_object_has_no_border_dip():
    """D17, D32: the same weight in numerator and denominator."""
    points = scan_positions()
    object_, weight = stitched(points, np.full((len(points), N, N), 1.5 + 0.5j, dtype=np.complex64)).result()
    assert np.allclose(object_[weight > 0], 1.5 + 0.5j, atol=1e-4)


def test_every_position_is_on_the_canvas():
    """D42: the outermost patches keep their weight."""
    points = scan_positions()
    stitcher = stitched(points, gather(smooth_object(), points, N))
    weight = stitcher.result()[1]
    local = np.round(stitcher.canvas.to_local(points)).astype(int)
    assert (weight[local[:, 0], local[:, 1]] > 0).all()


def test_batches_cannot_be_seen():
    """D46."""
    points = scan_positions()
    patches = gather(smooth_object(), points, N)
    whole = stitched(points, patches).result()
    for batch in (1, 7, 64):
        assert all(np.array_equal(a, b) for a, b in zip(whole, stitched(points, patches, batch).result(), strict=True))


def test_constants_on_the_positions_move_only_the_origin():
    """D45: row and column offsets are independent."""
    points = scan_positions()
    patches = gather(smooth_object(), points, N)
    here, there = stitched(points, patches), stitched(points + np.array([1000, -37]), patches)
    assert np.allclose(here.result()[0], there.result()[0], atol=1e-6)
    origin = np.subtract(there.canvas.origin_rc_px, here.canvas.origin_rc_px)
    assert origin.tolist() == [1000, -37]


def test_counts_that_do_not_match_and_nan_are_refused():
    stitcher = Stitcher(scan_positions(), probe())
    with pytest.raises(ContractError, match="2 patches came with 1 positions"):
        stitcher.add(np.ones((2, N, N), dtype=np.complex64), scan_positions()[:1])
    # What a network predicts is a result, not an input: RECONSTRUCT turns this error into a failed run (D41).
    with pytest.raises(NumericalError, match="NaN"):
        stitcher.add(np.full((1, N, N), np.nan, dtype=np.complex64), scan_positions()[:1])


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("beyond", [-1.5, 1.5])
def test_a_patch_beyond_the_canvas_is_refused_and_not_clipped(axis, beyond):
    """D19. Oracle: the outermost position is taken, one a pixel and a half further out is not."""
    points = scan_positions()
    outermost = points[[points[:, axis].argmin() if beyond < 0 else points[:, axis].argmax()]]
    stitcher = Stitcher(points, probe())
    patch = np.ones((1, N, N), dtype=np.complex64)
    stitcher.add(patch, outermost)
    before = stitcher.result()[1].copy()
    outside = outermost.copy()
    outside[0, axis] += beyond
    with pytest.raises(ContractError, match="outside the canvas"):
        stitcher.add(patch, outside)
    assert np.array_equal(stitcher.result()[1], before)


def test_score_region_is_covered_and_inside_the_object():
    points = scan_positions()[::2]
    region = score_region(points, probe(), object_shape=(60, 90))
    assert region.r0 >= points[:, 0].min()
    assert region.r1 <= 60
    assert region.c1 <= 90
    assert score_region(points, probe(), object_shape=(60, 90), box_px=21).shape == (21, 21)
    # A box as large as the region or larger takes nothing away (D59).
    assert score_region(points, probe(), object_shape=(60, 90), box_px=1000) == region


def test_largest_rectangle_against_all_rectangles():
    """Oracle: every rectangle tried."""
    rng = np.random.default_rng(3)
    for _ in range(20):
        mask = rng.random((7, 9)) < 0.7
        areas = [
            (r1 - r0) * (c1 - c0)
            for r0 in range(7) for r1 in range(r0 + 1, 8) for c0 in range(9) for c1 in range(c0 + 1, 10)
            if mask[r0:r1, c0:c1].all()
        ]  # fmt: skip
        found = largest_rectangle(mask)
        assert mask[found.r0 : found.r1, found.c0 : found.c1].all()
        assert found.shape[0] * found.shape[1] == max(areas)
    with pytest.raises(ValueError, match="no pixel"):
        largest_rectangle(np.zeros((3, 4), dtype=bool))


def test_region_outside_a_canvas_is_an_error():
    stitcher = Stitcher(scan_positions(), probe())
    with pytest.raises(ValueError, match="not inside the canvas"):
        stitcher.canvas.slices_of(Region(-50, 10, 0, 10))
