"""Where things come from: checksums, the code revision, versions, and the manifest beside every output."""

import hashlib
import importlib.metadata
import json
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ptychoflow import __version__
from ptychoflow.data.schema import SCHEMA_VERSION
from ptychoflow.data.storage import write_json
from ptychoflow.errors import ContractError
from ptychoflow.records import View

PROCESSES = {"compare-condition": "COMPARE"}
"""Processes of the workflow that are not called as their command is."""

VERSIONED = (
    *("numpy", "scipy", "h5py", "scikit-image", "matplotlib"),
    *("torch", "tensorflow", "tensorflow-cpu", "keras", "ptychi"),
)


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file's bytes, as hex."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_scan(path: Path, view: View, part: str) -> str:
    """Return the sha256 of a scan file after checking that the view was made from it (D69, D77).

    Args:
        path: scan file.
        view: view that indexes it.
        part: `train` or `test`.

    Raises:
        ContractError: the view was made from another file.
    """
    found = sha256_file(path)
    expected = view.metadata["scans"][part]
    if found != expected:
        raise ContractError(
            f"{path.name} is not the {part} scan that the view was made from: sha256 {found[:12]}..., expected {expected[:12]}..."
        )
    return found


def sha256_json(value: Any) -> str:
    """Return the sha256 of a value's canonical JSON (sorted keys, no spaces), as hex."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def code_revision(package: Path | None = None) -> str:
    """Return the revision of the package's sources: 16 hex digits.

    sha256 over every `*.py`, sorted by relative path with `/`, of path, a zero byte, contents, a zero byte. The workflow
    computes the same number (modules/functions.nf) and passes it to every process; a test holds the two together.
    """
    root = package or Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py"), key=lambda p: p.relative_to(root).as_posix()):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def versions() -> dict[str, str]:
    """Return the versions of Python, ptychoflow and the installed packages that decide results. Imports none of them."""
    found = {"python": platform.python_version(), "ptychoflow": __version__, "code_rev": code_revision()}
    for name in VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def used_versions() -> dict[str, str]:
    """Return those of `versions` that this process has loaded by now."""
    modules = {"scikit-image": "skimage", "tensorflow-cpu": "tensorflow"}
    return {
        name: value
        for name, value in versions().items()
        if name not in VERSIONED or modules.get(name, name) in sys.modules
    }


def process_versions(manifests: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the versions of every process of a run: a text where its tasks agree, a list where they do not.

    Args:
        manifests: manifest.json of every task.
    """
    found: dict[str, dict[str, set[str]]] = {}
    for manifest in manifests:
        process = PROCESSES.get(manifest["command"], manifest["command"].upper())
        for name, version in manifest["versions"].items():
            found.setdefault(process, {}).setdefault(name, set()).add(version)
    return {
        process: {name: only[0] if len(only := sorted(values)) == 1 else only for name, values in names.items()}
        for process, names in found.items()
    }


def write_manifest(
    out_dir: Path,
    *,
    command: str,
    inputs: Mapping[str, Path],
    outputs: Iterable[str] | Mapping[str, str],
    parameters: Any,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write `manifest.json`: checksums of inputs and outputs by file name, parameters, versions; no absolute paths, no dates.

    Outputs are names of files in `out_dir`, or their checksums by name where these are known already. The versions are of what
    the process has loaded.
    """
    sums = outputs if isinstance(outputs, Mapping) else {name: sha256_file(out_dir / name) for name in outputs}
    write_json(
        out_dir / "manifest.json",
        {
            "schema_version": SCHEMA_VERSION,
            "command": command,
            "inputs": {key: {"name": path.name, "sha256": sha256_file(path)} for key, path in inputs.items()},
            "outputs": dict(sums),
            "parameters": parameters,
            "facts": dict(facts or {}),
            "versions": used_versions(),
        },
    )
