"""The TensorFlow arms through TRAIN and RECONSTRUCT: files, labels, refusals; no object reaches the physics arm."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from ptychoflow.commands import prepare as prepare_command
from ptychoflow.commands import reconstruct as reconstruct_command
from ptychoflow.commands import train as train_command
from ptychoflow.commands.simulate import simulate_scan
from ptychoflow.config import ModelConfig, PrepareConfig, ReconstructConfig, SimulateConfig, TrainConfig
from ptychoflow.data.storage import load_recon, load_scan, load_snapshots, read_json, save_scan
from ptychoflow.errors import ContractError
from ptychoflow.models.tf.losses import supervised_loss

pytestmark = pytest.mark.tensorflow
SMALL = ModelConfig(n_filters_scale=1)
SIXTEEN = ReconstructConfig(infer_batch_size=16)


def write_pair(root, *, gridsize, change=lambda scan: scan):
    root.mkdir()
    common = {"kind": "lines", "n": 64, "size": 91, "size_cols": 103, "dose": "1e6", "phase": "independent"}
    for name, stream in (("train", 1), ("test", 2)):
        scan = simulate_scan(SimulateConfig(**common, step_px=9.0, jitter_px=1.5, object_stream=stream), None)
        save_scan(root / f"{name}.npz", change(scan))
    files = {"train_scan": root / "train.npz", "test_scan": root / "test.npz"}
    prepare_command.run(PrepareConfig(split="scans", gridsize=gridsize), view_id="v", **files, out_dir=root)
    return root


def train_once(root, out, *, arm, gridsize, model=SMALL, epochs=2, inference=SIXTEEN):
    out.mkdir(exist_ok=True)
    meta = {"run_id": f"r__{arm}", "condition": "r", "label": f"{arm}_gs{gridsize}", "arm": arm}
    meta |= {"gridsize": gridsize, "n": 64, "seed": 3}
    config = TrainConfig(epochs=epochs, mae_weight=1, nll_weight=0, snapshots=(1,), batch_size=8)
    train_command.run(
        run_meta=meta, model=model, config=config, backend="tensorflow", supervised=arm == "baseline",
        train_scan=root / "train.npz", view=root / "view.npz", device="cpu", checkpoint_dir=out / "checkpoints",
        attempt=1, out_dir=out,
    )  # fmt: skip
    (out / "status.json").rename(out / "train_status.json")
    reconstruct_command.run(
        inference, run_meta=meta, model=out / "model", test_scan=root / "test.npz", view=root / "view.npz", device="cpu",
        precision="fp32", allow_mismatch=False, attempt=1, out_dir=out,
    )  # fmt: skip
    return load_recon(out / "recon.npz")


@pytest.mark.parametrize(("arm", "gridsize"), [("pinn", 1), ("pinn", 2), ("baseline", 1), ("baseline", 2)])
def test_an_arm_trains_reconstructs_and_leaves_its_files(tmp_path, arm, gridsize):
    root = write_pair(tmp_path / "pair", gridsize=gridsize)
    recon = train_once(root, tmp_path / "out", arm=arm, gridsize=gridsize, epochs=3)
    card = read_json(tmp_path / "out" / "model" / "card.json")
    assert (card["backend"], card["gridsize"]) == ("tensorflow", gridsize)
    assert (tmp_path / "out" / "model" / card["weights"]).stat().st_size > 0
    losses = [
        float(row.split(",")[2]) for row in (tmp_path / "out" / "model" / "history.csv").read_text().splitlines()[1:]
    ]
    assert losses[2] < losses[0]
    assert np.isfinite(recon.object).all()
    assert recon.metadata["cost"]["epochs"] == 3
    snapshots = load_snapshots(tmp_path / "out" / "snapshots.npz")
    assert snapshots.epochs.tolist() == [1]
    assert not np.array_equal(snapshots.objects[0], recon.object)
    assert {"mae_amp", "mae_phase"} <= set(read_json(tmp_path / "out" / "patch_metrics.json"))
    train, inference = (read_json(tmp_path / "out" / name)["seconds"] for name in ("train_status.json", "status.json"))
    assert train.keys() == {"import", "compile", "train"}
    assert inference.keys() == {"import", "compile", "reconstruct"}
    assert train["train"] == pytest.approx(card["seconds"], abs=1e-6)


@pytest.mark.parametrize("arm", ["pinn", "baseline"])
def test_the_same_seed_gives_the_same_bytes(tmp_path, arm):
    """Rule 9: weights and object, twice in one process."""
    root = write_pair(tmp_path / "pair", gridsize=1)
    objects = [train_once(root, tmp_path / name, arm=arm, gridsize=1, epochs=1).object for name in ("a", "b")]
    cards = [read_json(tmp_path / name / "model" / "card.json") for name in ("a", "b")]
    assert cards[0]["weights_sha256"] == cards[1]["weights_sha256"]
    assert objects[0].tobytes() == objects[1].tobytes()


def test_a_refined_probe_of_each_member_is_kept_and_goes_on_as_their_mean(tmp_path):
    root = write_pair(tmp_path / "pair", gridsize=2)
    model = replace(SMALL, trainable_probe=True, per_channel_probe=True)
    recon = train_once(root, tmp_path / "out", arm="pinn", gridsize=2, model=model)
    folder = tmp_path / "out" / "model"
    refined, start = np.load(folder / "probe_refined.npy"), np.load(folder / "probe.npy")
    assert (refined.shape, refined.dtype) == ((4, 64, 64), np.complex64)
    assert 1e-3 < np.linalg.norm(refined - start) / np.linalg.norm(refined) < 0.5
    exposure = recon.metadata["exposure_ratio"]
    np.testing.assert_allclose(recon.probe, exposure * refined.mean(axis=0)[None], rtol=1e-5)
    assert load_snapshots(tmp_path / "out" / "snapshots.npz").probes.shape == (1, 1, 64, 64)


def test_tiling_of_positions_off_the_raster_is_stitching_by_position(tmp_path):
    root = write_pair(tmp_path / "pair", gridsize=1)
    tiled = ReconstructConfig(infer_batch_size=16, stitching="tiling")
    recon = train_once(root, tmp_path / "out", arm="pinn", gridsize=1, epochs=1, inference=tiled)
    facts = recon.metadata["stitching"]
    assert (facts["asked"], facts["used"]) == ("tiling", "position")
    assert "off the whole pixels" in facts["reason"]


def test_without_object_big_one_patch_lies_at_the_middle_of_its_group(tmp_path):
    root = write_pair(tmp_path / "pair", gridsize=2)
    recon = train_once(root, tmp_path / "out", arm="pinn", gridsize=2, model=replace(SMALL, object_big=False), epochs=1)
    assert np.isfinite(recon.object).all()


def test_the_object_reaches_the_supervised_arm_only(tmp_path):
    def by_noise(scan):
        noise = np.random.default_rng(0).normal(size=(*scan.object.shape, 2)).view(np.complex128)[..., 0]
        return replace(scan, object=noise.astype(np.complex64))

    pairs = [write_pair(tmp_path / "true", gridsize=1), write_pair(tmp_path / "noise", gridsize=1, change=by_noise)]
    for arm, same in (("pinn", True), ("baseline", False)):
        objects = [
            train_once(root, tmp_path / f"{arm}_{root.name}", arm=arm, gridsize=1, epochs=1).object for root in pairs
        ]
        assert np.array_equal(*objects) is same


def test_the_supervised_loss_has_a_slope_where_a_patch_is_zero():
    """A border head that is dark gives exact zeros: no phase there, slope 0, as in PyTorch, and never 0 / 0."""
    labels = tf.complex(tf.ones((1, 2, 3, 1)), tf.ones((1, 2, 3, 1)))
    amplitude = tf.Variable(np.array([0, 1, 0, 2, 0, 0.5], np.float32).reshape(1, 2, 3, 1))
    with tf.GradientTape() as tape:
        loss = supervised_loss(tf.complex(amplitude, 0.5 * amplitude), labels, tf.ones((2, 3)))
    slope = tape.gradient(loss, amplitude).numpy()
    assert np.isfinite(slope).all()
    assert np.abs(slope.ravel()[1]) > 0


def test_another_probe_is_refused(tmp_path):
    root = write_pair(tmp_path / "pair", gridsize=1)
    train_once(root, tmp_path / "out", arm="pinn", gridsize=1, epochs=1)
    scan = load_scan(root / "test.npz")
    save_scan(root / "test.npz", replace(scan, probe=np.roll(scan.probe, 3, axis=0)))
    prepare_command.run(
        PrepareConfig(split="scans"),
        view_id="v",
        train_scan=root / "train.npz",
        test_scan=root / "test.npz",
        out_dir=root,
    )
    with pytest.raises(ContractError, match="probe is not the one"):
        reconstruct_command.run(
            SIXTEEN,
            run_meta={"run_id": "r", "condition": "r", "label": "l", "arm": "pinn", "gridsize": 1, "n": 64, "seed": 3},
            model=tmp_path / "out" / "model", test_scan=root / "test.npz", view=root / "view.npz", device="cpu",
            precision="fp32", allow_mismatch=False, attempt=1, out_dir=tmp_path / "out",
        )  # fmt: skip
