"""Rechecking an output folder. Oracle: hashlib on the bytes that the test itself writes, and places read off docs/usage.md."""

import hashlib
import json
from pathlib import PurePosixPath

import pytest
from typer.testing import CliRunner

from ptychoflow.cli import app
from ptychoflow.commands import verify_outputs
from ptychoflow.commands.verify_outputs import published
from ptychoflow.errors import ContractError, UsageError
from ptychoflow.study.resheet import RECON_COLUMNS

RUN = "conditions/star_d1e4/runs/pinn_torch_gs2/s3"
MODEL = f"{RUN}/train/model"


def sha256(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def folder(tmp_path):
    """An output folder of one run: manifests as tasks leave them, files where the workflow publishes them."""
    root = tmp_path / "results"

    def put(name, data):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
        return sha256(data)

    def task(place, files, **inputs):
        outputs = {name: put(where, f"{place} {name}".encode()) for name, where in files.items()}
        text = json.dumps({"command": "any", "inputs": inputs, "outputs": outputs})
        return {"name": "manifest.json", "sha256": put(f"{place}/manifest.json", text.encode())}

    model = {name: f"{MODEL}/{name}" for name in ("weights.pt", "snapshots/epoch_00002.pt")}
    manifests = [
        task("pipeline_info", {"plan.json": "pipeline_info/plan.json"}),
        task("datasets/star", {"scan.npz": "datasets/star/scan.npz"}),
        task(f"{RUN}/train", {f"model/{name}": where for name, where in model.items()}),
        task(
            f"{RUN}/reconstruct", {"recon.npz": "conditions/star_d1e4/recons/pinn_torch_gs2/s3/recon.npz"}
        ),
        task(f"{RUN}/evaluate", {"amp_phase.png": "conditions/star_d1e4/visuals/amp_phase_pinn_torch_gs2_s3.png"}),
        task("conditions/star_d1e4", {"gt_recon.npz": "conditions/star_d1e4/recons/gt/recon.npz"}),
    ]  # fmt: skip
    lines = "".join(f"{sha256((root / model[name]).read_bytes())}  {name}\n" for name in sorted(model))
    documents = {
        "training_manifest.json": {"jobs": [{"bundle_path": MODEL, "bundle_sha256": sha256(lines.encode())}]},
        "run_manifest.json": {
            "datasets": {
                "star": {
                    "train": "datasets/star/scan.npz", "test": None,
                    "scans": {"train": {"sha256": sha256(b"datasets/star scan.npz")}, "test": {"sha256": None}},
                }
            }
        },
    }  # fmt: skip
    outputs = {name: put(f"summary/{name}", json.dumps(content).encode()) for name, content in documents.items()}
    cells = {"recon": "../conditions/star_d1e4/recons/pinn_torch_gs2/s3/recon.npz", "scan": "../../elsewhere/scan.npz"}
    sheet = ",".join(RECON_COLUMNS) + "\n" + ",".join(cells.get(name, "") for name in RECON_COLUMNS) + "\n"
    outputs["recons.csv"] = put("sheets/recons.csv", sheet.encode())
    inputs = {f"manifest_{place}": entry for place, entry in enumerate(manifests)}
    put("summary/manifest.json", json.dumps({"command": "collect", "inputs": inputs, "outputs": outputs}).encode())
    put(".checkpoints/a/manifest.json", b"no part of the output")
    return root


def refused(folder):
    with pytest.raises(ContractError) as caught:
        verify_outputs.run(folder)
    return str(caught.value)


def flip(path, place=-1):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_an_untouched_folder_is_said_with_its_counts(folder):
    # Ten files: plan, scan, two of the model, recon, picture, truth, two documents and the sheet; seven tasks.
    assert verify_outputs.run(folder) == "verify-outputs: 10 files are what 7 manifests recorded"


@pytest.mark.parametrize(
    "name",
    [
        "pipeline_info/plan.json", "datasets/star/scan.npz", f"{MODEL}/snapshots/epoch_00002.pt",
        "conditions/star_d1e4/recons/pinn_torch_gs2/s3/recon.npz", "conditions/star_d1e4/recons/gt/recon.npz",
        "conditions/star_d1e4/visuals/amp_phase_pinn_torch_gs2_s3.png", "summary/training_manifest.json", "sheets/recons.csv",
    ],
)  # fmt: skip
def test_a_flipped_byte_is_found_wherever_it_is(folder, name):
    old = sha256((folder / name).read_bytes())[:12]
    flip(folder / name)
    assert f"{name}: changed, sha256 {sha256((folder / name).read_bytes())[:12]}..., recorded {old}..." in refused(
        folder
    )


@pytest.mark.parametrize("task", ["datasets/star", f"{RUN}/train", "pipeline_info"])
def test_a_manifest_that_was_edited_to_fit_is_found(folder, task):
    """Both the file and its checksum in the manifest are changed, so that the two agree."""
    manifest = folder / task / "manifest.json"
    content = json.loads(manifest.read_text())
    name = next(iter(content["outputs"]))
    flip(folder / task / name)
    content["outputs"][name] = sha256((folder / task / name).read_bytes())
    manifest.write_text(json.dumps(content))
    assert f"{task}/manifest.json: not among the manifests that summary/manifest.json recorded" in refused(folder)


def test_whatever_byte_of_a_manifest_flips_it_is_an_answer_and_no_traceback(folder):
    """Every seventh byte of one task's manifest, and every thirty-first of COLLECT's, in turn."""
    for name, step in (("datasets/star/manifest.json", 7), ("summary/manifest.json", 31)):
        path = folder / name
        whole = path.read_bytes()
        for place in range(0, len(whole), step):
            flip(path, place)
            if name.startswith("datasets"):
                assert "datasets/star" in refused(folder)
            else:
                try:
                    verify_outputs.run(folder)
                except ContractError:
                    continue
                finally:
                    path.write_bytes(whole)
            path.write_bytes(whole)


def test_everything_missing_changed_or_strange_is_named_at_once(folder):
    (folder / "datasets/star/scan.npz").unlink()
    flip(folder / f"{MODEL}/weights.pt")
    (folder / MODEL / "added.pt").touch()
    (folder / "conditions/star_d1e4/runs/pinn_torch_gs2/s3/reconstruct/manifest.json").unlink()
    message = refused(folder)
    for expected in (
        "5 problems",
        "  - datasets/star/scan.npz: missing",
        f"  - {MODEL}/weights.pt: changed",
        f"  - {MODEL}: changed, sha256 of the model",
        "  - 1 manifest.json that summary/manifest.json recorded: missing",
        "  - conditions/star_d1e4/recons/pinn_torch_gs2/s3/recon.npz: named by sheets/recons.csv, but no manifest has a checksum",
    ):
        assert expected in message


def test_a_file_that_nobody_named_is_no_problem(folder):
    (folder / "notes.txt").write_text("mine")
    assert "10 files" in verify_outputs.run(folder)


def test_a_run_that_ended_before_its_tables_is_checked_as_far_as_it_came(folder):
    for path in (folder / "summary").iterdir():
        path.unlink()
    assert verify_outputs.run(folder) == "verify-outputs: 7 files are what 6 manifests recorded"


def test_the_tree_of_the_results_is_known():
    places = {
        (f"{RUN}/reconstruct", "snapshots.npz"): f"{RUN}/reconstruct/snapshots.npz",
        (f"{RUN}/reconstruct", "recon.npz"): "conditions/star_d1e4/recons/pinn_torch_gs2/s3/recon.npz",
        ("conditions/star_d1e4/views/gs1", "view.npz"): "conditions/star_d1e4/views/gs1/view.npz",
        ("conditions/star_d1e4", "visuals/compare_amp_phase.png"): "conditions/star_d1e4/visuals/compare_amp_phase.png",
        ("summary", "models.csv"): "sheets/models.csv",
        ("summary", "metrics.csv"): "summary/metrics.csv",
        ("summary", "study/a.png"): "summary/study/a.png",
    }
    for (place, name), expected in places.items():
        assert published(PurePosixPath(place), name) == expected


def test_what_is_no_output_folder_is_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UsageError, match="is no output folder of a run"):
        verify_outputs.run(tmp_path)


def test_the_command_prints_the_count_or_ends_with_an_error(folder):
    done = CliRunner().invoke(app, ["verify-outputs", str(folder)])
    assert (done.exit_code, done.stdout) == (0, "verify-outputs: 10 files are what 7 manifests recorded\n")
    flip(folder / "datasets/star/scan.npz")
    assert isinstance(CliRunner().invoke(app, ["verify-outputs", str(folder)]).exception, ContractError)
    assert CliRunner().invoke(app, ["verify-outputs", str(folder / "absent")]).exit_code == 2
