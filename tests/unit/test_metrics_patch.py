"""Patch metrics (D23): predicted patches against object patches. Oracles: plain slicing, closed forms."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ptychoflow.metrics.patch import patch_scores

N, SHAPE = 9, (31, 44)
CENTRES = np.array([[4, 4], [12, 30], [25, 17], [26, 39]])


def truth() -> np.ndarray:
    """A non-square object without symmetry; its phase goes round the circle more than once."""
    rng = np.random.default_rng(6)
    amplitude = 1 + gaussian_filter(rng.normal(size=SHAPE), 2)
    phase = np.add.outer(0.31 * np.arange(SHAPE[0]), 0.2 * np.arange(SHAPE[1]))
    return (amplitude * np.exp(1j * phase)).astype(np.complex64)


def probe() -> np.ndarray:
    """A bright, lopsided spot with a phase, far from 1: a label multiplied by it is another picture."""
    row, col = np.mgrid[0:N, 0:N] - N // 2
    return (40 * np.exp(-(row**2 / 9 + col**2 / 4) + 0.4j * row)).astype(np.complex64)


def sliced(image: np.ndarray) -> np.ndarray:
    return np.stack([image[r - N // 2 : r + N // 2 + 1, c - N // 2 : c + N // 2 + 1] for r, c in CENTRES])


def scored(patches: np.ndarray, **options) -> dict:
    arguments = {"truth": truth(), "role": "truth", **options}
    return patch_scores(
        patches.astype(np.complex64), CENTRES.astype(float), arguments.pop("truth"), probe(), **arguments
    )


def test_object_patches_are_perfect_up_to_one_factor_and_illuminated_ones_are_not():
    """D23: the label is the object, not probe times object. Oracle: slices of the object."""
    right = scored(0.25j * sliced(truth()))
    assert right["n_patches"] == len(CENTRES)
    assert right["gauge"]["modulus"] == pytest.approx(4, rel=1e-5)
    assert right["gauge"]["phase_rad"] == pytest.approx(-np.pi / 2, abs=1e-5)
    for name in ("mae_amp", "mse_amp", "mae_phase", "mse_phase"):
        assert right[name]["value"] == pytest.approx(0, abs=1e-5)
    lit = scored(probe() * sliced(truth()))
    assert lit["mae_amp"]["value"] > 0.1
    assert lit["mae_phase"]["value"] > 0.1


def test_known_errors_have_known_scores():
    """Closed form: +-0.1 rad about the truth, and the cut at pi costs nothing. One factor for all patches leaves them."""
    sign = np.where(np.arange(len(CENTRES)) % 2, 1, -1)[:, None, None]
    weight = np.abs(sliced(truth())) ** 2 * (np.abs(probe()) ** 2 >= 0.1 * np.abs(probe()).max() ** 2)
    tilt = np.angle(np.sum(weight * np.exp(-0.1j * sign)))  # the phase of the least-squares factor
    found = scored(sliced(truth()) * np.exp(0.1j * sign))
    assert found["mae_phase"]["value"] == pytest.approx(0.1, abs=1e-5)
    assert found["mse_phase"]["value"] == pytest.approx(0.01 + tilt**2, rel=1e-3)
    assert found["mae_phase"]["unit"] == "rad"


def test_dark_pixels_do_not_count():
    """Where the probe has less than a tenth of its peak intensity nothing was measured."""
    dark = np.abs(probe()) ** 2 < 0.1 * np.abs(probe()).max() ** 2
    assert 0 < dark.sum() < dark.size
    spoiled = np.where(dark, 17.0, sliced(truth()))
    assert scored(spoiled)["mae_amp"]["value"] == pytest.approx(0, abs=1e-5)


def test_a_transposed_patch_is_wrong():
    assert scored(sliced(truth()).transpose(0, 2, 1))["mae_phase"]["value"] > 0.1


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"truth": None, "role": None}, "this scan has none"),
        ({"role": "reference"}, "this scan has reference"),
    ],
)
def test_without_a_truth_there_is_no_score(options, reason):
    assert reason in scored(sliced(truth()), **options)["not_applicable"]


def test_patches_of_zeros_have_no_score():
    assert scored(np.zeros((len(CENTRES), N, N)))["not_applicable"] == "every predicted patch is 0"
