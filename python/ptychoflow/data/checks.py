"""Value checks of a scan, shared by `ingest` and `validate`: each returns what is wrong, in words, and never repairs.

Every check says what was expected, what came and what to do. Frames are read in blocks, so a memory-mapped scan of any
length passes through in little memory (physics section 2.3).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from ptychoflow.config import IngestConfig
from ptychoflow.frames import Positions

BLOCK = 64
"""Frames read at a time."""
COUNTS_ABOVE = 1
"""Frames of whole numbers with a maximum above this look like raw counts; 0 and 1 are their own square roots."""
OFF_CENTRE = 3.0
"""The corners may hold this many times the energy of the central quarter before the zero frequency counts as misplaced."""
SAME = 1e-6
"""Relative difference up to which two stated numbers agree."""


@dataclass(frozen=True)
class FrameFacts:
    """What one pass over the raw frames found.

    Attributes:
        n_frames, n: number and side of the frames.
        dtype: as in the file.
        minimum, maximum: over finite values.
        n_nonfinite, n_negative, n_zero_frames: how many frames are affected; `first_bad` is the first of each.
        whole: all values are whole numbers.
        whole_squares: all squares are whole numbers within float32 rounding, as for sqrt(counts).
        mean_square_sum: mean over frames of sum A^2, in float64 whatever the dtype (D2).
        mean_sum: mean over frames of sum A.
        energy: (N, N) mean over frames of A^2.
    """

    n_frames: int
    n: int
    dtype: str
    minimum: float
    maximum: float
    n_nonfinite: int
    n_negative: int
    n_zero_frames: int
    first_bad: dict[str, int]
    whole: bool
    whole_squares: bool
    mean_square_sum: float
    mean_sum: float
    energy: Float64[np.ndarray, "n n"]


def blocks(n_frames: int) -> Iterator[slice]:
    """Yield the slices in which frames are read."""
    for first in range(0, n_frames, BLOCK):
        yield slice(first, first + BLOCK)


def measure_frames(frames: np.ndarray) -> FrameFacts:
    """Return the facts of (M, N, N) frames of any real dtype, in one pass."""
    m, n = len(frames), int(frames.shape[-1])
    counts = {"nonfinite": 0, "negative": 0, "zero": 0}
    first: dict[str, int] = {}
    low, high, total = np.inf, -np.inf, 0.0
    whole = whole_squares = True
    energy = np.zeros((n, n))
    for part in blocks(m):
        block = np.asarray(frames[part], dtype=np.float64)
        finite = np.isfinite(block)
        bad = {"nonfinite": ~finite, "negative": block < 0}
        block = np.where(finite, block, 0.0)
        flags = {name: mask.any(axis=(1, 2)) for name, mask in bad.items()}
        flags["zero"] = ~block.any(axis=(1, 2)) & ~flags["nonfinite"]
        for name, flag in flags.items():
            counts[name] += int(np.count_nonzero(flag))
            if flag.any():
                first.setdefault(name, part.start + int(np.argmax(flag)))
        low, high = min(low, float(block.min())), max(high, float(block.max()))
        square = block * block
        whole = whole and bool(np.all(block == np.round(block)))
        # A float32 root squared comes back within 2 * 2^-24 of its count.
        whole_squares = whole_squares and bool(np.all(np.abs(square - np.round(square)) <= 2.5e-7 * square))
        total += float(block.sum())
        energy += square.sum(axis=0)
    share = max(m, 1)
    return FrameFacts(
        m, n, str(frames.dtype), low, high, counts["nonfinite"], counts["negative"], counts["zero"], first,
        whole, whole_squares, float(energy.sum()) / share, total / share, energy / share,
    )  # fmt: skip


def check_frames(facts: FrameFacts, *, key: str) -> list[str]:
    """Return what is wrong with the values of the frames under `key`."""
    if facts.n_frames == 0:
        return [f"'{key}' holds no frame (M = 0)"]
    problems = []
    of = f"of {facts.n_frames} frames"
    if facts.n_nonfinite:
        problems.append(
            f"'{key}' has NaN or infinite values in {facts.n_nonfinite} {of}, first in frame {facts.first_bad['nonfinite']}; "
            "remove these frames or set masked pixels to a measured value"
        )
    if facts.n_negative:
        problems.append(
            f"'{key}' has negative values in {facts.n_negative} {of}, first in frame {facts.first_bad['negative']}, least "
            f"{facts.minimum:g}; amplitude and intensity are >= 0: subtract less background, or clip it knowingly"
        )
    if facts.n_zero_frames:
        problems.append(
            f"'{key}' is zero everywhere in {facts.n_zero_frames} {of}, first in frame {facts.first_bad['zero']}; remove them"
        )
    dtype = np.dtype(facts.dtype)
    if dtype.kind in "iu" and facts.maximum >= np.iinfo(dtype).max:
        problems.append(
            f"'{key}' reaches {facts.maximum:.0f}, the largest {dtype}: values have overflowed, or were clipped or masked with "
            "it; make the file again with a wider type, and masked pixels set to a measured value"
        )
    return problems


def check_centre(facts: FrameFacts, *, key: str, corner: bool) -> list[str]:
    """Return what is wrong with the place of the zero frequency: [N//2, N//2], or the corner [0, 0] where `corner`.

    A mean frame whose energy sits in the wrong place is refused; a flat one (a diffuser) tells nothing and passes.
    """
    n = facts.n
    quarter = slice(n // 2 - n // 4, n // 2 + n // 4)
    centred = float(facts.energy[quarter, quarter].sum())
    shifted = float(np.fft.fftshift(facts.energy)[quarter, quarter].sum())
    expected, other = (shifted, centred) if corner else (centred, shifted)
    if other <= OFF_CENTRE * expected:
        return []
    places = ("the corner [0, 0]", f"[{n // 2}, {n // 2}]")
    return [
        f"'{key}' must have its zero frequency at {places[0 if corner else 1]}, but its energy lies around "
        f"{places[1 if corner else 0]}; apply {'ifftshift' if corner else 'fftshift'} over the last two axes"
    ]


def check_positions(positions_rc_px: Positions, n: int) -> list[str]:
    """Return what is wrong with the values of positions: not finite, all the same, or not in pixels of N-pixel frames."""
    finite = np.isfinite(positions_rc_px).all(axis=1)
    if not finite.all():
        return [
            f"positions are NaN or infinite for {np.count_nonzero(~finite)} of {len(finite)} frames, first for frame "
            f"{int(np.argmin(finite))}; remove these frames"
        ]
    if len(positions_rc_px) and not np.ptp(positions_rc_px, axis=0).any():
        row, col = positions_rc_px[0]
        return [
            f"positions are constant: all {len(positions_rc_px)} frames lie at (row, col) = ({row:g}, {col:g}); a scan needs "
            "at least two places. Group-relative coordinates are not positions"
        ]
    extent = float(np.ptp(positions_rc_px, axis=0).max()) if len(positions_rc_px) else 0.0
    if extent > n * len(positions_rc_px):
        return [
            f"positions span {extent:g} px: {len(positions_rc_px)} frames of {n} px side by side would not reach that far; "
            "positions must be in object pixels, not in nanometres or steps"
        ]
    if 0 < extent < 1:
        return [f"positions span {extent:g} px only; positions must be in object pixels, not in metres"]
    return []


def check_complex(array: np.ndarray, *, key: str) -> list[str]:
    """Return what is wrong with the values of a probe or an object."""
    n_bad = int(np.count_nonzero(~np.isfinite(array)))
    if n_bad:
        return [f"'{key}' has {n_bad} NaN or infinite of {array.size} pixels"]
    return [] if array.any() else [f"'{key}' is zero everywhere"]


def check_statements(metadata: Mapping[str, Any], config: IngestConfig, *, n: int) -> list[str]:
    """Return every contradiction between the file's metadata, the caller's parameters and the frames' side N."""
    problems = []
    if config.expect_n is not None and config.expect_n != n:
        problems.append(
            f"parameter N = {config.expect_n}, but the frames are {n} x {n}; set N to {n} or give another file"
        )
    stated = {
        "n": (stated_number(metadata, ("n", "N")), None),
        "dose": (
            stated_number(metadata, ("dose_asked", "dose", "nphotons")),
            None if config.expect_dose is None else float(config.expect_dose),
        ),
        "pixel_size_m": (stated_number(metadata, ("pixel_size_m",)), config.pixel_size_m),
        "photons_per_intensity": (stated_number(metadata, ("photons_per_intensity",)), config.photons_per_intensity),
    }
    for name, (value, asked) in stated.items():
        if isinstance(value, str):
            problems.append(f"metadata '{name}' must be a number, got {value!r}")
        elif value is not None and not (np.isfinite(value) and value > 0):
            problems.append(f"metadata '{name}' must be a finite number above 0, got {value:g}")
        elif name == "n" and value is not None and value != n:
            problems.append(f"metadata says N = {value:g}, but the frames are {n} x {n}")
        elif value is not None and asked is not None and abs(value - asked) > SAME * abs(asked):
            problems.append(
                f"parameter {name} = {asked:g} contradicts the file's metadata, {name} = {value:g}; correct one of them"
            )
    domain = metadata.get("domain")
    if domain not in (None, "amplitude", "intensity"):
        problems.append(f"metadata 'domain' must be 'amplitude' or 'intensity', got {domain!r}")
    elif config.domain != "auto" and domain not in (None, config.domain):
        problems.append(
            f"parameter domain = '{config.domain}' contradicts the file's metadata, domain = '{domain}'; correct one of them"
        )
    if metadata.get("object_role") not in (None, "truth", "reference"):
        problems.append(f"metadata 'object_role' must be 'truth' or 'reference', got {metadata['object_role']!r}")
    return problems


def stated_number(metadata: Mapping[str, Any], names: tuple[str, ...]) -> float | str | None:
    """Return the first of some names in metadata or its `physics_parameters` as a number, or as text when it is none."""
    parameters = metadata.get("physics_parameters")
    for place in (metadata, parameters if isinstance(parameters, Mapping) else {}):
        for name in names:
            value = place.get(name)
            if value is None:
                continue
            try:
                number = float(value)
            except (TypeError, ValueError):
                return str(value)
            return number if np.isfinite(number) else str(value)
    return None
