"""From the external model's patches to one object: shift, placement, occupancy, and what is wrong with predictions."""

import dataclasses

import numpy as np
import pytest

from analytic_objects import pixels, scene
from ptychoflow.arms.ptychovit.assemble import Assembled, assemble, check_predictions, diagnose, facts, fourier_shift
from ptychoflow.arms.ptychovit.contract import violation
from ptychoflow.errors import ContractError
from torus import TORUS, torus_spectrum

SHAPE = (357, 391)
N = 256


def grid(rows, cols, step, seed=None):
    """Patch middles p, row first; their top-left corners start at (3.5, 6.25), and differ by random fractions with a seed."""
    points = np.stack(np.meshgrid(np.arange(rows) * step[0], np.arange(cols) * step[1], indexing="ij"), -1).reshape(
        -1, 2
    )
    points = (
        np.add(points, [3.5, 6.25])
        if seed is None
        else points + np.random.default_rng(seed).uniform(3, 7, points.shape)
    )
    return points + (N - 1) / 2


def assembled_of(patches, centres, shape=SHAPE, phase=None, index=None):
    index = np.arange(len(centres)) if index is None else index
    return assemble(patches, patches if phase is None else phase, index, centres_rc_px=centres, shape=shape)


def correlation(a, b):
    a, b = a - a.mean(), b - b.mean()
    return float(np.vdot(a, b).real / np.linalg.norm(a) / np.linalg.norm(b))


def torus_field(shift):
    """A real band-limited image on a torus, its content further down and right; beyond its edges it goes on periodically."""
    rows, cols = (np.fft.fftfreq(length) for length in TORUS)
    ramp = np.exp(-2j * np.pi * (rows[:, None] * shift[0] + cols * shift[1]))
    # The real part of an image keeps its band: at 0.9 of Nyquist every fraction of a pixel is exact.
    return np.fft.ifft2(torus_spectrum(1, 0.9) * ramp).real


def test_true_patches_give_the_object_back():
    """Oracle: 40 plane waves evaluated at each patch's own sub-pixel coordinates and on the object's grid; no interpolation."""
    centres = grid(2, 3, (51.3, 57.9), seed=4)
    patches = np.full((len(centres), N, N), 9j)  # what is trimmed may be anything
    for patch, centre in zip(patches, centres, strict=True):
        patch[64:-64, 64:-64] = scene(*pixels((128, 128), tuple(centre - 127 / 2)), highest=0.5)
    truth = scene(*pixels(SHAPE), highest=0.5)
    got = assembled_of(np.abs(patches), centres, phase=np.angle(patches))
    seen = got.occupancy > 0
    assert 0.05 < seen.mean() < 0.5
    for image, want in ((got.amplitude, np.abs(truth)), (got.phase_rad, np.angle(truth))):
        assert correlation(image[seen], want[seen]) > 0.999
        assert (
            np.abs(image - want)[seen].max() < 2e-2
        )  # the wrap-around of the shift, 32 px away; half a pixel costs 0.3
        assert not image[~seen].any()
    np.testing.assert_allclose(got.object[seen], truth[seen], atol=4e-2)
    # Transposed or a pixel off it is another picture.
    assert correlation(got.amplitude[1:][seen[1:]], np.abs(truth)[:-1][seen[1:]]) < 0.99


def test_shift_theorem_on_a_torus():
    """Oracle: the same band-limited image made at the shifted place from its spectrum (tests/torus.py), exact on a whole period."""
    shifts = np.array([[0.3, -0.8], [0.0, 0.5], [2.25, 1.75]])
    images = np.stack([torus_field((0, 0))] * 3)
    want = np.stack([torus_field(shift) for shift in shifts])
    np.testing.assert_allclose(fourier_shift(images, shifts), want, atol=1e-12)
    assert np.abs(images - want).max() > 0.1


def test_a_band_limited_object_comes_back_from_its_sub_pixel_patches():
    """Oracle: patches of a torus at exact fractions (its own spectrum); structure up to 0.9 of Nyquist, so their edges wrap."""
    centres = grid(3, 3, (29.6, 33.3), seed=7)
    patches = []
    for start in centres - (N - 1) / 2:
        whole = np.floor(start).astype(int)
        places = (np.arange(first, first + N) % length for first, length in zip(whole, TORUS, strict=True))
        patches.append(torus_field(whole - start)[np.ix_(*places)])
    truth = np.tile(torus_field((0, 0)), (2, 2))[: SHAPE[0], : SHAPE[1]]
    got = assembled_of(np.array(patches), centres)
    seen = got.occupancy > 0
    assert correlation(got.amplitude[seen], truth[seen]) > 0.999


def test_a_bump_lands_on_its_position():
    """Oracle: centre of mass of a Gaussian drawn about the patch's middle (N - 1) / 2; a clipped, flat frame tells axes apart."""
    axis = np.arange(N) - (N - 1) / 2
    bump = np.exp(-(axis[:, None] ** 2 + axis**2) / 18)
    for centre in ([140.37, 201.81], [170.0, 190.5]):
        image = assembled_of(bump[None], np.array([centre])).amplitude.astype(np.float64)
        found = [np.average(axis, weights=image) for axis in np.indices(SHAPE)]
        np.testing.assert_allclose(found, centre, atol=1e-3)


@pytest.mark.parametrize(
    ("step", "inner", "share"), [(32, {4}, 0), (64, {1}, 0), (96, {0, 1}, 1 - 192 * 256 / (256 * 352))]
)
def test_occupancy_is_a_count(step, inner, share):
    """Closed form: 64-px footprints from floor(top-left) + 96 on; at steps of 32, 64, 96 px an inner pixel has 4, 1, 0 or 1."""
    got = assembled_of(np.ones((12, N, N)), grid(3, 4, (step, step)), shape=(500, 600))
    row, col, end_row, end_col = 3 + 96, 6 + 96, 3 + 96 + 2 * step + 64, 6 + 96 + 3 * step + 64
    expected = np.zeros((500, 600), dtype=int)
    for r in range(row, row + 3 * step, step):
        for c in range(col, col + 4 * step, step):
            expected[r : r + 64, c : c + 64] += 1
    np.testing.assert_array_equal(got.occupancy, expected)
    assert set(np.unique(got.occupancy[row + 32 : end_row - 32, col + 32 : end_col - 32])) == inner
    assert np.mean(got.occupancy[row:end_row, col:end_col] == 0) == pytest.approx(share)
    np.testing.assert_allclose(got.amplitude[got.occupancy > 0], 1, atol=1e-6)


def test_whole_pixels_out_of_metres_do_not_move_a_footprint():
    """Oracle: the same positions without the rounding error that a division by a pixel size leaves."""
    centres = np.add(grid(1, 2, (64, 64)), [0.0, 0.25])
    patches = np.random.default_rng(0).normal(size=(2, N, N))
    exact = assembled_of(patches, np.round(centres - 0.5) + 0.5)
    rounded = assembled_of(patches, np.round(centres - 0.5) + 0.5 - 3e-11)
    np.testing.assert_array_equal(exact.occupancy, rounded.occupancy)
    np.testing.assert_allclose(exact.amplitude, rounded.amplitude, atol=1e-6)


def test_what_leaves_the_object_is_trimmed():
    """Oracle: the same patches on a larger canvas, cut."""
    patches, centres = np.random.default_rng(1).normal(size=(2, N, N)), np.array([[120.3, 10.6], [250.1, 215.9]])
    large = assembled_of(patches, centres + 70, shape=(450, 430))
    small = assembled_of(patches, centres, shape=(261, 222))
    np.testing.assert_allclose(small.amplitude, large.amplitude[70 : 70 + 261, 70 : 70 + 222], atol=1e-6)
    assert 0 < small.occupancy.sum() < large.occupancy.sum()


def test_overlaps_are_divided_by_their_number_and_told_apart():
    """Closed form: phases 1 and -1 over each other have the mean 0 and the spread 1; amplitudes 1 and 3 the mean 2."""
    centres = np.array([[150.5, 160.5], [150.5, 160.5]])
    got = assembled_of(
        np.stack([np.ones((N, N)), np.full((N, N), 3.0)]), centres, phase=np.stack([np.ones((N, N)), -np.ones((N, N))])
    )
    seen = got.occupancy == 2
    assert seen.sum() == 64 * 64
    np.testing.assert_allclose(got.amplitude[seen], 2)
    np.testing.assert_allclose(got.phase_rad[seen], 0)
    assert got.phase_spread_rad == pytest.approx(1)
    assert facts(got)["occupancy_min"] == facts(got)["occupancy_max"] == 2


def test_the_order_of_predictions_does_not_show():
    """Oracle: the same predictions in the order of the scan, byte by byte."""
    centres = grid(2, 3, (20, 30), seed=1)
    patches = np.random.default_rng(2).normal(size=(6, N, N)).astype(np.float32)
    mixed = np.array([4, 0, 5, 2, 1, 3])
    here, there = assembled_of(patches, centres), assembled_of(patches[mixed], centres, index=mixed)
    assert here.amplitude.tobytes() == there.amplitude.tobytes()
    # On one place, 1e17 + 1 - 1e17 is 0 in float64 and 1e17 - 1e17 + 1 is 1: sums are taken in the order of the scan.
    levels = np.full((N, N), 1.0) * np.array([1e17, 1, -1e17])[:, None, None]
    same, turned = np.full((3, 2), 150.5), np.array([0, 2, 1])
    level, other = assembled_of(levels, same), assembled_of(levels[turned], same, index=turned)
    assert level.amplitude.tobytes() == other.amplitude.tobytes()
    # A mean over the scan axis, the forbidden aggregation, is another picture.
    assert correlation(here.amplitude[:N, :N][96:160, 96:160], patches.mean(axis=0)[96:160, 96:160]) < 0.5


def test_predictions_that_do_not_match_the_scan_are_refused_with_all_their_faults():
    """Oracle: the rows PV-COUNT and PV-NAN of the violation table."""
    patches = np.ones((3, N, N), dtype=np.float32)
    assert check_predictions(patches, patches, np.array([1, 0, 2]), n_positions=3) == []
    nan = patches.copy()
    nan[1, 7, 9] = np.nan
    found = check_predictions(nan, patches[:, :-1], np.array([1, 1, 2]), n_positions=4)
    assert [one.code for one in found] == ["PV-COUNT", "PV-COUNT", "PV-NAN"]
    assert "phase has shape (3, 255, 256), expected (3, 256, 256)" in found[0].message
    assert "3 predictions for 4 scan points: scan point 0 has 0" in found[1].message
    assert "not finite for 1 scan points, first at index 1" in found[2].message
    with pytest.raises(ContractError, match=r"2 predictions for 3 scan points: scan point 2 has 0"):
        assembled_of(patches[:2], np.full((3, 2), 150.5), index=np.array([0, 1]))


def an_assembled(seed=0, **changes):
    rng = np.random.default_rng(seed)
    occupancy = np.zeros((31, 47), dtype=np.int32)
    occupancy[5:20, 7:40] = 2
    image = np.where(occupancy > 0, 0.975 + 0.005 * rng.normal(size=occupancy.shape), 0).astype(np.float32)
    return dataclasses.replace(Assembled(image, image * 2, occupancy, 0.0), **changes)


def test_a_flat_result_is_diagnosed_over_the_covered_pixels_only():
    """Oracle: rows PV-FLAT and PV-SAT; the zeros outside must not make a flat image look alive."""
    good = an_assembled()
    assert diagnose(good) == []
    flat = np.where(good.occupancy > 0, np.float32(0.97), 0).astype(np.float32)
    found = diagnose(an_assembled(amplitude=flat))
    assert found == [violation("PV-FLAT", found[0].message)]
    assert "amplitude is flat" in found[0].message
    assert "34.0% of the object" in found[0].message
    assert "check stitching, normalization and the range" in found[0].text
    assert [one.message[:5] for one in diagnose(an_assembled(phase_rad=flat))] == ["phase"]
    assert "no pixel is covered" in diagnose(an_assembled(occupancy=np.zeros_like(good.occupancy)))[0].message


def test_saturation_is_a_warning():
    """Oracle: the bounds 0.975 -+ 1.7159 x 0.025 written out."""
    image = an_assembled().amplitude.copy()
    image[5:14, 7:40] = 0.9321025
    image[10, 7:40] += 5e-4
    found = diagnose(an_assembled(amplitude=image))
    assert [(one.code, one.kind) for one in found] == [("PV-SAT", "W")]
    assert "60.0%" in found[0].message
    assert facts(an_assembled(amplitude=image))["saturated_share"] == pytest.approx(0.6)
