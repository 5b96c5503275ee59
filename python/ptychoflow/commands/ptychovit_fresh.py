"""A fresh baseline of the external model: grid-lines objects, a new inference, scores and pictures, and nothing of an earlier run.

    metrics_by_model.json
    recons/pinn_ptychovit/recon.npz  recons/gt/recon.npz
    visuals/amp_phase_pinn_ptychovit.png  visuals/compare_amp_phase.png
    runs/pinn_ptychovit/  manifest.json stdout.log stderr.log invocation.json best_model.pth bridge_work/

The arm gets its own frames of 256 px, one pair an object; no other arm runs, and inference trains nothing, so N and the number of
train objects are recorded only. Every test object is reconstructed and scored; files and pictures show the reported one.
`ptychovit verify` judges the folder afterwards. Source: PtychoViT bridge reference, sections 12 and 17.
"""

import logging
import shutil
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from ptychoflow.arms.ptychovit.checkout import Way
from ptychoflow.arms.ptychovit.contract import SIDE, refusal, violation
from ptychoflow.arms.ptychovit.restore import PtychoVitConfig
from ptychoflow.commands import export_pair, ptychovit_run
from ptychoflow.commands.condition import by_model
from ptychoflow.commands.evaluate import facts_of
from ptychoflow.commands.prepare import prepare
from ptychoflow.commands.simulate import simulate_scan
from ptychoflow.config import STRICT, Count, Dose, EvaluateConfig, PrepareConfig, Side, SimulateConfig
from ptychoflow.data.npz import read_npz
from ptychoflow.data.storage import load_recon, read_json, save_recon, save_scan, write_json, write_npz
from ptychoflow.errors import NumericalError, UsageError
from ptychoflow.frames import Canvas
from ptychoflow.provenance import sha256_file
from ptychoflow.records import Recon, Scan, View
from ptychoflow.report.figures import amp_phase, compare_amp_phase
from ptychoflow.scoring.diffraction import consistency
from ptychoflow.scoring.pieces import score_piece, stitched_blocks

logger = logging.getLogger(__name__)

LABEL = "pinn_ptychovit"
RUN = Path("runs") / LABEL
RECON, TRUTH = Path("recons") / LABEL / "recon.npz", Path("recons") / "gt" / "recon.npz"
METRICS = Path("metrics_by_model.json")
PICTURES = (Path("visuals") / f"amp_phase_{LABEL}.png", Path("visuals") / "compare_amp_phase.png")
COMMAND = "ptychovit fresh"
REUSED = "Skipped backend execution"
"""What the log says of a reconstruction that was not made by this run; verify never lets it pass."""


@dataclass(frozen=True, config=STRICT)
class FreshConfig:
    """The data of a fresh baseline."""

    n: Side = 128
    """Frame side of the other arms of such a study, px; recorded only, since none of them runs."""
    gridsize: Literal[1] = 1
    """Frames in a group; this arm reads single ones."""
    nimgs_train: Count = 8
    """Train objects of such a study; recorded only, since inference trains nothing."""
    nimgs_test: Count = 8
    """Test objects, one pair each."""
    set_phi: bool = False
    """Objects have a phase, a function of their amplitude."""
    size: Side = 392
    """Side of an object, px."""
    step_px: Annotated[float, Field(gt=0)] = 10.0
    """Raster step, px."""
    dose: Dose = "1e9"
    """Mean photons per frame."""
    data_seed: Annotated[int, Field(ge=0)] = 42
    """Root seed of objects and noise."""
    report_object: Annotated[int, Field(ge=0)] = 0
    """Which test object the files and pictures show."""
    infer_batch_size: Count = 8
    """Patterns per call of the network."""
    time_limit_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 14400.0
    """Wall time of the external programs together, s."""


def run(
    config: FreshConfig,
    *,
    way: Way,
    checkpoint: Path,
    base_config: Path | None,
    digest: str | None,
    allow_double: str | None,
    device: str,
    force_clean: bool,
    reuse_recons: bool,
    inherited: Mapping[str, str],
    search_path: Sequence[str],
    out_dir: Path,
) -> str:
    """Make a baseline in `out_dir` and return what was made, for the terminal.

    Args:
        config: the data.
        way: how the external code is supplied.
        checkpoint: weights, with their config.yaml beside them; or the folder of the run that made them.
        base_config: config.yaml instead of that one.
        digest: tree digest of the checkout, given from outside.
        allow_double: digest of the contract double that is admitted.
        device: `cpu` or `cuda`.
        force_clean: remove what an earlier fresh run left in `out_dir`.
        reuse_recons: score the reconstruction that lies there instead of making one; such a folder never passes verify.
        inherited: environment of this process.
        search_path: import path of this process.
        out_dir: the output folder.

    Raises:
        UsageError: options that contradict each other.
        UnavailableError: checkout, environment or checkpoint are not what they must be.
        ContractError: the folder is not empty, or data and checkpoint break the contract.
        NumericalError: the run is invalid.
    """
    if config.report_object >= config.nimgs_test:
        raise UsageError(f"report_object = {config.report_object}, but there are {config.nimgs_test} test objects")
    reused = reuse_recons and (out_dir / RECON).is_file()
    if reused and force_clean:
        raise UsageError("--force-clean removes what --reuse-existing-recons would use; give one of them")
    if not reused:
        clear(out_dir, force=force_clean, keep=[way.root, way.python, checkpoint])
    run_id = f"{LABEL}__fresh__{uuid.uuid4().hex[:12]}"
    invocation = {
        "command": COMMAND, "run_id": run_id, "started": datetime.now(UTC).isoformat(), "options": config.__dict__,
        "reuse_existing_recons": reuse_recons, "device": device,
    }  # fmt: skip
    write_json(out_dir / RUN / "invocation.json", invocation)
    scan = simulate_scan(simulation(config), None)
    if reused:
        recon = _reused(out_dir, config)
    else:
        recon = _reconstruct(
            config, scan, run_id, out_dir, way=way, checkpoint=checkpoint, base_config=base_config, digest=digest,
            allow_double=allow_double, device=device, inherited=inherited, search_path=search_path,
        )  # fmt: skip
    document = _write_results(config, scan, recon, run_id, out_dir, reused=reused)
    _finish_manifest(out_dir, config, run_id, reused=reused)
    scores = document["stitched"]
    told = ", ".join(f"{part} MAE {scores[part]['mae']['value']:.4g}" for part in ("amp", "phase"))
    return f"{out_dir}: run {run_id}, {told}; check it with: ptychoflow ptychovit verify --output-dir {out_dir}"


def simulation(config: FreshConfig) -> SimulateConfig:
    """Return the scan of the test objects of the grid-lines workload at this arm's frame side."""
    return SimulateConfig(
        kind="lines", n=SIDE, size=config.size, n_objects=config.nimgs_test, step_px=config.step_px, dose=config.dose,
        phase="amplitude" if config.set_phi else "none", data_seed=config.data_seed, object_stream=2,
    )  # fmt: skip


def clear(out_dir: Path, *, force: bool, keep: Sequence[Path]) -> None:
    """Make an empty output folder.

    Args:
        out_dir: the folder.
        force: remove an earlier fresh run, which is known by its invocation or manifest; never any other folder.
        keep: what must not be removed with it.

    Raises:
        ContractError: the folder holds something that is not to be removed.
    """
    first = min((path.name for path in out_dir.iterdir()), default=None) if out_dir.is_dir() else None
    if first is not None:
        inside = [path for path in keep if path.resolve().is_relative_to(out_dir.resolve())]
        known = any((out_dir / RUN / name).is_file() for name in ("invocation.json", "manifest.json"))
        if not force or not known or inside:
            why = f"it holds {first}"
            if force:
                why += f", and {inside[0].name} of this run lies in it" if inside else " and no fresh run of ours"
            raise refusal([violation("PV-STALE", f"{out_dir.name} is not empty: {why}")], what=COMMAND)
        shutil.rmtree(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)


def _reconstruct(
    config: FreshConfig, scan: Scan, run_id: str, out_dir: Path, *, way: Way, checkpoint: Path, base_config: Path | None,
    digest: str | None, allow_double: str | None, device: str, inherited: Mapping[str, str], search_path: Sequence[str],
) -> Recon:  # fmt: skip
    """Write the pairs, run the inference and return its objects, all of them on one canvas."""
    folder = out_dir / RUN
    pairs = folder / "bridge_work" / "data" / "test"
    with tempfile.TemporaryDirectory(dir=out_dir, prefix=".scan.") as scratch:
        save_scan(Path(scratch) / "scan.npz", scan)
        export_pair.run(scan=Path(scratch) / "scan.npz", view=None, object_file=None, name="test", out_dir=pairs)
    run_meta = {
        "run_id": run_id, "condition": "fresh", "label": LABEL, "arm": LABEL, "gridsize": config.gridsize, "n": SIDE,
        "seed": 0,
    }  # fmt: skip
    reason = ptychovit_run.run(
        PtychoVitConfig(infer_batch_size=config.infer_batch_size, time_limit_s=config.time_limit_s),
        run_meta=run_meta, way=way, test_pairs=pairs, train_pairs=None, checkpoint=checkpoint, base_config=base_config,
        digest=digest, allow_double=allow_double, device=device, attempt=1, inherited=inherited, search_path=search_path,
        out_dir=folder,
    )  # fmt: skip
    if reason is not None:
        raise NumericalError(f"the run is invalid, its logs are in {folder}: {reason}")
    recon = load_recon(folder / "recon.npz")
    (folder / "recon.npz").unlink()
    (folder / "status.json").unlink()  # the manifest says the same
    return recon


def _reused(out_dir: Path, config: FreshConfig) -> Recon:
    """Return the reconstruction of an earlier run of the same options, which must be of one object, and say so in the log."""
    manifest = read_json(out_dir / RUN / "manifest.json")
    if manifest["parameters"].get("fresh") != config.__dict__ or config.nimgs_test != 1:
        raise UsageError(
            "--reuse-existing-recons needs a folder made with the same options and --nimgs-test 1, since only the reported "
            f"object is kept; this one was made with {manifest['parameters'].get('fresh')}"
        )
    with (out_dir / RUN / "stdout.log").open("a") as log:
        log.write(f"{REUSED}: {RECON.as_posix()} of run {manifest['run_id']} is used again\n")
    logger.warning("%s: nothing was run, and verify will not pass", REUSED)
    return load_recon(out_dir / RECON)


def _write_results(
    config: FreshConfig, scan: Scan, recon: Recon, run_id: str, out_dir: Path, *, reused: bool
) -> dict[str, Any]:
    """Score every object, write files and pictures of the reported one, and return the scores."""
    view = prepare(PrepareConfig(split="none"), scan, scan, heldout_column=None, same_scan=True)
    document, shown, target = _scored(config, scan, view, recon, run_id)
    region = view.score_regions[config.report_object]
    # The model's narrow range makes a low contrast, which a ranking leaves out; a baseline states its scores all the same.
    models = by_model([{**document, "collapsed": False}], [region.shape])
    models[LABEL] |= {"run_id": run_id, "by_object": document["by_object"], "collapsed": document["collapsed"]}
    write_json(out_dir / METRICS, models)
    truth = _truth_of(scan, config.report_object)
    if not reused:
        own = _cut(recon, read_json(out_dir / RUN / "manifest.json"), config.report_object)
        _save(out_dir / RECON, replace(own, metadata={**own.metadata, "run_id": run_id}))
    _save(out_dir / TRUTH, replace(truth, metadata={"arm": "truth", "run_id": run_id}))
    title = f"{run_id}: {LABEL}, object {config.report_object} of {config.nimgs_test}"
    amp_phase(shown, target, title=title, path=_with_folder(out_dir / PICTURES[0]))
    compare_amp_phase([(LABEL, shown)], target, out_dir / PICTURES[1], title=title)
    return document


def _scored(
    config: FreshConfig, scan: Scan, view: View, recon: Recon, run_id: str
) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Return the scores in the form of metrics.json, and the reported object's picture and truth on the scored grid."""
    if scan.object is None:
        raise ValueError("a simulated scan has an object")
    canvas = Canvas((0, 0), (scan.object.shape[0], scan.object.shape[1]))
    options = EvaluateConfig()
    pieces = [score_piece(recon, scan.object, canvas, region, options) for region in view.score_regions]
    document = {
        "run_id": run_id, "condition": "fresh", "label": LABEL, "arm": LABEL, "gridsize": config.gridsize, "n": SIDE,
        "seed": 0, "against": scan.object_role, **facts_of(pieces, None), **stitched_blocks(pieces),
        "patch": {"not_applicable": "this arm has no patch metrics"}, "consistency": consistency(recon, scan, view),
    }  # fmt: skip
    shown = pieces[config.report_object]
    return document, shown.recon, np.asarray(shown.truth)


def _cut(recon: Recon, manifest: Mapping[str, Any], index: int) -> Recon:
    """Return the reconstruction on the grid of one pair's object."""
    record = next(one for one in manifest["objects"].values() if one["scan_index"] == index)
    row, col = np.subtract(record["object_origin_rc_px"], recon.canvas.origin_rc_px).tolist()
    rows, cols = record["object_shape_px"]
    window = slice(row, row + rows), slice(col, col + cols)
    canvas = Canvas((record["object_origin_rc_px"][0], record["object_origin_rc_px"][1]), (rows, cols))
    return replace(recon, object=recon.object[window], weight=recon.weight[window], canvas=canvas)


def _truth_of(scan: Scan, index: int) -> Recon:
    """Return one true object, where it lies in the scan's frame."""
    if scan.object is None:
        raise ValueError("a simulated scan has an object")
    r0, r1, c0, c1 = scan.metadata["objects"][index]
    image = scan.object[r0:r1, c0:c1]
    return Recon(image, np.ones(image.shape, dtype=np.float32), Canvas((r0, c0), (r1 - r0, c1 - c0)))


def _save(path: Path, recon: Recon) -> None:
    """Write recon.npz with the specified names beside ours."""
    save_recon(_with_folder(path), recon)
    specified = {"YY_pred": recon.object, "occupancy": recon.weight}
    write_npz(path, {**{name: np.array(value) for name, value in read_npz(path).items()}, **specified})


def _with_folder(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _finish_manifest(out_dir: Path, config: FreshConfig, run_id: str, *, reused: bool) -> None:
    """Give the run's manifest the paths and checksums of the whole folder."""
    path = out_dir / RUN / "manifest.json"
    document = read_json(path)
    if not reused:
        prefix = RUN.as_posix()
        document |= {
            name: [f"{prefix}/{one}" for one in document[name]]
            for name in ("train_dp", "train_para", "test_dp", "test_para")
        }
        artifacts = document["checkpoint_artifacts"]
        document["checkpoint_artifacts"] = {key: one and f"{prefix}/{one}" for key, one in artifacts.items()}
        document |= {"checkpoint": f"{prefix}/{document['checkpoint']}", "recon_npz": RECON.as_posix()}
    document |= {
        "command": COMMAND,
        "run_id": run_id,
        "reused_recons": reused,
        "started_ns": (out_dir / RUN / "invocation.json").stat().st_mtime_ns,
        "outputs": {
            file.relative_to(out_dir).as_posix(): sha256_file(file)
            for file in sorted(out_dir.rglob("*"))
            if file.is_file() and file != path
        },
    }
    document["parameters"] = {**document["parameters"], "fresh": config.__dict__}
    write_json(path, document)
