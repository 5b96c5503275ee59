"""What is wrong with a pair of HDF5 files, all at once: the rows of the violation table that files alone can show.

The external loader checks next to nothing: positions that are constant, NaN or in a wrong frame, footprints off the object and
missing dictionaries all pass in silence. So everything is checked here, before anything is launched.

    R = mean_n(sum dp_n) / (h w sum |P|^2)      1 for |object| ~ 1: the external FFT is not normalised

Patterns are read in blocks; files of any length pass through in little memory. Source: PtychoViT bridge reference, sections 3 to
5 and 14.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Complex, Float64, Int32
from scipy.spatial import cKDTree

from ptychoflow.arms.ptychovit.contract import (
    DATASETS,
    FOOTPRINT,
    MAX_PROBE_MODES,
    PIXEL_ATTRIBUTES,
    SIDE,
    STITCH_PAD,
    STITCH_TRIM,
    Violation,
    loader_centres_rc_px,
    origin_px,
    violation,
)
from ptychoflow.arms.ptychovit.normalization import object_name, pattern_blocks
from ptychoflow.data.hdf5 import read_datasets
from ptychoflow.frames import Positions
from ptychoflow.provenance import sha256_file

CORNER, CENTRE = 32, 64
"""Sides of the blocks whose sums tell where the zero frequency lies, px."""
OFF = 10.0
"""Factor beyond which the probe's scale is off."""
FITS = 3.0
"""Factor within which squared patterns fit the probe, and so were amplitudes."""
OUTSIDE_PX = 1.0
"""Footprints may leave the object by this much."""
ROUNDING_PX = 1e-6
"""What metres and back may cost."""
CONSTANT_PX = 1e-3
"""A span below this is constant; metres beside a pixel size of 1 look like that."""
HDF5_SUFFIXES = (".hdf5", ".h5", ".hdf")


@dataclass(frozen=True)
class PatternFacts:
    """What one pass over the patterns found; values that are not finite or negative count as 0.

    Attributes:
        n: number of patterns.
        first_bad: index of the first pattern that is `not finite`, `negative` or `zero everywhere`, by that name.
        mean: (h, w) mean pattern.
        mean_sum: mean over patterns of sum dp.
        mean_square_sum: mean over patterns of sum dp^2.
    """

    n: int
    first_bad: dict[str, int]
    mean: Float64[np.ndarray, "h w"]
    mean_sum: float
    mean_square_sum: float


def validate_folder(folder: Path, *, training: bool = False, requested_n: int = SIDE) -> list[Violation]:
    """Return every violation of every pair in a folder (not in folders below it: upstream does not look there either)."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in HDF5_SUFFIXES)
    stems = sorted({path.with_name(path.name.replace("_para.", "_dp.")) for path in files})
    if not stems:
        return [violation("PV-PAIR", f"{folder.name} holds no pair NAME_dp.hdf5, NAME_para.hdf5")]
    return [one for dp in stems for one in validate_pair(dp, training=training, requested_n=requested_n)]


def validate_pair(
    dp: Path, *, training: bool = False, requested_n: int = SIDE, max_probe_modes: int = MAX_PROBE_MODES
) -> list[Violation]:
    """Return every violation of one pair.

    Args:
        dp: the `_dp` file; its partner lies beside it.
        training: the physics loss will use the probe, so a wrong scale refuses instead of warns.
        requested_n: side that the caller asked for, px.
        max_probe_modes: incoherent modes that the loader takes.
    """
    found = (
        []
        if requested_n == SIDE
        else [violation("PV-DP", f"N = {requested_n} was asked for, only {SIDE} is supported")]
    )
    arrays: dict[str, Any] = {}
    with ExitStack() as stack:
        for kind, path in (("dp", dp), ("para", dp.with_name(dp.name.replace("_dp.", "_para.")))):
            try:
                file = stack.enter_context(_opened(path, kind))
            except OSError as error:
                name = object_name(dp)
                both = f"{name}_dp.hdf5 and {name}_para.hdf5 must lie in one folder"
                found.append(violation("PV-PAIR", f"{both}: {error}"))
                continue
            there, problems = read_datasets(file, DATASETS[kind])
            found += [violation("PV-KEY", f"{path.name}: {problem}") for problem in problems]
            if len(there) + len(problems) < len(DATASETS[kind]):
                absent = [name for name in DATASETS[kind] if not isinstance(file.get(name), h5py.Dataset)]
                found.append(violation("PV-KEY", f"{path.name} lacks {sorted(absent)}"))
            arrays |= there
        try:
            found += _check(dp.name, arrays, training=training, max_probe_modes=max_probe_modes)
        except OSError as error:
            found.append(violation("PV-PAIR", f"{dp.name} or its partner cannot be read to its end: {error}"))
    return found


def _opened(path: Path, kind: str) -> Any:
    """Return one file of a pair, open for reading.

    Raises:
        OSError: not named as upstream looks for it, absent, or unreadable.
    """
    if path.suffix != ".hdf5" or not path.stem.endswith(f"_{kind}"):
        raise OSError(f"{path.name} is not named NAME_{kind}.hdf5")
    return h5py.File(path, "r")


def _check(dp_name: str, arrays: Mapping[str, Any], *, training: bool, max_probe_modes: int) -> list[Violation]:
    """Return the violations of the datasets that are there; a check is left out only where its input cannot be read."""
    found: list[Violation] = []
    facts = probe = pixel = None
    if "dp" in arrays:
        facts = _check_patterns(arrays["dp"], found, what=dp_name)
    if "object" in arrays:
        _check_object(arrays["object"], found)
    if "probe" in arrays:
        probe = _check_probe(arrays["probe"], found, max_probe_modes=max_probe_modes)
    if "object" in arrays and "probe" in arrays:
        pixel = _check_attributes(arrays["object"], arrays["probe"], found)
    if facts is not None and facts.mean.shape == (SIDE, SIDE):
        _check_centre(facts, found)
        if probe is not None:
            _check_scale(facts, probe, found, training=training)
    if "probe_position_y_m" in arrays and "probe_position_x_m" in arrays:
        count = None if facts is None else facts.n
        offsets = _check_positions(arrays["probe_position_y_m"], arrays["probe_position_x_m"], count, pixel, found)
        if offsets is not None and pixel is not None and "object" in arrays and arrays["object"].ndim == 3:
            _check_frame(offsets, arrays["object"].shape[1:], pixel, found)
    return found


def _check_patterns(dp: Any, found: list[Violation], *, what: str) -> PatternFacts | None:
    """Add what is wrong with the patterns; return their facts, or None where there is nothing to read."""
    if dp.ndim != 3 or 0 in dp.shape or dp.dtype.kind not in "fiu":
        problem = f"{what}: dp must be real of shape (N, {SIDE}, {SIDE}) with N > 0, got {dp.shape} {dp.dtype}"
        found.append(violation("PV-DP", problem))
        return None
    if dp.shape[1:] != (SIDE, SIDE):
        found.append(violation("PV-DP", f"{what}: dp must have shape (N, {SIDE}, {SIDE}), got {dp.shape}"))
    facts = measure_patterns(dp)
    for name, index in facts.first_bad.items():
        found.append(violation("PV-DP", f"{what}: dp of shape {dp.shape} is {name}, first in pattern {index}"))
    return facts


def measure_patterns(dp: Any) -> PatternFacts:
    """Return the facts of a stack of patterns, in one pass."""
    first_bad: dict[str, int] = {}
    total, square_sum = np.zeros(dp.shape[1:]), 0.0
    for first, block in pattern_blocks(dp):
        finite = np.isfinite(block)
        bad = {"not finite": ~finite.all(axis=(1, 2)), "negative": (block < 0).any(axis=(1, 2))}
        block = np.where(finite & (block > 0), block, 0.0)
        bad["zero everywhere"] = ~block.any(axis=(1, 2)) & ~bad["not finite"] & ~bad["negative"]
        for name, flags in bad.items():
            if flags.any():
                first_bad.setdefault(name, first + int(np.argmax(flags)))
        total += block.sum(axis=0)
        square_sum += float(np.square(block).sum())
    return PatternFacts(len(dp), first_bad, total / len(dp), float(total.sum()) / len(dp), square_sum / len(dp))


def _check_centre(facts: PatternFacts, found: list[Violation]) -> None:
    middle, edges = slice(SIDE // 2 - CENTRE // 2, SIDE // 2 + CENTRE // 2), np.r_[0:CORNER, SIDE - CORNER : SIDE]
    centre, corners = float(facts.mean[middle, middle].sum()), float(facts.mean[np.ix_(edges, edges)].sum())
    if corners > centre:
        problem = (
            f"the mean pattern holds {corners:g} in its four {CORNER}-px corners, {centre:g} in its central {CENTRE} px"
        )
        found.append(violation("PV-DC", problem))


def _check_object(image: Any, found: list[Violation]) -> None:
    shape = image.shape
    expected = f"object must be complex of shape (1, H, W) with H and W >= {SIDE}, got {shape} {image.dtype}"
    if image.ndim != 3 or shape[0] != 1 or min(shape[1:]) < SIDE or image.dtype.kind != "c":
        found.append(violation("PV-OBJ", expected))
    if image.ndim == 3 and image.dtype.kind in "fc":
        n_bad = sum(int(np.count_nonzero(~np.isfinite(image[:, row : row + SIDE]))) for row in range(0, shape[1], SIDE))
        if n_bad:
            found.append(violation("PV-OBJ", f"object of shape {shape} has {n_bad} values that are not finite"))


def _check_probe(probe: Any, found: list[Violation], *, max_probe_modes: int) -> Complex[np.ndarray, "m h w"] | None:
    """Add what is wrong with the probe; return the modes that the loader uses, or None where their energy says nothing."""
    got = f"got {probe.shape} {probe.dtype}; axis 0 is OPR, axis 1 the incoherent modes"
    if probe.ndim != 4 or probe.dtype.kind != "c" or 0 in probe.shape:
        found.append(violation("PV-PROBE", f"probe must be complex of shape (1, M, {SIDE}, {SIDE}), {got}"))
        return None
    if probe.shape[0] > 1 or probe.shape[2:] != (SIDE, SIDE):
        found.append(violation("PV-PROBE", f"probe must have shape (1, M, {SIDE}, {SIDE}), {got}"))
    if probe.shape[1] > max_probe_modes:
        found.append(
            violation("PV-PROBE", f"probe has {probe.shape[1]} modes, at most {max_probe_modes} are taken, {got}")
        )
    modes = np.asarray(probe[0])
    if not np.isfinite(modes).all() or not modes.any():
        state = "zero everywhere" if np.isfinite(modes).all() else "not finite"
        found.append(violation("PV-PROBE", f"probe is {state}, {got}"))
        return None
    return modes


def _check_attributes(image: Any, probe: Any, found: list[Violation]) -> float | None:
    """Add what is wrong with the four pixel sizes; return the one that upstream reads, m, where it can be used."""
    values = {
        f"{name}.{key}": dataset.attrs.get(key)
        for name, dataset in (("object", image), ("probe", probe))
        for key in PIXEL_ATTRIBUTES
    }
    sizes = {name: _number(value) for name, value in values.items()}
    if (
        not all(size is not None and np.isfinite(size) and size > 0 for size in sizes.values())
        or len({*sizes.values()}) > 1
    ):
        told = ", ".join(f"{name} = {'missing' if value is None else value}" for name, value in values.items())
        found.append(violation("PV-ATTR", f"pixel sizes must be four equal finite numbers above 0, got {told}"))
    read = sizes["object.pixel_height_m"]
    return read if read is not None and np.isfinite(read) and read > 0 else None


def _number(value: Any) -> float | None:
    array = np.asarray(value)
    return float(array.reshape(())) if array.size == 1 and array.dtype.kind in "fiu" else None


def _check_scale(
    facts: PatternFacts, probe: Complex[np.ndarray, "m h w"], found: list[Violation], *, training: bool
) -> None:
    """Add what the energies of patterns and probe say: amplitudes instead of intensities, or a probe in another unit."""
    light = probe_light(probe)
    ratio, squared = facts.mean_sum / light, facts.mean_square_sum / light
    if ratio <= 0 or 1 / OFF <= ratio <= OFF:
        return
    if 1 / FITS <= squared <= FITS:
        problem = f"sum dp^2 over the probe's light is {squared:.4g}, sum dp over it {ratio:.4g}: dp holds amplitudes"
        found.append(violation("PV-AMP", problem))
        return  # the probe may well be right
    problem = f"R = mean sum dp / (h w sum |P|^2) is {ratio:.4g}; multiply the probe by sqrt(R) = {np.sqrt(ratio):.4g}"
    if 1 / OFF <= ratio * SIDE**2 <= OFF:
        problem += f". R is about 1/{SIDE**2}: the probe is that of an orthonormal FFT, to be divided by {SIDE}"
    found.append(violation("PV-SCALE", problem, kind="E" if training else None))


def probe_light(probe: Complex[np.ndarray, "m h w"]) -> float:
    """Return h w sum |P|^2: the light of a pattern behind |object| = 1, by Parseval for the FFT without a factor."""
    return float(probe.shape[-2] * probe.shape[-1] * np.sum(np.abs(probe.astype(np.complex128)) ** 2))


def _check_positions(
    y: Any, x: Any, n_patterns: int | None, pixel: float | None, found: list[Violation]
) -> Float64[np.ndarray, "m 2"] | None:
    """Add what is wrong with the positions; return the finite (y, x) offsets, m, or None where they do not pair up."""
    counts = f"y {y.shape}, x {x.shape}, patterns {'unknown' if n_patterns is None else n_patterns}"
    if y.ndim != 1 or x.ndim != 1 or {y.dtype.kind, x.dtype.kind} - set("fiu"):
        found.append(violation("PV-POSLEN", f"positions must be real vectors, got {counts}"))
        return None
    if len(y) != len(x) or n_patterns not in (None, len(y)):
        found.append(violation("PV-POSLEN", f"positions and patterns must be equally many, got {counts}"))
    axes = {"y": np.asarray(y, dtype=np.float64), "x": np.asarray(x, dtype=np.float64)}
    for axis, values in axes.items():
        finite = np.isfinite(values)
        if not finite.all():
            found.append(violation("PV-POSNAN", f"position {axis} is not finite at index {int(np.argmin(finite))}"))
        usable = values[finite]
        if len(usable) > 1 and np.ptp(usable) <= CONSTANT_PX * (pixel or 0.0):
            found.append(
                violation("PV-POSDEG", f"position {axis} is constant, {usable[0]:g} m for {len(usable)} patterns")
            )
    if len(y) != len(x):
        return None
    offsets = np.stack([axes["y"], axes["x"]], axis=1)
    offsets = offsets[np.isfinite(offsets).all(axis=1)]
    return offsets if len(offsets) else None


def _check_frame(
    offsets_m: Float64[np.ndarray, "m 2"], shape: tuple[int, int], pixel: float, found: list[Violation]
) -> None:
    """Add footprints that leave the object, where upstream reads zeros in silence; else holes in the field."""
    topleft = loader_centres_rc_px(offsets_m, shape=shape, pixel_size_m=pixel) - (SIDE - 1) / 2
    low, high = topleft.min(axis=0), topleft.max(axis=0) + SIDE
    slack = OUTSIDE_PX + ROUNDING_PX
    if not ((low < -slack) | (high > np.asarray(shape) + slack)).any():
        _check_holes(topleft, found)
        return
    offsets = offsets_m / pixel
    near_middle = (
        np.abs(offsets.mean(axis=0) - np.array([origin_px(length) for length in shape])) < np.asarray(shape) / 4
    )
    absolute = bool((offsets >= 0).all() and near_middle.all())
    problem = (
        f"footprints cover rows {low[0]:.1f} to {high[0]:.1f} and columns {low[1]:.1f} to {high[1]:.1f} of an object of "
        f"{shape[0]} x {shape[1]} px; probable frame: {'absolute, not centred' if absolute else 'unknown'}"
    )
    found.append(violation("PV-FRAME", problem))


def _check_holes(topleft_rc_px: Positions, found: list[Violation]) -> None:
    """Add the share of the field that no scan point fills: of its patch only the middle survives stitching."""
    occupancy = filled(topleft_rc_px)
    share = float(np.mean(occupancy == 0))
    if share:
        distances = np.asarray(cKDTree(topleft_rc_px).query(topleft_rc_px, k=2)[0])
        step = float(np.median(distances[:, 1]))
        problem = f"step {step:.1f} px against a footprint of {FOOTPRINT} px leaves {share:.1%} of the field unfilled"
        found.append(violation("PV-HOLES", problem))


def filled(topleft_rc_px: Positions) -> Int32[np.ndarray, "h w"]:
    """Return how many scan points fill each pixel of the bounding box of what they fill (section 11)."""
    first = np.floor(topleft_rc_px + ROUNDING_PX).astype(np.int64) + STITCH_TRIM + STITCH_PAD
    first -= first.min(axis=0)
    rows, cols = first.max(axis=0) + FOOTPRINT
    edges = np.zeros((rows + 1, cols + 1), dtype=np.int32)
    for end_row, end_col, sign in ((0, 0, 1), (FOOTPRINT, 0, -1), (0, FOOTPRINT, -1), (FOOTPRINT, FOOTPRINT, 1)):
        np.add.at(edges, (first[:, 0] + end_row, first[:, 1] + end_col), sign)
    np.cumsum(edges, axis=0, out=edges)
    return np.cumsum(edges, axis=1, out=edges)[:-1, :-1]


def check_split(n_patterns: int, train_split: float) -> list[Violation]:
    """Return the violation of a split of patterns that leaves its train or its validation part empty."""
    n_train = int(n_patterns * train_split)
    if 0 < n_train < n_patterns:
        return []
    problem = f"train_split = {train_split:g} of {n_patterns} patterns trains on {n_train}, validates on {n_patterns - n_train}"
    return [violation("PV-SPLIT", problem)]


def check_leak(train_folder: Path, test_dp: Path) -> list[Violation]:
    """Return where training would see the test pair: upstream trains on every pair of the folder, by name or by content."""
    test_sha256 = sha256_file(test_dp)
    found = []
    for path in sorted(train_folder.glob("*_dp.hdf5")):
        if path.resolve() == test_dp.resolve():
            found.append(violation("PV-LEAK", f"the test pair {path.name} lies in the folder that training reads"))
        elif sha256_file(path) == test_sha256:
            found.append(
                violation("PV-LEAK", f"{path.name} in the train folder has the same patterns as {test_dp.name}")
            )
    return found
