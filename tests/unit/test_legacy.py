"""Legacy scores of published tables. Oracles: the reference's formulas written out in loops, closed forms."""

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ptychoflow.metrics.legacy import bin_crossing, legacy_scores, ring_correlation, without_plane

SHAPE = (45, 38)
NAMES = {f"legacy_{name}" for name in ("mae", "mse", "psnr", "ssim", "ms_ssim", "frc50", "frc1over7")}


def picture(seed: int = 0, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    rng = np.random.default_rng(seed)
    amplitude = 1 + gaussian_filter(rng.normal(size=shape), 1.5)
    return (amplitude * np.exp(2j * gaussian_filter(rng.normal(size=shape), 2))).astype(np.complex64)


def noisy(image: np.ndarray, level: float = 0.1) -> np.ndarray:
    rng = np.random.default_rng(9)
    return (image + level * (rng.normal(size=image.shape) + 1j * rng.normal(size=image.shape))).astype(np.complex64)


def parts(recon: np.ndarray, truth: np.ndarray, trim: int = 2) -> tuple[np.ndarray, ...]:
    """Trimmed amplitudes with one mean, and phases without planes by a general least-squares solver."""
    h, w = truth.shape
    r, t = (image[trim : h - trim, trim : w - trim].astype(np.complex128) for image in (recon, truth))
    row, col = np.mgrid[: r.shape[0], : r.shape[1]]
    design = np.stack([row.ravel(), col.ravel(), np.ones(row.size)], axis=1)
    phases = []
    for image in (r, t):
        phase = np.angle(image).ravel()
        phases.append((phase - design @ np.linalg.lstsq(design, phase)[0]).reshape(r.shape))
    return abs(r) * abs(t).mean() / abs(r).mean(), abs(t), *phases


def ssim_by_loops(x: np.ndarray, y: np.ndarray, data_range: float) -> float:
    """Every 7 x 7 window inside the image, sample variances (n - 1)."""
    c1, c2, values = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2, []
    for i in range(x.shape[0] - 6):
        for j in range(x.shape[1] - 6):
            a, b = x[i : i + 7, j : j + 7].ravel(), y[i : i + 7, j : j + 7].ravel()
            cov = np.cov(a, b)
            luminance = (2 * a.mean() * b.mean() + c1) / (a.mean() ** 2 + b.mean() ** 2 + c1)
            values.append(luminance * (2 * cov[0, 1] + c2) / (cov[0, 0] + cov[1, 1] + c2))
    return float(np.mean(values))


def ms_ssim_by_loops(x: np.ndarray, y: np.ndarray) -> float:
    data_range, product = max(x.max() - x.min(), y.max() - y.min()), 1.0
    for weight in (0.0448, 0.2856, 0.3001, 0.2363, 0.1333):
        if min(x.shape) < 7:
            break
        value = ssim_by_loops(x, y, data_range)
        product *= (1e-4 if value < 0 else value) ** weight
        x, y = x[::2, ::2], y[::2, ::2]
    return product


def curve_by_loops(x: np.ndarray, y: np.ndarray) -> list[float]:
    side = min(x.shape)
    top, left = (x.shape[0] - side) // 2, (x.shape[1] - side) // 2
    spectra = [np.fft.fftshift(np.fft.fft2(image[top : top + side, left : left + side])) for image in (x, y)]
    rings: dict[int, list[tuple[complex, complex]]] = {}
    for i in range(side):
        for j in range(side):
            q = round(math.sqrt((i - side // 2) ** 2 + (j - side // 2) ** 2))
            rings.setdefault(q, []).append((spectra[0][i, j], spectra[1][i, j]))
    return [
        abs(sum(a * b.conjugate() for a, b in rings[q]))
        / math.sqrt(sum(abs(a) ** 2 for a, _ in rings[q]) * sum(abs(b) ** 2 for _, b in rings[q]))
        for q in range(len(rings))
    ]


def crossing_by_loops(curve: list[float], threshold: float) -> float:
    for q, value in enumerate(curve):
        if value < threshold:
            return 0.0 if q == 0 else q - 1 + (curve[q - 1] - threshold) / (curve[q - 1] - value)
    return float(len(curve))


@pytest.mark.parametrize("trim", [2, 0])
@pytest.mark.parametrize("shape", [SHAPE, (38, 45), (31, 31)])
def test_all_legacy_scores_are_those_written_out(shape: tuple[int, int], trim: int):
    """Oracle: numpy loops over windows, rings and scales; numpy's least squares for the planes."""
    truth = picture(shape=shape)
    ramp = np.exp(0.01j * np.arange(shape[1]) - 0.02j * np.arange(shape[0])[:, None])
    recon = noisy((3 * ramp * truth).astype(np.complex64))
    a, b, p, q = parts(recon, truth, trim)
    mapped = [(phase + math.pi) / (2 * math.pi) for phase in (p, q)]
    scores = legacy_scores(recon, truth, trim_px=trim)
    expected = {
        "amp": (
            a,
            b,
            ssim_by_loops(a, b, b.max() - b.min()),
            ms_ssim_by_loops(*(gaussian_filter(x, 1.0) for x in (a, b))),
        ),
        "phase": (p, q, ssim_by_loops(*mapped, 1.0), ms_ssim_by_loops(*mapped)),
    }
    for part, (x, y, ssim, ms_ssim) in expected.items():
        found = {name: score.value for name, score in scores[part].items()}
        assert set(found) == NAMES
        assert found["legacy_mae"] == pytest.approx(abs(x - y).mean())
        assert found["legacy_mse"] == pytest.approx(((x - y) ** 2).mean())
        assert found["legacy_psnr"] == pytest.approx(20 * math.log10(255) - 10 * math.log10(((x - y) ** 2).mean()))
        assert found["legacy_ssim"] == pytest.approx(ssim, abs=1e-10)
        assert found["legacy_ms_ssim"] == pytest.approx(ms_ssim, abs=1e-10)
        curve = curve_by_loops(x, y)
        np.testing.assert_allclose(ring_correlation(x, y)[1:], curve[1:], atol=1e-10)
        assert found["legacy_frc50"] == pytest.approx(crossing_by_loops(curve, 0.5), abs=1e-8)
        assert found["legacy_frc1over7"] == pytest.approx(crossing_by_loops(curve, 1 / 7), abs=1e-8)


def test_a_known_error_gives_known_decibels():
    """Closed form: a checkerboard error of 0.1 is 20 dB below a peak of 1 and 68.13 dB below one of 255 (D54)."""
    truth = np.full(SHAPE, 2.0, dtype=np.complex64)
    board = np.indices(SHAPE).sum(axis=0) % 2 * 2 - 1
    scores = legacy_scores((truth + 0.1 * board).astype(np.complex64), truth, trim_px=0)["amp"]
    # An even number of pixels: the error's mean is 0 and the gauge 1.
    assert scores["legacy_mae"].value == pytest.approx(0.1, rel=1e-5)
    assert scores["legacy_psnr"].value == pytest.approx(20 + 48.1308, abs=1e-3)
    assert scores["legacy_psnr"].range == 255


def test_the_amplitude_has_the_mean_of_the_truth_and_nothing_else():
    """Any factor of the reconstruction is gone; with a single bright half it is not the least-squares one."""
    truth = picture()
    once, twice = legacy_scores(noisy(truth), truth), legacy_scores((5j * noisy(truth)).astype(np.complex64), truth)
    for name in ("legacy_mae", "legacy_ssim", "legacy_ms_ssim", "legacy_frc50"):
        assert twice["amp"][name].value == pytest.approx(once["amp"][name].value, rel=1e-4)
    half = np.where(np.arange(SHAPE[1]) < 19, 1.0, 3.0) * np.ones(SHAPE)
    scores = legacy_scores(half.astype(np.complex64), np.full(SHAPE, 4.0, dtype=np.complex64), trim_px=0)["amp"]
    assert scores["legacy_mae"].value == pytest.approx(2)


def test_a_plane_is_removed_from_the_truth_too():
    """The fault of D60, reproduced: a true ramp of the truth, however large an error, does not count."""
    ramp = np.exp(0.03j * np.arange(SHAPE[1]) + 0.02j * np.arange(SHAPE[0])[:, None])
    scores = legacy_scores(np.ones(SHAPE, dtype=np.complex64), ramp.astype(np.complex64))["phase"]
    assert scores["legacy_mae"].value == pytest.approx(0, abs=1e-6)
    assert scores["legacy_frc50"].reason == "truth_zero"


@pytest.mark.parametrize("shape", [(5, 8), (1, 6), (6, 1), (1, 1)])
def test_the_plane_of_any_shape_is_that_of_least_squares(shape: tuple[int, int]):
    """Oracle: numpy's solver, of least norm where a side has one pixel."""
    image = np.random.default_rng(1).normal(size=shape)
    row, col = np.indices(shape)
    design = np.stack([row.ravel(), col.ravel(), np.ones(image.size)], axis=1)
    expected = image.ravel() - design @ np.linalg.lstsq(design, image.ravel())[0]
    np.testing.assert_allclose(without_plane(image), expected.reshape(shape), atol=1e-12)


def test_trimming_takes_that_many_pixels_off_each_side_and_none_for_zero():
    """D59: what lies in the trimmed frame is not seen; without a trim it is."""
    truth = picture()
    recon = noisy(truth)
    framed = recon.copy()
    for edge in (np.s_[:2], np.s_[-2:], np.s_[:, :2], np.s_[:, -2:]):
        framed[edge] = 50
    assert legacy_scores(framed, truth) == legacy_scores(recon, truth)
    assert legacy_scores(framed, truth, trim_px=1)["amp"]["legacy_mae"].value > 0.1
    assert legacy_scores(framed[2:-2, 2:-2], truth[2:-2, 2:-2], trim_px=0) == legacy_scores(recon, truth)


def test_the_blur_reaches_the_amplitude_only():
    truth = picture()
    plain, blurred = (legacy_scores(noisy(truth), truth, ms_ssim_sigma=sigma) for sigma in (0.0, 1.5))
    assert blurred["amp"]["legacy_ms_ssim"].value > plain["amp"]["legacy_ms_ssim"].value + 0.01
    assert blurred["phase"]["legacy_ms_ssim"] == plain["phase"]["legacy_ms_ssim"]
    assert blurred["amp"]["legacy_ms_ssim"].settings == {"sigma_px": 1.5, "levels": 3}
    assert blurred["amp"]["legacy_ssim"] == plain["amp"]["legacy_ssim"]


def test_a_crossing_lies_in_bins():
    """Closed forms of 1.2: between bins 1 and 2; none; at once; and no energy."""
    assert bin_crossing(np.array([0.9, 0.7, 0.3, 0.9]), 0.5).value == pytest.approx(1.5)
    assert bin_crossing(np.array([0.9, 0.7, 0.6, 0.9]), 0.5).value == 4
    assert bin_crossing(np.array([0.4, 0.7, 0.6, 0.9]), 0.5).value == 0
    assert bin_crossing(np.array([np.nan, 0.9, 0.1]), 0.5).value == pytest.approx(1.5)
    assert bin_crossing(np.full(4, np.nan), 0.5).reason == "no_energy"


def test_an_anti_phase_image_correlates_in_the_legacy_curve():
    """The fault of D56, reproduced: the modulus."""
    image = np.random.default_rng(3).normal(size=SHAPE)
    np.testing.assert_allclose(ring_correlation(image, -image), 1)


def test_an_equal_image_has_no_decibels_and_never_crosses():
    scores = legacy_scores(picture(), picture())
    for block in scores.values():
        assert block["legacy_mae"].value == 0
        assert (block["legacy_psnr"].value, block["legacy_psnr"].reason) == (None, "identical")
        assert block["legacy_ssim"].value == block["legacy_ms_ssim"].value == pytest.approx(1)
        # The central square of 34 px: the corner lies 17 sqrt(2) = 24.04 from the middle, so bins 0 to 24.
        assert (block["legacy_frc50"].status, block["legacy_frc50"].value) == ("never", 25)


def test_a_dark_reconstruction_has_no_amplitude_scores():
    scores = legacy_scores(np.zeros(SHAPE, dtype=np.complex64), picture())
    assert {score.reason for score in scores["amp"].values()} == {"recon_zero"}
    assert scores["phase"]["legacy_mae"].value > 0


def test_a_region_of_nothing_after_the_trim_is_refused():
    with pytest.raises(ValueError, match=r"at least 5 px expected, got an image of shape \(4, 9\)"):
        legacy_scores(picture(shape=(4, 9)), picture(shape=(4, 9)))
