"""Scaling (T3, D2, D21, D22, D26): alpha and s by hand, round trip to counts, train frames only."""

import numpy as np
import pytest

from ptychoflow.data.normalize import counts_from_input, measure_normalization, network_input
from ptychoflow.errors import ContractError

N = 17
PROBE = (np.random.default_rng(1).normal(size=(N, N)) + 1j).astype(np.complex64)


def amplitudes(seed: int = 0, frames: int = 23) -> np.ndarray:
    return np.sqrt(np.random.default_rng(seed).poisson(37, (frames, N, N))).astype(np.float32)


def measure(a, frames=None, photons=1.0):
    return measure_normalization(
        a, np.arange(len(a)) if frames is None else frames, PROBE, photons_per_intensity=photons
    )


def test_mean_energy_of_the_network_input_is_a_quarter_of_n_squared():
    """Closed form of physics section 6: mean over frames of sum X^2 = (N/2)^2."""
    a = amplitudes()
    x = network_input(a, measure(a))
    assert np.sum(x.astype(float) ** 2) / len(a) == pytest.approx((N / 2) ** 2, rel=1e-6)


def test_counts_survive_the_round_trip():
    a = amplitudes()
    norm = measure(a)
    assert np.allclose(counts_from_input(network_input(a, norm), norm), np.round(a.astype(float) ** 2), rtol=1e-5)


def test_published_scales_come_out_at_mean_energy():
    """The closed form s = sqrt(photons) / (N/2) is exact when s comes from the data and photons from the same frames."""
    a = amplitudes()
    photons = np.mean(np.sum(a.astype(float) ** 2, axis=(1, 2)))
    assert measure(a).intensity_scale == pytest.approx(np.sqrt(photons) / (N / 2))


def test_uint16_frames_do_not_overflow():
    """D2: 300^2 = 90000 does not fit uint16."""
    frames = np.full((3, N, N), 300, dtype=np.uint16)
    assert measure(frames).mean_counts_per_pixel == pytest.approx(90000)


def test_only_train_frames_count():
    a = amplitudes()
    a[10:] *= 5
    assert measure(a, np.arange(10)) == measure(a[:10])


def test_two_data_sets_in_one_process_do_not_share_a_scale():
    first, second = amplitudes(0), 3 * amplitudes(1)
    alone = measure(second)
    measure(first)
    assert measure(second) == alone


def test_dark_frames_are_refused():
    with pytest.raises(ContractError, match="no signal"):
        measure(np.zeros((3, N, N), dtype=np.float32))
