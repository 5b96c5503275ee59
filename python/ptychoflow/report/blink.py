"""Bare pictures to lay on top of one another: one pixel per object pixel, no axes, one set of colour limits for all.

A viewer that swaps two of them in place shows every difference, since nothing else changes: same size, same colours for
the same values. Amplitude is an 8-bit grey PNG, phase an 8-bit PNG with the palette of `twilight`.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Num, Real, UInt8
from matplotlib import colormaps
from PIL import Image

from ptychoflow.report.panels import Limits, Picture, has_phase, shared_limits, stated

LARGEST_PX = 512
PHASE_COLOURS = 255
"""Colours of the phase palette; the last of its 256 entries is the grey of pixels without amplitude."""


def blink_panels(
    pictures: Sequence[tuple[str, Picture]], truth: Picture | None, folder: Path, *, truth_name: str = "truth"
) -> tuple[list[dict[str, str]], str]:
    """Write `blink_<name>_amp.png` and `blink_<name>_phase.png` of the truth and of every arm.

    Args:
        pictures: (label, (rows, cols) complex) of every arm, aligned to `truth` and of its shape. May be empty.
        truth: (rows, cols) complex, whose values set the limits, or None: all arms together do. It comes first.
        folder: where the files are written.
        truth_name: name of `truth` in the file names and the list.

    Returns:
        The list `blink` of comparison.json, `{"name", "amp", "phase"}` with file names; and the sentence on the limits.
        Sides longer than 512 px are averaged over square blocks, and the sentence says so.

    Raises:
        ValueError: when shapes differ, or two pictures have one name.
    """
    named = ([] if truth is None else [(truth_name, truth)]) + list(pictures)
    if not named:
        return [], ""
    _check(named)
    source = "all arms together" if truth is None else truth_name
    limits = shared_limits([picture for _, picture in named] if truth is None else [truth], source=source)
    block_px = -(-max(named[0][1].shape) // LARGEST_PX)
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for name, picture in named:
        entry = {"name": name, "amp": f"blink_{name}_amp.png", "phase": f"blink_{name}_phase.png"}
        _amplitude(picture, limits, block_px).save(folder / entry["amp"], optimize=True)
        _phase(picture, limits, block_px).save(folder / entry["phase"], optimize=True)
        found.append(entry)
    scale = "" if block_px == 1 else f"; one pixel shows the mean of {block_px} x {block_px}"
    return found, stated(limits) + scale


def _check(named: Sequence[tuple[str, Picture]]) -> None:
    names = [name for name, _ in named]
    if len(set(names)) < len(names):
        raise ValueError(f"expected a name of its own for every picture, got {names}; rename one of them")
    first, shape = names[0], named[0][1].shape
    for name, picture in named:
        if picture.shape != shape:
            raise ValueError(f"'{name}' {picture.shape} and '{first}' {shape} must have one shape; align first")


def _amplitude(picture: Picture, limits: Limits, block_px: int) -> Image.Image:
    shares = _shares(block_mean(np.abs(picture), block_px), limits.low, limits.high)
    return Image.fromarray(np.rint(shares * 255).astype(np.uint8))


def _phase(picture: Picture, limits: Limits, block_px: int) -> Image.Image:
    small = block_mean(picture, block_px)
    ends = (limits.centre_rad - limits.half_range_rad, limits.centre_rad + limits.half_range_rad)
    colours = np.rint(_shares(limits.relative_phase(small), *ends) * (PHASE_COLOURS - 1)).astype(np.uint8)
    image = Image.fromarray(np.where(has_phase(small), colours, np.uint8(PHASE_COLOURS)))
    image.putpalette(phase_palette().tobytes())
    return image


def phase_palette() -> UInt8[np.ndarray, "256 3"]:
    """Return the colours of the phase pictures, RGB: `twilight` from one end of the limits to the other, then grey."""
    cyclic = colormaps["twilight"](np.linspace(0, 1, PHASE_COLOURS))[:, :3]
    return np.rint(np.concatenate([cyclic, [[0.6] * 3]]) * 255).astype(np.uint8)


def _shares(values: Real[np.ndarray, "rows cols"], low: float, high: float) -> Real[np.ndarray, "rows cols"]:
    """Return where values lie between two limits, 0 to 1, cut off at the ends; 0 for what is not finite."""
    return np.clip(np.nan_to_num((values - low) / (high - low)), 0, 1)


def block_mean(values: Num[np.ndarray, "rows cols"], block_px: int) -> Num[np.ndarray, "small_rows small_cols"]:
    """Return means over square blocks, counted from row 0, column 0; blocks at the far edges hold what is left."""
    if block_px == 1:
        return values
    starts = [np.arange(0, side, block_px) for side in values.shape]
    sums = np.add.reduceat(np.add.reduceat(values, starts[0], axis=0), starts[1], axis=1)
    rows, cols = (np.diff(np.append(start, side)) for start, side in zip(starts, values.shape, strict=True))
    return sums / (rows[:, None] * cols)
