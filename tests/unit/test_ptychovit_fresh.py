"""A fresh baseline on the contract double: its tree, its scores, its truth, and when it refuses. Each run loads torch: slow."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from doubles.ptychovit import make_double
from ptychoflow.commands import ptychovit_verify
from ptychoflow.errors import ContractError, NumericalError, UnavailableError, UsageError
from ptychovit_cases import fresh, make_checkpoint

pytestmark = pytest.mark.slow

WORK = "runs/pinn_ptychovit/bridge_work"
TREE = {
    "metrics_by_model.json",
    "recons/pinn_ptychovit/recon.npz",
    "recons/gt/recon.npz",
    "visuals/amp_phase_pinn_ptychovit.png",
    "visuals/compare_amp_phase.png",
    *(f"runs/pinn_ptychovit/{name}" for name in ("manifest.json", "stdout.log", "stderr.log", "invocation.json", "best_model.pth")),
    *(f"{WORK}/{name}" for name in ("config.yaml", "normalization.pkl", "driver.py")),
    *(f"{WORK}/{stage}.{part}.json" for stage in ("check", "predict") for part in ("request", "answer")),
    *(f"{WORK}/data/test/test_{index}_{kind}.hdf5" for index in (0, 1) for kind in ("dp", "para")),
    f"{WORK}/data/test/manifest.json",
}  # fmt: skip
"""Files of the specified tree, and of the reference page, section 12."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The double, weights, and the folder of a baseline."""
    root = tmp_path_factory.mktemp("fresh")
    double = make_double(root / "checkout")
    checkpoint = make_checkpoint(root / "weights", double.path)
    fresh(double, root / "baseline", checkpoint / "best_model.pth", nimgs_train=3, n=64)
    return double, checkpoint, root / "baseline"


def read(path):
    return json.loads(path.read_text(), parse_constant=lambda token: pytest.fail(f"{token} is not JSON"))


def test_the_tree_is_the_specified_one_and_passes(made):
    _, _, out = made
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert found == TREE
    assert ptychovit_verify.run(out, allow_double=True) == "baseline: a fresh baseline, every check passed"
    listed = read(out / "runs/pinn_ptychovit/manifest.json")["outputs"]
    assert listed.keys() == TREE - {"runs/pinn_ptychovit/manifest.json"}
    for name, value in listed.items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == value


def test_the_manifest_tells_the_contract_and_no_place_of_this_machine(made):
    """Oracle: manifest keys of the contract, with paths relative to the output folder that exist."""
    _, _, out = made
    manifest = read(out / "runs/pinn_ptychovit/manifest.json")
    assert (manifest["mode"], manifest["training_returncode"], manifest["resume_from_checkpoint"]) == (
        "inference",
        None,
        False,
    )
    assert manifest["checkpoint"] == "runs/pinn_ptychovit/best_model.pth"
    for name in (
        *manifest["test_dp"],
        *manifest["test_para"],
        manifest["recon_npz"],
        manifest["checkpoint_artifacts"]["config"],
    ):
        assert (out / name).is_file()
    assert manifest["parameters"]["fresh"]["nimgs_train"] == 3
    assert manifest["parameters"]["fresh"]["n"] == 64
    assert str(out.parent) not in json.dumps(manifest)


def test_reconstruction_and_truth_are_the_reported_object(made):
    """Oracle: object 1 of 320 px beside object 0 with a gap of 256 px starts at column 576; its pair has a margin of a pixel."""
    _, _, out = made
    recon, truth = (np.load(out / f"recons/{name}/recon.npz") for name in ("pinn_ptychovit", "gt"))
    assert truth["YY_pred"].shape == (320, 320)
    assert truth["origin_rc_px"].tolist() == [0, 576]
    assert recon["YY_pred"].shape == (322, 322)
    assert recon["origin_rc_px"].tolist() == [-1, 575]
    np.testing.assert_array_equal(recon["YY_pred"], recon["object"])
    # 9 frames at 32 px: 64-px footprints from 96 px on, on 64 + 2 * 32 px a side.
    seen = recon["occupancy"] > 0
    assert seen.sum() == 128**2
    assert seen[97:225, 97:225].all()
    assert recon["occupancy"].max() == 4
    assert np.angle(truth["YY_pred"]).std() > 0.01


def test_scores_are_of_this_run_and_of_every_object(made):
    _, _, out = made
    entry = read(out / "metrics_by_model.json")["pinn_ptychovit"]
    run_id = read(out / "runs/pinn_ptychovit/invocation.json")["run_id"]
    assert entry["run_id"] == run_id == read(out / "runs/pinn_ptychovit/manifest.json")["run_id"]
    assert [one["object"] for one in entry["by_object"]] == [0, 1]
    own = [one["amp"]["mae"]["value"] for one in entry["by_object"]]
    assert entry["metrics"]["mae"][0] == pytest.approx(np.mean(own))
    assert json.loads(str(np.load(out / "recons/pinn_ptychovit/recon.npz")["metadata"]))["run_id"] == run_id


def test_a_used_folder_is_refused_and_cleaned_only_if_it_is_ours(made, tmp_path):
    double, checkpoint, out = made
    weights = checkpoint / "best_model.pth"
    with pytest.raises(ContractError, match=r"PV-STALE: baseline is not empty: it holds metrics_by_model\.json"):
        fresh(double, out, weights)
    (tmp_path / "mine" / "thesis").mkdir(parents=True)
    with pytest.raises(ContractError, match="PV-STALE: mine is not empty: it holds thesis and no fresh run of ours"):
        fresh(double, tmp_path / "mine", weights, force_clean=True)
    assert (tmp_path / "mine" / "thesis").is_dir()
    old = tmp_path / "old"
    shutil.copytree(out, old)
    with pytest.raises(ContractError, match=r"PV-STALE: old is not empty: .*best_model\.pth of this run lies in it"):
        fresh(double, old, old / "runs/pinn_ptychovit/best_model.pth", force_clean=True)
    (old / "left.txt").write_text("over\n")
    before = read(old / "metrics_by_model.json")["pinn_ptychovit"]["run_id"]
    fresh(double, old, weights, force_clean=True, nimgs_test=1, report_object=0)
    assert not (old / "left.txt").exists()
    assert read(old / "metrics_by_model.json")["pinn_ptychovit"]["run_id"] != before
    assert ptychovit_verify.run(old, allow_double=True)

    # What lies there is used again only when asked for, and then it says so.
    fresh(double, old, weights, reuse_recons=True, nimgs_test=1, report_object=0)
    assert "Skipped backend execution" in (old / "runs/pinn_ptychovit/stdout.log").read_text()
    with pytest.raises(
        ContractError, match=r"(?s)recon\.npz is older than the start.*was used again.*Skipped backend execution"
    ):
        ptychovit_verify.run(old, allow_double=True)
    with pytest.raises(UsageError, match="same options"):
        fresh(double, old, weights, reuse_recons=True, nimgs_test=1, report_object=0, set_phi=False)


def test_an_invalid_run_is_70_and_an_absent_checkpoint_69(made, tmp_path):
    double, checkpoint, _ = made
    flat = make_double(tmp_path / "flat", head="flat")
    with pytest.raises(NumericalError, match="PV-FLAT") as caught:
        fresh(flat, tmp_path / "a", checkpoint, nimgs_test=1, report_object=0)
    assert caught.value.exit_code == 70
    assert not (tmp_path / "a" / "metrics_by_model.json").exists()
    with pytest.raises(UnavailableError, match="PV-CKPT"):
        fresh(double, tmp_path / "b", tmp_path / "no.pth", nimgs_test=1, report_object=0)
    with pytest.raises(UsageError, match="report_object = 2, but there are 2 test objects"):
        fresh(double, tmp_path / "c", checkpoint, report_object=2)


def test_the_specified_command_line(made, tmp_path):
    """Oracle: the command of issue 8, with the size of the objects and the interpreter added."""
    double, checkpoint, _ = made
    command = [
        sys.executable, "-m", "ptychoflow.cli", "ptychovit", "fresh", "--checkpoint", str(checkpoint / "best_model.pth"),
        "--output-dir", str(tmp_path / "out"), "--ptychovit-repo", str(double.path), "--N", "128", "--gridsize", "1",
        "--nimgs-train", "8", "--nimgs-test", "1", "--set-phi", "--ptychovit-python", sys.executable, "--size", "320",
        "--step-px", "32", "--allow-double", double.tree_sha256, "--force-clean",
    ]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "python")}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "check it with: ptychoflow ptychovit verify" in done.stdout
    verify = [*command[:4], "verify", "--output-dir", str(tmp_path / "out")]
    done = subprocess.run(verify, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 65
    assert "2 finding(s)" in done.stderr
    assert "a checkout of kind 'double'" in done.stderr
    assert subprocess.run([*verify, "--allow-double"], env=env, capture_output=True, check=False).returncode == 0
    config = yaml.safe_load((tmp_path / "out" / WORK / "config.yaml").read_text())
    assert config["data"]["test_path"].endswith("bridge_work/data/test/test_dp.hdf5")
