"""The command line: one command a process, plus a few for people. Only typer is imported before a command is known."""

import errno
import json
import logging
import math
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from ptychoflow import __version__
from ptychoflow.errors import ContractError, PtychoflowError, TransientError, UnavailableError, UsageError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Machine-learning and iterative ptychography, compared on one grid. The workflow (nextflow run main.nf) calls "
    "these commands; each also works alone. Exit codes: 0 done, 64 usage, 65 bad input, 69 unavailable, 70 numerical failure, "
    "75 try again, 77 out of device memory.",
)
ptychovit = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The external model ptycho-vit.")
app.add_typer(ptychovit, name="ptychovit")

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)

Out = Annotated[Path, typer.Option(help="Folder for the outputs.")]
CodeRev = Annotated[str | None, typer.Option(help="Refuse to run unless the package has this code revision.")]
Json = Annotated[str, typer.Option(help="JSON text, or @FILE to read it from a file.")]
InputFile = Annotated[Path, typer.Option(exists=True, dir_okay=False, help="Input file.")]
OptionalFile = Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="Input file.")]
Files = Annotated[list[Path] | None, typer.Option(exists=True, dir_okay=False, help="Input file; may be repeated.")]
Device = Annotated[
    Literal["cpu", "cuda"], typer.Option(help="cpu or cuda; cuda without a GPU is an error (69), never a CPU run.")
]
Attempt = Annotated[int, typer.Option(min=1, help="Which try of the task this is.")]


def _finite(value: float) -> float:
    """Refuse what `min` lets through: no report could hold infinity, or NaN."""
    if not math.isfinite(value):
        raise typer.BadParameter(f"expected a finite number, got {value}")
    return value


PtychovitRepo = Annotated[
    str | None,
    typer.Option("--ptychovit-repo", "--ptychovit_repo", help="Checkout of ptycho-vit at the pinned commit, absolute."),
]
PtychovitPython = Annotated[
    str | None,
    typer.Option(
        "--ptychovit-python", "--ptychovit_python", help="Interpreter of the checkout's environment, absolute."
    ),
]
PtychovitImage = Annotated[
    str | None,
    typer.Option(
        "--ptychovit-image", "--ptychovit_image", help="Name of the image that this process runs in, instead of both."
    ),
]
TreeDigest = Annotated[
    str | None, typer.Option(help="tree_sha256 of the image build; needed where the tree has no git metadata.")
]
AllowDouble = Annotated[
    str | None,
    typer.Option("--allow-double", "--allow_double", help="For tests: tree_sha256 of the contract double to admit."),
]
Checkpoint = Annotated[
    Path | None, typer.Option(help="Folder of an earlier run of the external model; for inference also a weights file.")
]
BaseConfig = Annotated[
    Path | None, typer.Option(dir_okay=False, help="config.yaml instead of the checkpoint's own, or the checkout's.")
]
LossTolerance = Annotated[
    float, typer.Option(min=0, callback=_finite, help="Share of the reference by which a loss may exceed it.")
]


def _version(show: bool) -> None:
    if show:
        print(f"ptychoflow {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version


def _start(out: Path | None, code_rev: str | None) -> None:
    """Make the output folder, start logging, refuse a package of another revision."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    if code_rev is None:
        return
    from ptychoflow.provenance import code_revision

    found = code_revision()
    if found != code_rev:
        raise UnavailableError(
            f"stale image: the workflow has code revision {code_rev}, the installed package {found}; "
            "rebuild the image, or start again if a file was edited during the run"
        )


def _json(text: str, *, what: str) -> dict[str, Any]:
    """Return the object in JSON text or in @FILE."""
    try:
        value = json.loads(Path(text[1:]).read_text() if text.startswith("@") else text)
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{what}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UsageError(f"{what}: expected a JSON object, got {type(value).__name__}")
    return value


def _need(value: dict[str, Any], key: str, *, what: str) -> Any:
    if key not in value:
        raise UsageError(f"{what}: key '{key}' is missing; it has {sorted(value)}")
    return value[key]


def _whole_numbers(text: str, *, what: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{what}: expected whole numbers with commas between them, got '{text}'") from None


def _meta(run: dict[str, Any]) -> dict[str, Any]:
    """Return the flat part of a run entry: ids and numbers, without the nested configurations."""
    for key in ("run_id", "condition", "label", "arm", "gridsize", "n", "seed"):
        _need(run, key, what="--run")
    return {key: value for key, value in run.items() if not isinstance(value, dict)}


@app.command()
def plan(
    params: Json,
    arms: InputFile,
    sheet: OptionalFile = None,
    study: OptionalFile = None,
    out: Out = Path(),
    code_rev: CodeRev = None,
) -> None:
    """Expand parameters into datasets, conditions and runs: plan.json, plan.txt."""
    _start(out, code_rev)
    from ptychoflow.commands import plan as command

    command.run(
        params_text=json.dumps(_json(params, what="--params")), sheet=sheet, study=study, arms=arms, out_dir=out
    )


@app.command()
def simulate(
    entry: Annotated[str, typer.Option(help='Dataset entry as JSON: {"id": ..., "config": {...}}, or @FILE.')],
    base: OptionalFile = None,
    out: Out = Path(),
    code_rev: CodeRev = None,
) -> None:
    """Simulate a scan: scan.npz."""
    _start(out, code_rev)
    from ptychoflow.commands import simulate as command
    from ptychoflow.config import SimulateConfig, parse

    value = _json(entry, what="--entry")
    config = parse(SimulateConfig, value.get("config", {}), what="simulate")
    command.run(config, dataset_id=str(value.get("id", "scan")), base=base, out_dir=out)


@app.command()
def ingest(
    scan: InputFile,
    entry: Annotated[str, typer.Option(help='Dataset entry as JSON: {"id": ..., "config": {...}}, or @FILE.')] = "{}",
    out: Out = Path(),
    code_rev: CodeRev = None,
) -> None:
    """Read a scan file from outside and write it as a checked scan.npz."""
    _start(out, code_rev)
    from ptychoflow.commands import ingest as command
    from ptychoflow.config import IngestConfig, parse

    value = _json(entry, what="--entry")
    config = parse(IngestConfig, value.get("config", {}), what="ingest")
    command.run(config, dataset_id=str(value.get("id", "scan")), scan=scan, out_dir=out)


@app.command()
def validate(
    scan: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="Scan file: contract, grid-lines or tike NPZ.")
    ],
    view: Annotated[
        Path | None,
        typer.Argument(
            exists=True, dir_okay=False, help="A view of the scan, whose spacing and split are checked too."
        ),
    ] = None,
    config: Annotated[str, typer.Option(help="Ingest options as JSON.")] = "{}",
) -> None:
    """Check a scan file, and a view of it, and print what they hold; exit 65 with every problem when not usable."""
    _start(None, None)
    from ptychoflow.commands import validate as command
    from ptychoflow.config import IngestConfig, parse

    print(command.run(scan, view=view, config=parse(IngestConfig, _json(config, what="--config"), what="validate")))


@app.command()
def prepare(
    view_entry: Annotated[str, typer.Option(help='View entry as JSON: {"id": ..., "config": {...}}, or @FILE.')],
    train_scan: InputFile,
    test_scan: InputFile,
    out: Out = Path(),
    code_rev: CodeRev = None,
) -> None:
    """Split, choose, group and normalize: view.npz and its overlap, or status.json with the reason why it cannot be."""
    _start(out, code_rev)
    from ptychoflow.commands import prepare as command
    from ptychoflow.config import PrepareConfig, parse

    value = _json(view_entry, what="--view-entry")
    config = parse(PrepareConfig, value.get("config", {}), what="prepare")
    command.run(config, view_id=str(value.get("id", "view")), train_scan=train_scan, test_scan=test_scan, out_dir=out)


@app.command()
def train(
    run: Json,
    train_scan: InputFile,
    view: InputFile,
    checkpoint_dir: Annotated[Path, typer.Option(file_okay=False, help="Folder of resumable checkpoints.")],
    device: Device = "cpu",
    attempt: Attempt = 1,
    out: Out = Path(),
    code_rev: CodeRev = None,
) -> None:
    """Train one neural arm: model/, status.json."""
    _start(out, code_rev)
    from ptychoflow.commands import train as command
    from ptychoflow.config import ModelConfig, TrainConfig, parse

    entry = _json(run, what="--run")
    config = _need(entry, "config", what="--run")
    bundle_sha256 = command.run(
        run_meta=_meta(entry),
        model=parse(ModelConfig, config.get("model", {}), what="model"),
        config=parse(TrainConfig, config.get("train", {}), what="train"),
        backend=str(_need(entry, "backend", what="--run")),
        supervised=bool(_need(entry, "supervised", what="--run")),
        train_scan=train_scan,
        view=view,
        device=device,
        checkpoint_dir=checkpoint_dir,
        attempt=attempt,
        out_dir=out,
    )
    if bundle_sha256 is not None:
        print(f"bundle_path: {out / 'model'}")
        print(f"bundle_sha256: {bundle_sha256}")


@app.command()
def reconstruct(
    run: Json,
    model: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder made by train.")],
    test_scan: InputFile,
    view: InputFile,
    device: Device = "cpu",
    attempt: Attempt = 1,
    allow_mismatch: Annotated[
        bool, typer.Option(help="Go on although probe or scaling are not the model's; recorded.")
    ] = False,
    out: Out = Path(),
    code_rev: CodeRev = None,
) -> None:
    """Reconstruct the test frames with a trained network: recon.npz, patch_metrics.json."""
    _start(out, code_rev)
    from ptychoflow.commands import reconstruct as command
    from ptychoflow.config import ReconstructConfig, TrainConfig, parse

    entry = _json(run, what="--run")
    config = entry.get("config", {})
    command.run(
        parse(ReconstructConfig, config.get("reconstruct", {}), what="reconstruct"),
        run_meta=_meta(entry),
        model=model,
        test_scan=test_scan,
        view=view,
        device=device,
        precision=parse(TrainConfig, config.get("train", {}), what="train").precision,
        allow_mismatch=allow_mismatch,
        attempt=attempt,
        out_dir=out,
    )


@app.command()
def lsqml(
    run: Json,
    test_scan: InputFile,
    view: InputFile,
    device: Device = "cpu",
    attempt: Attempt = 1,
    out: Out = Path(),
    code_rev: CodeRev = None,
) -> None:
    """Reconstruct the test frames with pty-chi's LSQML: recon.npz, history.csv."""
    _start(out, code_rev)
    from ptychoflow.commands import lsqml as command
    from ptychoflow.config import LsqmlConfig, parse

    entry = _json(run, what="--run")
    config = parse(LsqmlConfig, entry.get("config", {}).get("lsqml", {}), what="lsqml")
    command.run(
        config, run_meta=_meta(entry), test_scan=test_scan, view=view, device=device, attempt=attempt, out_dir=out
    )


@app.command()
def evaluate(
    run: Json,
    recon: InputFile,
    test_scan: InputFile,
    view: InputFile,
    patch_metrics: OptionalFile = None,
    snapshots: OptionalFile = None,
    other_views: Files = None,
    out: Out = Path(),
    code_rev: CodeRev = None,
) -> None:
    """Score one reconstruction: metrics.json, frc.csv, amp_phase.png."""
    _start(out, code_rev)
    from ptychoflow.commands import evaluate as command
    from ptychoflow.config import EvaluateConfig, parse

    entry = _json(run, what="--run")
    command.run(
        parse(EvaluateConfig, entry.get("evaluate", {}), what="evaluate"),
        run_meta=_meta(entry),
        recon=recon,
        test_scan=test_scan,
        view=view,
        patch_metrics=patch_metrics,
        snapshots=snapshots,
        other_views=other_views or [],
        out_dir=out,
    )


@app.command("compare-condition")
def compare_condition(
    condition: Json,
    test_scan: Files = None,
    view: Files = None,
    recons: Files = None,
    metrics: Files = None,
    curves: Files = None,
    out: Out = Path(),
    code_rev: CodeRev = None,
) -> None:
    """Put all reconstructions of one condition side by side: visuals/, metrics_by_model.json."""
    _start(out, code_rev)
    from ptychoflow.commands import compare_condition as command

    entry = _json(condition, what="--condition")
    _need(entry, "id", what="--condition")
    command.run(
        condition=entry,
        test_scans=test_scan or [],
        views=view or [],
        recons=recons or [],
        metrics=metrics or [],
        curves=curves or [],
        out_dir=out,
    )


@app.command()
def compare(
    recons: Annotated[
        list[Path],
        typer.Argument(
            exists=True, dir_okay=False, help="recon.npz, or a complex array of the truth's shape (.npy, .npz)."
        ),
    ],
    truth: Annotated[
        list[Path],
        typer.Option(
            exists=True,
            dir_okay=False,
            help="recon.npz, scan.npz with an object, or complex array. Once for all, or once for each reconstruction.",
        ),
    ],
    labels: Annotated[
        str | None, typer.Option(help="Comma-separated names, one each; equal names are seeds of one method.")
    ] = None,
    align: Annotated[
        Literal["none", "gauge", "register"],
        typer.Option(help="Remove nothing, one complex factor, or a believed sub-pixel shift as well."),
    ] = "gauge",
    phase_ramp: Annotated[bool, typer.Option(help="Also remove a linear phase.")] = False,
    max_shift_px: Annotated[float, typer.Option(help="Largest shift that is looked for, px.")] = 5.0,
    canonical_grid: Annotated[
        int | None, typer.Option(help="Samples along the longer side, e.g. 256; the truth's pixels when absent.")
    ] = None,
    region: Annotated[str | None, typer.Option(help="Rows and columns to score: r0,r1,c0,c1.")] = None,
    resample_pixel_size: Annotated[
        bool, typer.Option(help="Resample another pixel size instead of refusing it.")
    ] = False,
    ms_ssim_sigma: Annotated[float, typer.Option(help="Blur before MS-SSIM, px.")] = 0.0,
    ms_ssim_levels: Annotated[int, typer.Option(help="Scales of MS-SSIM, 1 to 5.")] = 5,
    legacy_metrics: Annotated[bool, typer.Option(help="Add the scores of published tables as legacy_*.")] = False,
    out: Out = Path("comparison"),
) -> None:
    """Score reconstructions against one truth: tables, pictures and report.html, without a workflow."""
    _start(out, None)
    from ptychoflow.commands import compare as command
    from ptychoflow.config import EvaluateConfig, parse

    options = {
        "align": align, "phase_ramp": phase_ramp, "max_shift_px": max_shift_px, "canonical_grid": canonical_grid,
        "resample_pixel_size": resample_pixel_size, "ms_ssim_sigma": ms_ssim_sigma, "ms_ssim_levels": ms_ssim_levels,
        "legacy_metrics": legacy_metrics,
    }  # fmt: skip
    text = command.run(
        parse(EvaluateConfig, options, what="compare"),
        recons=recons,
        truths=truth,
        labels=None if labels is None else [label.strip() for label in labels.split(",")],
        region=None if region is None else _whole_numbers(region, what="--region"),
        out_dir=out,
    )
    print(text)
    print(f"report: {out / 'report.html'}")


@app.command()
def collect(
    plan: InputFile,
    statuses: Files = None,
    metrics: Files = None,
    comparisons: Annotated[
        list[Path] | None,
        typer.Option(exists=True, file_okay=False, help="Folder visuals/ of a condition; may be repeated."),
    ] = None,
    histories: Files = None,
    manifests: Files = None,
    bundles: Files = None,
    min_success: Annotated[int, typer.Option(min=0, help="Fewest ok runs for success.")] = 1,
    loss_reference: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="training_manifest.json of a validated run, to check losses by."
        ),
    ] = None,
    loss_tolerance: LossTolerance = 0.25,
    given: Annotated[
        str, typer.Option(help="Paths of given scans and views by id, relative to the sheets, as JSON.")
    ] = "{}",
    out: Out = Path(),
    code_rev: CodeRev = None,
) -> None:
    """Gather every run into tables, summary.md, report.html and the study's manifests."""
    _start(out, code_rev)
    from ptychoflow.commands import collect as command

    command.run(
        plan=plan,
        statuses=statuses or [],
        metrics=metrics or [],
        comparisons=comparisons or [],
        histories=histories or [],
        manifests=manifests or [],
        bundles=bundles or [],
        min_success=min_success,
        loss_reference=loss_reference,
        loss_tolerance=loss_tolerance,
        given=_json(given, what="--given"),
        out_dir=out,
    )


@app.command("check-loss")
def check_loss(
    reference: Annotated[Path, typer.Option(dir_okay=False, help="training_manifest.json of a validated run.")],
    candidate: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, help="training_manifest.json of the run to check.")
    ],
    dose: Annotated[str, typer.Option(help="Photons per frame, such as 1e4; unknown for scans without a dose.")],
    view: Annotated[str, typer.Option(help="Name of the view.")],
    gridsize: Annotated[int, typer.Option(min=1, help="Gridsize of the trainings.")],
    arm: Annotated[str | None, typer.Option(help="Arm to check; every arm of the reference when absent.")] = None,
    tolerance: LossTolerance = 0.25,
    abs_tolerance: Annotated[
        float,
        typer.Option(
            min=0, callback=_finite, help="What a loss may exceed its reference by in any case, in its own unit."
        ),
    ] = 1e-6,
    promote: Annotated[
        bool,
        typer.Option(
            help="Make the candidate the reference if all of the reference's trainings pass, or if there is none."
        ),
    ] = False,
    report: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Report; beside the candidate when absent.")
    ] = None,
) -> None:
    """Check the losses of a run against those of a validated one; exit 65 when one is missing or too large."""
    _start(None, None)
    from ptychoflow.commands import check_loss as command

    print(
        command.run(
            reference=reference,
            candidate=candidate,
            dose=dose,
            view=view,
            gridsize=gridsize,
            arm=arm,
            tolerance=tolerance,
            abs_tolerance=abs_tolerance,
            promote=promote,
            report=report,
        )
    )


@app.command("verify-outputs")
def verify_outputs(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Output folder of a run (--outdir).")],
) -> None:
    """Recheck every checksum that the manifests of a run recorded; exit 65 with every file that is missing or changed."""
    from ptychoflow.commands import verify_outputs as command

    print(command.run(folder))


@app.command("export-view")
def export_view(
    view: InputFile,
    train_scan: InputFile,
    test_scan: InputFile,
    grouped: Annotated[
        bool, typer.Option(help="The specified grouped dictionary with X_full instead of plain scans.")
    ] = False,
    name: Annotated[str, typer.Option(help="First part of the file names.")] = "view",
    out: Out = Path(),
) -> None:
    """Write the frames of a view as NPZ files for other tools."""
    _start(out, None)
    from ptychoflow.commands import export_view as command

    for path in command.run(
        view=view, train_scan=train_scan, test_scan=test_scan, grouped=grouped, name=name, out_dir=out
    ):
        print(path)


@app.command("export-pair")
def export_pair(
    scan: InputFile,
    view: OptionalFile = None,
    object_file: Annotated[
        Path | None,
        typer.Option(
            "--object",
            exists=True,
            dir_okay=False,
            help="recon.npz whose object stands in for a scan without one, at its stored origin.",
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="Object name, first part of the file names.")] = "scan",
    part: Annotated[Literal["train", "test"], typer.Option(help="Which frames of the view.")] = "test",
    out: Out = Path(),
    code_rev: CodeRev = None,
) -> None:
    """Write the pairs of HDF5 files that ptycho-vit reads: one part of a view, or all frames; frames of 256 px."""
    _start(out, code_rev)
    from ptychoflow.commands import export_pair as command

    for path in command.run(scan=scan, view=view, object_file=object_file, name=name, part=part, out_dir=out):
        print(path)


@ptychovit.command("validate")
def ptychovit_validate(
    folder: Annotated[
        Path, typer.Argument(exists=True, file_okay=False, help="Folder with NAME_dp.hdf5, NAME_para.hdf5.")
    ],
    training: Annotated[
        bool, typer.Option(help="The pairs are for training: a wrong probe scale is then an error.")
    ] = False,
) -> None:
    """Check pairs against the contract of the external checkout: every violation, with its remedy."""
    from ptychoflow.commands import ptychovit_validate as command

    print(command.run(folder, training=training))


@ptychovit.command("run")
def ptychovit_run(
    run: Json,
    test_pairs: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="Folder that export-pair wrote: pairs and manifest.json.")
    ],
    train_pairs: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="The same with the pairs to train on; not in inference."),
    ] = None,
    checkpoint: Checkpoint = None,
    base_config: BaseConfig = None,
    ptychovit_repo: PtychovitRepo = None,
    ptychovit_python: PtychovitPython = None,
    ptychovit_image: PtychovitImage = None,
    tree_digest: TreeDigest = None,
    allow_double: AllowDouble = None,
    device: Device = "cpu",
    attempt: Attempt = 1,
    out: Out = Path(),
    code_rev: CodeRev = None,
) -> None:
    """Run the external model on pairs: recon.npz, status.json, manifest.json, history.csv, stdout.log, stderr.log."""
    _start(out, code_rev)
    from ptychoflow.arms.ptychovit.checkout import choose_way
    from ptychoflow.arms.ptychovit.restore import PtychoVitConfig
    from ptychoflow.commands import ptychovit_run as command
    from ptychoflow.config import parse

    entry = _json(run, what="--run")
    command.run(
        parse(PtychoVitConfig, entry.get("config", {}).get("ptychovit", {}), what="ptychovit"),
        run_meta=_meta(entry),
        way=choose_way(ptychovit_repo, ptychovit_python, ptychovit_image),
        test_pairs=test_pairs,
        train_pairs=train_pairs,
        checkpoint=checkpoint,
        base_config=base_config,
        digest=tree_digest,
        allow_double=allow_double,
        device=device,
        attempt=attempt,
        inherited=os.environ,
        search_path=sys.path,
        out_dir=out,
    )


@ptychovit.command("fresh")
def ptychovit_fresh(
    output_dir: Annotated[
        Path, typer.Option(file_okay=False, help="Folder of the baseline; new, or with --force-clean.")
    ],
    checkpoint: Annotated[Path, typer.Option(help="best_model.pth with its config.yaml beside it, or their folder.")],
    ptychovit_repo: PtychovitRepo = None,
    ptychovit_python: PtychovitPython = None,
    ptychovit_image: PtychovitImage = None,
    base_config: BaseConfig = None,
    tree_digest: TreeDigest = None,
    allow_double: AllowDouble = None,
    n: Annotated[
        int, typer.Option("--N", help="Frame side of the other arms of such a study; this arm's is always 256.")
    ] = 128,
    gridsize: Annotated[int, typer.Option(help="Frames in a group; this arm takes 1.")] = 1,
    nimgs_train: Annotated[
        int, typer.Option(help="Train objects of such a study; recorded, inference trains nothing.")
    ] = 8,
    nimgs_test: Annotated[int, typer.Option(help="Test objects, one pair each.")] = 8,
    set_phi: Annotated[bool, typer.Option("--set-phi", "--set_phi", help="Objects have a phase.")] = False,
    size: Annotated[int, typer.Option(help="Side of an object, px.")] = 392,
    step_px: Annotated[float, typer.Option(help="Raster step, px.")] = 10.0,
    data_seed: Annotated[int, typer.Option(help="Root seed of objects and noise.")] = 42,
    report_object: Annotated[int, typer.Option(help="Test object that the files and pictures show, from 0.")] = 0,
    time_limit_s: Annotated[float, typer.Option(help="Wall time of the external programs together, s.")] = 14400.0,
    device: Device = "cpu",
    force_clean: Annotated[
        bool, typer.Option("--force-clean", help="Remove an earlier fresh run of the folder.")
    ] = False,
    reuse_existing_recons: Annotated[
        bool,
        typer.Option("--reuse-existing-recons", help="Score what lies there again; such a folder never passes verify."),
    ] = False,
) -> None:
    """Make a fresh baseline of the external model on grid-lines data; check it with ptychovit verify."""
    _start(output_dir, None)
    from ptychoflow.arms.ptychovit.checkout import choose_way
    from ptychoflow.commands import ptychovit_fresh as command
    from ptychoflow.config import parse

    options = {
        "n": n, "gridsize": gridsize, "nimgs_train": nimgs_train, "nimgs_test": nimgs_test, "set_phi": set_phi, "size": size,
        "step_px": step_px, "data_seed": data_seed, "report_object": report_object, "time_limit_s": time_limit_s,
    }  # fmt: skip
    print(
        command.run(
            parse(command.FreshConfig, options, what="ptychovit fresh"),
            way=choose_way(ptychovit_repo, ptychovit_python, ptychovit_image),
            checkpoint=checkpoint,
            base_config=base_config,
            digest=tree_digest,
            allow_double=allow_double,
            device=device,
            force_clean=force_clean,
            reuse_recons=reuse_existing_recons,
            inherited=os.environ,
            search_path=sys.path,
            out_dir=output_dir,
        )
    )


@ptychovit.command("verify")
def ptychovit_verify(
    output_dir: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder that ptychovit fresh wrote.")],
    allow_double: Annotated[
        bool, typer.Option("--allow-double", "--allow_double", help="For tests: a run of the contract double may pass.")
    ] = False,
) -> None:
    """Prove that a baseline is fresh; exit 65 with every finding when it is not."""
    from ptychoflow.commands import ptychovit_verify as command

    print(command.run(output_dir, allow_double=allow_double))


@app.command("check-device")
def check_device(device: Device = "cpu", out: Out = Path(), code_rev: CodeRev = None) -> None:
    """Tell what this machine computes with, after a step of every installed framework: device.json."""
    _start(out, code_rev)
    from ptychoflow.commands import check_device as command

    print(command.run(device, out_dir=out))


def _end(text: str, code: int) -> NoReturn:
    """End with one message, in which no name of a file can move the cursor or hide a line of a terminal."""
    shown = "".join(one if one.isprintable() or one == "\n" else one.encode("unicode_escape").decode() for one in text)
    print(f"ptychoflow: {shown}", file=sys.stderr)
    sys.exit(code)


def _file_of(error: OSError) -> str:
    return "the output" if error.filename is None else str(error.filename2 or error.filename)


def main() -> None:
    """Entry of `python -m ptychoflow.cli`: our own errors are one message and their exit code, never a traceback."""
    try:
        app()
    except PtychoflowError as error:
        _end(str(error), error.exit_code)
    except FileNotFoundError as error:
        _end(f"no such file: {error.filename}", ContractError.exit_code)
    except OSError as error:
        if error.errno in NO_SPACE:
            _end(f"no space left for {_file_of(error)}; free some and start again", TransientError.exit_code)
        if error.errno in NOT_WRITABLE:
            told = f"{_file_of(error)} cannot be written ({error.strerror}); give a folder that can be"
            _end(told, UsageError.exit_code)
        raise
    except SystemExit as stop:
        # The argument parser ends with 2, which Nextflow and shells use for other things: bad usage is 64 here.
        sys.exit(UsageError.exit_code if stop.code == 2 else stop.code)


if __name__ == "__main__":
    main()
