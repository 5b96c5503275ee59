"""Whether a folder holds a fresh baseline of the external model: reads files only, tells every finding at once.

What is there must have been made by one run (checksums, times, ids), by inference alone and with the checkpoint that was asked for,
from pairs that keep the contract, without any fallback in a log, with a reconstruction of the pair's shape that is not flat.
Source: PtychoViT bridge reference, section 17.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ptychoflow.arms.ptychovit.assemble import FLAT
from ptychoflow.arms.ptychovit.contract import violation
from ptychoflow.arms.ptychovit.judge import of_streams
from ptychoflow.arms.ptychovit.normalization import check_loaded, largest_intensity
from ptychoflow.arms.ptychovit.validate import validate_folder
from ptychoflow.commands.ptychovit_fresh import COMMAND, LABEL, METRICS, PICTURES, RECON, RUN, TRUTH
from ptychoflow.data.npz import read_npz
from ptychoflow.data.storage import read_json
from ptychoflow.errors import ContractError
from ptychoflow.provenance import sha256_file

Json = Mapping[str, Any]

NEEDED = (
    METRICS, RECON, TRUTH, *PICTURES, RUN / "stdout.log", RUN / "stderr.log", RUN / "invocation.json", RUN / "best_model.pth",
)  # fmt: skip
"""Files without which there is no baseline, beside the manifest."""


def run(out_dir: Path, *, allow_double: bool) -> str:
    """Return one line that says that the baseline stands.

    Args:
        out_dir: folder that `ptychovit fresh` wrote.
        allow_double: a run of the contract double is no reason to fail.

    Raises:
        ContractError: naming every finding.
    """
    findings = list(verify(out_dir, allow_double=allow_double))
    if findings:
        lines = "".join(f"\n  - {finding}" for finding in findings)
        raise ContractError(f"{out_dir.name} is no fresh baseline: {len(findings)} finding(s){lines}")
    return f"{out_dir.name}: a fresh baseline, every check passed"


def verify(out_dir: Path, *, allow_double: bool) -> Iterator[str]:
    """Yield every finding; nothing is yielded for a baseline that stands."""
    path = out_dir / RUN / "manifest.json"
    manifest, problem = _read(path)
    if problem:
        yield problem
        for name in NEEDED:
            if not (out_dir / name).is_file():
                yield f"{name.as_posix()} is missing"
        return
    yield from _files(out_dir, manifest)
    yield from _freshness(out_dir, manifest)
    yield from _mode(manifest)
    yield from _pin(manifest, allow_double=allow_double)
    yield from _checkpoint(out_dir, manifest)
    yield from _pairs(out_dir, manifest)
    yield from _reconstruction(out_dir, manifest)
    yield from _metrics(out_dir, manifest)


def _read(path: Path) -> tuple[dict[str, Any], str | None]:
    """Return a JSON object, or an empty one and why it cannot be read."""
    try:
        found = read_json(path)
    except (OSError, ContractError) as error:
        return {}, f"{path.name} cannot be read: {error}"
    return (found, None) if isinstance(found, dict) else ({}, f"{path.name} must hold a JSON object")


def _files(out_dir: Path, manifest: Json) -> Iterator[str]:
    """Every needed file is there; every listed one is the one that the run made, and newer than its start."""
    listed: Json = manifest.get("outputs", {})
    started = manifest.get("started_ns")
    if not isinstance(started, int):
        yield "the manifest does not say when the run started"
    for name in sorted({*listed, *(needed.as_posix() for needed in NEEDED)}):
        path = out_dir / name
        if not path.is_file():
            yield f"{name} is missing"
            continue
        if name not in listed:
            yield f"{name} is not in the manifest: this run did not make it"
        elif sha256_file(path) != listed[name]:
            yield f"{name} is not the file that this run made: its sha256 differs from the manifest's"
        if isinstance(started, int) and path.stat().st_mtime_ns < started:
            yield f"{name} is older than the start of the run"


def _freshness(out_dir: Path, manifest: Json) -> Iterator[str]:
    """The run was made here and now, and no log says otherwise."""
    if manifest.get("command") != COMMAND:
        yield f"the manifest is of '{manifest.get('command')}', expected '{COMMAND}'"
    if manifest.get("reused_recons") is not False:
        yield "the reconstruction of an earlier run was used again (--reuse-existing-recons)"
    logs = sorted((out_dir / RUN).glob("*.log"))
    for found in of_streams(logs, manifest.get("normalization", {})):
        yield found.text


def _mode(manifest: Json) -> Iterator[str]:
    expected = {
        "state": "ok",
        "mode": "inference",
        "training_returncode": None,
        "resume_from_checkpoint": False,
        "log_verdict": "clean",
    }
    for name, value in expected.items():
        if manifest.get(name, "missing") != value:
            yield f"manifest: {name} is {manifest.get(name, 'missing')!r}, expected {value!r}"
    for one in manifest.get("violations", []):
        if one["kind"] != "W":
            yield f"the run itself found {one['code']}: {one['message']}"


def _pin(manifest: Json, *, allow_double: bool) -> Iterator[str]:
    if manifest.get("dialect") != "P":
        yield f"manifest: dialect is {manifest.get('dialect')!r}, expected 'P'"
    if manifest.get("checkout_kind") == "double" and allow_double:
        return
    if manifest.get("checkout_kind") != "real":
        yield f"the run used a checkout of kind {manifest.get('checkout_kind')!r}; a baseline needs the real one"
    pin = manifest.get("pin") or {}
    if pin.get("verified") is not True:
        yield f"the checkout is not verified: commit {pin.get('found')}, expected {pin.get('expected')}"


def _checkpoint(out_dir: Path, manifest: Json) -> Iterator[str]:
    """The weights that were used are those that were asked for, and lie in the folder."""
    seeded = (RUN / "best_model.pth").as_posix()
    if manifest.get("checkpoint") != seeded:
        yield f"manifest: checkpoint is {manifest.get('checkpoint')!r}, expected '{seeded}'"
    requested = (manifest.get("checkpoint_requested") or {}).get("sha256", {}).get("best_model.pth")
    path = out_dir / seeded
    values = {manifest.get("checkpoint_sha256"), requested, *([sha256_file(path)] if path.is_file() else [])}
    if len(values) != 1 or None in values:
        yield "the checkpoint that was asked for, the one that was used and best_model.pth are not the same file"


def _pairs(out_dir: Path, manifest: Json) -> Iterator[str]:
    """The pairs keep the contract, and the loader used their own maximum."""
    folder = out_dir / RUN / "bridge_work" / "data" / "test"
    if not folder.is_dir():
        yield f"{folder.relative_to(out_dir).as_posix()} is missing"
        return
    for found in validate_folder(folder):
        if found.kind != "W":
            yield found.text
    names = manifest.get("test_dp", [])
    if not names:
        yield "the manifest names no pair"
    for name in names:
        record = manifest.get("objects", {}).get(Path(name).stem.removesuffix("_dp"), {})
        try:
            largest = {record.get("name"): largest_intensity(out_dir / name)}
        except (OSError, KeyError):
            continue  # told above
        for found in check_loaded({record.get("name"): record.get("normalization_loaded")}, largest):
            yield found.text


def _reconstruction(out_dir: Path, manifest: Json) -> Iterator[str]:
    """The reconstruction has the shape of its pair's object, is finite, and is not flat where it was covered."""
    try:
        arrays = read_npz(out_dir / RECON)
        image, occupancy, origin = arrays["YY_pred"], arrays["occupancy"], arrays["origin_rc_px"]
    except (OSError, ContractError, KeyError) as error:
        yield f"{RECON.as_posix()} cannot be read: {type(error).__name__}: {error}"
        return
    frames = {
        (tuple(one.get("object_origin_rc_px", ())), tuple(one.get("object_shape_px", ())))
        for one in manifest.get("objects", {}).values()
    }
    if (tuple(origin.tolist()), image.shape) not in frames:
        yield f"YY_pred of shape {image.shape} at {origin.tolist()} is the object of no pair: {sorted(frames)}"
    if not np.isfinite(image).all():
        yield "YY_pred has values that are not finite"
    if occupancy.shape != image.shape or not (occupancy > 0).any():
        yield f"occupancy of shape {occupancy.shape} covers nothing of YY_pred"
        return
    spread = float(np.std(np.abs(image[occupancy > 0]), dtype=np.float64))
    if not spread >= FLAT:
        flat = f"amplitude of YY_pred has standard deviation {spread:.2g} over occupancy > 0"
        yield violation("PV-FLAT", flat).text
    if any("saturated_share" not in one for one in manifest.get("objects", {}).values()):
        yield "the manifest does not say what share of the amplitude is saturated"


def _metrics(out_dir: Path, manifest: Json) -> Iterator[str]:
    """Scores are of this run, and finite or null."""
    models, problem = _read(out_dir / METRICS)
    if problem:
        yield problem
        return
    entry = models.get(LABEL)
    if not isinstance(entry, dict):
        yield f"{METRICS.as_posix()} has no entry {LABEL}, only {sorted(models)}"
        return
    if entry.get("run_id") != manifest.get("run_id") or not entry.get("run_id"):
        yield f"{METRICS.as_posix()} is of run {entry.get('run_id')}, the manifest of run {manifest.get('run_id')}"
    if not entry.get("metrics"):
        yield f"{METRICS.as_posix()} holds no scores of {LABEL}"
    bad = [value for value in _numbers(entry) if not math.isfinite(value)]
    if bad:
        yield f"{METRICS.as_posix()} holds {len(bad)} values that are not finite"


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, Mapping):
        for below in value.values():
            yield from _numbers(below)
    elif isinstance(value, list):
        for below in value:
            yield from _numbers(below)
    elif isinstance(value, float | int):
        yield value
