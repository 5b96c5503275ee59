"""`ptychovit run` on the contract double: every mode, every fault with its code, and what is left behind.

Oracles: the reference page (its tables of modes, faults and violations), the double's known heads, /proc. Each run starts programs
that load torch, so all of them are slow.
"""

import csv
import hashlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from doubles.ptychovit import Double, make_double
from ptychoflow.arms.ptychovit.prepare import read_pairs
from ptychoflow.data.storage import load_recon
from ptychoflow.errors import ContractError, UnavailableError, UsageError
from ptychoflow.frames import topleft_from_centre
from ptychovit_cases import META, alive, make_checkpoint, make_pairs, start, users_of

pytestmark = pytest.mark.slow

TINY = {"epochs": 2, "batch_size": 3, "train_split": 0.7}


@dataclass(frozen=True)
class Case:
    """What all tests read: a healthy double, test and train pairs, random weights, and a folder."""

    double: Double
    test: Path
    train: Path
    other: Path
    checkpoint: Path
    root: Path


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    root = tmp_path_factory.mktemp("arm")
    double = make_double(root / "checkout")
    pairs = [make_pairs(root / name, name, seed=seed)[0] for seed, name in enumerate(("test", "train", "other"))]
    return Case(double, *pairs, make_checkpoint(root / "weights", double.path), root)


@pytest.fixture(scope="module")
def trained(case):
    """The folder of a training that ended well."""
    out = case.root / "trained"
    assert start(case.double, out, test=case.test, mode="train", train=case.train, **TINY) is None
    return out


def sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read(out, name="manifest.json"):
    return json.loads((out / name).read_text())


def history(out):
    return list(csv.DictReader((out / "history.csv").read_text().splitlines()))


def failed(out, reason, code):
    """The run is a failed one by this code: recorded everywhere, nothing to score, nobody left."""
    assert reason is not None
    assert reason.startswith(code)
    status, manifest = read(out, "status.json"), read(out)
    assert (status["state"], status["reason"]) == ("failed", reason)
    assert "\n" not in reason
    assert manifest["state"] == "failed"
    assert (manifest["log_verdict"], manifest["recon_npz"]) == ("invalid", None)
    assert next(one["code"] for one in manifest["violations"] if one["kind"] == "R") == code
    assert not (out / "recon.npz").exists()
    assert users_of(out) == []


# ---- inference -------------------------------------------------------------------------------------------------------


def test_bumps_of_two_objects_land_on_their_scan_positions(tmp_path, case):
    """Oracle: the double's bump head draws a Gaussian at the middle of each patch, (N - 1) / 2 from its first pixel.

    So the bump of a frame at centre c lies half a pixel up and left of c, in the frame of the scan.
    """
    double = make_double(tmp_path / "checkout", head="bump")
    test, scan = make_pairs(tmp_path / "two", "two", n_objects=2, n_frames=1, seed=5)
    assert start(double, tmp_path / "out", test=test, checkpoint=case.checkpoint) is None
    recon = load_recon(tmp_path / "out" / "recon.npz")
    assert recon.weight.sum() == 2 * 64 * 64
    middles = topleft_from_centre(scan.positions_rc_px, 256) + 127.5
    for middle in middles:
        low = np.round(middle - recon.canvas.origin_rc_px).astype(int) - 16
        window = recon.object[low[0] : low[0] + 32, low[1] : low[1] + 32]
        rows, cols = np.indices(window.shape) + low[:, None, None] + np.reshape(recon.canvas.origin_rc_px, (2, 1, 1))
        phase = np.angle(window)
        found = [(phase * axis).sum() / phase.sum() for axis in (rows, cols)]
        np.testing.assert_allclose(found, middle, atol=1e-2)
        np.testing.assert_allclose(np.abs(window), 0.975 - 0.04 * phase, atol=1e-3)
    manifest = read(tmp_path / "out")
    assert list(manifest["objects"]) == ["two_0", "two_1"]


def test_inference_leaves_what_it_says(tmp_path, case):
    """Oracle: plain checksums of the files, and the manifest keys of the reference page, section 12."""
    out = tmp_path / "out"
    assert start(case.double, out, test=case.test, checkpoint=case.checkpoint) is None
    manifest = read(out)
    assert (manifest["mode"], manifest["state"], manifest["training_returncode"]) == ("inference", "ok", None)
    assert (manifest["resume_from_checkpoint"], manifest["log_verdict"]) == (False, "clean")
    assert (manifest["checkout_kind"], manifest["pin"]["verified"], manifest["dialect"]) == ("double", False, "P")
    assert manifest["pin"]["tree_sha256"] == case.double.tree_sha256
    assert manifest["checkpoint"] == manifest["checkpoint_artifacts"]["best_model"] == "best_model.pth"
    assert manifest["checkpoint_sha256"] == sha(case.checkpoint / "best_model.pth") == sha(out / "best_model.pth")
    assert manifest["checkpoint_artifacts"]["checkpoint_model"] is None
    assert manifest["test_dp"] == ["bridge_work/data/test/test_dp.hdf5"]
    assert manifest["train_dp"] == []
    with h5py.File(case.test / "test_dp.hdf5") as file:
        largest = float(file["dp"][()].max())
    assert manifest["normalization"] == {"test": largest}
    assert manifest["objects"]["test"]["normalization_loaded"] == largest
    assert pickle.loads((out / "bridge_work" / "normalization.pkl").read_bytes()) == {"test": largest}
    for name, value in manifest["outputs"].items():
        assert sha(out / name) == value
    assert {"recon.npz", "status.json", "stdout.log", "stderr.log", "bridge_work/config.yaml"} <= manifest[
        "outputs"
    ].keys()
    assert str(case.root) not in (out / "manifest.json").read_text()
    assert not list((out / "bridge_work").rglob("*.npy"))
    status = read(out, "status.json")
    assert (status["stage"], status["state"], set(status["seconds"])) == (
        "ptychovit",
        "ok",
        {"check", "predict", "assemble"},
    )
    recon = load_recon(out / "recon.npz")
    assert recon.metadata["cost"]["epochs"] is None
    assert recon.canvas.origin_rc_px == tuple(manifest["objects"]["test"]["object_origin_rc_px"])
    assert sorted(path.name for path in case.double.path.rglob("__pycache__")) == []


def test_a_weights_file_of_any_name_is_an_override_and_nothing_hangs_on_the_batch(tmp_path, case):
    """Oracle: the same weights from a folder in other batches: equal to the rounding of convolutions."""
    shutil.copytree(case.checkpoint, tmp_path / "mine")
    (tmp_path / "mine" / "best_model.pth").rename(tmp_path / "mine" / "epoch7.pth")
    for name, given, batch in (("a", case.checkpoint, 8), ("b", tmp_path / "mine" / "epoch7.pth", 2)):
        assert start(case.double, tmp_path / name, test=case.test, checkpoint=given, infer_batch_size=batch) is None
    one, other = (load_recon(tmp_path / name / "recon.npz") for name in "ab")
    np.testing.assert_allclose(one.object, other.object, atol=1e-5)
    assert read(tmp_path / "b")["checkpoint_requested"]["name"] == "epoch7.pth"


@pytest.mark.parametrize(
    ("fault", "code", "told"),
    [
        ("norm_missing", "PV-NORMFALL", "Normalization file not found at"),
        ("norm_key", "PV-NORMFALL", "not found in normalization dictionary"),
        ("norm_corrupt", "PV-NORMFALL", "Error loading normalization file"),
        ("norm_silent", "PV-NORMFALL", "the loader divided object 'test' by 100000.0, upstream's default"),
        ("nan_pred", "PV-NAN", "not finite for 1 scan points, first at index 0"),
        ("drop_pred", "PV-COUNT", "for the 5 scan points from 0 on"),
        ("wrong_shape", "PV-COUNT", "gives a canvas of (173, 210) for one of (173, 211)"),
        ("no_place", "PV-STITCH", "place_patches_fourier_shift cannot be used: AttributeError"),
        ("place_raises", "PV-STITCH", "the double cannot place patches"),
    ],
)
def test_faults_of_an_inference(tmp_path, case, fault, code, told):
    """Oracle: the table of faults of the reference page, section 18."""
    double = make_double(tmp_path / "checkout", faults=[fault])
    reason = start(double, tmp_path / "out", test=case.test, checkpoint=case.checkpoint)
    failed(tmp_path / "out", reason, code)
    assert told in reason


def test_a_placement_by_another_method_is_found_before_anything_is_predicted(tmp_path, case):
    """The forbidden fallback: whole pixels only. Oracle: the double's own placement, its fractions taken away."""
    double = make_double(tmp_path / "checkout")
    utils = double.path / "utils" / "ptychi_utils.py"
    utils.write_text(
        utils.read_text().replace(
            "return whole.to(torch.int64), first - whole", "return whole.to(torch.int64), 0 * whole"
        )
    )
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qam", "whole pixels"]
    subprocess.run(git, cwd=double.path, check=True)
    digest = hashlib.sha256()
    names = subprocess.run(
        ["git", "ls-files"], cwd=double.path, check=True, capture_output=True, text=True
    ).stdout.split()
    for name in sorted(names):
        digest.update(f"{name}\0{sha(double.path / name)}\n".encode())
    double = Double(double.path, "", digest.hexdigest(), len(names))
    reason = start(double, tmp_path / "out", test=case.test, checkpoint=case.checkpoint)
    failed(tmp_path / "out", reason, "PV-STITCH")
    assert "differs from the required placement" in reason
    assert "predict" not in (tmp_path / "out" / "stdout.log").read_text()


def test_a_flat_result_is_failed_and_put_aside(tmp_path, case):
    double = make_double(tmp_path / "checkout", head="flat")
    reason = start(double, tmp_path / "out", test=case.test, checkpoint=case.checkpoint)
    failed(tmp_path / "out", reason, "PV-FLAT")
    assert "amplitude is flat" in reason
    assert (tmp_path / "out" / "invalid" / "recon.npz").is_file()
    assert read(tmp_path / "out", "status.json")["collapsed"]


def test_a_saturated_result_is_valid_with_a_warning(tmp_path, case):
    double = make_double(tmp_path / "checkout", head="saturated")
    assert start(double, tmp_path / "out", test=case.test, checkpoint=case.checkpoint) is None
    assert "PV-SAT" in [one["code"] for one in read(tmp_path / "out")["violations"] if one["kind"] == "W"]
    assert any(one.startswith("PV-SAT") for one in load_recon(tmp_path / "out" / "recon.npz").metadata["warnings"])


# ---- training --------------------------------------------------------------------------------------------------------


def test_a_training_from_scratch(trained, case):
    """Oracle: the files and keys of the reference page, sections 6 and 9; every rate copied unchanged."""
    manifest, config = read(trained), yaml.safe_load((trained / "bridge_work" / "config.yaml").read_text())
    base = yaml.safe_load((case.double.path / "config.yaml").read_text())
    for key in ("learning_rate", "encoder_lr", "amp_decoder_lr", "ph_decoder_lr", "loss_function", "mode"):
        assert config["training"][key] == base["training"][key]
    assert config["model"] == base["model"]
    assert config["data"]["scale"] == base["data"]["scale"]
    assert config["data"]["normalization_dict_path"] == config["data"]["test_normalization"]
    assert (config["data"]["use_cuda_prefetcher"], config["data"]["num_workers"]) == (False, 0)
    assert (config["data"]["random_seed"], config["training"]["validation_plot_freq"]) == (META["seed"], 3)
    assert (config["wandb"]["enabled"], config["training"]["resume_from_checkpoint"]) == (False, False)
    assert (manifest["training_returncode"], manifest["mode"]) == (0, "train")
    assert manifest["checkpoint"] == "checkpoints/run1/best_model.pth"
    assert all(value.startswith("checkpoints/run1/") for value in manifest["checkpoint_artifacts"].values())
    assert manifest["train_dp"] == ["bridge_work/data/train/train_dp.hdf5"]
    rows = history(trained)
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert all(float(row["training_loss"]) > 0 for row in rows)
    assert "Epoch 2/2" in (trained / "stdout.log").read_text()
    assert load_recon(trained / "recon.npz").metadata["cost"]["epochs"] == 2


def test_resume_goes_on_and_finetune_takes_the_new_weights(tmp_path, trained, case):
    """Oracle: the epoch counter in the log; checksums of the parent's files, which must not change."""
    parent = trained / "checkpoints" / "run1"
    before = {path.name: sha(path) for path in parent.iterdir()}
    more = {**TINY, "epochs": 3}
    out = tmp_path / "resumed"
    assert start(case.double, out, test=case.test, mode="resume", train=case.train, checkpoint=parent, **more) is None
    log = (out / "stdout.log").read_text()
    assert "Epoch 3/3" in log
    assert "Epoch 2/3" not in log
    assert len(history(out)) == 3
    manifest = read(out)
    assert manifest["resume_from_checkpoint"] is True
    assert manifest["checkpoint_requested"]["sha256"]["checkpoint.state"] == before["checkpoint.state"]
    assert sha(out / "checkpoints" / "run1" / "config.parent.yaml") == before["config.yaml"]
    assert {path.name: sha(path) for path in parent.iterdir()} == before

    out = tmp_path / "finetuned"
    given = {**more, "train": case.other, "checkpoint": parent, "resume_from_checkpoint": True}
    # An inherited best loss that no other data can beat: best_model.pth stays the parent's.
    clone = tmp_path / "parent"
    shutil.copytree(parent, clone)
    subprocess.run(
        [sys.executable, "-c", "import sys, torch; s = torch.load(sys.argv[1], weights_only=True); "
         "s['loss_tracker']['best_val_loss'] = 0.0; torch.save(s, sys.argv[1])", str(clone / "checkpoint.state")], check=True,
    )  # fmt: skip
    assert start(case.double, out, test=case.test, mode="finetune", **{**given, "checkpoint": clone}) is None
    manifest = read(out)
    assert manifest["checkpoint"] == "checkpoints/run1/checkpoint_model.pth"
    assert "unchanged by the fine-tuning" in manifest["checkpoint_reason"]
    assert manifest["checkpoint_sha256"] != before["checkpoint_model.pth"]


@pytest.mark.parametrize(
    ("fault", "code", "told"),
    [
        ("exit0_nothing", "PV-ARTIFACT", "lacks best_model.pth, checkpoint_model.pth, checkpoint.state, config.yaml"),
        ("stale_ckpt", "PV-ARTIFACT", "lacks best_model.pth"),
        ("no_checkpoint", "PV-ARTIFACT", "lacks checkpoint_model.pth, checkpoint.state"),
        ("crash_mid_epoch", "PV-EXIT", "the double crashes after its first improvement"),
        ("rc3", "PV-EXIT", "ended with exit code 3"),
        ("nan_val", "PV-NAN", "is nan in epoch 0"),
        ("arch_drift", "PV-CKPTARCH", "first in 'encoder.cls_token': (1, 1, 32) in the file, missing in the model"),
    ],
)
def test_faults_of_a_training(tmp_path, case, fault, code, told):
    """Oracle: the table of faults of the reference page, section 18."""
    double = make_double(tmp_path / "checkout", faults=[fault])
    out = tmp_path / "out"
    reason = start(double, out, test=case.test, mode="train", train=case.train, **{**TINY, "epochs": 1})
    failed(out, reason, code)
    assert told in reason
    if fault == "crash_mid_epoch":
        left = out / "checkpoints" / "run1"
        tail = next(one["message"] for one in read(out)["violations"] if one["code"] == "PV-EXIT")
        assert "RuntimeError" in tail.splitlines()[-1]
        with pytest.raises(ContractError, match=r"PV-RESUME: mode resume: run1 has no checkpoint_model.pth"):
            start(
                case.double, tmp_path / "next", test=case.test, mode="resume", train=case.train, checkpoint=left, **TINY
            )


def test_a_resume_that_leaves_the_old_files_is_found(tmp_path, trained, case):
    double = make_double(tmp_path / "checkout", faults=["stale_ckpt"])
    parent = trained / "checkpoints" / "run1"
    out = tmp_path / "out"
    reason = start(
        double, out, test=case.test, mode="resume", train=case.train, checkpoint=parent, **{**TINY, "epochs": 3}
    )
    failed(out, reason, "PV-ARTIFACT")
    assert "checkpoint_model.pth is still the one from before it" in reason
    assert "after 2 epochs, 3 were asked for" in reason


def test_harmless_noise_on_stderr_is_harmless(tmp_path, case):
    double = make_double(tmp_path / "checkout", faults=["stderr_noise"])
    out = tmp_path / "out"
    assert start(double, out, test=case.test, mode="train", train=case.train, **{**TINY, "epochs": 1}) is None
    assert "empty slice" in (out / "stderr.log").read_text()


def test_a_state_written_on_a_gpu_does_not_resume_on_the_cpu(tmp_path, case):
    double = make_double(tmp_path / "checkout", faults=["gpu_state"])
    given = {"test": case.test, "train": case.train, **TINY}
    assert start(double, tmp_path / "out", mode="train", **{**given, "epochs": 1}) is None
    parent = tmp_path / "out" / "checkpoints" / "run1"
    with pytest.raises(ContractError, match=r"PV-RESUME: checkpoint\.state was written on cuda:0"):
        start(double, tmp_path / "next", mode="resume", checkpoint=parent, **given)


def hung(log):
    for _ in range(1200):
        if log.exists() and "hanging with child" in log.read_text():
            return int(log.read_text().split("hanging with child ")[1].split()[0])
        time.sleep(0.05)
    raise AssertionError("the double never hung")


def test_a_training_that_hangs_ends_in_time_without_survivors(tmp_path, case):
    """Oracle: /proc."""
    double = make_double(tmp_path / "checkout", faults=["hang"])
    out = tmp_path / "out"
    started = time.monotonic()
    reason = start(double, out, test=case.test, mode="train", train=case.train, time_limit_s=12.0, **TINY)
    assert time.monotonic() - started < 20
    failed(out, reason, "PV-TIMEOUT")
    assert not alive(hung(out / "stdout.log"))


def test_a_command_that_is_stopped_leaves_nobody(tmp_path, case):
    """Oracle: /proc, after SIGTERM to the command line while the external training hangs."""
    double = make_double(tmp_path / "checkout", faults=["hang"])
    out = tmp_path / "out"
    run = json.dumps({**META, "run_id": "stopped", "config": {"ptychovit": {"mode": "train", **TINY}}})
    command = [
        sys.executable, "-m", "ptychoflow.cli", "ptychovit", "run", "--run", run, "--test-pairs", str(case.test),
        "--train-pairs", str(case.train), "--ptychovit_repo", str(double.path), "--ptychovit_python", sys.executable,
        "--allow_double", double.tree_sha256, "--out", str(out),
    ]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "python")}
    process = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL)
    try:
        child = hung(out / "stdout.log")
        assert alive(child)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 143
    finally:
        process.kill()
        process.wait()
    assert not alive(child)
    assert users_of(out) == []


# ---- refusals --------------------------------------------------------------------------------------------------------


def refused(out, error, exit_code, *codes):
    """The refusal names the codes, launched nothing, and left a manifest."""
    assert error.exit_code == exit_code
    manifest = read(out)
    assert (manifest["state"], manifest["log_verdict"]) == ("refused", "not run")
    assert {one["code"] for one in manifest["violations"] if one["kind"] == "E"} == set(codes)
    for code in codes:
        assert code in str(error)
    assert not (out / "status.json").exists()


def test_an_environment_without_a_module_is_refused(tmp_path, case):
    double = make_double(tmp_path / "checkout", faults=["import_missing"])
    with pytest.raises(UnavailableError) as caught:
        start(double, tmp_path / "out", test=case.test, checkpoint=case.checkpoint)
    refused(tmp_path / "out", caught.value, 69, "PV-ENV")
    assert "No module named 'timm'" in str(caught.value)


def test_checkpoints_that_are_not_this_models_are_refused(tmp_path, case):
    """Oracle: rows PV-CKPT and PV-CKPTARCH: a broken file, and weights of a wider model."""
    broken = tmp_path / "broken"
    shutil.copytree(case.checkpoint, broken)
    (broken / "best_model.pth").write_bytes(b"no weights")
    with pytest.raises(UnavailableError) as caught:
        start(case.double, tmp_path / "a", test=case.test, checkpoint=broken)
    refused(tmp_path / "a", caught.value, 69, "PV-CKPT")
    wide = tmp_path / "wide"
    shutil.copytree(case.checkpoint, wide)
    config = yaml.safe_load((wide / "config.yaml").read_text())
    config["model"]["encoder"]["embed_dim"] = 64
    (wide / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ContractError) as caught:
        start(case.double, tmp_path / "b", test=case.test, checkpoint=wide)
    refused(tmp_path / "b", caught.value, 65, "PV-CKPTARCH")
    assert "(1, 256, 32) in the file, (1, 256, 64) in the model" in str(caught.value)


def edit(folder, base, **blocks):
    """Write the checkout's config with some keys changed (None takes a key away), and return its path."""
    config = yaml.safe_load(base.read_text())
    for block, changes in blocks.items():
        for key, value in changes.items():
            config[block][key] = value
            if value is None:
                del config[block][key]
    path = folder / "base.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"training": {"learning_rate": None}}, "lacks training.learning_rate"),
        ({"data": {"scale": None}}, "lacks data.scale"),
        ({"data": {"mask": "/lustre/authors/mask.npy"}}, "config key data.mask still names /lustre/authors/mask.npy"),
        (
            {"model": {"decoder": {"base_channels": 4, "num_stages": 5}}},
            "patch_size is 16, but num_stages = 5 needs 32",
        ),
        ({"model": {"encoder_type": "pretrained", "timm_kwargs": {}}}, "would download weights"),
    ],
)
def test_configs_that_cannot_be_run_are_refused(tmp_path, case, changes, told):
    """Oracle: row PV-CFG of the violation table."""
    base = edit(tmp_path, case.double.path / "config.yaml", **changes)
    with pytest.raises(ContractError, match=told) as caught:
        start(case.double, tmp_path / "out", test=case.test, checkpoint=case.checkpoint, base_config=base)
    refused(tmp_path / "out", caught.value, 65, "PV-CFG")


def test_everything_that_is_wrong_is_told_at_once(tmp_path, case):
    """Oracle: rows of the violation table: another double, no checkpoint, an edited pair, one object on both sides."""
    pairs = tmp_path / "pairs"
    shutil.copytree(case.test, pairs)
    with h5py.File(pairs / "test_para.hdf5", "r+") as file:
        file["probe_position_x_m"][0] = np.nan
    double = make_double(tmp_path / "checkout", faults=["dirty"])
    with pytest.raises(UnavailableError) as caught:
        start(double, tmp_path / "out", test=pairs, checkpoint=tmp_path / "none.pth")
    refused(tmp_path / "out", caught.value, 69, "PV-CKPT", "PV-PIN", "PV-PAIR", "PV-POSNAN")
    with pytest.raises(ContractError) as caught:
        start(case.double, tmp_path / "leak", test=case.test, mode="train", train=case.test, train_split=0.01)
    refused(tmp_path / "leak", caught.value, 65, "PV-LEAK", "PV-SPLIT")


def test_a_bright_object_trains_and_a_probe_of_another_unit_does_not(tmp_path, case):
    """Oracle: energies. Objects 4 times as bright explain R = 16; with a placeholder for an object nothing explains it."""
    train, _ = make_pairs(tmp_path / "bright", "bright", seed=3, brightness=4.0)
    found = read_pairs(train, training=True)[1]
    assert [(one.code, one.kind) for one in found if one.code != "PV-HOLES"] == [("PV-SCALE", "W")]
    assert "make the frames to a factor of 1 in energy" in next(one.message for one in found if one.code == "PV-SCALE")
    manifest = json.loads((train / "manifest.json").read_text())
    manifest["facts"]["pairs"][0]["object_role"] = "placeholder"
    (train / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ContractError, match="PV-SCALE"):
        start(case.double, tmp_path / "out", test=case.test, mode="train", train=train, **TINY)


def test_an_output_folder_is_used_once(tmp_path, trained, case):
    """Oracle: row PV-STALE; what lies there stays as it is, the manifest of the earlier run included."""
    for name in ("recon.npz", "manifest.json"):
        shutil.copy(trained / name, tmp_path)
    with pytest.raises(ContractError, match=r"PV-STALE: the output folder holds recon\.npz") as caught:
        start(case.double, tmp_path, test=case.test, checkpoint=case.checkpoint)
    assert caught.value.exit_code == 65
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "recon.npz"]
    assert read(tmp_path) == read(trained)


def test_the_guardrail_comes_before_any_other_work(tmp_path, case):
    with pytest.raises(ContractError, match="PV-FINETUNE") as caught:
        start(
            case.double, tmp_path / "out", test=case.test, mode="finetune", train=case.other, checkpoint=case.checkpoint
        )
    refused(tmp_path / "out", caught.value, 65, "PV-FINETUNE")
    with pytest.raises(UsageError, match="progressive"):
        start(
            case.double,
            tmp_path / "b",
            test=case.test,
            mode="finetune",
            train=case.other,
            finetune_policy="progressive",
        )
