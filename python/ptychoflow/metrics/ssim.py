"""Structural similarity of two images, on one scale and on several.

    l  = (2 mx my + C1) / (mx^2 + my^2 + C1)           luminance             C1 = (0.01 D)^2
    cs = (2 sxy + C2) / (sx^2 + sy^2 + C2)             contrast-structure    C2 = (0.03 D)^2
    SSIM = mean(l cs)        MS-SSIM = prod_{j<M} max(mean(cs_j), 0)^w_j * max(mean(l_M cs_M), 0)^w_M

m, s are means, (co)variances under a Gaussian window of 1.5 px, 11 px wide, and the mean runs over the pixels whose window lies
inside the image. From scale j to j+1 blocks of 2 x 2 px are averaged (the last row or column of an odd side stands for itself),
and the weights w of M scales are divided by their sum. This is the standard of Wang's and of TensorFlow's code; torchmetrics
differs at the coarsest scale, where it lets windows reach over the edge.

Sources: Wang, Bovik, Sheikh, Simoncelli, IEEE TIP 13, 600 (2004); Wang, Simoncelli, Bovik, Asilomar (2003).
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.ndimage import gaussian_filter

from ptychoflow.metrics.checks import check_pair
from ptychoflow.metrics.score import Score

WINDOW_PX = 11
SIGMA_PX = 1.5
C1 = 0.01**2
C2 = 0.03**2
"""Both for D = 1: the images are divided by D first."""

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)

TILE_ROWS = 32
"""Rows handled at a time, so that what is computed of them stays in the processor's cache."""

SINGLE_RANGE = 1e6
"""Images that reach further than this many D from their mean are handled in double precision: squares would overflow."""

Pair = tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]


class Similarity(NamedTuple):
    """Means over one scale: of l cs, and of cs alone."""

    ssim: float
    contrast_structure: float


class _Centred(NamedTuple):
    """An image in units of D, apart from its mean, so that single precision is enough for the variances."""

    image: Float[np.ndarray, "h w"]
    mean: float


def ssim_scores(
    pairs: Sequence[Pair], data_range: float, *, ms_ssim_sigma: float = 0.0, ms_ssim_levels: int = 5
) -> dict[str, Score]:
    """Return `ssim` and `ms_ssim`, each the mean over image pairs.

    Args:
        pairs: (H, W) image and truth, one pair or several that share their range.
        data_range: D.
        ms_ssim_sigma: width of the Gaussian that both images are blurred with before MS-SSIM, px; 0 is off.
        ms_ssim_levels: scales of MS-SSIM, 1 to 5.

    Raises:
        ValueError: empty images, images of different shapes, or values that are not finite.
    """
    for pair in pairs:
        check_pair(*pair, what="structural similarity")
    side = min(pairs[0][0].shape)
    need = WINDOW_PX * 2 ** (ms_ssim_levels - 1)
    settings = {"sigma_px": ms_ssim_sigma, "levels": ms_ssim_levels}
    ssim = Score(None, "1", "higher", data_range)
    ms_ssim = replace(ssim, settings=settings)
    if data_range == 0:
        return {name: replace(score, reason="range_zero") for name, score in (("ssim", ssim), ("ms_ssim", ms_ssim))}
    if side < WINDOW_PX:
        ssim = replace(ssim, reason=_too_small(WINDOW_PX))
    else:
        finest = [similarity(*pair, data_range=data_range) for pair in pairs]
        ssim = replace(ssim, value=float(np.mean([found.ssim for found in finest])))
    if side < need:
        return {"ssim": ssim, "ms_ssim": replace(ms_ssim, reason=_too_small(need))}
    if ms_ssim_sigma:
        pairs = [(gaussian_filter(r, ms_ssim_sigma), gaussian_filter(t, ms_ssim_sigma)) for r, t in pairs]
        finest = [similarity(*pair, data_range=data_range) for pair in pairs]
    values = [
        _over_scales(pair, first, data_range=data_range, levels=ms_ssim_levels)
        for pair, first in zip(pairs, finest, strict=True)
    ]
    return {"ssim": ssim, "ms_ssim": replace(ms_ssim, value=float(np.mean(values)))}


def similarity(recon: Float[np.ndarray, "h w"], truth: Float[np.ndarray, "h w"], *, data_range: float) -> Similarity:
    """Return the means of the similarity maps of two images of at least 11 px a side."""
    first, second = _centre(recon, truth, data_range)
    rows, cols = (length - WINDOW_PX + 1 for length in recon.shape)
    total, structure = 0.0, 0.0
    for start in range(0, rows, TILE_ROWS):
        part = slice(start, min(start + TILE_ROWS, rows) + WINDOW_PX - 1)
        x, y = first.image[part], second.image[part]
        mean_x, mean_y = _window(x), _window(y)
        squares = _window(x * x + y * y) - (mean_x * mean_x + mean_y * mean_y)
        cross = _window(2 * x * y) - 2 * mean_x * mean_y
        cs = (cross + C2) / (np.maximum(squares, 0) + C2)
        mean_x += first.mean
        mean_y += second.mean
        luminance = 1 - (mean_x - mean_y) ** 2 / (mean_x * mean_x + mean_y * mean_y + C1)
        total += float(np.sum(luminance * cs, dtype=np.float64))
        structure += float(np.sum(cs, dtype=np.float64))
    return Similarity(total / (rows * cols), structure / (rows * cols))


def _over_scales(pair: Pair, finest: Similarity, *, data_range: float, levels: int) -> float:
    """Return MS-SSIM of one pair whose finest scale is known."""
    scales = [finest]
    for _ in range(levels - 1):
        pair = (_halve(pair[0]), _halve(pair[1]))
        scales.append(similarity(*pair, data_range=data_range))
    factors = [scale.contrast_structure for scale in scales[:-1]] + [scales[-1].ssim]
    weights = WEIGHTS[:levels]
    return math.prod(max(f, 0.0) ** (w / sum(weights)) for f, w in zip(factors, weights, strict=True))


def _centre(
    recon: Float[np.ndarray, "h w"], truth: Float[np.ndarray, "h w"], data_range: float
) -> tuple[_Centred, _Centred]:
    centred = []
    for image in (recon, truth):
        mean = float(image.mean(dtype=np.float64))
        apart = image - mean
        apart /= data_range
        centred.append((apart, mean / data_range))
    largest = max(max(abs(float(image.min())), abs(float(image.max())), abs(mean)) for image, mean in centred)
    kind = np.float32 if largest < SINGLE_RANGE else np.float64
    first, second = (_Centred(image.astype(kind), mean) for image, mean in centred)
    return first, second


def _window(image: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "rows cols"]:
    """Return the Gaussian-weighted means over all windows that lie inside the image; each side loses 10 px."""
    offset = np.arange(WINDOW_PX) - WINDOW_PX // 2
    taps = np.exp(-(offset**2) / (2 * SIGMA_PX**2))
    taps /= taps.sum()
    for _ in range(2):
        # Down the rows, then, the image transposed as a view, down the columns.
        length = image.shape[0] - WINDOW_PX + 1
        means = image[WINDOW_PX // 2 : WINDOW_PX // 2 + length] * float(taps[WINDOW_PX // 2])
        for k in range(WINDOW_PX // 2):
            both = image[k : k + length] + image[WINDOW_PX - 1 - k : WINDOW_PX - 1 - k + length]
            both *= float(taps[k])
            means += both
        image = means.T
    return image


def _halve(image: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "rows cols"]:
    """Return the means of blocks of 2 x 2 px."""
    padded = np.pad(image, [(0, length % 2) for length in image.shape], mode="edge") if _is_odd(image.shape) else image
    return 0.25 * (padded[::2, ::2] + padded[1::2, ::2] + padded[::2, 1::2] + padded[1::2, 1::2])


def _is_odd(shape: tuple[int, ...]) -> bool:
    return any(length % 2 for length in shape)


def _too_small(need_px: int) -> str:
    return f"region_smaller_than_{need_px}_px"
