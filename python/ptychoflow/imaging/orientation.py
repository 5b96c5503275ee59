"""Is a reconstruction turned, mirrored or conjugated? The 16 candidates, compared; nothing is ever turned back.

A candidate's correlation is the largest real part of the circular cross-correlation with T, over all shifts, both without
their means, with the phase that contrast and means share (without it a conjugate of a weak phase object would fit as well).
Quarter turns swap the sides of the rectangle, so they are judged on its central square, where they must beat the upright image
as well.
"""

from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np
import scipy.fft
from jaxtyping import Complex64

from ptychoflow.imaging.register import common_phase, has_structure, thinned

TWIN_MARGIN = 0.01
"""Another orientation must win by this much: a symmetric object correlates with several alike."""

ORIENTATION_CORRELATION = 0.5
"""Below this no orientation fits, and the best of sixteen is chance."""

SIDE = 128
"""Samples a side at most; larger images are thinned."""

SMALLEST_SQUARE = 32
"""Samples a side below which quarter turns are not judged."""

UPRIGHT = "upright"

TURNS = {
    UPRIGHT: (0, False),
    "rotated by 180 degrees": (2, False),
    "mirrored left to right": (0, True),
    "mirrored top to bottom": (2, True),
    "rotated by 90 degrees": (1, False),
    "rotated by 270 degrees": (3, False),
    "transposed": (1, True),
    "transposed over the other diagonal": (3, True),
}
"""R is T mirrored left to right (second member) and then turned counter-clockwise by so many quarters (first member)."""

TWIN = "conjugated and rotated by 180 degrees (the twin image)"

CONJUGATED = {
    (turns, mirrored): {UPRIGHT: "conjugated", "rotated by 180 degrees": TWIN}.get(name, f"conjugated and {name}")
    for name, (turned, mirrored) in TURNS.items()
    for turns in [(turned + 2) % 4]
}
"""Name of the conjugate of T, mirrored and turned by two quarters more than the key says."""


@dataclass(frozen=True)
class Orientation:
    """How R lies against T.

    Attributes:
        name: of the best candidate.
        correlation: its correlation with T.
        upright: correlation of R as it is.
        twin: correlation of the conjugated, point-mirrored R.
        warning: another orientation fits clearly better than R as it is.
    """

    name: str
    correlation: float
    upright: float
    twin: float
    warning: bool


def find_orientation(
    recon: Complex64[np.ndarray, "rows cols"], truth: Complex64[np.ndarray, "rows cols"]
) -> Orientation:
    """Return the best of eight orientations, plain and conjugated; `upright` with 0 where an image has no structure."""
    if not (has_structure(recon) and has_structure(truth)):
        return Orientation(UPRIGHT, 0.0, 0.0, 0.0, warning=False)
    factor = ceil(max(truth.shape) / SIDE)
    if factor > 1:
        shape = (max(1, truth.shape[0] // factor), max(1, truth.shape[1] // factor))
        recon, truth = (thinned(image, ((factor - 1) / 2,) * 2, float(factor), shape) for image in (recon, truth))
    found = _candidates(recon, truth, quarters=False)
    side = min(truth.shape)
    if side >= SMALLEST_SQUARE:
        square = tuple(slice((length - side) // 2, (length - side) // 2 + side) for length in truth.shape)
        if has_structure(recon[square]) and has_structure(truth[square]):
            turned = _candidates(recon[square], truth[square], quarters=True)
            found |= {name: value for name, value in turned.items() if value > turned[UPRIGHT] + TWIN_MARGIN}
    upright = found[UPRIGHT]
    best = max(found, key=lambda name: found[name])
    if found[best] <= upright + TWIN_MARGIN:
        best = UPRIGHT
    warning = best != UPRIGHT and found[best] >= ORIENTATION_CORRELATION
    return Orientation(best, found[best], upright, found[TWIN], warning)


def _candidates(
    recon: Complex64[np.ndarray, "rows cols"], truth: Complex64[np.ndarray, "rows cols"], *, quarters: bool
) -> dict[str, float]:
    """Return the correlations of the candidates that keep the sides, or of those that swap them and of R as it is."""
    means = complex(recon.mean()), complex(truth.mean())
    r, t = recon - means[0], truth - means[1]
    energy = float(np.vdot(r, r).real) * float(np.vdot(t, t).real)
    if energy == 0:
        return dict.fromkeys([UPRIGHT, TWIN], 0.0)
    target = scipy.fft.fft2(t, workers=1) / sqrt(energy)
    plain, conjugate = (mean * means[1] * r.size / sqrt(energy) for mean in (means[0].conjugate(), means[0]))
    found = {}
    for name, (turns, mirrored) in TURNS.items():
        if turns % 2 != quarters and name != UPRIGHT:
            continue
        back = np.rot90(r, -turns)
        spectrum = scipy.fft.fft2(back[:, ::-1] if mirrored else back, workers=1)
        found[name] = _largest(spectrum.conj() * target, plain)
        if quarters and name == UPRIGHT:
            continue
        # conj(R(-x)) has the conjugate of R's spectrum, up to a shift: the same transform serves the point-mirrored conjugate.
        found[CONJUGATED[turns, mirrored]] = _largest(spectrum * target, conjugate)
    return found


def _largest(spectrum: Complex64[np.ndarray, "rows cols"], of_means: complex) -> float:
    """Return the largest correlation over all shifts, given its spectrum and what the means add to it."""
    correlation = scipy.fft.ifft2(spectrum, workers=1)
    return max(0.0, float((correlation * common_phase(correlation, of_means)).real.max()))
