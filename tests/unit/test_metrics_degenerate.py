"""Every score on input that has none (T6): a value, or null with a reason, or a refusal; never NaN, never a warning."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from ptychoflow.metrics.consistency import contrast_correlation, poisson_deviance, r_factor
from ptychoflow.metrics.frc import frc, frc_scores
from ptychoflow.metrics.image import circular_std, image_scores, is_phase_constant, pearson_scores, phase_maps
from ptychoflow.metrics.legacy import legacy_scores
from ptychoflow.metrics.score import Score
from ptychoflow.metrics.ssim import ssim_scores

SHAPE = (181, 177)


def textured(shape: tuple[int, int] = SHAPE) -> np.ndarray:
    rng = np.random.default_rng(4)
    return (rng.uniform(0.5, 2, shape) * np.exp(1j * rng.normal(size=shape))).astype(np.complex64)


def frames(image: np.ndarray) -> np.ndarray:
    """A pixel a frame."""
    return np.abs(image).reshape(-1, 1, 1)


def broken(value: complex) -> np.ndarray:
    image = textured()
    image[5, 6] = value
    return image


INPUT = {
    "textured": textured(),
    "constant": np.full(SHAPE, 0.1 - 0.7j, dtype=np.complex64),
    "constant amplitude": np.exp(1j * textured().real).astype(np.complex64),
    "constant phase": np.abs(textured()).astype(np.complex64),
    "zero": np.zeros(SHAPE, dtype=np.complex64),
    "one bright pixel": np.pad(np.ones((1, 1), dtype=np.complex64), ((90, 90), (80, 96))),
    "tiny": (1e-18 * textured()).astype(np.complex64),
    "huge": (1e18 * textured()).astype(np.complex64),
    "nan": broken(np.nan),
    "infinite": broken(np.inf),
}
SMALL = {
    "empty": (0, 5),
    "one pixel": (1, 1),
    "one row": (1, 9),
    "one column": (9, 1),
    "a corner": (4, 5),
    "a patch": (13, 12),
}

SCORES: dict[str, Callable[[np.ndarray, np.ndarray], Any]] = {
    "image_scores": image_scores,
    "image_scores, blurred": lambda r, t: image_scores(r, t, ms_ssim_sigma=1.0, ms_ssim_levels=1),
    "pearson_scores": pearson_scores,
    "ssim_scores": lambda r, t: ssim_scores([(np.abs(r), np.abs(t))], 1.0),
    "frc, complex": lambda r, t: frc_scores(frc(r, t)),
    "frc, amplitude": lambda r, t: frc_scores(frc(np.abs(r), np.abs(t))),
    "frc, phase": lambda r, t: frc_scores(frc(*phase_maps(r, t))),
    "is_phase_constant": lambda r, t: (is_phase_constant(r), is_phase_constant(t)),
    "circular_std": lambda r, t: (circular_std(np.abs(r)), circular_std(np.abs(t))),
    "legacy_scores": legacy_scores,
    "legacy_scores, untrimmed": lambda r, t: legacy_scores(r, t, trim_px=0, ms_ssim_sigma=0.0),
    "contrast_correlation": lambda r, t: contrast_correlation(frames(r), frames(t)),
    "r_factor": lambda r, t: r_factor(frames(r), frames(t)),
    "poisson_deviance": lambda r, t: poisson_deviance(frames(r), frames(t), photons_per_intensity=1e3),
}


FRAMES = ("contrast_correlation", "r_factor", "poisson_deviance")


def leaves(found: Any) -> Iterator[Any]:
    if isinstance(found, Mapping):
        for value in found.values():
            yield from leaves(value)
    elif isinstance(found, tuple):
        for value in found:
            yield from leaves(value)
    else:
        yield found


def check(score: Callable[[np.ndarray, np.ndarray], Any], recon: np.ndarray, truth: np.ndarray) -> None:
    """Warnings are errors in the whole test run."""
    try:
        found = score(recon, truth)
    except ValueError as error:
        found, refusal = None, str(error)
    if found is None:
        # The shape, or how many frames there are.
        assert re.search(r"\d", refusal)
    for leaf in [] if found is None else leaves(found):
        value = leaf.value if isinstance(leaf, Score) else leaf
        assert value is None or math.isfinite(value)
        assert value is not None or leaf.reason


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("truth", INPUT)
def test_a_score_of_two_images_is_defined(name: str, truth: str):
    for recon in INPUT.values():
        check(SCORES[name], recon, INPUT[truth])


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("size", SMALL)
def test_a_score_of_two_small_images_is_defined(name: str, size: str):
    shape = SMALL[size]
    for recon in (textured(shape), np.zeros(shape, dtype=np.complex64), np.full(shape, np.nan, dtype=np.complex64)):
        check(SCORES[name], recon, textured(shape)[::-1])
        check(SCORES[name], textured(shape)[::-1], recon)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("bad", ["nan", "infinite"])
def test_a_value_that_is_not_finite_is_refused_with_the_shape(name: str, bad: str):
    shape = r"\(32037, 1, 1\)" if name in FRAMES else r"\(181, 177\)"
    for pair in ((INPUT[bad], INPUT["textured"]), (INPUT["textured"], INPUT[bad])):
        with pytest.raises(ValueError, match=shape):
            SCORES[name](*pair)


@pytest.mark.parametrize("name", SCORES)
def test_nothing_is_refused(name: str):
    shape = "0 (measured|predicted) frames" if name in FRAMES else r"\(0, 5\)"
    with pytest.raises(ValueError, match=shape):
        SCORES[name](textured((0, 5)), textured((0, 5)))


@pytest.mark.parametrize(
    "name", [name for name in SCORES if name not in (*FRAMES, "is_phase_constant", "circular_std")]
)
def test_images_of_different_shapes_are_refused(name: str):
    """By the shape check of the test run or, as everywhere, by a message that names both."""
    with pytest.raises((ValueError, TypeError), match=r"177|shape"):
        SCORES[name](textured((181, 177)), textured((177, 181)))


def reasons(recon: str, truth: str) -> dict[str, str | None]:
    found = image_scores(INPUT[recon], INPUT[truth])
    return {f"{part}.{name}": score.reason for part, block in found.items() for name, score in block.items()}


@pytest.mark.parametrize("recon", ["textured", "constant", "zero", "one bright pixel"])
def test_what_a_truth_without_contrast_leaves(recon: str):
    amplitude, phase = reasons(recon, "constant amplitude"), reasons(recon, "constant phase")
    for name in ("psnr", "ssim", "ms_ssim", "pearson", "contrast_ratio"):
        assert amplitude[f"amp.{name}"] == "truth_amplitude_constant"
    assert amplitude["amp.mae"] is None
    for name in ("mae", "mse", "psnr", "ssim", "ms_ssim", "pearson", "contrast_ratio"):
        assert phase[f"phase.{name}"] == "truth_phase_constant"
    assert reasons(recon, "zero")["complex.nrmse"] == "truth_zero"


def test_what_a_reconstruction_without_contrast_gets():
    """It is scored, and badly: contrast 0, and no correlation, for which a constant has none."""
    for recon in ("constant", "zero"):
        scores = image_scores(INPUT[recon], INPUT["textured"])
        for part in ("amp", "phase"):
            assert scores[part]["pearson"].reason == "image_constant"
            assert scores[part]["contrast_ratio"].value == pytest.approx(0, abs=1e-6)
            assert scores[part]["mae"].value > 0.1
            assert scores[part]["ms_ssim"].value < 0.3
        assert frc_scores(frc(INPUT[recon], INPUT["textured"]))["frc50"].reason == "no_energy"
