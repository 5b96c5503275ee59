"""Fourier ring correlation (T6, D56, D57). Oracles: a ring loop over the definition, and closed forms."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ptychoflow.metrics.frc import FrcCurve, crossing, crossings, frc

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
    assert len(result.frequency_nyquist) == min(shape) // 2
    assert result.frequency_nyquist[-1] <= 1
    np.testing.assert_allclose(np.diff(result.frequency_nyquist), 2 / min(shape))


def test_an_equal_image_correlates_in_every_ring_and_never_crosses():
    image = noise(0) + 1j * noise(1)
    np.testing.assert_allclose(frc(image, image).correlation, 1, atol=1e-12)
    np.testing.assert_allclose(frc(image, 3 * image + 7).correlation, 1, atol=1e-12)
    assert crossings(frc(image, image))["frc50"].status == "never"
    assert crossings(frc(image, image))["frc50"].value == 1


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


def test_too_small_an_image_is_refused():
    with pytest.raises(ValueError, match="at least 4 px"):
        frc(np.ones((3, 9)), np.ones((3, 9)))
