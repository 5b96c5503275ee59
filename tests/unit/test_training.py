"""The training loop: a resumed run takes the same steps, NaN ends as data, and an arm learns without seeing the object."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ptychoflow.arms import neural
from ptychoflow.arms.card import read_card
from ptychoflow.commands import evaluate as evaluate_command
from ptychoflow.commands import prepare as prepare_command
from ptychoflow.commands import reconstruct as reconstruct_command
from ptychoflow.commands import train as train_command
from ptychoflow.commands.simulate import simulate_scan
from ptychoflow.config import EvaluateConfig, ModelConfig, PrepareConfig, ReconstructConfig, SimulateConfig, TrainConfig
from ptychoflow.data import checkpoints
from ptychoflow.data.checkpoints import CheckpointStore
from ptychoflow.data.normalize import network_input
from ptychoflow.data.storage import load_recon, load_scan, load_snapshots, load_view, read_json, save_scan
from ptychoflow.errors import ContractError, TransientError
from ptychoflow.frames import Canvas, Region
from ptychoflow.models import training
from ptychoflow.models.torch import backend as torch_backend
from ptychoflow.models.training import fit, split_validation
from ptychoflow.physics.patches import gather
from ptychoflow.records import FrameSet, Normalization, Recon, View

PYTHON = Path(__file__).parents[2] / "python"
SMALL = ModelConfig(n_filters_scale=1)
PLACED, TILING = ReconstructConfig(), ReconstructConfig(stitching="tiling")
META = {"run_id": "c__pinn_torch_gs1__n64__s0", "condition": "c", "label": "pinn_torch_gs1", "arm": "pinn_torch",
        "gridsize": 1, "n": 64, "seed": 0}  # fmt: skip


class Quadratic:
    """A framework of one number: loss (w - g)^2 per group g, plain gradient steps."""

    compile_seconds = 0.0

    def __init__(self, n: int, bad_group: int | None = None) -> None:
        self.targets, self.w, self.bad, self.seen = np.arange(n) / n, np.zeros(1), bad_group, []

    def loss(self, batch):
        return float("nan") if self.bad in batch else float(np.mean((self.w - self.targets[batch]) ** 2))

    def train_step(self, batch, learning_rate):
        loss = self.loss(batch)
        self.seen.append(batch.tolist())
        self.w = self.w - learning_rate * 2 * np.mean(self.w - self.targets[batch])
        return loss

    def state(self):
        return {"w": self.w}

    def weights(self):
        return {"w": self.w}

    def load_state(self, state):
        self.w = np.array(state["w"])


def run_quadratic(tmp_path: Path, *, stop_after: int | None = None, epochs: int = 4, bad: int | None = None):
    backend = Quadratic(23, bad)
    config = TrainConfig(epochs=epochs, batch_size=4, learning_rate=0.1, checkpoint_every_s=0)
    with CheckpointStore(tmp_path, "key") as store:
        stop = (lambda: len(backend.seen) == stop_after) if stop_after else (lambda: False)
        return backend, fit(backend, 23, config, seed=5, store=store, stop_requested=stop)


@pytest.mark.parametrize("stop_after", [1, 6, 7, 13])
def test_a_stopped_run_goes_on_exactly_where_it_was(tmp_path, stop_after):
    whole, outcome = run_quadratic(tmp_path / "a")
    with pytest.raises(TransientError, match=f"step {stop_after}"):
        run_quadratic(tmp_path / "b", stop_after=stop_after)
    rest, resumed = run_quadratic(tmp_path / "b")
    assert resumed.resumed_from == stop_after
    assert rest.w == whole.w
    assert whole.seen[stop_after:] == rest.seen
    want, got = (
        [{k: v for k, v in row.items() if k != "seconds"} for row in result.progress.history]
        for result in (outcome, resumed)
    )
    assert got == want


def test_a_damaged_checkpoint_is_passed_over(tmp_path, caplog):
    with pytest.raises(TransientError):
        run_quadratic(tmp_path, stop_after=9)
    newest = max((tmp_path / "key").glob("step-*.npz"))
    newest.write_bytes(newest.read_bytes()[:100])
    _, outcome = run_quadratic(tmp_path)
    assert outcome.resumed_from == 8
    assert "cannot be read" in caplog.text


def test_only_two_checkpoints_are_kept_and_a_second_owner_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "PATIENCE_S", 0.0)
    run_quadratic(tmp_path)
    assert len(list((tmp_path / "key").glob("step-*.npz"))) == 2
    with (
        CheckpointStore(tmp_path, "key"),
        pytest.raises(TransientError, match="another process"),
        CheckpointStore(tmp_path, "key"),
    ):
        pass


def test_a_retry_waits_for_a_training_that_is_about_to_stop(tmp_path):
    """scancel ends the shell around a training before the training itself (tests/slurm)."""
    first = CheckpointStore(tmp_path, "key").__enter__()
    release = threading.Timer(0.6, first.__exit__, (None, None, None))
    release.start()
    with CheckpointStore(tmp_path, "key"):
        assert release.finished.is_set()
    release.join()


def test_nan_ends_the_training_with_a_reason(tmp_path):
    """D36: the reason names epoch, step and groups."""
    train, _ = split_validation(23, 0.05, 5)
    _, outcome = run_quadratic(tmp_path, bad=int(train[3]))
    assert outcome.reason is not None
    assert "loss is nan at epoch 1" in outcome.reason
    assert str(int(train[3])) in outcome.reason


class Stuck(Quadratic):
    """Its validation loss never gets better."""

    def loss(self, batch):
        return 1.0


def test_a_plateau_lowers_the_step_and_never_the_number_of_epochs(tmp_path):
    """D35: halved after every 2 epochs without gain, never below a tenth; all epochs are trained, each validated."""
    config = TrainConfig(epochs=13, batch_size=4, learning_rate=0.08, plateau_patience=2)
    with CheckpointStore(tmp_path, "key") as store:
        outcome = fit(Stuck(23), 23, config, seed=5, store=store)
    rows = outcome.progress.history
    assert (outcome.stopped, len(rows)) == ("all epochs", 13)
    assert {row["validation_loss"] for row in rows} == {1.0}
    # The first epoch is the best so far; epochs 2 and 3 gain nothing, so epoch 4 is the first with half the step.
    expected = [0.08] * 3 + [0.04] * 2 + [0.02] * 2 + [0.01] * 2 + [0.008] * 4
    assert [row["learning_rate"] for row in rows] == pytest.approx(expected)


def test_a_time_limit_ends_after_an_epoch_and_is_recorded(tmp_path):
    """D35: the one way to stop early is the option that says so."""
    with CheckpointStore(tmp_path, "key") as store:
        outcome = fit(Quadratic(23), 23, TrainConfig(epochs=50, batch_size=4, max_seconds=1e-9), seed=5, store=store)
    assert len(outcome.progress.history) == 1
    assert outcome.reason is None
    assert "time limit" in outcome.stopped


class Compiled(Quadratic):
    """A framework on a clock of its own: 2 s a step, 30 s of compiling before the first step and 7 s before the first loss."""

    def __init__(self, n: int) -> None:
        super().__init__(n)
        self.now, self.compiled = 500.0, set()
        self.compile_seconds = 5.0  # before the training began

    def train_step(self, batch, learning_rate):
        self._compile("step", 30)
        self.now += 2
        self.seen.append(batch.tolist())
        return 1.0

    def loss(self, batch):
        self._compile("loss", 7)
        return 1.0

    def _compile(self, name, seconds):
        if name not in self.compiled:
            self.compiled.add(name)
            self.now += seconds
            self.compile_seconds += seconds


def test_compiling_is_no_training_time(tmp_path, monkeypatch):
    """Oracle: the clock. Three epochs of six steps are 36 s, whenever something was compiled; a resumed run adds up."""
    config = TrainConfig(epochs=3, batch_size=4, checkpoint_every_s=0, snapshots=(1,))

    def run(folder, stop_after=None):
        backend = Compiled(23)
        monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: backend.now))
        stop = (lambda: len(backend.seen) == stop_after) if stop_after else (lambda: False)
        with CheckpointStore(folder, "key") as store:
            outcome = fit(backend, 23, config, seed=5, store=store, stop_requested=stop)
            return backend, outcome.progress, [kept.train_seconds for kept in store.kept()]

    whole, progress, kept = run(tmp_path / "a")
    assert progress.seconds == 36
    assert [row["seconds"] for row in progress.history] == [12, 24, 36]
    assert kept == [12]
    assert whole.compile_seconds == 5 + 37
    with pytest.raises(TransientError):
        run(tmp_path / "b", stop_after=8)
    assert run(tmp_path / "b")[1].seconds == 36


def test_validation_is_present_and_apart():
    with pytest.raises(ContractError, match="use at least 2"):
        split_validation(1, 0.05, 0)
    for n in (2, 5, 100):
        train, validation = split_validation(n, 0.05, 0)
        assert len(validation) >= 1
        assert sorted([*train, *validation]) == list(range(n))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A small simulated lines pair and its view."""
    root = tmp_path_factory.mktemp("prepared")
    common = {"kind": "lines", "n": 64, "size": 111, "size_cols": 137, "dose": "1e6", "phase": "independent"}
    for name, step, stream in (("train", 8.0, 1), ("test", 12.0, 2)):
        save_scan(
            root / f"{name}.npz", simulate_scan(SimulateConfig(**common, step_px=step, object_stream=stream), None)
        )
    prepare_command.run(
        PrepareConfig(split="scans", heldout=0.1),
        view_id="v",
        train_scan=root / "train.npz",
        test_scan=root / "test.npz",
        out_dir=root,
    )
    return root


def train_once(
    root: Path, out: Path, *, supervised: bool = False, epochs: int = 2, model: ModelConfig = SMALL,
    inference: ReconstructConfig = PLACED, **options,
) -> dict:  # fmt: skip
    meta = {**META, "arm": "baseline_torch" if supervised else "pinn_torch"}
    config = TrainConfig(epochs=epochs, mae_weight=1, nll_weight=0, precision="fp32", **options)
    train_command.run(
        run_meta=meta, model=model, config=config, backend="torch", supervised=supervised,
        train_scan=root / "train.npz", view=root / "view.npz",
        device="cpu", checkpoint_dir=out / "checkpoints", attempt=1, out_dir=out,
    )  # fmt: skip
    (out / "status.json").rename(out / "train_status.json")
    reconstruct_command.run(
        inference, run_meta=meta, model=out / "model", test_scan=root / "test.npz", view=root / "view.npz", device="cpu",
        precision="fp32", allow_mismatch=False, attempt=1, out_dir=out,
    )  # fmt: skip
    return read_json(out / "model" / "card.json")


@pytest.mark.parametrize("supervised", [False, True])
@pytest.mark.slow
def test_training_lowers_the_loss_and_leaves_no_checkpoint(prepared, tmp_path, supervised):
    train_once(prepared, tmp_path, supervised=supervised, epochs=3)
    rows = (tmp_path / "model" / "history.csv").read_text().splitlines()
    losses = [float(row.split(",")[2]) for row in rows[1:]]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    assert read_json(tmp_path / "status.json")["state"] == "ok"
    assert list((tmp_path / "checkpoints").iterdir()) == []
    patch = read_json(tmp_path / "patch_metrics.json")
    assert {"mae_amp", "mse_amp", "mae_phase", "mse_phase"} <= set(patch)


def test_a_diverged_training_is_data_with_manifest_and_without_model(prepared, tmp_path):
    """D36, T10: with a step of 1e30 the loss overflows; the command returns, status.json has step and groups."""
    config = TrainConfig(epochs=3, mae_weight=1, nll_weight=0, precision="fp32", learning_rate=1e30)
    train_command.run(
        run_meta=META, model=SMALL, config=config, backend="torch", supervised=False, train_scan=prepared / "train.npz",
        view=prepared / "view.npz", device="cpu", checkpoint_dir=tmp_path / "checkpoints", attempt=1, out_dir=tmp_path,
    )  # fmt: skip
    status = read_json(tmp_path / "status.json")
    assert (status["state"], status["stage"]) == ("failed", "train")
    assert "loss is" in status["reason"]
    assert "epoch 1, step " in status["reason"]
    assert "groups [" in status["reason"]
    assert read_json(tmp_path / "manifest.json")["outputs"].keys() == {"status.json"}
    assert not (tmp_path / "model").exists()


def test_labels_of_the_supervised_arm_are_object_patches(prepared, tmp_path, monkeypatch):
    """D13, D23: the patch of the object under its own frame, in units of the object scale, never probe times object.

    Oracle: slices of the true object, which whole-pixel positions of the raster allow.
    """
    caught = {}

    def no_training(backend, n_groups, config, **_options):
        caught["backend"] = backend
        raise KeyboardInterrupt

    monkeypatch.setattr(neural, "fit", no_training)
    with pytest.raises(KeyboardInterrupt):
        train_once(prepared, tmp_path, supervised=True)
    scan, view = load_scan(prepared / "train.npz"), load_view(prepared / "view.npz")
    batch = np.array([0, 7, len(view.train.groups) - 1])
    corners = scan.positions_rc_px[view.train.groups[batch, 0]] - scan.n // 2
    assert np.array_equal(corners, np.rint(corners))
    expected = np.stack([scan.object[r : r + scan.n, c : c + scan.n] for r, c in corners.astype(int)])
    labels = caught["backend"]._label_of(batch)
    assert labels.shape == (3, 1, scan.n, scan.n)
    np.testing.assert_allclose(labels[:, 0] * view.normalization.object_scale, expected, rtol=1e-5)


def with_oracle(monkeypatch, root: Path, change=lambda patches: patches) -> None:
    """Put a network in place that knows the object: it recognises a frame and gives its true patch, changed at will.

    Frames are recognised by their direction, not their length: RECONSTRUCT divides another exposure out.
    """
    scan, view = load_scan(root / "test.npz"), load_view(root / "view.npz")
    known = network_input(scan.amplitude, view.normalization).reshape(scan.n_frames, -1)
    known /= np.linalg.norm(known, axis=1, keepdims=True)
    patches = gather(scan.object, scan.positions_rc_px, scan.n) / np.float32(view.normalization.object_scale)

    def predict(_network, x, _runtime):
        frames = (x.reshape(*x.shape[:2], -1) @ known.T).argmax(axis=-1)
        return change(patches[frames])

    monkeypatch.setattr(torch_backend, "predict_patches", predict)


def test_an_oracle_network_gives_the_object_back(prepared, tmp_path, monkeypatch):
    """T1, D18, D43 through the whole of RECONSTRUCT: frames, positions, object scale and origin. Oracle: the true object.

    No gauge is removed: amplitude and phase must come out as they are.
    """
    with_oracle(monkeypatch, prepared)
    train_once(prepared, tmp_path, epochs=1)
    recon, view, scan = (
        load_recon(tmp_path / "recon.npz"),
        load_view(prepared / "view.npz"),
        load_scan(prepared / "test.npz"),
    )
    region = view.score_regions[0]
    got = recon.object[recon.canvas.slices_of(region)]
    want = scan.object[region.r0 : region.r1, region.c0 : region.c1]
    np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())  # whole-pixel raster: nothing is interpolated
    assert read_json(tmp_path / "status.json")["state"] == "ok"
    scores = read_json(tmp_path / "patch_metrics.json")
    assert scores["mae_amp"]["value"] < 1e-4
    assert scores["gauge"]["modulus"] == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("gridsize", [1, 2])
def test_true_patches_at_sub_pixel_positions_give_the_object_back(tmp_path, monkeypatch, gridsize):
    """A non-square object, positions off the raster, patches of every member of every group: all fall into place."""
    common = {"kind": "lines", "n": 64, "size": 91, "size_cols": 103, "dose": "1e6", "phase": "independent"}
    for name, stream in (("train", 1), ("test", 2)):
        scan = simulate_scan(SimulateConfig(**common, step_px=9.0, jitter_px=2.0, object_stream=stream), None)
        # Two bilinear interpolations blur lines of one pixel; a smooth object is told from a misplaced one.
        save_scan(tmp_path / f"{name}.npz", replace(scan, object=gaussian_filter(scan.object, 1.5)))
    files = {"train_scan": tmp_path / "train.npz", "test_scan": tmp_path / "test.npz"}
    prepare_command.run(PrepareConfig(split="scans", gridsize=gridsize), view_id="v", **files, out_dir=tmp_path)
    with_oracle(monkeypatch, tmp_path)
    train_once(tmp_path, tmp_path, epochs=1)
    recon, view, scan = (
        load_recon(tmp_path / "recon.npz"), load_view(tmp_path / "view.npz"), load_scan(tmp_path / "test.npz"),
    )  # fmt: skip
    assert view.gridsize == gridsize
    region = view.score_regions[0]
    got = recon.object[recon.canvas.slices_of(region)].ravel()
    want = scan.object[region.r0 : region.r1, region.c0 : region.c1].ravel()
    got, want = got - got.mean(), want - want.mean()
    assert abs(np.vdot(got, want)) / (np.linalg.norm(got) * np.linalg.norm(want)) > 0.999
    assert recon.metadata["n_groups"] == len(view.test.groups)


def write_pair(root: Path, *, gridsize: int = 1, heldout=None, **changes) -> None:
    """Write two scans of non-square objects on a raster of 9 px, 4 x 6 frames, and their view."""
    common = SimulateConfig(size=91, size_cols=109, dose="1e6", phase="independent", step_px=9.0)
    for name, stream in (("train", 1), ("test", 2)):
        save_scan(root / f"{name}.npz", simulate_scan(replace(common, **changes, object_stream=stream), None))
    view_of(root, gridsize=gridsize, heldout=heldout)


def view_of(root: Path, **options) -> None:
    files = {"train_scan": root / "train.npz", "test_scan": root / "test.npz"}
    prepare_command.run(PrepareConfig(split="scans", **options), view_id="v", **files, out_dir=root)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A pair of 24 frames each, one of them held out."""
    root = tmp_path_factory.mktemp("small")
    write_pair(root, heldout=[8])
    return root


def test_a_tiled_oracle_is_scored_as_the_object_itself(tmp_path, monkeypatch):
    """T1, D43 through RECONSTRUCT and EVALUATE: canvas and origin of the tiles. Oracle: the true object, no gauge removed."""
    write_pair(tmp_path)
    with_oracle(monkeypatch, tmp_path)
    train_once(tmp_path, tmp_path, epochs=2, snapshots=(1,), inference=TILING)
    recon = load_recon(tmp_path / "recon.npz")
    assert recon.metadata["stitching"] == {"asked": "tiling", "used": "tiling", "reason": None}
    # Rows 0, 9, 18, 27 and six columns; N = 64 keeps [28, 37) of each patch (physics 12.1).
    assert (recon.canvas.origin_rc_px, recon.object.shape) == ((28, 28), (4 * 9, 6 * 9))
    assert load_snapshots(tmp_path / "snapshots.npz").canvas == recon.canvas
    evaluate_command.run(
        EvaluateConfig(align="none"), run_meta={**META, "kind": "train", "supervised": False}, recon=tmp_path / "recon.npz",
        test_scan=tmp_path / "test.npz", view=tmp_path / "view.npz", patch_metrics=None,
        snapshots=tmp_path / "snapshots.npz", out_dir=tmp_path / "scores",
    )  # fmt: skip
    metrics = read_json(tmp_path / "scores" / "metrics.json")
    assert metrics["coverage"] == 1
    assert metrics["stitched"]["amp"]["mae"]["value"] < 1e-5
    assert metrics["stitched"]["phase"]["mae"]["value"] < 1e-5


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"gridsize": 2}, "groups of 4 frames"),
        ({"jitter_px": 2.0}, "off the whole pixels"),
        ({"step_px": 7.5}, "off the whole pixels"),
        ({"n_objects": 2}, "2 objects"),
        ({}, None),
    ],
)
def test_tiling_that_cannot_be_is_stitching_by_position_with_the_reason(tmp_path, caplog, changes, reason):
    """D40: each way out of tiling, and the way in. The choice alone: no network is needed for it."""
    write_pair(tmp_path, **changes)
    scan, view = load_scan(tmp_path / "test.npz"), load_view(tmp_path / "view.npz")
    caplog.set_level(logging.WARNING, logger="ptychoflow.arms.neural")
    chosen = neural._choose_stitching("tiling", scan, view)
    assert (chosen["asked"], chosen["used"]) == ("tiling", "tiling" if reason is None else "position")
    assert chosen["reason"] is None if reason is None else reason in chosen["reason"]
    assert ("stitched by position, not tiled" in caplog.text) == (reason is not None)


def test_held_out_frames_leave_no_full_raster_and_the_object_is_that_of_positions(small, tmp_path):
    """One frame is held out: asked for tiling or for positions, the bytes are those of positions."""
    objects = []
    for name, inference in (("tiled", TILING), ("placed", PLACED)):
        (tmp_path / name).mkdir()
        train_once(small, tmp_path / name, epochs=1, inference=inference)
        objects.append(load_recon(tmp_path / name / "recon.npz"))
    facts = objects[0].metadata["stitching"]
    assert (facts["asked"], facts["used"]) == ("tiling", "position")
    assert "23 positions do not fill the 4 x 6 places" in facts["reason"]
    assert objects[1].metadata["stitching"] == {"asked": "position", "used": "position", "reason": None}
    assert objects[0].object.tobytes() == objects[1].object.tobytes()


def test_a_reassembly_file_of_the_test_frames_is_kept_on_request(small, tmp_path):
    train_once(small, tmp_path, epochs=1, inference=ReconstructConfig(keep_reassembly=True))
    scan, view = load_scan(small / "test.npz"), load_view(small / "view.npz")
    name = "tmp/torch_reassembly/reassembly_test.npz"
    assert name in read_json(tmp_path / "manifest.json")["outputs"]
    with np.load(tmp_path / name, allow_pickle=False) as file:
        assert file["objectGuess"].shape == scan.object.shape
        np.testing.assert_array_equal(file["ycoords"], scan.positions_rc_px[view.test.frames, 0])


def test_status_tells_import_compiling_and_work_apart(small, tmp_path):
    card = train_once(small, tmp_path, epochs=1)
    train, inference = (read_json(tmp_path / name)["seconds"] for name in ("train_status.json", "status.json"))
    assert train.keys() == {"import", "compile", "train"}
    assert inference.keys() == {"import", "compile", "reconstruct"}
    assert train["compile"] > 0
    assert inference["compile"] > 0
    assert not (tmp_path / "tmp").exists()
    assert train["train"] == pytest.approx(card["seconds"], abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("gridsize", [1, 2])
def test_a_refined_probe_is_kept_and_predicts_the_frames(tmp_path, gridsize):
    """It goes at the exposure of the test scan, in the unit of its probe; probes of members are one by their mean, not modes."""
    write_pair(tmp_path, gridsize=gridsize)
    test = load_scan(tmp_path / "test.npz")
    brighter = {"probe": np.complex64(3j) * test.probe, "amplitude": 3 * test.amplitude}
    save_scan(tmp_path / "test.npz", replace(test, **brighter))
    view_of(tmp_path, gridsize=gridsize, heldout=[5, 13])
    model = replace(SMALL, trainable_probe=True, per_channel_probe=gridsize == 2)
    card = train_once(tmp_path, tmp_path, epochs=2, model=model, learning_rate=1e-2, snapshots=(1,))
    refined, probe = (np.load(tmp_path / "model" / name) for name in ("probe_refined.npy", "probe.npy"))
    assert (refined.shape, refined.dtype) == ((gridsize**2, 64, 64), np.complex64)
    change = np.linalg.norm(refined[0] - probe) / np.linalg.norm(probe)
    assert 1e-3 < change < 0.5  # in the unit of the scan's probe, and not that probe
    assert (np.ptp(np.abs(refined), axis=0).max() > 0) == (gridsize == 2)
    recon, exposure = load_recon(tmp_path / "recon.npz"), load_recon(tmp_path / "recon.npz").metadata["exposure_ratio"]
    assert exposure > 2
    np.testing.assert_allclose(recon.probe, exposure * refined.mean(axis=0)[None], rtol=1e-5)
    ratio = np.linalg.norm(recon.probe) / np.linalg.norm(3 * test.probe)
    assert ratio == pytest.approx(1, abs=0.2)
    early = load_snapshots(tmp_path / "snapshots.npz").probes
    assert early.shape == (1, 1, 64, 64)
    assert 0 < np.abs(early[0] - recon.probe).max() < np.abs(recon.probe).max()
    outputs = {"probe_refined.npy", card["snapshots"][0]["probe"]}
    assert all((tmp_path / "model" / name).is_file() for name in outputs)
    evaluate_command.run(
        EvaluateConfig(), run_meta={**META, "kind": "train", "supervised": False}, recon=tmp_path / "recon.npz",
        test_scan=tmp_path / "test.npz", view=tmp_path / "view.npz", patch_metrics=None, snapshots=None,
        out_dir=tmp_path / "scores",
    )  # fmt: skip
    assert read_json(tmp_path / "scores" / "metrics.json")["consistency"]["heldout"]["probe"] == "reconstruction"


def test_a_model_without_its_refined_probe_or_with_another_is_refused(small, tmp_path):
    card = train_once(small, tmp_path, epochs=1, model=replace(SMALL, trainable_probe=True))
    assert read_card(tmp_path / "model") == card
    file = tmp_path / "model" / card["probe_refined"]["file"]
    np.save(file, 1.01 * np.load(file))
    with pytest.raises(ContractError, match="is not the probe that its card names"):
        read_card(tmp_path / "model")
    file.unlink()
    with pytest.raises(ContractError, match=r"probe_refined\.npy is not in it"):
        read_card(tmp_path / "model")


@pytest.mark.parametrize("supervised", [False, True])
def test_a_probe_is_refined_by_physics_only(small, tmp_path, supervised):
    card = train_once(small, tmp_path, epochs=1, supervised=supervised, model=replace(SMALL, trainable_probe=True))
    assert (card["probe_refined"] is None) == supervised
    assert (load_recon(tmp_path / "recon.npz").probe is None) == supervised


@pytest.mark.parametrize("supervised", [False, True])
def test_the_same_seed_gives_the_same_bytes(small, tmp_path, supervised):
    """Rule 9: weights and object, twice in one process."""
    cards, objects = [], []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        cards.append(train_once(small, tmp_path / name, supervised=supervised, epochs=1))
        objects.append(load_recon(tmp_path / name / "recon.npz").object.tobytes())
    assert cards[0]["weights_sha256"] == cards[1]["weights_sha256"]
    assert objects[0] == objects[1]


def arm_once(root: Path, folder: Path, store, *, supervised: bool, stop_requested=lambda: False):
    """Train one epoch as `train_once` does, without the command."""
    return neural.train(
        load_scan(root / "train.npz"), load_view(root / "view.npz"), arm="an_arm", backend="torch", supervised=supervised,
        model=SMALL, config=TrainConfig(epochs=1, mae_weight=1, nll_weight=0, precision="fp32", batch_size=7, checkpoint_every_s=0),
        seed=0, device="cpu", store=store, model_dir=folder, stop_requested=stop_requested,
    )  # fmt: skip


@pytest.mark.parametrize("supervised", [False, True])
def test_a_stopped_arm_goes_on_to_the_same_weights(small, tmp_path, supervised):
    """The whole arm on either way to learn, stopped after two steps. Oracle: an uninterrupted run. Bytes."""
    with CheckpointStore(tmp_path, "whole") as store:
        whole = arm_once(small, tmp_path, store, supervised=supervised)
    steps = iter([False, True])
    with CheckpointStore(tmp_path, "cut") as store:
        with pytest.raises(TransientError, match="step 2"):
            arm_once(small, tmp_path, store, supervised=supervised, stop_requested=lambda: next(steps))
        rest = arm_once(small, tmp_path, store, supervised=supervised)
    assert rest.outcome.resumed_from == 2
    assert whole.outcome.progress.step > 2
    assert rest.card["weights_sha256"] == whole.card["weights_sha256"]


def test_a_prediction_that_is_not_finite_is_a_failed_run_and_no_mean(prepared, tmp_path, monkeypatch):
    """D41, T10: status `failed` with the reason and exit 0, a manifest, and no picture made some other way."""

    def spoil(patches):
        patches[0, 0, 3, 4] = np.nan
        return patches

    with_oracle(monkeypatch, prepared, spoil)
    train_once(prepared, tmp_path, epochs=1)
    status = read_json(tmp_path / "status.json")
    assert (status["state"], status["stage"], status["collapsed"]) == ("failed", "reconstruct", False)
    assert "NaN" in status["reason"]
    assert not (tmp_path / "recon.npz").exists()
    assert not (tmp_path / "patch_metrics.json").exists()
    assert read_json(tmp_path / "manifest.json")["outputs"].keys() == {"status.json"}


def test_a_flat_picture_is_failed_and_collapsed(prepared, tmp_path, monkeypatch):
    """D31, T8: flat patches give a picture, which is kept, and a verdict with its numbers."""
    with_oracle(monkeypatch, prepared, lambda patches: np.full_like(patches, 0.7j))
    train_once(prepared, tmp_path, epochs=1)
    status = read_json(tmp_path / "status.json")
    assert (status["state"], status["collapsed"]) == ("failed", True)
    assert status["reason"].startswith("collapsed: relative standard deviation of the modulus")
    assert (tmp_path / "recon.npz").exists()


@pytest.mark.parametrize(("amplitude", "phase", "flat"), [(0, 0, True), (0.1, 0, False), (0, 0.1, False)])
def test_flat_means_neither_modulus_nor_phase_varies(amplitude, phase, flat):
    """D31: a pure phase object has a flat modulus and is none the worse for it. Variation outside the region is no help."""
    rng = np.random.default_rng(3)
    noise = rng.normal(size=(2, 21, 34))
    image = (2 + amplitude * noise[0]) * np.exp(1j * (3 + phase * noise[1]))
    image[:, 30:] = 10 * noise[0][:, 30:]
    recon = Recon(image.astype(np.complex64), np.ones(image.shape, np.float32), Canvas((5, -2), image.shape))
    none = FrameSet(np.zeros(0, np.int64), np.zeros((0, 1), np.int64))
    view = View(none, none, none.frames, Normalization(1, 1, 1, 1, True), (Region(6, 25, 0, 27),), {})
    assert (reconstruct_command.flatness(recon, view) is not None) == flat


@pytest.mark.slow
def test_the_physics_arm_never_sees_the_object_and_the_supervised_one_does(prepared, tmp_path):
    """Design section 7: noise in place of objectGuess changes no byte of the physics arm's object."""
    noisy = tmp_path / "noisy"
    noisy.mkdir()
    for name in ("train", "test"):
        scan = load_scan(prepared / f"{name}.npz")
        rng = np.random.default_rng(0)
        noise = (rng.normal(size=scan.object.shape) + 1j * rng.normal(size=scan.object.shape)).astype(np.complex64)
        save_scan(noisy / f"{name}.npz", type(scan)(**{**scan.__dict__, "object": noise}))
    prepare_command.run(
        PrepareConfig(split="scans", heldout=0.1),
        view_id="v",
        train_scan=noisy / "train.npz",
        test_scan=noisy / "test.npz",
        out_dir=noisy,
    )
    objects = {}
    for supervised in (False, True):
        for root in (prepared, noisy):
            out = tmp_path / f"{root.name}_{supervised}"
            out.mkdir()
            # The reassembly file is the one thing of RECONSTRUCT that reads the object.
            inference = ReconstructConfig(keep_reassembly=True)
            train_once(root, out, supervised=supervised, epochs=1, inference=inference)
            objects[supervised, root is noisy] = load_recon(out / "recon.npz").object.tobytes()
    assert objects[False, False] == objects[False, True]
    assert objects[True, False] != objects[True, True]


def test_batch_size_of_the_inference_does_not_show(prepared, tmp_path):
    """D46. The stitching sums are exact; what is left is the rounding of the convolutions in batches of other sizes."""
    card = train_once(prepared, tmp_path, epochs=1)
    scan, view = load_scan(prepared / "test.npz"), load_view(prepared / "view.npz")
    results = [
        neural.reconstruct(
            scan, view, card=card, model_dir=tmp_path / "model", device="cpu", precision="fp32", infer_batch_size=size
        ).recon.object
        for size in (1, 7, 64)
    ]
    largest = np.abs(results[0]).max()
    assert all(np.abs(other - results[0]).max() < 1e-5 * largest for other in results[1:])


def test_another_probe_or_scale_is_refused_and_another_exposure_divided_out(prepared, tmp_path):
    card = train_once(prepared, tmp_path, epochs=1)
    scan, view = load_scan(prepared / "test.npz"), load_view(prepared / "view.npz")
    other = type(scan)(**{**scan.__dict__, "probe": np.roll(scan.probe, 1, axis=0)})
    options = {
        "card": card,
        "model_dir": tmp_path / "model",
        "device": "cpu",
        "precision": "fp32",
        "infer_batch_size": 32,
    }
    with pytest.raises(ContractError, match="probe is not the one"):
        neural.reconstruct(other, view, **options)
    changed = {**card, "normalization": {**card["normalization"], "alpha": 1.0}}
    with pytest.raises(ContractError, match="normalization is not the model's"):
        neural.reconstruct(scan, view, **{**options, "card": changed})
    brighter = type(scan)(**{**scan.__dict__, "probe": 3 * scan.probe, "amplitude": 3 * scan.amplitude})
    same, more = (neural.reconstruct(one, view, **options).recon for one in (scan, brighter))
    assert np.abs(same.object - more.object).max() < 1e-5 * np.abs(same.object).max()
    overridden = neural.reconstruct(other, view, **options, allow_mismatch=True)
    assert "probe is not the one" in overridden.recon.metadata["overridden"][0]


def command_line(root: Path, out: Path, config: TrainConfig, checkpoints: Path) -> list[str]:
    run = {**META, "backend": "torch", "supervised": False, "config": {"model": asdict(SMALL), "train": asdict(config)}}
    return [
        sys.executable, "-m", "ptychoflow.cli", "train", "--run", json.dumps(run), "--train-scan", str(root / "train.npz"),
        "--view", str(root / "view.npz"), "--checkpoint-dir", str(checkpoints), "--out", str(out),
    ]  # fmt: skip


@pytest.mark.slow
def test_sigkill_at_random_steps_loses_nothing(prepared, tmp_path):
    """SIGKILL to the process group at three random moments, each try in a task folder of its own: the final weights and
    the snapshots equal an uninterrupted run's, bit by bit.
    """
    config = TrainConfig(epochs=7, mae_weight=1, nll_weight=0, precision="fp32", checkpoint_every_s=0)  # 28 steps
    env = {**os.environ, "PYTHONPATH": str(PYTHON), "OMP_NUM_THREADS": "2"}
    whole, kept = tmp_path / "whole", tmp_path / "kept"
    subprocess.run(
        command_line(prepared, whole, config, tmp_path / "whole_kept"), env=env, check=True, capture_output=True
    )
    log = tmp_path / "log"
    rng = np.random.default_rng()
    resumed = []
    for k in range(3):
        with log.open("w") as stream:
            process = subprocess.Popen(
                command_line(prepared, tmp_path / f"try_{k}", config, kept),
                env=env,
                stderr=stream,
                start_new_session=True,
            )
        before = newest_step(kept)
        wanted = before + int(rng.integers(2, 9))
        deadline = time.monotonic() + 120
        while newest_step(kept) < wanted and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        resumed += [line for line in log.read_text().splitlines() if "resumed from step" in line]
    last_try = tmp_path / "last"
    last = subprocess.run(
        command_line(prepared, last_try, config, kept), env=env, check=True, capture_output=True, text=True
    )
    resumed += [line for line in last.stderr.splitlines() if "resumed from step" in line]
    assert len(resumed) == 3
    cards = [read_json(out / "model" / "card.json") for out in (whole, last_try)]
    assert cards[0]["weights_sha256"] == cards[1]["weights_sha256"]
    assert [[entry["epoch"] for entry in card["snapshots"]] for card in cards] == [[1, 2, 5]] * 2
    for entry in cards[0]["snapshots"]:
        files = [(out / "model" / entry["file"]).read_bytes() for out in (whole, last_try)]
        assert files[0] == files[1]


def newest_step(checkpoints: Path) -> int:
    steps = [int(path.stem.removeprefix("step-")) for path in checkpoints.glob("*/step-*.npz")]
    return max(steps, default=0)


@pytest.mark.slow
def test_the_physics_arm_learns_an_object_the_right_way_round(tmp_path):
    """T8, D31: after a short training the picture is not flat, not mirrored and not transposed. Oracle: the simulated truth."""
    scan = simulate_scan(
        SimulateConfig(
            size=120, size_cols=144, step_px=7, jitter_px=1.5, dose="1e6", phase="independent", probe="defocused"
        ),
        None,
    )
    save_scan(tmp_path / "train.npz", scan)
    save_scan(tmp_path / "test.npz", scan)
    prepare_command.run(
        PrepareConfig(split="none"),
        view_id="v",
        train_scan=tmp_path / "train.npz",
        test_scan=tmp_path / "test.npz",
        out_dir=tmp_path,
    )
    train_once(tmp_path, tmp_path, epochs=40, batch_size=8, learning_rate=1e-3, plateau_patience=4)
    recon, view = load_recon(tmp_path / "recon.npz"), load_view(tmp_path / "view.npz")
    region = view.score_regions[0]
    got = recon.object[recon.canvas.slices_of(region)]
    want = scan.object[region.r0 : region.r1, region.c0 : region.c1]
    got = got * np.exp(1j * np.angle(np.vdot(got, want)))
    for part, least in ((np.abs, 0.6), (np.angle, 0.6)):
        a, b = part(got), part(want)
        assert a.std() > 0.3 * b.std()
        right = np.corrcoef(a.ravel(), b.ravel())[0, 1]
        mirrored = [np.corrcoef(other.ravel(), b.ravel())[0, 1] for other in (a[::-1], a[:, ::-1], a[::-1, ::-1])]
        assert right > least
        assert right > max(mirrored) + 0.2
