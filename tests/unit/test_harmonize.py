"""One grid for all (D43, D52, D58). Oracle: a band-limited object evaluated at the coordinates themselves."""

import numpy as np
import pytest

from analytic_objects import pixels, scene
from ptychoflow.errors import ContractError
from ptychoflow.frames import Canvas, Region
from ptychoflow.imaging.harmonize import (
    Grid,
    check_same_object,
    grid_for,
    low_pass_sigma,
    overhang,
    pixel_ratio,
    sample,
)

CANVAS = Canvas((-7, 12), (83, 101))
IMAGE = scene(*pixels(CANVAS.shape, CANVAS.origin_rc_px))
REGION = Region(11, 48, 33, 84)


def test_whole_pixels_are_exact_slices():
    np.testing.assert_array_equal(sample(IMAGE, CANVAS, Grid(REGION)), IMAGE[CANVAS.slices_of(REGION)])
    moved = Region(13, 50, 30, 81)
    np.testing.assert_array_equal(
        sample(IMAGE, CANVAS, Grid(REGION), shift_rc_px=(2.0, -3.0)), IMAGE[CANVAS.slices_of(moved)]
    )


@pytest.mark.parametrize("shift", [(0.5, 0.0), (0.5, -0.31), (-1.25, 2.5), (0.0, -0.01)])
def test_a_fraction_of_a_pixel_is_read_where_it_says(shift):
    """Analytic values at x + shift; the quintic spline errs by 1e-4 at 0.2 cycles/px, a little above the object's highest."""
    want = scene(*pixels(REGION.shape, (REGION.r0 + shift[0], REGION.c0 + shift[1])))
    found = sample(IMAGE, CANVAS, Grid(REGION), shift_rc_px=shift)
    assert found.dtype == np.complex64
    np.testing.assert_allclose(found, want, atol=2e-4)


def test_an_edge_of_the_canvas_costs_little():
    """Beside the edge the spline continues by reflection: off by some percent in the last pixels, exact inside."""
    shift, region = (-0.5, 0.0), Region(-6, 20, 12, 60)
    found = sample(IMAGE, CANVAS, Grid(region), shift_rc_px=shift)
    want = scene(*pixels(region.shape, (region.r0 - 0.5, region.c0)))
    np.testing.assert_allclose(found, want, atol=0.08)
    np.testing.assert_allclose(found[8:, 8:], want[8:, 8:], atol=2e-4)


@pytest.mark.parametrize("ratio", [2.0, 1.3, 0.5])
def test_another_pixel_size_is_read_about_the_common_origin(ratio):
    """The reconstruction holds the object at x / ratio: reading it at x * ratio gives the truth back."""
    shape = (round(70 * ratio), round(111 * ratio))
    origin = (-3, 5)
    rows, cols = pixels(shape, origin)
    recon = scene(rows / ratio, cols / ratio, highest=0.25)
    found = sample(recon, Canvas(origin, shape), Grid(REGION), shift_rc_px=(0.5, -0.25), pixel_ratio=ratio)
    want = scene(*pixels(REGION.shape, (REGION.r0 + 0.5, REGION.c0 - 0.25)), highest=0.25)
    np.testing.assert_allclose(found, want, atol=0.02 if ratio > 1 else 3e-3)
    assert np.abs(sample(recon, Canvas(origin, shape), Grid(REGION), pixel_ratio=ratio) - want).mean() > 0.02


def test_a_coarser_grid_lies_at_the_middle_of_its_cells():
    grid = grid_for(REGION, canonical=17)
    assert grid == Grid(REGION, 3.0)
    assert grid.shape == (12, 17)
    rows, cols = (REGION.r0 + 1 + 3 * np.arange(12.0)[:, None], REGION.c0 + 1 + 3 * np.arange(17.0))
    image = scene(*pixels(CANVAS.shape, CANVAS.origin_rc_px), highest=0.03)
    np.testing.assert_allclose(sample(image, CANVAS, grid), scene(rows, cols, highest=0.03), atol=2e-3)


def test_what_a_coarser_grid_cannot_hold_is_damped():
    """A Gaussian of sigma s multiplies a wave of k rad/px by exp(-(k s)^2 / 2); at step 4 its sigma is 1.5 px."""
    k = 0.9 * np.pi
    wave = np.exp(1j * k * np.arange(101.0))[None, :].repeat(83, axis=0).astype(np.complex64)
    found = sample(wave, CANVAS, Grid(Region(11, 51, 33, 81), 4.0))
    np.testing.assert_allclose(np.abs(found), np.exp(-((k * 1.5) ** 2) / 2), atol=1e-3)


def test_truth_and_reconstruction_lose_the_same_detail():
    assert low_pass_sigma(1.0, 1.0) == 0
    assert low_pass_sigma(3.0, 1.0) == 1.0
    assert low_pass_sigma(3.0, 0.5) == 0.5  # in pixels twice as large: the same length
    assert low_pass_sigma(1.0, 3.0) == 1.0
    assert low_pass_sigma(0.5, 1.0) == 0


def test_grid_without_a_canonical_side_is_the_pixels():
    assert grid_for(REGION, canonical=None) == Grid(REGION, 1.0)
    assert Grid(REGION).shape == REGION.shape
    assert grid_for(REGION, canonical=153).shape == (111, 153)
    for side in range(5, 300, 7):
        assert max(grid_for(REGION, canonical=side).shape) == side


def test_a_finer_grid_may_use_the_border_pixels_outer_half():
    whole = Region(-7, 76, 12, 113)
    assert sample(IMAGE, CANVAS, grid_for(whole, canonical=202)).shape == (166, 202)


def test_a_window_that_leaves_the_canvas_is_refused_with_how_far():
    with pytest.raises(ContractError, match=r"by 2 px at the top, 3 px at the right"):
        sample(IMAGE, CANVAS, Grid(Region(-9, 10, 40, 116)))
    with pytest.raises(ContractError, match=r"shifted by \(0, -21.5\) px.*by 0.5 px at the left"):
        sample(IMAGE, CANVAS, Grid(REGION), shift_rc_px=(0.0, -21.5))
    with pytest.raises(ContractError, match="pixel ratio 2"):
        sample(IMAGE, CANVAS, Grid(REGION), pixel_ratio=2.0)
    assert overhang(CANVAS, Grid(REGION), shift_rc_px=(29.0, 0.0)) == {"bottom": pytest.approx(1.0)}
    assert overhang(CANVAS, Grid(REGION), shift_rc_px=(28.0, 0.0)) == {}
    with pytest.raises(ContractError, match="its canvas"):
        sample(IMAGE[1:], CANVAS, Grid(REGION))


def test_pixel_sizes_must_agree_unless_resampling_is_asked_for():
    assert pixel_ratio(None, 20e-9, resample=False) == 1.0
    assert pixel_ratio(20e-9, None, resample=False) == 1.0
    assert pixel_ratio(20e-9, 20.001e-9, resample=False) == 1.0
    with pytest.raises(ContractError, match=r"10 nm wide, the truth's 20 nm.*resample_pixel_size"):
        pixel_ratio(10e-9, 20e-9, resample=False)
    assert pixel_ratio(10e-9, 20e-9, resample=True) == pytest.approx(2.0)
    with pytest.raises(ContractError, match="truth must be positive"):
        pixel_ratio(10e-9, 0.0, resample=True)


def test_objects_that_differ_are_named():
    check_same_object({})
    check_same_object({"a.npz": IMAGE, "b.npz": IMAGE.copy()})
    other = IMAGE.copy()
    other[3, 4] += 1
    with pytest.raises(ContractError) as caught:
        check_same_object({"a.npz": IMAGE, "b.npz": other, "c.npz": IMAGE[:-1], "d.npz": IMAGE})
    text = str(caught.value)
    assert "b.npz differs from a.npz in 1 of 8383 pixels" in text
    assert "c.npz holds an object of 82 x 101 px" in text
    assert "d.npz" not in text
