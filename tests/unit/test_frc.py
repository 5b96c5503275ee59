"""Fourier ring correlation (T6, D56, D57). Oracles: a ring loop, a pixel loop with a direct Fourier sum, closed forms."""

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ptychoflow.metrics.frc import FrcCurve, crossing, frc, frc_scores, half_bit

SHAPE = (45, 62)


def noise(seed: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def curve(*values: float) -> FrcCurve:
    count = len(values)
    return FrcCurve(np.arange(1, count + 1) / count, np.array(values, dtype=float), np.full(count, 10))


def by_definition(first: np.ndarray, second: np.ndarray) -> list[float]:
    """The formula of the module, one ring and one image at a time."""
    side = min(first.shape)
    window = np.outer(*(np.sin(np.pi * (np.arange(length) + 0.5) / length) ** 2 for length in first.shape))
    spectra = [np.fft.fft2((image - np.average(image, weights=window)) * window) for image in (first, second)]
    row, col = np.meshgrid(*(np.fft.fftfreq(length) for length in first.shape), indexing="ij")
    ring = np.rint(np.sqrt(row**2 + col**2) * side)
    found = []
    for q in range(1, side // 2 + 1):
        a, b = spectra[0][ring == q], spectra[1][ring == q]
        found.append((a * b.conj()).sum().real / np.sqrt((abs(a) ** 2).sum() * (abs(b) ** 2).sum()))
    return found


@pytest.mark.parametrize("shape", [SHAPE, (62, 45), (33, 33), (16, 90)])
def test_the_curve_is_that_of_the_definition(shape: tuple[int, int]):
    first = noise(0, shape) + 1j * noise(1, shape)
    second = first + noise(2, shape)
    result = frc(first, second)
    np.testing.assert_allclose(result.correlation, by_definition(first, second), atol=1e-12)
    parts = first.real, second.real
    np.testing.assert_allclose(frc(*parts).correlation, by_definition(*parts), atol=1e-12)
    # A real image beside a complex one: the whole spectrum.
    np.testing.assert_allclose(frc(first, second.real).correlation, by_definition(first, second.real), atol=1e-12)
    assert len(result.frequency_nyquist) == min(shape) // 2
    assert result.frequency_nyquist[-1] <= 1
    np.testing.assert_allclose(np.diff(result.frequency_nyquist), 2 / min(shape))


@pytest.mark.parametrize("shape", [(9, 7), (7, 10), (8, 11)])
@pytest.mark.parametrize("real", [True, False])
def test_the_curve_of_a_small_image_pixel_by_pixel(shape: tuple[int, int], real: bool):
    """Oracle: every frequency by its own Fourier sum over pixels, put into its ring in plain Python."""
    images = [noise(seed, shape) + (0 if real else 1j * noise(seed + 9, shape)) for seed in (3, 4)]
    images[1] = images[1] + images[0]
    h, w = shape
    window = [
        [math.sin(math.pi * (r + 0.5) / h) ** 2 * math.sin(math.pi * (c + 0.5) / w) ** 2 for c in range(w)]
        for r in range(h)
    ]
    mean = [
        sum(image[r, c] * window[r][c] for r in range(h) for c in range(w)) / sum(map(sum, window)) for image in images
    ]
    rings: dict[int, list[tuple[complex, complex]]] = {}
    for u in range(-(h // 2), h - h // 2):
        for v in range(-(w // 2), w - w // 2):
            pair = tuple(
                sum(
                    (image[r, c] - m) * window[r][c] * np.exp(-2j * math.pi * (u * r / h + v * c / w))
                    for r in range(h)
                    for c in range(w)
                )
                for image, m in zip(images, mean, strict=True)
            )
            rings.setdefault(round(math.hypot(u / h, v / w) * min(shape)), []).append(pair)
    found = frc(*images)
    for q, value, samples in zip(range(1, min(shape) // 2 + 1), found.correlation, found.n_samples, strict=True):
        cross = sum((a * b.conjugate()).real for a, b in rings[q])
        power = [sum(abs(pair[i]) ** 2 for pair in rings[q]) for i in (0, 1)]
        assert value == pytest.approx(cross / math.sqrt(power[0] * power[1]), abs=1e-12)
        assert samples == (math.ceil(len(rings[q]) / 2) if real else len(rings[q]))


def test_an_equal_image_correlates_in_every_ring_and_never_crosses():
    image = noise(0) + 1j * noise(1)
    np.testing.assert_allclose(frc(image, image).correlation, 1, atol=1e-12)
    np.testing.assert_allclose(frc(image, 3 * image + 7).correlation, 1, atol=1e-12)
    scores = frc_scores(frc(image, image))
    for name in ("frc50", "frc1over7", "frc_halfbit"):
        assert (scores[name].status, scores[name].value) == ("never", 1)
    for name in ("resolution_px", "resolution_1over7_px"):
        assert (scores[name].status, scores[name].value) == ("never", 2)
    assert scores["frc_area"].value == pytest.approx(1)


def test_an_anti_phase_image_correlates_negatively():
    """D56: a modulus would give +1."""
    np.testing.assert_allclose(frc(noise(0), -noise(0)).correlation, -1, atol=1e-12)
    assert crossing(frc(noise(0), -noise(0)), 0.5).status == "starts_below"


def test_independent_noise_has_no_floor():
    """The mean over rings is zero within its error; the modulus would stay positive (D56)."""
    means = [frc(noise(2 * seed), noise(2 * seed + 1)).correlation.mean() for seed in range(40)]
    assert abs(np.mean(means)) < 4 * np.std(means) / np.sqrt(len(means))
    assert np.mean(means) < 0.03


def test_shared_edges_and_offsets_do_not_correlate():
    """A constant, however large, is gone before the rings: the curve is that of the images without it."""
    plain = frc(noise(0), noise(1)).correlation
    np.testing.assert_allclose(frc(noise(0) + 1e4, noise(1) + 1e4).correlation, plain, atol=1e-8)


def test_real_images_have_half_the_independent_samples():
    real, complex_ = frc(noise(0), noise(0)), frc(noise(0) + 0j, noise(0))
    np.testing.assert_array_equal(real.n_samples, np.ceil(complex_.n_samples / 2))
    # All frequencies up to ring L//2 (f = 22.5 / 45): a disc of that radius in a field of H W samples.
    assert complex_.n_samples.sum() == pytest.approx(np.pi * 0.5**2 * SHAPE[0] * SHAPE[1], rel=0.02)


def test_a_constant_image_has_no_curve_and_no_crossing():
    """D57: null with a reason, for any constant and dtype."""
    for flat in (np.full(SHAPE, 0.1, dtype=np.float32), np.full(SHAPE, 1e3), np.zeros(SHAPE)):
        result = frc(flat, noise(0))
        assert np.isnan(result.correlation).all()
        assert crossing(result, 0.5).value is None
        assert crossing(result, 0.5).reason == "no_energy"


def test_crossing_is_interpolated_and_needs_two_rings():
    found = crossing(curve(0.9, 0.7, 0.3, 0.2, 0.1), 0.5)
    assert (found.status, found.value) == ("crossed", pytest.approx(0.5))
    # One low ring is a dip: the crossing is the later one, between 0.6 (ring 5) and 0.4 (ring 6).
    assert crossing(curve(0.9, 0.3, 0.9, 0.7, 0.6, 0.4, 0.3, 0.1), 0.5).value == pytest.approx(5.5 / 8)
    assert crossing(curve(0.9, 0.8, 0.7, 0.2), 0.5).status == "never"
    assert crossing(curve(0.4, 0.3, 0.9, 0.9), 0.5).status == "starts_below"
    assert crossing(curve(0.4, 0.3, 0.9, 0.9), 0.5).value == 0
    assert crossing(curve(0.4, 0.9, 0.2, 0.1), 0.5).status == "crossed"


def test_a_threshold_may_differ_from_ring_to_ring():
    """Lines 0.9 -> 0.5 and 0.6 -> 0.7 between rings 2 and 3 meet where 0.3 - 0.5 s = 0, s = 0.6."""
    found = crossing(curve(0.9, 0.9, 0.5, 0.4, 0.3), np.array([0.5, 0.6, 0.7, 0.8, 0.8]))
    assert (found.status, found.value) == ("crossed", pytest.approx(2.6 / 5))


def test_the_half_bit_curve():
    """Closed forms: 1 at one sample; 0.2071 / 1.2071 = 0.1716 without end; 1/sqrt(n) terms 0.19102 and 0.09102 at 100."""
    found = half_bit(np.array([1, 100, 10**12]))
    np.testing.assert_allclose(found, [1.0, (0.2071 + 0.19102) / (1.2071 + 0.09102), 0.2071 / 1.2071], rtol=1e-4)


def test_the_half_bit_crossing_takes_the_samples_of_each_ring():
    few = FrcCurve(np.arange(1, 7) / 6, np.array([0.9, 0.6, 0.3, 0.2, 0.1, 0.05]), np.full(6, 10))
    many = FrcCurve(few.frequency_nyquist, few.correlation, np.full(6, 10_000))
    # n = 10: (0.2071 + 0.60406) / (1.2071 + 0.28783) = 0.54261; n = 10,000: 0.226202 / 1.216202 = 0.18599.
    assert frc_scores(few)["frc_halfbit"].value == pytest.approx((2 + (0.6 - 0.54261) / 0.3) / 6, abs=1e-5)
    assert frc_scores(many)["frc_halfbit"].value == pytest.approx((4 + (0.2 - 0.18599) / 0.1) / 6, abs=1e-5)


def test_scores_of_a_written_out_curve():
    """Crossing of 0.5 at ring 2.5 of 5, of 1/7 between rings 4 and 5; area: rings at 0.2 and 0.4 Nyquist."""
    scores = frc_scores(curve(0.9, 0.7, 0.3, 0.2, 0.1, 0.05, 0.0, 0.0, 0.0, 0.0))
    assert scores["frc50"].value == pytest.approx(0.25)
    assert scores["resolution_px"].value == pytest.approx(8)
    seventh = (4 + (0.2 - 1 / 7) / 0.1) / 10
    assert scores["frc1over7"].value == pytest.approx(seventh)
    assert scores["resolution_1over7_px"].value == pytest.approx(2 / seventh)
    assert scores["frc_area"].value == pytest.approx((0.9 + 0.7 + 0.3 + 0.2 + 0.1) / 5)
    assert {name: (score.unit, score.direction) for name, score in scores.items()} == {
        "frc50": ("Nyquist", "higher"),
        "frc1over7": ("Nyquist", "higher"),
        "frc_halfbit": ("Nyquist", "higher"),
        "frc_area": ("1", "higher"),
        "resolution_px": ("px", "lower"),
        "resolution_1over7_px": ("px", "lower"),
    }
    assert all(score.settings == {"window": "hann"} for score in scores.values())


def test_a_curve_that_starts_below_has_no_resolution():
    scores = frc_scores(curve(0.1, 0.1, 0.1, 0.1))
    for name in ("frc50", "frc1over7"):
        assert (scores[name].status, scores[name].value) == ("starts_below", 0)
    for name in ("resolution_px", "resolution_1over7_px"):
        assert (scores[name].status, scores[name].value) == ("starts_below", None)
        assert scores[name].reason == "curve_starts_below_the_threshold"


def test_rings_without_energy_are_passed_over():
    found = crossing(curve(0.9, 0.7, np.nan, 0.3, np.nan, 0.2), 0.5)
    assert found.value == pytest.approx((2 + 2 * 0.5) / 6)


def test_doubling_the_field_leaves_the_crossing_in_nyquist_units():
    """T6: the same statistics on twice the field. Two fields average the crossing of random pictures."""

    def frc50(side: int) -> float:
        found = []
        for seed in range(6):
            base = gaussian_filter(noise(seed, (side, side)), 1.2)
            copies = [base + 0.02 * noise(100 * i + seed, (side, side)) for i in (1, 2)]
            found.append(crossing(frc(*copies), 0.5).value)
        return float(np.mean(found))

    assert frc50(512) == pytest.approx(frc50(256), rel=0.02)


@pytest.mark.parametrize(("cut_off", "real"), [(0.13, True), (0.23, True), (0.23, False), (0.37, False)])
def test_an_ideal_low_pass_crosses_at_its_cut_off(cut_off: float, real: bool):
    """Closed form: both images share all below the cut-off (cycles/px) and nothing above: the crossing is there, to a ring."""
    shape = (201, 252)
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1]))

    def part(seed: int, keep: np.ndarray) -> np.ndarray:
        spectrum = np.fft.fft2(noise(seed, shape) + (0 if real else 1j * noise(seed + 50, shape)))
        found = np.fft.ifft2(spectrum * keep)
        return found.real if real else found

    common = part(0, frequency < cut_off)
    first, second = (common + part(seed, frequency >= cut_off) for seed in (1, 2))
    for name in ("frc50", "frc1over7", "frc_halfbit"):
        assert frc_scores(frc(first, second))[name].value == pytest.approx(2 * cut_off, abs=2 / 201)
    assert frc_scores(frc(first, second))["resolution_px"].value == pytest.approx(1 / cut_off, rel=0.03)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_white_images_with_a_common_part_correlate_by_its_share(share: float):
    """Closed form: a common part of variance s and own parts of variance 1 - s give FRC = s in every ring."""
    shape, found = (255, 304), []
    for seed in range(3):
        common, first, second = (noise(10 * seed + i, shape) for i in range(3))
        pair = (np.sqrt(share) * common + np.sqrt(1 - share) * own for own in (first, second))
        found.append(frc(*pair))
    assert np.mean([np.average(c.correlation, weights=c.n_samples) for c in found]) == pytest.approx(share, abs=0.01)
    assert np.mean([frc_scores(c)["frc_area"].value for c in found]) == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize("turn", [lambda x: x.T, lambda x: x[::-1], lambda x: x[:, ::-1]])
def test_transposing_or_flipping_both_images_changes_nothing(turn):
    first = noise(0)
    second = first + noise(1)
    for images in ((first, second), (first + 1j * noise(2), second + 0j)):
        plain, turned = frc(*images), frc(*(turn(image) for image in images))
        np.testing.assert_allclose(turned.correlation, plain.correlation, atol=1e-10)
        np.testing.assert_array_equal(turned.n_samples, plain.n_samples)


def test_the_crossing_of_a_known_signal_to_noise_ratio():
    """Closed form: against the noise-free image FRC = 1 / sqrt(1 + N / S), so 0.5 lies at S = N / 3.

    S(f) of white noise blurred by sigma is exp(-(2 pi sigma f)^2), scaled to the noise level.
    """
    sigma, level, side = 1.2, 0.1, 512
    found = []
    for seed in range(4):
        white = noise(seed, (side, side))
        found.append(crossing(frc(gaussian_filter(white, sigma, mode="wrap") + level * noise(99 + seed, white.shape),
                                  gaussian_filter(white, sigma, mode="wrap")), 0.5).value)  # fmt: skip
    frequency = np.sqrt(-np.log(level**2 / 3)) / (2 * np.pi * sigma)
    assert np.mean(found) == pytest.approx(2 * frequency, rel=0.02)


def test_more_noise_crosses_earlier():
    base = gaussian_filter(noise(0, (130, 141)), 1.5)
    found = [crossing(frc(base + level * noise(5, base.shape), base), 0.5).value for level in (0.02, 0.1, 0.4)]
    assert found[0] > found[1] > found[2]


def test_an_image_that_is_not_finite_is_refused():
    broken = noise(0)
    broken[2, 3] = np.nan
    with pytest.raises(ValueError, match=r"second image, of shape \(45, 62\), are NaN"):
        frc(noise(1), broken)


def test_too_small_an_image_is_refused():
    with pytest.raises(ValueError, match="at least 4 px"):
        frc(np.ones((3, 9)), np.ones((3, 9)))
