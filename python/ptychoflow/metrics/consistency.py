"""Predicted against measured diffraction: the scores that need no truth.

    A_pred[m] = sqrt(sum_k |F(P_k * gather(O, position m))|^2)      modes k add as intensities (D29)

A is a diffraction amplitude in the unit of the scan, (M, N, N), zero frequency at [N//2, N//2]. Sums run in float64 over
blocks of frames, so memory-mapped scans of any length fit.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.special
from jaxtyping import Bool, Complex64, Float32, Float64, Real

from ptychoflow.frames import Canvas
from ptychoflow.physics.diffraction import predict_amplitude
from ptychoflow.physics.patches import gather

BLOCK = 64
"""Frames handled at a time."""

ROUNDING = 1e-12
"""A stack whose variance over frames is below this share of its mean square varies by float32 rounding only."""


FLOOR_PHOTONS = 1e-6
"""Least predicted photons of a pixel: a prediction of exactly none would make a single photon infinitely unlikely."""


class RFactor(NamedTuple):
    """Result of `r_factor`: the value, and the factor that was applied to the prediction."""

    value: float
    scale: float


class Deviance(NamedTuple):
    """Result of `poisson_deviance`: the value per photon, and the factor c that was applied to the predicted intensity."""

    value: float
    scale: float


def predict_frames(
    image: Complex64[np.ndarray, "h w"],
    canvas: Canvas,
    probe_modes: Complex64[np.ndarray, "modes n n"],
    positions_rc_px: Float64[np.ndarray, "m 2"],
) -> Float32[np.ndarray, "m n n"]:
    """Return the diffraction amplitude that an object and a probe predict.

    Args:
        image: (H, W) object on `canvas`; zero outside.
        canvas: where pixel [0, 0] of the object lies in the scan's frame.
        probe_modes: (modes, N, N) mutually incoherent probe modes, in the unit of the scan.
        positions_rc_px: (M, 2) patch centres in the scan's frame, px.
    """
    n = probe_modes.shape[-1]
    local = canvas.to_local(positions_rc_px)
    frames = np.empty((len(local), n, n), dtype=np.float32)
    for part in _blocks(len(local)):
        frames[part] = predict_amplitude(image, probe_modes, local[part])
    return frames


def illuminated_coverage(
    covered: Bool[np.ndarray, "h w"],
    canvas: Canvas,
    probe_modes: Complex64[np.ndarray, "modes n n"],
    positions_rc_px: Float64[np.ndarray, "m 2"],
) -> Float64[np.ndarray, "m"]:
    """Return, for each position, the share of the probe's intensity that falls on covered pixels, 0 to 1.

    Args:
        covered: (H, W) whether the object is known there; outside the canvas nothing is known.
        canvas: where pixel [0, 0] of `covered` lies in the scan's frame.
        probe_modes: (modes, N, N) probe.
        positions_rc_px: (M, 2) patch centres in the scan's frame, px.
    """
    illumination = (np.abs(probe_modes.astype(np.complex128)) ** 2).sum(axis=0)
    local = canvas.to_local(positions_rc_px)
    known = covered.astype(np.float32)
    share = np.empty(len(local))
    for part in _blocks(len(local)):
        patches = gather(known, local[part], illumination.shape[0])
        share[part] = np.einsum("mij,ij->m", patches, illumination) / illumination.sum()
    return share


def contrast_correlation(measured: Real[np.ndarray, "m n n"], predicted: Real[np.ndarray, "m n n"]) -> float:
    """Return the Pearson correlation of two stacks over all pixels after each one's own mean frame was subtracted.

    The mean frame is what a featureless object gives; a flat reconstruction therefore scores zero here, while a plain
    correlation would be near one. Independent of a constant factor on either stack.

    Args:
        measured: (M, N, N) amplitude.
        predicted: (M, N, N) amplitude.

    Raises:
        ValueError: when one of the stacks does not vary over its frames (fewer than two frames, or a flat object), or holds
            values that are not finite.
    """
    means = [_mean_frame(stack) for stack in (measured, predicted)]
    _check_finite(measured, *(float(mean.sum()) for mean in means))
    cross, squares, totals = 0.0, [0.0, 0.0], [0.0, 0.0]
    for part in _blocks(len(measured)):
        a, b = (stack[part].astype(np.float64) for stack in (measured, predicted))
        totals[0] += float(np.vdot(a, a))
        totals[1] += float(np.vdot(b, b))
        a -= means[0]
        b -= means[1]
        cross += float(np.vdot(a, b))
        squares[0] += float(np.vdot(a, a))
        squares[1] += float(np.vdot(b, b))
    for name, square, total in zip(("measured", "predicted"), squares, totals, strict=True):
        if square <= ROUNDING * total:
            raise ValueError(f"the {len(measured)} {name} frames do not differ from their mean; contrast is undefined")
    return cross / float(np.sqrt(squares[0] * squares[1]))


def r_factor(measured: Real[np.ndarray, "m n n"], predicted: Real[np.ndarray, "m n n"]) -> RFactor:
    """Return sum |A - g P| / sum A with the least-squares factor g = sum A P / sum P^2 over all frames and pixels.

    Args:
        measured: (M, N, N) amplitude A.
        predicted: (M, N, N) amplitude P.

    Raises:
        ValueError: when one of the stacks is empty, zero or not finite.
    """
    cross, square, total = 0.0, 0.0, 0.0
    for part in _blocks(len(measured)):
        a, p = measured[part].astype(np.float64), predicted[part].astype(np.float64)
        cross += float(np.vdot(a, p))
        square += float(np.vdot(p, p))
        total += float(a.sum())
    _check_finite(measured, total, square)
    if square == 0 or total == 0:
        name = "measured" if total == 0 else "predicted"
        raise ValueError(f"the {len(measured)} {name} frames are zero; the R-factor is undefined")
    scale = cross / square
    distance = 0.0
    for part in _blocks(len(measured)):
        distance += float(np.abs(measured[part].astype(np.float64) - scale * predicted[part]).sum())
    return RFactor(distance / total, scale)


def poisson_deviance(
    measured: Real[np.ndarray, "m n n"], predicted: Real[np.ndarray, "m n n"], *, photons_per_intensity: float
) -> Deviance:
    """Return the deviance per photon of the measured counts from the predicted rates: what is left to explain.

        D = 2 sum(n ln(n / r) - n + r) / sum n,    n = k A^2,  r = max(c k P^2, 1e-6),  c = sum A^2 / sum P^2

    k is the photons per unit of intensity, c the factor of greatest likelihood, 0 ln 0 = 0. True counts of many photons per
    pixel deviate by about one per pixel, so D is about pixels / photons, or the reciprocal of the photons per pixel; less is
    not to be had without fitting noise. Source: McCullagh, Nelder, Generalized Linear Models (1989), section 2.3.

    Args:
        measured: (M, N, N) amplitude A.
        predicted: (M, N, N) amplitude P.
        photons_per_intensity: k, photons.

    Raises:
        ValueError: when one of the stacks is empty, zero or not finite, or k is not a positive number.
    """
    if not (np.isfinite(photons_per_intensity) and photons_per_intensity > 0):
        raise ValueError(f"photons_per_intensity: a positive number expected, got {photons_per_intensity}")
    energy = [0.0, 0.0]
    for part in _blocks(len(measured)):
        for index, stack in enumerate((measured, predicted)):
            block = stack[part].astype(np.float64)
            energy[index] += float(np.vdot(block, block))
    _check_finite(measured, *energy)
    if 0 in energy:
        name = "measured" if energy[0] == 0 else "predicted"
        raise ValueError(f"the {len(measured)} {name} frames are zero; the deviance is undefined")
    scale = energy[0] / energy[1]
    total = 0.0
    for part in _blocks(len(measured)):
        counts = photons_per_intensity * measured[part].astype(np.float64) ** 2
        rates = np.maximum(scale * photons_per_intensity * predicted[part].astype(np.float64) ** 2, FLOOR_PHOTONS)
        total += float(np.sum(scipy.special.kl_div(counts, rates)))
    return Deviance(2 * total / (photons_per_intensity * energy[0]), scale)


def _check_finite(stack: Real[np.ndarray, "m n n"], *sums: float) -> None:
    if not np.isfinite(sums).all():
        raise ValueError(
            f"frames of shape {stack.shape}: measured or predicted values are NaN or infinite; correct them"
        )


def _mean_frame(stack: Real[np.ndarray, "m n n"]) -> Float64[np.ndarray, "n n"]:
    total = np.zeros(stack.shape[1:])
    for part in _blocks(len(stack)):
        total += stack[part].sum(axis=0, dtype=np.float64)
    return total / max(len(stack), 1)


def _blocks(length: int) -> Iterator[slice]:
    for first in range(0, length, BLOCK):
        yield slice(first, first + BLOCK)
