"""Shift, orientation, rotation and magnification. Oracles: an object known at every coordinate, scikit-image's registration."""

from dataclasses import asdict

import numpy as np
import pytest
import scipy.signal
from skimage.registration import phase_cross_correlation

from analytic_objects import pixels, scene
from ptychoflow.frames import Canvas, Region
from ptychoflow.imaging.distortion import find_distortion
from ptychoflow.imaging.harmonize import Grid
from ptychoflow.imaging.orientation import TURNS, find_orientation
from ptychoflow.imaging.ramp import estimate_ramp
from ptychoflow.imaging.register import find_peak, tapered, thinned
from ptychoflow.imaging.survey import Survey, survey

SHAPE = (131, 158)
CANVAS = Canvas((0, 0), SHAPE)
REGION = Region(12, 121, 10, 145)
CUT = CANVAS.slices_of(REGION)
TRUTH = scene(*pixels(SHAPE))
NO_RAMP = (0.0, 0.0)


def look(recon: np.ndarray, truth: np.ndarray = TRUTH, *, limit: float = 5.0, ramp=NO_RAMP) -> Survey:
    return survey(
        recon.astype(np.complex64), CANVAS, truth[CUT], Grid(REGION), max_shift_px=limit, pixel_ratio=1.0, ramp_rad_per_px=ramp
    )  # fmt: skip


def moved(shift, **options) -> np.ndarray:
    rows, cols = pixels(SHAPE)
    return scene(rows - shift[0], cols - shift[1], **options)


@pytest.mark.parametrize("kind", ["both", "amp", "phase"])
@pytest.mark.parametrize("shift", [(0.5, -0.25), (-0.5, 0.5), (0.03, 0.0), (3.3, -4.6), (-2.0, 1.0)])
def test_a_known_shift_is_found_with_its_sign(kind, shift):
    found = look(moved(shift, kind=kind) * (0.3 - 0.7j), moved((0, 0), kind=kind)).registration
    np.testing.assert_allclose(found.shift_rc_px, shift, atol=2e-3)
    assert found.believed
    assert found.reason is None
    assert found.correlation == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_noise_as_strong_as_the_contrast_costs_little(seed):
    """T6 asks for 0.05 px."""
    noise = np.random.default_rng(seed).normal(size=(*SHAPE, 2)).view(np.complex128)[..., 0] * 0.2
    found = look(moved((0.5, -1.3), seed=seed) + noise, moved((0, 0), seed=seed)).registration
    np.testing.assert_allclose(found.shift_rc_px, (0.5, -1.3), atol=0.05)
    assert found.believed


def test_scikit_image_finds_the_same_shift():
    """phase_cross_correlation tells the shift that brings R back, hence the sign; windowed moduli, upsampled 100 times."""
    recon = moved((1.4, -2.3), kind="amp")
    window = np.outer(np.hanning(REGION.shape[0]), np.hanning(REGION.shape[1]))
    truth, image = (window * (np.abs(a[CUT]) - np.abs(a[CUT]).mean()) for a in (moved((0, 0), kind="amp"), recon))
    back, _, _ = phase_cross_correlation(truth, image, upsample_factor=100, normalization=None)
    found = look(recon, moved((0, 0), kind="amp")).registration.shift_rc_px
    np.testing.assert_allclose(found, -back, atol=0.05)


@pytest.mark.parametrize("slope", [(0.02, -0.05), (0.4, 0.1), (2.9, -2.8)])
def test_a_ramp_does_not_hide_the_shift(slope):
    rows, cols = pixels(SHAPE)
    ramp = np.exp(1j * (slope[0] * rows + slope[1] * cols))
    found = look(moved((0.5, -0.25)) * ramp, ramp=(-slope[0], -slope[1]))
    np.testing.assert_allclose(found.registration.shift_rc_px, (0.5, -0.25), atol=3e-3)
    np.testing.assert_allclose(found.ramp_rad_per_px, (-slope[0], -slope[1]), atol=1e-4)


def lattice(shift, period: float) -> np.ndarray:
    rows, cols = pixels(SHAPE)
    k = 2 * np.pi / period
    return (2 + np.cos(k * (rows - shift[0])) + np.cos(k * (cols - shift[1]))).astype(np.complex64)


def test_a_lattice_does_not_lock_on_a_vector_outside_the_limit():
    """D63: a shift of 1.3 px and one of 1.3 - 12 px are the same picture."""
    found = look(lattice((1.3, -2.2), 12.0), lattice((0, 0), 12.0)).registration
    np.testing.assert_allclose(found.shift_rc_px, (1.3, -2.2), atol=5e-3)
    assert found.believed


def test_on_a_smooth_object_shift_and_ramp_are_told_apart():
    """Structure of 63 px and more in a region of 109 x 135 px: one look at each leaves an error of 0.1 px."""
    rows, cols = pixels(SHAPE)
    ramp = np.exp(1j * (0.02 * rows - 0.03 * cols))
    found = look(moved((0.5, -1.25), highest=0.1) * ramp, moved((0, 0), highest=0.1), ramp=(-0.0198, 0.0301))
    np.testing.assert_allclose(found.registration.shift_rc_px, (0.5, -1.25), atol=0.03)


def test_a_quarter_period_looks_like_a_ramp_and_is_told_as_a_shift():
    """Without a mean, conj(R) T of this lattice has its peak at a reciprocal vector, not at zero: no ramp at all."""
    rows, cols = pixels(SHAPE)
    k = 2 * np.pi / 12

    def cosines(dr: float, dc: float) -> np.ndarray:
        y, x = k * (rows - dr), k * (cols - dc)
        return (np.cos(y) + 0.7 * np.cos(x) + 0.4 * np.cos(y + x)).astype(np.complex64)

    truth, recon = cosines(0, 0), cosines(3, -3)
    ramp = estimate_ramp(recon[CUT], truth[CUT])
    assert max(np.abs(ramp)) > 0.5
    found = look(recon, truth, ramp=ramp)
    np.testing.assert_allclose(found.registration.shift_rc_px, (3, -3), atol=5e-3)
    np.testing.assert_allclose(found.ramp_rad_per_px, 0, atol=1e-3)
    assert found.registration.believed


def test_a_conjugate_of_a_phase_object_does_not_correlate_at_no_shift():
    """Contrast of the wrong sign has the right modulus: -1, not 1, to first order in the phase."""
    truth = np.exp(0.2j * (np.abs(TRUTH) - 1)).astype(np.complex64)
    found = look(truth.conj(), truth)
    assert found.orientation.name == "conjugated"
    assert found.orientation.warning
    assert not found.registration.believed


def test_a_lattice_with_several_vectors_inside_the_limit_is_ambiguous():
    found = look(lattice((0.6, 0.3), 4.0), lattice((0, 0), 4.0)).registration
    assert not found.believed
    assert found.runner_up > 0.9
    assert "another shift" in found.reason


def test_a_shift_beyond_the_limit_is_not_believed():
    found = look(moved((0.2, 3.1)), limit=2.0).registration
    assert not found.believed
    assert found.on_limit
    assert max(np.abs(found.shift_rc_px)) <= 2.0
    assert "limit of 2 px" in found.reason


def test_noise_is_not_believed():
    rng = np.random.default_rng(3)
    found = look(1 + 0.2 * rng.normal(size=(*SHAPE, 2)).view(np.complex128)[..., 0])
    assert not found.registration.believed
    assert "correlate by" in found.registration.reason
    assert not found.orientation.warning
    assert found.distortion is None


def test_a_stranger_is_not_believed():
    found = look(moved((0, 0), seed=9)).registration
    assert not found.believed


def test_a_window_that_would_leave_the_canvas_is_not_believed_and_still_measured():
    canvas = Canvas((12, 10), REGION.shape)
    recon = np.ascontiguousarray(moved((1.5, -0.5))[CUT])
    found = survey(recon, canvas, TRUTH[CUT], Grid(REGION), max_shift_px=5.0, pixel_ratio=1.0, ramp_rad_per_px=NO_RAMP)
    np.testing.assert_allclose(found.registration.shift_rc_px, (1.5, -0.5), atol=0.05)
    assert not found.registration.believed
    assert "1.50 px at the bottom, 0.50 px at the left" in found.registration.reason.replace("0.49", "0.50")


@pytest.mark.parametrize("ratio", [0.5, 2.0])
def test_the_shift_is_told_in_truth_pixels_whatever_the_pixels_of_the_reconstruction(ratio):
    shape = (round(140 * ratio), round(170 * ratio))
    rows, cols = pixels(shape)
    recon = scene(rows / ratio - 1.5, cols / ratio + 0.75, highest=0.4)
    truth = scene(*pixels(SHAPE), highest=0.4)
    found = survey(
        recon, Canvas((0, 0), shape), truth[CUT], Grid(REGION), max_shift_px=5.0, pixel_ratio=ratio, ramp_rad_per_px=NO_RAMP
    )  # fmt: skip
    np.testing.assert_allclose(found.registration.shift_rc_px, (1.5, -0.75), atol=0.01)
    assert found.registration.believed


def test_large_arrays_are_thinned_without_losing_the_shift():
    shape = (610, 543)
    rows, cols = pixels(shape)
    region = Region(20, 583, 21, 520)
    recon, truth = scene(rows - 0.5, cols + 3.25, highest=0.5), scene(rows, cols, highest=0.5)
    cut = truth[20:583, 21:520]
    found = survey(
        recon, Canvas((0, 0), shape), cut, Grid(region), max_shift_px=5.0, pixel_ratio=1.0, ramp_rad_per_px=NO_RAMP
    )  # fmt: skip
    np.testing.assert_allclose(found.registration.shift_rc_px, (0.5, -3.25), atol=0.01)


def test_thinned_reads_between_pixels_and_takes_a_ramp_off():
    rows, cols = pixels((37, 41), (20.3, 30.6))
    ramped = TRUTH * np.exp(-1j * (0.1 * np.arange(SHAPE[0])[:, None] - 0.2 * np.arange(SHAPE[1])))
    found = thinned(ramped.astype(np.complex64), (20.3, 30.6), 1.0, (37, 41), ramp_rc=(0.1, -0.2))
    np.testing.assert_allclose(found, scene(rows, cols), atol=0.03)


def turned(angle_deg: float, magnification: float) -> np.ndarray:
    """The truth turned counter-clockwise as shown (rows downwards) about the middle of the region and magnified."""
    middle = (REGION.r0 + REGION.r1 - 1) / 2, (REGION.c0 + REGION.c1 - 1) / 2
    rows, cols = pixels(SHAPE, (-middle[0], -middle[1]))
    up, right = -rows / magnification, cols / magnification
    angle = np.radians(angle_deg)
    # The content at a place came from the place turned back, clockwise.
    from_right = right * np.cos(angle) + up * np.sin(angle)
    from_up = -right * np.sin(angle) + up * np.cos(angle)
    return scene(middle[0] - from_up, middle[1] + from_right)


@pytest.mark.parametrize(("angle", "magnification"), [(1.0, 1.0), (-0.6, 1.0), (0.0, 1.01), (0.5, 0.99)])
def test_rotation_and_magnification_are_measured(angle, magnification):
    found = look(turned(angle, magnification)).distortion
    assert found.n_tiles == 9
    assert found.rotation_deg == pytest.approx(angle, abs=0.03)
    assert found.magnification == pytest.approx(magnification, abs=5e-4)
    if angle:
        assert abs(found.rotation_deg) > 5 * found.rotation_error_deg


def test_errors_of_the_fit_cover_what_noise_makes_of_it():
    """24 realizations: root mean square of estimate over its error is that of Student's t with 14 degrees: 1.08 +- 0.17."""
    rng = np.random.default_rng(0)
    ratios = []
    truth = TRUTH[CUT]
    for _ in range(24):
        noise = rng.normal(size=(*truth.shape, 2)).view(np.complex128)[..., 0] * 0.1
        found = find_distortion((truth + noise).astype(np.complex64), truth, limit=2.0)
        ratios += [found.rotation_deg / found.rotation_error_deg, (found.magnification - 1) / found.magnification_error]
    assert 0.7 < np.sqrt(np.mean(np.square(ratios))) < 1.6


def test_no_distortion_is_told_of_small_or_empty_regions():
    small = TRUTH[:90, :150]
    assert find_distortion(small, small, limit=2.0) is None
    empty = np.ones((120, 120), dtype=np.complex64)
    empty[:40, :40] = TRUTH[:40, :40]
    assert find_distortion(empty, empty, limit=2.0) is None


@pytest.mark.parametrize("conjugated", [False, True])
@pytest.mark.parametrize("name", list(TURNS))
def test_every_orientation_is_recognised_by_name(name, conjugated):
    """numpy.rot90 and slicing make the candidates; on an oblong, quarter turns share only the central square."""
    turns, mirrored = TURNS[name]
    middle = (45 - 1) / 2, (63 - 1) / 2
    square = scene(*pixels((63, 63), (-31, -31)))
    truth = scene(*pixels((45, 63), (-middle[0], -middle[1])))
    recon = np.rot90(square[:, ::-1] if mirrored else square, turns)
    if turns % 2 == 0:
        recon = np.rot90(truth[:, ::-1] if mirrored else truth, turns)
    else:
        recon = recon[9:54]
        truth = square[9:54]
    recon = recon.conj() if conjugated else recon
    found = find_orientation(np.ascontiguousarray(recon), truth)
    expected = f"conjugated and {name}" if conjugated else name
    expected = {"conjugated and upright": "conjugated"}.get(expected, expected)
    assert found.name.removesuffix(" (the twin image)") == expected
    assert found.correlation == pytest.approx(1, abs=1e-4)
    assert found.warning == (expected != "upright")
    assert found.twin == pytest.approx(1, abs=1e-4) or not (conjugated and turns == 2 and not mirrored)


def test_a_symmetric_object_raises_no_warning():
    half = np.abs(TRUTH)
    symmetric = (half + half[::-1] + half[:, ::-1] + half[::-1, ::-1]).astype(np.complex64)
    found = find_orientation(symmetric, symmetric)
    assert not found.warning
    assert found.name == "upright"


def test_the_middle_of_the_search_need_not_be_zero():
    peak = find_peak(moved((3.0, -1.0))[CUT], TRUTH[CUT], (2.0, -2.0), (4.0, 0.0))
    np.testing.assert_allclose(peak.shift, (3.0, -1.0), atol=0.1)
    assert not peak.on_limit


@pytest.mark.parametrize("shape", [(4, 5), (1, 1), (3, 90), (16, 17)])
def test_tiny_regions_have_a_defined_answer(shape):
    region = Region(20, 20 + shape[0], 30, 30 + shape[1])
    cut = TRUTH[CANVAS.slices_of(region)]
    found = survey(TRUTH, CANVAS, cut, Grid(region), max_shift_px=5.0, pixel_ratio=1.0, ramp_rad_per_px=NO_RAMP)
    if min(shape) < 16:
        assert found.registration.shift_rc_px is None
        assert "too few" in found.registration.reason
    else:
        np.testing.assert_allclose(found.registration.shift_rc_px, 0, atol=0.05)
    assert not found.orientation.warning
    assert all(np.isfinite(value) for value in asdict(found.registration).values() if isinstance(value, float))


@pytest.mark.parametrize("side", [1, 2, 9, 64, 131])
def test_the_taper_is_the_tukey_window_without_its_ends(side):
    """Oracle: scipy.signal."""
    np.testing.assert_allclose(tapered(side), scipy.signal.windows.tukey(side + 2, 0.5)[1:-1], atol=1e-7)
