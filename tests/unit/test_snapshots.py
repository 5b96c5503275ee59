"""Snapshots of a training: kept through kills, outside the training time, and reconstructed like the final weights."""

import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ptychoflow.arms import neural
from ptychoflow.arms.batches import effective_batch_size
from ptychoflow.commands import prepare as prepare_command
from ptychoflow.commands import reconstruct as reconstruct_command
from ptychoflow.commands import train as train_command
from ptychoflow.commands.simulate import simulate_scan
from ptychoflow.config import ModelConfig, PrepareConfig, ReconstructConfig, SimulateConfig, TrainConfig
from ptychoflow.data.checkpoints import CheckpointStore
from ptychoflow.data.storage import load_recon, load_snapshots, read_json, save_scan
from ptychoflow.errors import ContractError, DeviceMemoryError, TransientError
from ptychoflow.models import training
from ptychoflow.models.spec import network_spec
from ptychoflow.models.torch import backend as torch_backend
from ptychoflow.models.training import fit

SMALL = ModelConfig(n_filters_scale=1)
META = {"run_id": "c__pinn_torch_gs1__n64__s0", "condition": "c", "label": "pinn_torch_gs1", "arm": "pinn_torch",
        "gridsize": 1, "n": 64, "seed": 0}  # fmt: skip
PIXEL_SIZE_M = 4.5e-8


class Slope:
    """A framework of two numbers that no step leaves as they were: weights after a step name the steps before it."""

    compile_seconds = 0.0

    def __init__(self) -> None:
        self.w, self.steps = np.zeros(2), 0

    def loss(self, batch):
        return float(np.sum((self.w - batch.mean()) ** 2))

    def train_step(self, batch, learning_rate):
        self.steps += 1
        self.w = self.w - learning_rate * (self.w - batch[[0, -1]])
        return self.loss(batch)

    def state(self):
        return {"w": self.w, "moment": self.w * 2}

    def weights(self):
        return {"w": self.w}

    def load_state(self, state):
        self.w = np.array(state["w"])


def run_slope(folder: Path, *, stop_after: int | None = None, snapshots=(1, 3, 4, 9), epochs: int = 4):
    """Return what is kept after four epochs of six steps, by epoch."""
    backend = Slope()
    config = TrainConfig(epochs=epochs, batch_size=4, learning_rate=0.1, checkpoint_every_s=0, snapshots=snapshots)
    with CheckpointStore(folder, "key") as store:
        fit(backend, 23, config, seed=5, store=store, stop_requested=lambda: backend.steps == stop_after)
        return {kept.epoch: kept for kept in store.kept()}


def test_weights_are_kept_after_the_epochs_asked_for(tmp_path):
    """Oracle: runs that end after so many epochs; the final epoch and those never reached are not kept."""
    kept = run_slope(tmp_path / "a")
    assert list(kept) == [1, 3]
    for epoch in kept:
        run_slope(tmp_path / str(epoch), epochs=epoch + 1, snapshots=(epoch,))
        with CheckpointStore(tmp_path / str(epoch), "key") as store:
            (alone,) = store.kept()
        assert kept[epoch].weights.keys() == {"w"}  # no optimizer state
        np.testing.assert_array_equal(alone.weights["w"], kept[epoch].weights["w"])
    assert not np.array_equal(kept[1].weights["w"], kept[3].weights["w"])
    assert 0 < kept[1].train_seconds < kept[3].train_seconds


@pytest.mark.parametrize("stop_after", [5, 6, 7, 12, 19])
def test_a_resumed_run_has_the_snapshots_of_an_uninterrupted_one(tmp_path, stop_after):
    """Stops inside an epoch, at its last step (before its snapshot) and after it; six steps are an epoch."""
    whole = run_slope(tmp_path / "a")
    with pytest.raises(TransientError):
        run_slope(tmp_path / "b", stop_after=stop_after)
    rest = run_slope(tmp_path / "b")
    assert {epoch: kept.weights["w"].tobytes() for epoch, kept in rest.items()} == {
        epoch: kept.weights["w"].tobytes() for epoch, kept in whole.items()
    }


def test_no_epochs_keep_nothing(tmp_path):
    assert run_slope(tmp_path, snapshots=()) == {}
    assert list((tmp_path / "key").glob("epoch-*")) == []


def test_a_damaged_snapshot_is_said_and_left_out(tmp_path, caplog):
    run_slope(tmp_path)
    path = tmp_path / "key" / "epoch-00001.npz"
    path.write_bytes(path.read_bytes()[:60])
    with CheckpointStore(tmp_path, "key") as store:
        assert [kept.epoch for kept in store.kept()] == [3]
    assert "epoch-00001.npz in the checkpoints cannot be read" in caplog.text


def test_writing_snapshots_is_no_training_time(tmp_path, monkeypatch):
    """By a clock that only looking at it (0.01 s) and writing a snapshot (100 s) move on."""
    now = [0.0]
    keep = CheckpointStore.keep

    def look():
        now[0] += 0.01
        return now[0]

    def slow(*args, **options):
        now[0] += 100
        keep(*args, **options)

    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=look))
    monkeypatch.setattr(CheckpointStore, "keep", slow)
    kept = run_slope(tmp_path)
    assert now[0] > 200
    assert 0 < kept[1].train_seconds < kept[3].train_seconds < 1


def test_epochs_that_the_last_try_did_not_reach_are_no_part_of_its_model(tmp_path):
    """A killed try was at epoch 7 when its newest checkpoint was of epoch 4, and the time limit then ended epoch 5."""
    with CheckpointStore(tmp_path, "key") as store:
        for epoch in (2, 5, 7):
            store.keep(epoch, {"w": np.full((1, 3), epoch, np.float32)}, train_seconds=epoch / 10)
        entries = neural._write_snapshots(store, tmp_path, "torch", epochs=5)
    assert entries == [{"epoch": 2, "train_seconds": 0.2, "file": "snapshots/epoch_00002.pt"}]
    assert [path.name for path in (tmp_path / "snapshots").iterdir()] == ["epoch_00002.pt"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Two small simulated lines scans and their view."""
    root = tmp_path_factory.mktemp("prepared")
    common = {"kind": "lines", "n": 64, "size": 91, "size_cols": 103, "dose": "1e6", "phase": "independent"}
    for name, stream in (("train", 1), ("test", 2)):
        scan = simulate_scan(SimulateConfig(**common, step_px=9.0, object_stream=stream), None)
        metadata = {**scan.metadata, "pixel_size_m": PIXEL_SIZE_M}
        save_scan(root / f"{name}.npz", type(scan)(**{**scan.__dict__, "metadata": metadata}))
    prepare_command.run(
        PrepareConfig(split="scans"), view_id="v", train_scan=root / "train.npz", test_scan=root / "test.npz", out_dir=root
    )  # fmt: skip
    return root


def train_once(root: Path, out: Path, *, epochs: int, snapshots=(), device="cpu", attempt=1, **options) -> dict:
    config = TrainConfig(
        epochs=epochs, mae_weight=1, nll_weight=0, precision="fp32", snapshots=snapshots, batch_size=13, **options
    )
    train_command.run(
        run_meta=META, model=SMALL, config=config, backend="torch", supervised=False,
        train_scan=root / "train.npz", view=root / "view.npz",
        device=device, checkpoint_dir=out / "checkpoints", attempt=attempt, out_dir=out,
    )  # fmt: skip
    return read_json(out / "model" / "card.json")


def reconstruct_once(root: Path, out: Path) -> None:
    reconstruct_command.run(
        ReconstructConfig(), run_meta=META, model=out / "model", test_scan=root / "test.npz", view=root / "view.npz",
        device="cpu", precision="fp32", allow_mismatch=False, attempt=2, out_dir=out,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(prepared, tmp_path_factory):
    """A run of three epochs with snapshots, and one that ends after two and keeps none; both reconstructed."""
    outs = [tmp_path_factory.mktemp(name) for name in ("kept", "short")]
    for out, epochs, snapshots in zip(outs, (3, 2), ((1, 2, 3, 50), ()), strict=True):
        train_once(prepared, out, epochs=epochs, snapshots=snapshots)
        (out / "manifest.json").rename(out / "train_manifest.json")
        reconstruct_once(prepared, out)
    return outs


@pytest.mark.slow
def test_the_model_holds_its_snapshots(trained):
    kept, short = trained
    card, manifest = read_json(kept / "model" / "card.json"), read_json(kept / "manifest.json")
    assert [(entry["epoch"], entry["file"]) for entry in card["snapshots"]] == [
        (1, "snapshots/epoch_00001.pt"),
        (2, "snapshots/epoch_00002.pt"),
    ]
    times = [entry["train_seconds"] for entry in card["snapshots"]]
    assert 0 < times[0] < times[1] < card["seconds"]
    files = {f"model/{entry['file']}" for entry in card["snapshots"]}
    assert files < read_json(kept / "train_manifest.json")["outputs"].keys()
    assert {"snapshot_1", "snapshot_2"} <= manifest["inputs"].keys()
    assert read_json(short / "model" / "card.json")["snapshots"] == []
    assert not (short / "model" / "snapshots").exists()
    weights = [
        torch.load(path, weights_only=True)
        for path in (kept / "model" / "snapshots" / "epoch_00002.pt", short / "model" / "weights.pt")
    ]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_snapshot_is_reconstructed_like_final_weights(trained):
    """Oracle: a training that ends where the snapshot was kept, through a RECONSTRUCT of its own. Bytes."""
    kept, short = trained
    snapshots, recon, other = load_snapshots(kept / "snapshots.npz"), load_recon(kept / "recon.npz"), load_recon(
        short / "recon.npz"
    )  # fmt: skip
    card = read_json(kept / "model" / "card.json")
    assert snapshots.epochs.tolist() == [1, 2]
    assert snapshots.objects[1].tobytes() == other.object.tobytes()
    assert snapshots.objects[0].tobytes() != other.object.tobytes() != recon.object.tobytes()
    assert snapshots.canvas == recon.canvas
    assert snapshots.probes is None
    assert snapshots.train_seconds.tolist() == [entry["train_seconds"] for entry in card["snapshots"]]
    assert (snapshots.reconstruct_seconds > 0).all()
    assert "snapshots.npz" in read_json(kept / "manifest.json")["outputs"]
    assert not (short / "snapshots.npz").exists()
    assert "snapshots.npz" not in read_json(short / "manifest.json")["outputs"]


def test_a_picture_says_what_it_cost_and_how_large_a_pixel_is(trained):
    recon, card = load_recon(trained[0] / "recon.npz"), read_json(trained[0] / "model" / "card.json")
    assert recon.pixel_size_m == PIXEL_SIZE_M
    seconds = recon.metadata["seconds"]["reconstruct"]
    assert recon.metadata["cost"] == {
        "epochs": 3, "train_seconds": card["seconds"], "reconstruct_seconds": seconds,
    }  # fmt: skip
    assert seconds > 0


def test_a_snapshot_that_is_not_finite_is_left_out_and_one_that_is_gone_refused(prepared, trained, tmp_path, caplog):
    model = tmp_path / "model"
    for path in (trained[0] / "model").rglob("*.*"):
        (model / path.relative_to(trained[0] / "model")).parent.mkdir(parents=True, exist_ok=True)
        (model / path.relative_to(trained[0] / "model")).write_bytes(path.read_bytes())
    file = model / "snapshots" / "epoch_00001.pt"
    torch.save({name: value * float("nan") for name, value in torch.load(file, weights_only=True).items()}, file)
    with caplog.at_level(logging.INFO):
        reconstruct_once(prepared, tmp_path)
    snapshots = load_snapshots(tmp_path / "snapshots.npz")
    assert snapshots.epochs.tolist() == [2]
    assert snapshots.objects.tobytes() == load_snapshots(trained[0] / "snapshots.npz").objects[1].tobytes()
    assert "the snapshot after epoch 1 is left out" in caplog.text
    assert "snapshot after epoch 2: " in caplog.text
    assert read_json(tmp_path / "status.json")["state"] == "ok"
    file.unlink()
    with pytest.raises(ContractError, match=r"snapshots/epoch_00001\.pt is not in it"):
        reconstruct_once(prepared, tmp_path)


def test_a_failed_training_leaves_neither_model_nor_snapshots(prepared, tmp_path, monkeypatch):
    """The loss overflows in the second epoch, after a snapshot was kept."""
    step = torch_backend.PhysicsBackend.train_step
    steps = []

    def spoiled(self, batch, learning_rate):
        steps.append(len(list((tmp_path / "checkpoints").rglob("epoch-*.npz"))))
        return float("nan") if steps[-1] else step(self, batch, learning_rate)

    monkeypatch.setattr(torch_backend.PhysicsBackend, "train_step", spoiled)
    with pytest.raises(FileNotFoundError):
        train_once(prepared, tmp_path, epochs=2, snapshots=(1,))
    assert steps[-1] == 1
    assert read_json(tmp_path / "status.json")["state"] == "failed"
    assert not (tmp_path / "model").exists()
    assert list((tmp_path / "checkpoints").iterdir()) == []


@pytest.mark.parametrize(
    ("asked", "device", "attempt", "used"),
    [
        (13, "cuda", 1, 13),
        (13, "cuda", 2, 6),
        (13, "cuda", 3, 3),
        (13, "cuda", 9, 1),
        (13, "cpu", 3, 13),
        (1, "cuda", 2, 1),
    ],
)
def test_batch_of_a_further_try(asked, device, attempt, used):
    assert effective_batch_size(asked, device=device, attempt=attempt) == used


def test_training_halves_the_batch_unless_there_is_something_to_go_on_with(prepared, tmp_path, monkeypatch):
    """On a GPU: a killed try is gone on with at its own batch; one that ran out of memory leaves nothing to go on with."""
    used = []

    def no_training(*_args, config, store, **_options):
        used.append(config.batch_size)
        if len(used) in (2, 4):
            store.save(7, {"w": np.zeros(3)}, {})
        if len(used) == 4:
            raise DeviceMemoryError("too small")
        raise TransientError("killed")

    monkeypatch.setattr(neural, "train", no_training)
    for attempt, error in ((1, TransientError), (2, TransientError), (3, TransientError), (3, DeviceMemoryError),
                           (3, TransientError)):  # fmt: skip
        with pytest.raises(error):
            train_once(prepared, tmp_path, epochs=2, device="cuda", attempt=attempt)
    assert used == [13, 6, 6, 6, 3]


def test_a_gpu_that_is_too_small_for_the_inference_is_77(monkeypatch):
    def full(_self, _x):
        raise torch.cuda.OutOfMemoryError("no room")

    runtime = torch_backend.choose_runtime("cpu", "fp32")
    network = torch_backend.build_network(network_spec(64, 1, SMALL), SMALL, runtime, seed=0)
    monkeypatch.setattr(type(network), "forward", full)
    with pytest.raises(DeviceMemoryError, match="5 frames a call; lower infer_batch_size") as refusal:
        torch_backend.predict_patches(network, np.zeros((5, 1, 64, 64), np.float32), runtime)
    assert refusal.value.exit_code == 77
