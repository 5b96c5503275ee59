"""Alignment (T6, D60, D63): what is removed, what is told, and in which order. Oracles: closed forms, numpy.linalg.lstsq, an
object known at every coordinate.
"""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from analytic_objects import pixels, scene
from ptychoflow.errors import ContractError
from ptychoflow.frames import Canvas, Region
from ptychoflow.imaging.align import align, apply
from ptychoflow.imaging.harmonize import Grid, grid_for, sample
from ptychoflow.imaging.ramp import estimate_ramp, ramp_phasor

SHAPE = (45, 62)
WIDE = (121, 146)
CANVAS = Canvas((-3, 8), WIDE)
REGION = Region(9, 106, 19, 142)
GRID = Grid(REGION)
OBJECT = scene(*pixels(WIDE, CANVAS.origin_rc_px))
CUT = OBJECT[CANVAS.slices_of(REGION)]


def picture(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    amplitude = 1 + gaussian_filter(rng.normal(size=SHAPE), 2)
    return (amplitude * np.exp(4j * gaussian_filter(rng.normal(size=SHAPE), 3))).astype(np.complex64)


def on_region(recon: np.ndarray, truth: np.ndarray, *, mode: str = "gauge", phase_ramp: bool = False):
    """Align arrays that are cut already: nothing lies beyond the rectangle."""
    canvas, grid = Canvas((0, 0), recon.shape), Grid(Region(0, truth.shape[0], 0, truth.shape[1]))
    return align(recon, canvas, truth, grid, mode=mode, phase_ramp=phase_ramp, max_shift_px=5.0)


def wide(recon: np.ndarray, *, mode: str = "register", phase_ramp: bool = False, limit: float = 5.0):
    """Align a reconstruction that reaches beyond the rectangle."""
    return align(recon.astype(np.complex64), CANVAS, CUT, GRID, mode=mode, phase_ramp=phase_ramp, max_shift_px=limit)


def moved(shift: tuple[float, float]) -> np.ndarray:
    rows, cols = pixels(WIDE, CANVAS.origin_rc_px)
    return scene(rows - shift[0], cols - shift[1])


def noise(size: float, seed: int = 0) -> np.ndarray:
    return size * np.random.default_rng(seed).normal(size=(*WIDE, 2)).view(np.complex128)[..., 0]


@settings(max_examples=30, deadline=None)
@given(st.floats(0.01, 100), st.floats(-3.1, 3.1))
def test_a_complex_factor_is_removed_and_told(modulus: float, angle: float):
    truth = picture()
    recon = (truth / (modulus * np.exp(1j * angle))).astype(np.complex64)
    aligned, record = on_region(recon, truth)
    np.testing.assert_allclose(aligned, truth, rtol=1e-5, atol=1e-5)
    assert record.gauge_abs == pytest.approx(modulus, rel=1e-5)
    assert record.gauge_arg_rad == pytest.approx(angle, abs=1e-5)
    assert record.scale_error == pytest.approx(modulus - 1, rel=1e-4, abs=1e-5)


def test_the_factor_is_the_least_squares_one():
    truth, recon = picture(0), picture(1)
    expected = np.linalg.lstsq(recon.reshape(-1, 1), truth.ravel(), rcond=None)[0][0]
    aligned, record = on_region(recon, truth)
    assert record.gauge_abs * np.exp(1j * record.gauge_arg_rad) == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(aligned, recon * expected, rtol=1e-4)


def test_mode_none_leaves_the_reconstruction_and_still_tells_the_factor():
    truth = picture()
    recon = (0.5j * truth).astype(np.complex64)
    aligned, record = on_region(recon, truth, mode="none")
    np.testing.assert_array_equal(aligned, recon)
    assert record.gauge_abs == pytest.approx(2)
    assert record.ramp_rad_per_px is None
    assert record.corrected == ()
    assert record.not_corrected == ("complex factor 2 exp(-1.571 i): none was asked for",)


@pytest.mark.parametrize("ramp", [(0.0, 0.0), (0.13, -0.071), (-0.9, 0.4), (3.0, -2.8)])
def test_a_known_ramp_is_recovered_with_its_sign(ramp: tuple[float, float]):
    """The reconstruction carries the opposite ramp; 1e-4 of an FFT step is 1e-5 rad/px."""
    truth = picture()
    recon = (0.7j * truth / ramp_phasor(SHAPE, ramp)).astype(np.complex64)
    aligned, record = on_region(recon, truth, phase_ramp=True)
    np.testing.assert_allclose(record.ramp_rad_per_px, ramp, atol=2e-5)
    np.testing.assert_allclose(aligned, truth, atol=5e-3)


@pytest.mark.parametrize("shape", [(201, 143), (67, 64), (1, 80)])
def test_a_ramp_over_many_pixels_is_found_as_finely(shape):
    """Above 64 px the zoom works on sums over blocks; the ramp lies between FFT frequencies on purpose."""
    truth = scene(*pixels(shape))
    ramp = (2 * np.pi * 3.43 / shape[0] * (shape[0] > 1), -2 * np.pi * 7.29 / shape[1])
    found = estimate_ramp(truth / ramp_phasor(shape, ramp), truth)
    np.testing.assert_allclose(found[1], ramp[1], atol=1e-3 / shape[1])
    if shape[0] > 1:
        np.testing.assert_allclose(found[0], ramp[0], atol=1e-3 / shape[0])


def test_the_ramp_survives_noise_and_a_ramp_of_the_truth_stays():
    """D60: only the reconstruction loses a ramp; a ramp of the truth is signal."""
    rng = np.random.default_rng(4)
    truth = (picture() * ramp_phasor(SHAPE, (0.05, 0.02))).astype(np.complex64)
    dirt = 0.5 * (rng.normal(size=SHAPE) + 1j * rng.normal(size=SHAPE))
    ramp = estimate_ramp((truth + dirt).astype(np.complex128), truth.astype(np.complex128))
    np.testing.assert_allclose(ramp, 0, atol=2e-3)


def test_ramp_phasor_counts_rows_first():
    phasor = ramp_phasor((3, 5), (0.1, 0.01))
    np.testing.assert_allclose(np.angle(phasor), 0.1 * np.arange(3)[:, None] + 0.01 * np.arange(5), atol=1e-12)


def test_inputs_are_not_changed():
    truth, recon = picture(0), picture(1)
    before = truth.copy(), recon.copy()
    truth.setflags(write=False)
    recon.setflags(write=False)
    on_region(recon, truth, phase_ramp=True)
    np.testing.assert_array_equal(truth, before[0])
    np.testing.assert_array_equal(recon, before[1])


def test_the_twin_is_recognised_and_not_flipped():
    """Also shifted: the twin's centre is arbitrary."""
    truth = picture()
    twin = np.roll(truth.conj()[::-1, ::-1], (3, -7), axis=(0, 1))
    aligned, record = on_region(twin, truth, mode="none")
    assert record.twin_warning
    assert record.twin_correlation > 0.95
    assert "twin image" in " ".join(record.not_corrected)
    np.testing.assert_array_equal(aligned, twin)
    _, straight = on_region(truth, truth)
    assert not straight.twin_warning
    assert straight.correlation == pytest.approx(1, abs=1e-4)


def test_a_point_symmetric_object_raises_no_twin_warning():
    half = np.abs(picture())
    symmetric = (half + half[::-1, ::-1]).astype(np.complex64)
    _, record = on_region(symmetric, symmetric)
    assert not record.twin_warning


@pytest.mark.parametrize("mode", ["gauge", "register"])
def test_the_truth_itself_is_left_alone(mode):
    """T6: R = T is no interpolation, no ramp, a factor of 1, nothing to tell."""
    aligned, record = wide(OBJECT, mode=mode, phase_ramp=True)
    np.testing.assert_allclose(aligned, CUT, atol=1e-5)
    assert record.shift_rc_px is None
    assert record.corrected == record.not_corrected == ()
    assert record.registration.believed


@pytest.mark.parametrize("shift", [(0.5, -0.25), (-0.5, 0.5), (2.0, -3.7)])
def test_a_shift_is_taken_out_when_asked_for(shift):
    aligned, record = wide(moved(shift))
    np.testing.assert_allclose(aligned, CUT, atol=2e-3)
    np.testing.assert_allclose(record.shift_rc_px, shift, atol=2e-3)
    assert record.corrected[0] == f"shift of ({shift[0]:.2f}, {shift[1]:.2f}) px (row, column)"
    assert record.not_corrected == ()


@pytest.mark.parametrize("mode", ["none", "gauge"])
def test_a_shift_is_told_when_it_was_not_asked_for(mode):
    image = moved((0.5, -0.25)).astype(np.complex64)
    aligned, record = wide(image, mode=mode)
    np.testing.assert_allclose(record.registration.shift_rc_px, (0.5, -0.25), atol=2e-3)
    assert record.shift_rc_px is None
    assert record.not_corrected[0] == "shift of (0.50, -0.25) px (row, column): registration was not asked for"
    factor = 1 if mode == "none" else record.gauge_abs * np.exp(1j * record.gauge_arg_rad)
    np.testing.assert_allclose(aligned, image[CANVAS.slices_of(REGION)] * factor, rtol=1e-5)


def test_shift_ramp_and_factor_are_undone_together():
    rows, cols = pixels(WIDE)
    ramp = np.exp(-1j * (0.021 * rows - 0.034 * cols))
    aligned, record = wide(moved((0.5, -1.25)) * ramp / (1.7 * np.exp(0.4j)), phase_ramp=True)
    np.testing.assert_allclose(record.shift_rc_px, (0.5, -1.25), atol=3e-3)
    np.testing.assert_allclose(record.ramp_rad_per_px, (0.021, -0.034), atol=2e-5)
    assert record.gauge_abs == pytest.approx(1.7, rel=1e-3)
    np.testing.assert_allclose(aligned, CUT, atol=5e-3)
    assert len(record.corrected) == 3
    assert record.corrected[1] == "phase ramp of (0.021, -0.034) rad/px (row, column)"
    assert record.corrected[2].startswith("complex factor 1.7 exp(")
    assert record.not_corrected == ()


def test_a_ramp_is_told_when_it_was_not_asked_for():
    rows, cols = pixels(WIDE)
    aligned, record = wide(OBJECT * np.exp(-0.002j * rows - 0.001j * cols), mode="gauge")
    assert record.ramp_rad_per_px is None
    np.testing.assert_allclose(record.ramp_found_rad_per_px, (0.002, 0.001), atol=1e-5)
    assert record.not_corrected == ("phase ramp of (0.002, 0.001) rad/px (row, column): its removal was not asked for",)
    assert np.abs(aligned - CUT).max() > 0.05


def test_a_reconstruction_of_noise_is_not_shifted():
    image = 1 + noise(0.2)
    aligned, record = wide(image)
    assert record.shift_rc_px is None
    assert "not believed: the images correlate by" in record.not_corrected[0]
    factor = record.gauge_abs * np.exp(1j * record.gauge_arg_rad)
    np.testing.assert_allclose(aligned, image[CANVAS.slices_of(REGION)] * factor, rtol=1e-4, atol=1e-5)


def test_a_shift_at_the_limit_or_off_the_canvas_is_not_taken_out():
    _, at_limit = wide(moved((3.0, 0.0)), limit=2.0)
    assert at_limit.shift_rc_px is None
    assert "not believed: it is at the limit of 2 px" in at_limit.not_corrected[0]
    _, outside = on_region(moved((1.0, 0.0))[CANVAS.slices_of(REGION)], CUT, mode="register")
    assert outside.shift_rc_px is None
    assert "the shifted window would leave the reconstruction" in outside.not_corrected[0]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda a: a.conj(), "conjugated: undone, it fits better (1.00 against 0."),
        (lambda a: a[::-1, ::-1], "rotated by 180 degrees: undone"),
        (lambda a: a[:, ::-1], "mirrored left to right: undone"),
    ],
)
def test_another_orientation_is_told_and_not_turned_back(change, sentence):
    recon = np.ascontiguousarray(change(CUT))
    aligned, record = on_region(recon, CUT, mode="register")
    assert any(text.startswith(sentence) for text in record.not_corrected)
    assert not any("ramp" in text for text in record.not_corrected)
    assert record.shift_rc_px is None
    np.testing.assert_allclose(aligned / recon, aligned[0, 0] / recon[0, 0], rtol=1e-4)


def test_a_quarter_turn_is_told():
    square = OBJECT[:101, :101]
    _, record = on_region(np.rot90(square).copy(), square)
    assert any(text.startswith("rotated by 90 degrees: undone") for text in record.not_corrected)


def test_rotation_and_magnification_are_told_and_left():
    middle = np.array([(REGION.r0 + REGION.r1 - 1) / 2, (REGION.c0 + REGION.c1 - 1) / 2])
    rows, cols = pixels(WIDE, (CANVAS.origin_rc_px[0] - middle[0], CANVAS.origin_rc_px[1] - middle[1]))
    turn = np.radians(1.0)
    turned = scene(
        middle[0] + rows * np.cos(turn) - cols * np.sin(turn), middle[1] + rows * np.sin(turn) + cols * np.cos(turn)
    )
    _, record = wide(turned, mode="gauge")
    assert abs(record.distortion.rotation_deg) == pytest.approx(1, abs=0.03)
    assert any("deg is not corrected" in text for text in record.not_corrected)
    assert not any("magnification" in text for text in record.not_corrected)
    _, record = wide(scene(middle[0] + rows / 1.01, middle[1] + cols / 1.01), mode="gauge")
    assert record.distortion.magnification == pytest.approx(1.01, abs=5e-4)
    assert any(text.startswith("magnification of 1.0") for text in record.not_corrected)
    assert not any("rotation" in text for text in record.not_corrected)


@pytest.mark.parametrize("mode", ["none", "gauge", "register"])
@pytest.mark.parametrize("phase_ramp", [False, True])
@pytest.mark.parametrize("canonical", [None, 61])
def test_a_stored_record_does_the_same_again_bit_by_bit(mode, phase_ramp, canonical):
    rows, _ = pixels(WIDE)
    recon = ((moved((0.5, -0.75)) * np.exp(0.01j * rows) + noise(0.05)) * 0.3j).astype(np.complex64)
    grid = grid_for(REGION, canonical=canonical)
    truth = sample(OBJECT, CANVAS, grid)
    aligned, record = align(recon, CANVAS, truth, grid, mode=mode, phase_ramp=phase_ramp, max_shift_px=4.0)
    stored = json.loads(json.dumps(record.record(), allow_nan=False))
    again = apply(recon, CANVAS, grid, stored)
    assert aligned.dtype == again.dtype == np.complex64
    np.testing.assert_array_equal(again, aligned)
    np.testing.assert_allclose(record.registration.shift_rc_px, (0.5, -0.75), atol=0.03)
    np.testing.assert_allclose(record.ramp_found_rad_per_px, (-0.01, 0), atol=2e-4)
    assert stored["order"] == ["crop", "shift", "phase ramp", "complex factor"]
    assert isinstance(stored["corrected"], list)


@pytest.mark.parametrize("canonical", [41, 246])
def test_shift_and_ramp_are_in_truth_pixels_on_every_grid(canonical):
    """The longer side has 123 px: samples 3 px and half a pixel apart."""
    rows, cols = pixels(WIDE, CANVAS.origin_rc_px)
    recon = scene(rows - 0.5, cols + 1.25, highest=0.25) * np.exp(-1j * (0.02 * rows - 0.03 * cols))
    truth = scene(rows, cols, highest=0.25)
    grid = grid_for(REGION, canonical=canonical)
    target = sample(truth, CANVAS, grid)
    aligned, record = align(
        recon.astype(np.complex64), CANVAS, target, grid, mode="register", phase_ramp=True, max_shift_px=5.0
    )  # fmt: skip
    np.testing.assert_allclose(record.shift_rc_px, (0.5, -1.25), atol=0.02)
    np.testing.assert_allclose(record.ramp_rad_per_px, (0.02, -0.03), atol=1e-4)
    np.testing.assert_allclose(aligned, target, atol=0.01)


def test_another_pixel_size_is_aligned_in_truth_pixels():
    """A reconstruction with pixels half as large, shifted by (1.5, -0.5) truth pixels, with a ramp over truth pixels."""
    shape, origin = (260, 300), (-6, 10)
    rows, cols = pixels(shape, origin)
    ramp = np.exp(-1j * (0.02 * rows / 2 + 0.01 * cols / 2))
    recon = (scene(rows / 2 - 1.5, cols / 2 + 0.5, highest=0.3) * ramp).astype(np.complex64)
    truth = scene(*pixels(REGION.shape, (REGION.r0, REGION.c0)), highest=0.3)
    aligned, record = align(
        recon, Canvas(origin, shape), truth, GRID, mode="register", phase_ramp=True, max_shift_px=5.0, pixel_ratio=2.0
    )  # fmt: skip
    np.testing.assert_allclose(record.shift_rc_px, (1.5, -0.5), atol=0.01)
    np.testing.assert_allclose(record.ramp_rad_per_px, (0.02, 0.01), atol=1e-4)
    np.testing.assert_allclose(aligned, truth, atol=0.03)


def test_a_reconstruction_of_zeros_has_no_factor_and_stays():
    aligned, record = on_region(np.zeros(SHAPE, dtype=np.complex64), picture(), mode="register", phase_ramp=True)
    assert record.gauge_abs is record.scale_error is record.ramp_rad_per_px is record.ramp_found_rad_per_px is None
    assert not aligned.any()
    assert record.record()["correlation"] == 0
    assert record.not_corrected == (
        "shift not looked for: the reconstruction has no structure",
        "complex factor: there is none, the reconstruction is zero",
    )


@pytest.mark.parametrize(("recon", "truth"), [(1.0, None), (None, 2.0), (1.0, 2.0), (None, 0.0)])
def test_constant_images_have_a_defined_answer(recon, truth):
    flat = {value: np.full(SHAPE, value, dtype=np.complex64) for value in (0.0, 1.0, 2.0)}
    aligned, record = on_region(
        picture() if recon is None else flat[recon], picture() if truth is None else flat[truth], mode="register"
    )
    assert np.isfinite(aligned).all()
    assert record.shift_rc_px is None
    assert "has no structure" in record.not_corrected[0]
    json.dumps(record.record(), allow_nan=False)


@pytest.mark.parametrize("shape", [(4, 5), (1, 1), (2, 400)])
@pytest.mark.parametrize("mode", ["gauge", "register"])
def test_tiny_regions_are_gauged_and_not_registered(shape, mode):
    truth = scene(*pixels(shape))
    aligned, record = on_region((0.5 * truth).astype(np.complex64), truth, mode=mode, phase_ramp=True)
    np.testing.assert_allclose(aligned, truth, atol=1e-4)
    assert record.distortion is None
    assert "too few" in record.not_corrected[0]
    json.dumps(record.record(), allow_nan=False)


@pytest.mark.parametrize("scale", [1e-15, 1e12])
def test_units_of_any_size_are_aligned_alike(scale):
    aligned, record = wide(moved((0.5, -0.25)) * scale)
    np.testing.assert_allclose(aligned, CUT, atol=2e-3)
    assert record.gauge_abs == pytest.approx(1 / scale, rel=1e-3)


def test_a_rectangle_as_large_as_the_reconstruction_is_no_reason_to_complain():
    """A shift too small to matter needs no pixel beyond the rectangle."""
    _, record = on_region((CUT + noise(0.02)[CANVAS.slices_of(REGION)]).astype(np.complex64), CUT, mode="register")
    assert record.registration.shift_rc_px != (0.0, 0.0)
    assert record.registration.believed
    assert record.not_corrected == ()


def test_bad_input_is_refused():
    broken = OBJECT.copy()
    broken[50, 60] = np.nan
    with pytest.raises(ValueError, match="reconstruction has 1 values that are NaN"):
        wide(broken)
    with pytest.raises(ValueError, match="sample it on the grid first"):
        align(OBJECT, CANVAS, OBJECT, GRID, mode="gauge", phase_ramp=False, max_shift_px=5.0)
    with pytest.raises(ContractError, match="leaves the canvas"):
        align(
            OBJECT, CANVAS, CUT, Grid(Region(30, 127, 19, 142)), mode="gauge", phase_ramp=False, max_shift_px=5.0
        )  # fmt: skip
