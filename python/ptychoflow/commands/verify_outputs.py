"""VERIFY-OUTPUTS: is every file of an output folder still what the task that made it recorded?

Every task leaves a `manifest.json` with the sha256 of what it wrote. It is published beside the files, but for a few that the
output tree has elsewhere (`published`). Checked are those, the manifests themselves, whose checksums COLLECT recorded, the scans
of `run_manifest.json`, the trained models of `training_manifest.json`, and that each file which a sheet names was recorded by
somebody. A document that is not as recorded is named and not believed.
"""

import csv
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ptychoflow.data.storage import read_json
from ptychoflow.errors import ContractError, UsageError, refuse
from ptychoflow.provenance import sha256_file
from ptychoflow.study.manifests import DATA, TRAINING, bundle_sha256
from ptychoflow.study.resheet import SHEETS

FILES_OF_A_SHEET = ("scan", "train_scan", "test_scan", "view", "recon")
"""Columns of the sheets that name a file; `model` names a folder, which its manifest covers file by file."""


def run(folder: Path) -> str:
    """Return in words how much was checked.

    Args:
        folder: output folder of a run, or of several.

    Raises:
        ContractError: naming every file that is missing, changed, or named but not recorded.
        UsageError: the folder holds no manifest of a task.
    """
    manifests = sorted(path for path in folder.rglob("manifest.json") if _visible(path.relative_to(folder)))
    if not manifests:
        raise UsageError(
            f"{folder} is no output folder of a run: no manifest.json is in it; give the folder that was --outdir"
        )
    found = _Sums(folder)
    recorded: dict[str, set[str]] = {}
    problems = []
    for path in manifests:
        place = PurePosixPath(path.parent.relative_to(folder).as_posix())
        outputs = _outputs(path)
        if outputs is None:
            problems.append(f"{place}/manifest.json: changed, it is no manifest any more")
        for name, expected in (outputs or {}).items():
            recorded.setdefault(published(place, name), set()).add(expected)
    different = {name: text for name, sums in sorted(recorded.items()) if (text := _difference(found, name, sums))}
    problems += different.values()
    believed = recorded.keys() - different.keys()
    problems += _manifests(found, [path.relative_to(folder).as_posix() for path in manifests])
    problems += _scans(found, _document(folder, f"summary/{DATA}", believed))
    problems += _models(found, _document(folder, f"summary/{TRAINING}", believed))
    problems += [
        f"{name}: named by {sheet}, but no manifest has a checksum of it"
        for sheet, name in _named(folder, believed)
        if name not in recorded
    ]
    refuse(list(dict.fromkeys(problems)), what=f"verify-outputs {folder}")
    return f"verify-outputs: {len(recorded)} files are what {len(manifests)} manifests recorded"


def published(place: PurePosixPath, name: str) -> str:
    """Return where an output of a task lies in the output tree (conf/modules.config), relative to its folder.

    Args:
        place: folder of the task's manifest.json, relative to the output folder.
        name: the file as the manifest has it.
    """
    parts = place.parts
    if parts[:1] == ("summary",) and name in SHEETS:
        return f"sheets/{name}"
    if parts[:1] == ("conditions",):
        condition = PurePosixPath(*parts[:2])
        if name == "gt_recon.npz":
            return str(condition / "recons" / "gt" / "recon.npz")
        if parts[2:3] == ("runs",):
            label, seed = parts[3:5]
            if pair := re.fullmatch(r"bridge_work/data/\w+/((.+_(train|test))(_\d+)?_(dp|para)\.hdf5)", name):
                return str(condition / "pairs" / pair[2] / pair[1])
            if name == "recon.npz":
                return str(condition / "recons" / label / seed / name)
            if name == "amp_phase.png":
                return str(condition / "visuals" / f"amp_phase_{label}_{seed}.png")
    return str(place / name)


class _Sums:
    """Checksums of files of the output folder, each read once; None for a file that is not there."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._known: dict[str, str | None] = {}

    def of(self, name: str) -> str | None:
        if name not in self._known:
            path = self.folder / name
            self._known[name] = sha256_file(path) if path.is_file() else None
        return self._known[name]


def _visible(path: Path) -> bool:
    """Tell whether a path is part of the output: checkpoints lie in a hidden folder."""
    return not any(part.startswith(".") for part in path.parts)


def _outputs(manifest: Path) -> dict[str, str] | None:
    """Return the checksums that a task recorded, None where the file does not hold any."""
    try:
        document = read_json(manifest)
        inputs, outputs = document["inputs"], document["outputs"]
    except (ContractError, KeyError, TypeError):
        return None
    usable = (
        isinstance(inputs, dict) and isinstance(outputs, dict) and all(isinstance(one, str) for one in outputs.values())
    )
    return outputs if usable else None


def _manifests(found: _Sums, names: Sequence[str]) -> list[str]:
    """Return the manifests that are not those which COLLECT had; of an earlier run in the same folder there may be more."""
    last = "summary/manifest.json"
    inputs = read_json(found.folder / last)["inputs"] if last in names and _outputs(found.folder / last) else {}
    recorded = {entry.get("sha256") for key, entry in inputs.items() if key.startswith("manifest_")}
    lost = recorded - {found.of(name) for name in names}
    strange = [name for name in names if name != last and found.of(name) not in recorded]
    if lost and not strange:
        return [f"{len(lost)} manifest.json that {last} recorded: missing"]
    return [f"{name}: not among the manifests that {last} recorded" for name in strange] if lost else []


def _difference(found: _Sums, name: str, expected: set[str]) -> str | None:
    """Return what is wrong with one file, None when nothing is; several tasks may have recorded it."""
    value = found.of(name)
    if value is None:
        return f"{name}: missing"
    if {value} == expected:
        return None
    listed = ", ".join(f"{one[:12]}..." for one in sorted(expected))
    return f"{name}: changed, sha256 {value[:12]}..., recorded {listed}"


def _scans(found: _Sums, manifest: Mapping[str, Any]) -> list[str]:
    """Return the scans that are not those of the study's manifest."""
    problems = []
    for entry in manifest.get("datasets", {}).values():
        for part, scan in entry["scans"].items():
            if entry[part] is not None and scan["sha256"] is not None:
                problems.append(_difference(found, entry[part], {scan["sha256"]}))
    return [text for text in problems if text]


def _models(found: _Sums, manifest: Mapping[str, Any]) -> list[str]:
    """Return the trained models that are not those of the study's manifest, as a whole."""
    problems = []
    for job in manifest.get("jobs", []):
        if job["bundle_path"] is None or job["bundle_sha256"] is None:
            continue
        folder = found.folder / job["bundle_path"]
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        sums = {f"model/{name}": str(found.of(f"{job['bundle_path']}/{name}")) for name in names}
        value = bundle_sha256(sums)
        if not names:
            problems.append(f"{job['bundle_path']}: missing")
        elif value != job["bundle_sha256"]:
            recorded = job["bundle_sha256"][:12]
            problems.append(
                f"{job['bundle_path']}: changed, sha256 of the model {value[:12]}..., recorded {recorded}..."
            )
    return problems


def _document(folder: Path, name: str, believed: Collection[str]) -> Mapping[str, Any]:
    """Return a manifest of the study; a run that ended before COLLECT has none."""
    return read_json(folder / name) if name in believed else {}


def _named(folder: Path, believed: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield (sheet, file) for every file inside of the output folder that one of its sheets names."""
    root = folder.resolve()
    for sheet in (f"sheets/{name}" for name in SHEETS):
        if sheet not in believed:
            continue
        with (root / sheet).open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                for cell in (row[column] for column in FILES_OF_A_SHEET if row.get(column)):
                    place = Path(root / "sheets" / cell).resolve()
                    if "://" not in cell and place.is_relative_to(root):
                        yield sheet, place.relative_to(root).as_posix()
