"""PREPARE on whole scans: frame sets, guard band, skipped views, and the exports for other tools."""

import numpy as np
import pytest

from ptychoflow.commands import export_view
from ptychoflow.commands import prepare as command
from ptychoflow.commands.simulate import simulate_scan
from ptychoflow.config import PrepareConfig, SimulateConfig
from ptychoflow.data.storage import load_scan, load_view, read_json, read_npz, save_scan
from ptychoflow.errors import UsageError
from ptychoflow.physics.diffraction import predict_amplitude
from ptychoflow.physics.patches import gather
from ptychoflow.records import Scan

N = 24


def simulated(**options) -> Scan:
    defaults = {
        "n": N,
        "size": 95,
        "size_cols": 141,
        "step_px": 6.0,
        "jitter_px": 1.0,
        "dose": "1e5",
        "phase": "independent",
    }
    return simulate_scan(SimulateConfig(**{**defaults, **options}), None)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("scans")
    save_scan(root / "one.npz", simulated(object_stream=1))
    save_scan(root / "other.npz", simulated(object_stream=2, step_px=5.0))
    save_scan(root / "two_objects.npz", simulated(object_stream=3, n_objects=2))
    return root


def prepared(files, out, config: PrepareConfig, train="one.npz", test="one.npz"):
    command.run(config, view_id="v", train_scan=files / train, test_scan=files / test, out_dir=out)
    return load_view(out / "view.npz")


@pytest.mark.parametrize("gridsize", [1, 2])
def test_region_split_keeps_its_guard_and_reads_no_heldout_frame(files, tmp_path, gridsize):
    """T9, D53; normalization from train frames only (D21)."""
    view = prepared(files, tmp_path, PrepareConfig(split="region", split_axis="x", heldout=0.1, gridsize=gridsize))
    scan = load_scan(files / "one.npz")
    columns = scan.positions_rc_px[:, 1]
    assert columns[view.test.frames].min() - columns[view.train.frames].max() >= N
    assert view.metadata["split"]["min_train_test_distance_px"] >= N
    assert len(view.heldout) > 0
    used = np.concatenate([view.train.frames, view.test.frames, view.train.groups.ravel(), view.test.groups.ravel()])
    assert not np.isin(view.heldout, used).any()
    assert np.isin(view.train.groups, view.train.frames).all()
    energy = np.sum(scan.amplitude[view.train.frames].astype(float) ** 2, axis=(1, 2)).mean()
    assert view.normalization.alpha == pytest.approx((N / 2) / np.sqrt(energy))


@pytest.mark.parametrize("split", ["none", "scans"])
def test_heldout_frames_are_in_no_other_set(files, tmp_path, split):
    """Design section 5: no arm reads them. Oracle: set algebra; test and held-out frames together are the whole scan."""
    test = "one.npz" if split == "none" else "other.npz"
    view = prepared(files, tmp_path, PrepareConfig(split=split, heldout=[1, 4, 5]), test=test)
    n_frames = load_scan(files / test).n_frames
    assert view.heldout.tolist() == [1, 4, 5]
    for used in (view.test.frames, np.unique(view.test.groups)):
        assert used.tolist() == [frame for frame in range(n_frames) if frame not in (1, 4, 5)]
    if split == "none":
        assert not np.isin(view.heldout, np.concatenate([view.train.frames, view.train.groups.ravel()])).any()
    else:  # the train scan is another file: its frames 1, 4 and 5 are not held out
        assert np.array_equal(view.train.frames, np.arange(load_scan(files / "one.npz").n_frames))


def test_heldout_frames_of_a_region_split_are_used_on_neither_side(files, tmp_path):
    """Held-out frames measure the test side; those that lie elsewhere are in no set at all, the train set included."""
    whole = prepared(files, tmp_path, PrepareConfig(split="region", guard_px=5))
    low, high = int(whole.train.frames[2]), int(whole.test.frames[3])
    view = prepared(files, tmp_path, PrepareConfig(split="region", guard_px=5, heldout=[low, high]))
    assert view.heldout.tolist() == [high]
    assert np.array_equal(view.train.frames, np.setdiff1d(whole.train.frames, [low]))
    assert np.array_equal(view.test.frames, np.setdiff1d(whole.test.frames, [high]))


def test_a_guard_of_zero_is_zero_and_not_the_default(files, tmp_path):
    """D39, D59: 0 means nothing is taken away. Oracle: the frames' own coordinates against the threshold."""
    view = prepared(files, tmp_path, PrepareConfig(split="region", guard_px=0))
    rows = load_scan(files / "one.npz").positions_rc_px[:, 0]
    threshold = view.metadata["split"]["threshold_px"]
    assert view.train.frames.tolist() == np.flatnonzero(rows < threshold).tolist()
    assert view.test.frames.tolist() == np.flatnonzero(rows >= threshold).tolist()
    assert view.metadata["split"]["n_dropped_by_guard"] == 0


def test_every_test_frame_is_reconstructed_whatever_the_train_groups(files, tmp_path):
    view = prepared(files, tmp_path, PrepareConfig(split="scans", n_groups=10, n_subsample=40), test="other.npz")
    assert len(view.train.groups) == 10
    assert len(view.train.frames) == 40
    assert np.array_equal(view.test.groups[:, 0], np.arange(load_scan(files / "other.npz").n_frames))


def test_the_same_seed_gives_the_same_bytes(files, tmp_path):
    config = PrepareConfig(split="none", heldout=0.2, gridsize=2, n_groups=20)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        prepared(files, tmp_path / name, config)
    assert (tmp_path / "a/view.npz").read_bytes() == (tmp_path / "b/view.npz").read_bytes()
    (tmp_path / "c").mkdir()
    prepared(files, tmp_path / "c", PrepareConfig(**{**config.__dict__, "data_seed": 43}))
    assert (tmp_path / "a/view.npz").read_bytes() != (tmp_path / "c/view.npz").read_bytes()


def test_a_view_the_data_cannot_give_is_skipped_with_its_reason(files, tmp_path):
    """T10: a manifest is there too; the exit code stays 0."""
    command.run(
        PrepareConfig(split="region", guard_px=500),
        view_id="v",
        train_scan=files / "one.npz",
        test_scan=files / "one.npz",
        out_dir=tmp_path,
    )
    status = read_json(tmp_path / "status.json")
    assert status["state"] == "skipped"
    assert "guard band of 500 px" in status["reason"]
    assert not (tmp_path / "view.npz").exists()
    assert read_json(tmp_path / "manifest.json")["outputs"].keys() == {"status.json"}


def test_a_field_too_small_to_score_is_skipped(tmp_path):
    scan = simulated(size=N, size_cols=90)
    save_scan(tmp_path / "line.npz", scan)
    command.run(
        PrepareConfig(split="none"),
        view_id="v",
        train_scan=tmp_path / "line.npz",
        test_scan=tmp_path / "line.npz",
        out_dir=tmp_path,
    )
    assert (
        "cannot be scored" in read_json(tmp_path / "status.json")["reason"]
        or "scores need" in read_json(tmp_path / "status.json")["reason"]
    )


def test_splits_that_contradict_the_files_are_refused(files, tmp_path):
    with pytest.raises(UsageError, match="both are the same file"):
        prepared(files, tmp_path, PrepareConfig(split="scans"))
    with pytest.raises(UsageError, match="different files"):
        prepared(files, tmp_path, PrepareConfig(split="region"), test="other.npz")


def test_each_object_is_scored_on_its_own_and_groups_stay_inside(files, tmp_path):
    """D47, D51: two objects give two rectangles."""
    view = prepared(
        files, tmp_path, PrepareConfig(split="none", gridsize=2), train="two_objects.npz", test="two_objects.npz"
    )
    scan = load_scan(files / "two_objects.npz")
    assert len(view.score_regions) == 2
    assert view.score_regions[0].c1 <= view.score_regions[1].c0
    index = scan.scan_index[view.train.groups]
    assert (index == index[:, :1]).all()


def test_exported_frames_are_a_contract_scan(files, tmp_path):
    view = prepared(files, tmp_path, PrepareConfig(split="region", guard_px=5))
    paths = export_view.run(
        view=tmp_path / "view.npz",
        train_scan=files / "one.npz",
        test_scan=files / "one.npz",
        grouped=False,
        name="dense",
        out_dir=tmp_path,
    )
    assert [path.name for path in paths] == ["dense_train.npz", "dense_test.npz"]
    scan = load_scan(paths[1])
    assert np.array_equal(scan.amplitude, load_scan(files / "one.npz").amplitude[view.test.frames])
    predicted = predict_amplitude(scan.object, scan.probe, scan.positions_rc_px)
    assert np.corrcoef(predicted.ravel(), scan.amplitude.ravel())[0, 1] > 0.9


@pytest.mark.parametrize("gridsize", [1, 2])
def test_grouped_export_has_the_specified_signs_and_axes(files, tmp_path, gridsize):
    """Physics 2.5: axis 2 is [x, y], relative = -(absolute - centre); labels belong to their own member (D13, D18)."""
    view = prepared(files, tmp_path, PrepareConfig(split="none", gridsize=gridsize))
    path = export_view.run(
        view=tmp_path / "view.npz",
        train_scan=files / "one.npz",
        test_scan=files / "one.npz",
        grouped=True,
        name="g",
        out_dir=tmp_path,
    )[0]
    arrays, scan = read_npz(path), load_scan(files / "one.npz")
    b, c = len(view.train.groups), gridsize**2
    assert arrays["diffraction"].shape == (b, N, N, c)
    assert arrays["coords_nn"].shape == (b, 1, 2, c)
    assert arrays["coords_offsets"].shape == (b, 1, 2, 1)
    member = view.train.groups[3, c - 1]
    assert arrays["coords_nn"][3, 0, :, c - 1].tolist() == scan.positions_rc_px[member, ::-1].tolist()
    assert np.allclose(arrays["coords_relative"], arrays["coords_offsets"] - arrays["coords_nn"])
    assert np.array_equal(arrays["diffraction"][3, ..., c - 1], scan.amplitude[member])
    assert np.allclose(arrays["X_full"], view.normalization.alpha * arrays["diffraction"], rtol=1e-5)
    assert np.array_equal(arrays["Y"][3, ..., c - 1], gather(scan.object, scan.positions_rc_px[member][None], N)[0])
