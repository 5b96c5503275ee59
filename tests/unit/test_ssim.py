"""SSIM and MS-SSIM (D55). Oracles: scikit-image, torchmetrics, stored values of TensorFlow, a window at a time, closed forms.

TensorFlow itself judges in tests/tf: it never shares a process with PyTorch.
"""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)

from ptychoflow.metrics.ssim import WEIGHTS, similarity, ssim_scores

SHAPE = (45, 62)


def pair(shape: tuple[int, int] = SHAPE, *, seed: int = 0, noise: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """An image with noise and a smooth error, and its truth around 1."""
    rng = np.random.default_rng(seed)
    truth = 1 + gaussian_filter(rng.normal(size=shape), 2)
    error = noise * rng.normal(size=shape) + noise * gaussian_filter(rng.normal(size=shape), 5)
    return truth + error, truth


def ms_ssim(recon: np.ndarray, truth: np.ndarray, data_range: float, **options: float) -> float:
    return ssim_scores([(recon, truth)], data_range, **options)["ms_ssim"].value


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image[None, None].astype(np.float64))


def weights(levels: int) -> tuple[float, ...]:
    return tuple(weight / sum(WEIGHTS[:levels]) for weight in WEIGHTS[:levels])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [SHAPE, (11, 11), (75, 33), (181, 42)])
def test_ssim_is_that_of_scikit_image_border_included(shape: tuple[int, int], dtype: type):
    """Oracle: scikit-image, in double precision; it too leaves 5 px at each side out of the mean."""
    recon, truth = (image.astype(dtype) for image in pair(shape))
    expected = structural_similarity(
        recon.astype(float), truth.astype(float), data_range=2.5, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False,
    )  # fmt: skip
    assert ssim_scores([(recon, truth)], 2.5)["ssim"].value == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("offset", "scale"), [(1e4, 1.0), (0.0, 1e-9), (0.0, 1e9), (-3.0, 0.02)])
def test_a_large_offset_or_unit_costs_no_precision(offset: float, scale: float):
    """Oracle: scikit-image in double precision. Variances of 1e4 + contrast 1 do not survive single precision as they are."""
    recon, truth = (scale * (image + offset) for image in pair())
    expected = structural_similarity(
        recon, truth, data_range=2.5 * scale, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ssim_scores([(recon, truth)], 2.5 * scale)["ssim"].value == pytest.approx(expected, abs=1e-5)


def test_an_image_of_far_too_large_values_scores_near_zero_and_not_nan():
    recon, truth = pair()
    score = ssim_scores([(1e25 * recon, truth)], 2.5)["ssim"].value
    assert score == pytest.approx(0, abs=1e-6)


def test_the_similarity_of_one_window_is_the_formula():
    """Oracle: the formulas of the paper, written out, on an image of one window."""
    recon, truth = pair((11, 11))
    offset = np.arange(11) - 5
    taps = np.exp(-(offset**2) / 4.5)
    window = np.outer(taps, taps) / taps.sum() ** 2
    mx, my = (window * recon).sum(), (window * truth).sum()
    vx, vy = (window * (recon - mx) ** 2).sum(), (window * (truth - my) ** 2).sum()
    cross = (window * (recon - mx) * (truth - my)).sum()
    c1, c2 = 0.02**2, 0.06**2
    luminance, structure = (2 * mx * my + c1) / (mx**2 + my**2 + c1), (2 * cross + c2) / (vx + vy + c2)
    found = similarity(recon, truth, data_range=2.0)
    assert found.contrast_structure == pytest.approx(structure, abs=1e-6)
    assert found.ssim == pytest.approx(luminance * structure, abs=1e-6)


def test_ssim_of_constant_images_has_a_closed_form():
    """Variances vanish: SSIM = (2 a b + C1) / (a^2 + b^2 + C1), C1 = (0.01 D)^2, on every scale; cs is 1."""
    a, b = np.full((176, 181), 0.4), np.full((176, 181), 0.7)
    c1 = (0.01 * 3) ** 2
    expected = (2 * 0.28 + c1) / (0.16 + 0.49 + c1)
    scores = ssim_scores([(a, b)], 3.0)
    assert scores["ssim"].value == pytest.approx(expected, rel=1e-6)
    assert scores["ms_ssim"].value == pytest.approx(expected ** (0.1333 / 1.0001), rel=1e-6)


@pytest.mark.parametrize(("shape", "seed"), [((272, 512), 1), ((400, 288), 3)])
@pytest.mark.parametrize("noise", [0.03, 0.1, 0.2])
def test_ms_ssim_is_that_of_torchmetrics(shape: tuple[int, int], seed: int, noise: float):
    """D55. Oracle: torchmetrics, whose coarsest scale lets windows reach over the edge: hence sides where that is little."""
    recon, truth = pair(shape, seed=seed, noise=noise)
    expected = multiscale_structural_similarity_index_measure(
        tensor(recon), tensor(truth), data_range=5.0, betas=weights(5)
    )
    assert ms_ssim(recon, truth, 5.0) == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.parametrize(
    ("shape", "levels"), [((176, 192), 5), ((88, 96), 4), ((48, 44), 3), ((26, 22), 2), ((13, 11), 1)]
)
def test_ms_ssim_at_its_smallest_sizes_is_that_of_torchmetrics_without_the_edge(shape: tuple[int, int], levels: int):
    """D55. Oracle: torchmetrics, whose coarsest map is cut to the windows that lie inside, as Wang's code does."""
    recon, truth = pair(shape, seed=levels)
    coarse = [torch.nn.functional.avg_pool2d(tensor(image), 2 ** (levels - 1)) for image in (recon, truth)]
    _, full = structural_similarity_index_measure(*coarse, data_range=5.0, return_full_image=True)
    expected = float(full[..., 5:-5, 5:-5].mean()) ** weights(levels)[-1]
    for level in range(levels - 1):
        fine = [torch.nn.functional.avg_pool2d(tensor(image), 2**level) for image in (recon, truth)]
        _, contrast = structural_similarity_index_measure(*fine, data_range=5.0, return_contrast_sensitivity=True)
        expected *= float(contrast) ** weights(levels)[level]
    assert ms_ssim(recon, truth, 5.0, ms_ssim_levels=levels) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((176, 192), 0.896194), ((201, 235), 0.904245), ((191, 177), 0.896495), ((256, 384), 0.912076)],
)
def test_ms_ssim_is_what_tensorflow_gave(shape: tuple[int, int], expected: float):
    """D55. Oracle: tf.image.ssim_multiscale of TensorFlow 2.20.0 on the same closed-form images."""
    recon, truth = waves(shape)
    assert ms_ssim(recon, truth, 2.0) == pytest.approx(expected, abs=1e-4)


def test_one_level_is_ssim():
    recon, truth = pair()
    scores = ssim_scores([(recon, truth)], 2.5, ms_ssim_levels=1)
    assert scores["ms_ssim"].value == pytest.approx(scores["ssim"].value, rel=1e-12)


def test_an_offset_counts_at_the_coarsest_scale_only():
    """Luminance alone changes: MS-SSIM is the power w_5 of the coarsest SSIM, where the reference would multiply five of them."""
    _, truth = pair((181, 176))
    offset = ms_ssim(truth + 0.3, truth, 1.0)
    coarse = truth
    for _ in range(4):
        coarse = np.pad(coarse, [(0, length % 2) for length in coarse.shape], mode="edge")
        coarse = coarse.reshape(coarse.shape[0] // 2, 2, -1, 2).mean(axis=(1, 3))
    mean = similarity(coarse + 0.3, coarse, data_range=1.0).ssim
    assert mean < 0.97
    assert offset == pytest.approx(mean ** (0.1333 / 1.0001), abs=1e-6)


def test_anti_correlated_images_score_zero():
    """A negative contrast-structure counts as 0 and never makes a power of a negative number."""
    _, truth = pair((176, 179))
    assert ms_ssim(2 - truth, truth, 0.1) == 0


def test_the_blur_is_of_both_images_and_before_all_scales():
    """Oracle: scipy's Gaussian filter, outside. SSIM beside it is of the images as they are."""
    recon, truth = pair((176, 181))
    found = ssim_scores([(recon, truth)], 2.5, ms_ssim_sigma=1.0)
    outside = ssim_scores([(gaussian_filter(recon, 1.0), gaussian_filter(truth, 1.0))], 2.5)
    plain = ssim_scores([(recon, truth)], 2.5)
    assert found["ms_ssim"].value == pytest.approx(outside["ms_ssim"].value, abs=1e-9)
    assert found["ms_ssim"].value > plain["ms_ssim"].value + 0.01
    assert found["ssim"] == plain["ssim"]
    assert found["ms_ssim"].record()["settings"] == {"sigma_px": 1.0, "levels": 5}
    assert plain["ms_ssim"].record()["settings"] == {"sigma_px": 0.0, "levels": 5}


@pytest.mark.parametrize(("levels", "need"), [(5, 176), (4, 88), (3, 44), (2, 22), (1, 11)])
def test_an_image_too_small_has_no_ms_ssim_and_says_what_it_needs(levels: int, need: int):
    for shape in ((need - 1, need + 30), (need + 30, need - 1)):
        score = ssim_scores([pair(shape)], 2.5, ms_ssim_levels=levels)["ms_ssim"]
        assert score.value is None
        assert score.reason == f"region_smaller_than_{need}_px"
        assert score.settings == {"sigma_px": 0.0, "levels": levels}
    assert ssim_scores([pair((need, need + 30))], 2.5, ms_ssim_levels=levels)["ms_ssim"].value < 1


def test_equal_images_score_exactly_one_and_pairs_are_averaged():
    recon, truth = pair((181, 176))
    equal = ssim_scores([(truth, truth)], 2.5)
    assert equal["ssim"].value == equal["ms_ssim"].value == 1
    both, single = ssim_scores([(truth, truth), (recon, truth)], 2.5), ssim_scores([(recon, truth)], 2.5)
    for name in ("ssim", "ms_ssim"):
        assert both[name].value == pytest.approx((1 + single[name].value) / 2, rel=1e-12)


def test_transposition_and_exchange_change_nothing():
    recon, truth = pair((179, 201))
    plain = ssim_scores([(recon, truth)], 2.5)
    for other in (ssim_scores([(recon.T, truth.T)], 2.5), ssim_scores([(truth, recon)], 2.5)):
        for name in ("ssim", "ms_ssim"):
            assert other[name].value == pytest.approx(plain[name].value, abs=1e-6)


def waves(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Closed-form images, so that a value taken elsewhere can be taken again."""
    r, c = np.mgrid[: shape[0], : shape[1]].astype(np.float64)
    truth = 1 + 0.5 * np.sin(0.11 * r + 0.05 * c) + 0.4 * np.cos(0.0031 * r * c)
    return truth + 0.3 * np.sin(0.9 * r - 0.7 * c) + 0.1 * np.cos(0.04 * c), truth
