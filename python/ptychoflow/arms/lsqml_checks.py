"""What LSQML's input must be, the frame of its object array, and what its result must show: pure functions, no framework.

pty-chi accepts nearly anything and returns nonsense without an error, so every check is ours (each was measured to matter).
Counts are photons per pixel; top-left positions are the canvas coordinate of patch pixel (0, 0), (row, col) in px.
"""

from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from ptychoflow.imaging.stitch import SEEN
from ptychoflow.physics.patches import scatter

MIN_MEAN_COUNTS = 100.0
"""Mean counts of a pattern below which the data must be normalised ones; they would give a poor object without a warning."""
PLATEAU_EPOCHS, PLATEAU_CHANGE, PLATEAU_EARLIEST = 10, 1e-3, 30


def input_problems(
    intensity_counts: np.ndarray, topleft_rc_px: np.ndarray, probe: np.ndarray, shape: tuple[int, int]
) -> list[str]:
    """Return what forbids a reconstruction, one sentence each; pty-chi itself accepts all of it and returns nonsense."""
    problems = _form_problems(intensity_counts, topleft_rc_px, probe)
    if problems:
        return problems
    n = probe.shape[-1]
    if not np.isfinite(intensity_counts).all():
        problems.append("a pattern holds NaN or infinity; one such pixel makes the whole object NaN")
    elif (intensity_counts < 0).any():
        problems.append(f"counts must be >= 0, the smallest is {intensity_counts.min():g}")
    else:
        problems += _count_problems(intensity_counts)
    if not np.isfinite(probe).all() or not np.abs(probe).any():
        problems.append("the probe must be finite and not all zero")
    if not np.isfinite(topleft_rc_px).all():
        problems.append("a position is NaN or infinite")
    elif len(topleft_rc_px) > 1 and (topleft_rc_px == topleft_rc_px[0]).all():
        problems.append("all positions are equal: without overlap of different views nothing can be solved")
    else:
        last = np.floor(topleft_rc_px.max(axis=0)) + n
        if topleft_rc_px.min() < 0 or (last > shape).any():
            first = topleft_rc_px.min(axis=0).tolist()
            problems.append(f"the canvas {shape} is too small: patches start at {first} and end at {last.tolist()}")
    return problems


def _form_problems(intensity_counts: np.ndarray, topleft_rc_px: np.ndarray, probe: np.ndarray) -> list[str]:
    """Return what is wrong with dtypes and shapes."""
    problems = []
    if intensity_counts.dtype.kind not in "fu" or intensity_counts.ndim != 3:
        problems.append(f"counts must be real (frames, N, N), got {intensity_counts.dtype} {intensity_counts.shape}")
    if probe.dtype.kind != "c" or probe.ndim != 2 or probe.shape[-1] != probe.shape[0]:
        problems.append(f"the probe must be complex (N, N), got {probe.dtype} {probe.shape}")
    elif probe.shape[-1] % 2:
        problems.append(f"LSQML needs frames of even side, got N = {probe.shape[-1]}; crop the frames to an even side")
    if intensity_counts.ndim == 3 and intensity_counts.shape[1:] != probe.shape:
        problems.append(f"frames of {intensity_counts.shape[1:]} px do not fit a probe of {probe.shape} px")
    if topleft_rc_px.shape != (len(intensity_counts), 2) or len(topleft_rc_px) == 0:
        problems.append(
            f"expected one (row, col) per frame, got {topleft_rc_px.shape} for {len(intensity_counts)} frames"
        )
    return problems


def _count_problems(intensity_counts: Float32[np.ndarray, "m n n"]) -> list[str]:
    """Return what is wrong with the counts themselves: empty, normalised, or shifted patterns."""
    problems = []
    sums = intensity_counts.sum(axis=(1, 2), dtype=np.float64)
    if (sums == 0).any():
        empty = np.flatnonzero(sums == 0).tolist()
        problems.append(f"{len(empty)} patterns have no counts (first: frame {empty[0]}); leave these frames out")
    if sums.mean() < MIN_MEAN_COUNTS:
        problems.append(
            f"a pattern has {sums.mean():.3g} counts on average, expected at least {MIN_MEAN_COUNTS:g}: "
            "normalised data need metadata.photons_per_intensity in the scan"
        )
    mean = intensity_counts.mean(axis=0, dtype=np.float64)
    n = mean.shape[0]
    quarter, eighth = n // 8 * 2, n // 8
    start = n // 2 - eighth
    centre = mean[start : start + quarter, start : start + quarter].sum()
    # Rolling by half a frame brings the four corners together in the centre.
    rolled = np.roll(mean, (n // 2, n // 2), axis=(0, 1))
    if centre <= rolled[start : start + quarter, start : start + quarter].sum():
        problems.append(
            "the corners of the mean pattern hold more counts than its centre: zero frequency belongs at [N/2, N/2]"
        )
    return problems


def working_canvas(
    topleft_rc_px: Float64[np.ndarray, "m 2"], shape: tuple[int, int], n: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the whole-pixel offset (rows, cols) into pty-chi's object array, and that array's shape.

    pty-chi needs a pixel before the first patch and two behind the last one; with less it pads on its own and only warns.
    """
    before = np.maximum(0, 1 - np.floor(topleft_rc_px.min(axis=0))).astype(int)
    needed = np.ceil(topleft_rc_px.max(axis=0) + before).astype(int) + n + 2
    rows, cols = np.maximum(needed, np.asarray(shape) + before).tolist()
    return (int(before[0]), int(before[1])), (rows, cols)


def coverage(
    topleft_rc_px: Float64[np.ndarray, "m 2"], probe: np.ndarray, shape: tuple[int, int]
) -> Float32[np.ndarray, "h w"]:
    """Return the summed probe intensity over its largest value, as the stitched arms give it; 0 where nothing was seen."""
    n = probe.shape[-1]
    intensity = np.abs(probe.astype(np.complex128)) ** 2
    copies = np.broadcast_to((intensity / intensity.max()).astype(np.float32), (len(topleft_rc_px), n, n))
    total = scatter(copies, topleft_rc_px + n // 2, shape, out=np.zeros(shape, dtype=np.float64))
    return np.where(total > SEEN * total.max(), total, 0).astype(np.float32)


def reference_losses(intensity_counts: Float32[np.ndarray, "m n n"], *, seed: int) -> tuple[float, float]:
    """Return the losses (F, M) that frame pty-chi's loss on these data, both mean squared differences of sqrt(counts).

    M is the loss of the model that predicts the mean pattern for every frame: a wrong orientation ends near it. F is what
    shot noise alone gives: the same for Poisson samples around the mean pattern.
    """
    root = np.sqrt(intensity_counts.mean(axis=0, dtype=np.float64))
    mean_model = float(np.mean([np.mean((np.sqrt(frame) - root) ** 2) for frame in intensity_counts]))
    generator = np.random.default_rng(seed)
    n_samples = min(len(intensity_counts), 64)
    noise = float(np.mean([np.mean((np.sqrt(generator.poisson(root**2)) - root) ** 2) for _ in range(n_samples)]))
    return noise, mean_model


def verdict(
    object_: np.ndarray, probe: np.ndarray, loss: Float64[np.ndarray, "epochs"], levels: tuple[float, float]
) -> tuple[str | None, dict[str, Any]]:
    """Return why the result fails (None when it does not) and the record of the orientation check.

    Args:
        object_: reconstructed object.
        probe: refined probe.
        loss: loss of every epoch; epoch 0 only rescales the probe.
        levels: shot-noise loss F and mean-pattern loss M of the data, see `reference_losses`.
    """
    noise, mean_model = levels
    bound = (noise + mean_model) / 2
    record = {
        "noise_loss": noise,
        "mean_pattern_loss": mean_model,
        "bound": bound,
        "decidable": mean_model > 1.5 * noise,
    }
    if not (np.isfinite(loss).all() and np.isfinite(object_).all() and np.isfinite(probe).all()):
        return f"loss, object or probe is not finite after {len(loss)} epochs", record
    if len(loss) > 2 and loss[-1] >= loss[1]:
        return f"the loss did not decrease: {loss[1]:.4g} after the first update, {loss[-1]:.4g} at the end", record
    if record["decidable"] and loss[-1] >= bound:
        return (
            f"the final loss {loss[-1]:.4g} is not below {bound:.4g}, half-way between shot noise ({noise:.4g}) and the mean "
            f"pattern ({mean_model:.4g}): patterns or positions may be flipped or transposed, or {len(loss)} epochs are too few"
        ), record
    return None, record


def plateau_reached(loss: list[float]) -> bool:
    """Return whether the loss changed by less than 0.1 % over the last 10 epochs, after at least 30."""
    if len(loss) < PLATEAU_EARLIEST:
        return False
    before = loss[-1 - PLATEAU_EPOCHS]
    return abs(loss[-1] - before) < PLATEAU_CHANGE * abs(before)
