"""The normalization dictionary of the external arm, and the proof that a run used it.

Upstream divides intensities by `dictionary[object name]` = max(dp). Where it cannot, it prints a warning (or, with an unset path,
nothing), divides by 100000 and exits 0. So the dictionary is made for each run from the float32 values in the files, and
a run counts only if no stream holds a fallback text and the loader reports our own values (PtychoViT bridge reference, section 5).
"""

import math
import pickle
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float64

from ptychoflow.arms.ptychovit.contract import DEFAULT_NORMALIZATION, Violation, violation
from ptychoflow.data.storage import atomic_write
from ptychoflow.errors import refuse

BLOCK = 8
"""Patterns handled at a time: 4 MiB of float64."""

CONFIG_KEYS = ("normalization_dict_path", "test_normalization")
"""Keys below `data` of config.yaml that must name the run's dictionary; unset, upstream falls back in silence."""

FALLBACK_TEXTS = (
    re.compile(r"Normalization file not found at"),
    re.compile(r"Object '[^'\r\n]*' not found in normalization dictionary"),
    re.compile(r"Error loading normalization file:"),
)
"""What upstream prints when it falls back; object name and path are left open."""


def object_name(dp: Path) -> str:
    """Return the key of a pair: the stem of its `_dp` file without `_dp`."""
    return dp.stem.removesuffix("_dp")


def pattern_blocks(dp: Any) -> Iterator[tuple[int, Float64[np.ndarray, "b h w"]]]:
    """Yield blocks of patterns of a stack (an array or an HDF5 dataset), each with the index of its first one."""
    for first in range(0, len(dp), BLOCK):
        yield first, np.asarray(dp[first : first + BLOCK], dtype=np.float64)


def largest_intensity(dp: Path) -> float:
    """Return max(dp) over the whole file, of the values actually written."""
    with h5py.File(dp, "r") as file:
        return max(float(block.max()) for _, block in pattern_blocks(file["dp"]))


def make_dictionary(dp_files: Iterable[Path]) -> dict[str, float]:
    """Return the dictionary of a run, one key for every pair, train and test.

    Raises:
        ContractError: two files have one object name, so that one value would serve both.
    """
    files = list(dp_files)
    names = [object_name(path) for path in files]
    twice = sorted({name for name in names if names.count(name) > 1})
    refuse([f"object name '{name}' is that of several pairs; give each its own" for name in twice], what="PV-NORM")
    return {name: largest_intensity(path) for name, path in zip(names, files, strict=True)}


def write_dictionary(path: Path, values: Mapping[str, float]) -> None:
    """Write the dictionary as the pickle that upstream reads: plain text keys, plain floats."""
    with atomic_write(path) as stream:
        pickle.dump({str(name): float(value) for name, value in values.items()}, stream)


class _PlainUnpickler(pickle.Unpickler):
    """Reads dictionaries, text and numbers; whatever would run code is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, and only plain numbers and text are read")


def check_dictionary(path: Path, expected: Mapping[str, float]) -> list[Violation]:
    """Return how a dictionary departs from what the run's pairs need.

    Args:
        path: the pickle.
        expected: max(dp) by object name.
    """
    try:
        with path.open("rb") as stream:
            found = _PlainUnpickler(stream).load()
    except FileNotFoundError:
        return [violation("PV-NORM", f"{path.name} is missing; it must hold {dict(expected)}")]
    except (pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError, AttributeError, TypeError) as error:
        return [violation("PV-NORM", f"{path.name} cannot be read: {error}")]
    if not isinstance(found, dict):
        return [violation("PV-NORM", f"{path.name} must hold a dictionary, got {type(found).__name__}")]
    violations = []
    for name, value in expected.items():
        if name not in found:
            violations.append(violation("PV-NORM", f"{path.name} has no key '{name}' (max(dp) = {value!r})"))
        elif type(found[name]) is not float or not math.isfinite(found[name]) or found[name] <= 0:
            problem = f"object '{name}' has {found[name]!r}, which must be a finite float above 0; max(dp) = {value!r}"
            violations.append(violation("PV-NORM", problem))
        elif found[name] != value:
            violations.append(violation("PV-NORM", f"object '{name}' has {found[name]!r}, but max(dp) = {value!r}"))
    return violations


def check_config(config: Mapping[str, Any], dictionary: Path) -> list[Violation]:
    """Return which keys of the external config.yaml do not name the run's dictionary."""
    data = config.get("data") or {}
    return [
        violation("PV-NORM", f"config key data.{key} is {data.get(key)!r}, expected {str(dictionary)!r}")
        for key in CONFIG_KEYS
        if data.get(key) != str(dictionary)
    ]


def check_streams(streams: Mapping[str, Iterable[str]], objects: Iterable[str]) -> list[Violation]:
    """Return every fallback warning in the output of a run's processes, training included.

    Args:
        streams: lines by name of the stream (an open text file is lines); all streams of all processes.
        objects: names of the run's objects, for the message.
    """
    names = ", ".join(objects)
    return [
        violation("PV-NORMFALL", f"the run is invalid: {name}, line {number}: '{_told(text, line)}' (objects: {names})")
        for name, lines in streams.items()
        for number, line in enumerate(lines, start=1)
        for text in FALLBACK_TEXTS
        if text.search(line)
    ]


def _told(text: re.Pattern[str], line: str) -> str:
    """Return the line from the text on: what stands before it may be a progress bar."""
    found = text.search(line)
    return line[found.start() if found else 0 :].strip()


def check_loaded(loaded: Mapping[str, float], expected: Mapping[str, float]) -> list[Violation]:
    """Return the objects for which the external loader used another value than ours: the one sign of a silent fallback.

    Args:
        loaded: `dataset.normalization` by object name, as the driver reports it.
        expected: max(dp) by object name.
    """
    violations = []
    for name, value in expected.items():
        if loaded.get(name) == value:
            continue
        default = f", upstream's default {DEFAULT_NORMALIZATION:g}" if loaded.get(name) == DEFAULT_NORMALIZATION else ""
        problem = (
            f"the run is invalid: the loader divided object '{name}' by {loaded.get(name)!r}{default}, not by {value!r}"
        )
        violations.append(violation("PV-NORMFALL", problem))
    return violations
