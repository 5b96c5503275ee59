"""PREPARE on whole scans: frame sets, guard band, views by spacing and by share, skipped views, exports for other tools."""

import numpy as np
import pytest

from ptychoflow.commands import export_view
from ptychoflow.commands import prepare as command
from ptychoflow.commands.simulate import simulate_scan
from ptychoflow.config import PrepareConfig, SimulateConfig
from ptychoflow.data.overlap import overlap_measures
from ptychoflow.data.storage import load_scan, load_view, read_json, read_npz, save_scan
from ptychoflow.errors import ContractError, UsageError
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


SPACED = {"min_spacing_px": 9.0, "view_gridsize": 2}


def viewed(files, config: PrepareConfig):
    """Return a view of one scan without writing files (and drawing their preview)."""
    scan = load_scan(files / "one.npz")
    return command.prepare(config, scan, scan, heldout_column=None, same_scan=True)


def centres_of(scan: Scan, groups: np.ndarray) -> np.ndarray:
    return np.array([scan.positions_rc_px[group].mean(axis=0) for group in groups])


@pytest.mark.parametrize("options", [{"split": "region", "split_axis": "x", "guard_px": 9.0}, {"split": "none"}])
@pytest.mark.parametrize("choice", [SPACED, {**SPACED, "max_groups": 17}, {**SPACED, "s_img": 0.7}, {"s_img": 0.4}])
def test_all_gridsizes_of_a_view_see_the_same_frames(files, options, choice):
    """The study compares arms on one view: frames are those of the gridsize-2 groups, scored where every view is scored."""
    whole = viewed(files, PrepareConfig(**options))
    options = {**options, **choice, "n_neighbors": 9}
    views = {c: viewed(files, PrepareConfig(**options, gridsize=c)) for c in (1, 2, 3)}
    scan = load_scan(files / "one.npz")
    for side in ("train", "test"):
        frames = getattr(views[2], side).frames
        assert 0 < len(frames) < len(getattr(whole, side).frames)
        for view in views.values():
            assert np.array_equal(getattr(view, side).frames, frames)
            # LSQML takes the unique frames of the groups.
            assert np.array_equal(np.unique(getattr(view, side).groups), frames)
            assert view.score_regions == whole.score_regions
        assert np.array_equal(getattr(views[1], side).groups[:, 0], frames)
        if "min_spacing_px" not in choice:
            continue
        centres = centres_of(scan, getattr(views[2], side).groups)
        assert len(centres) == 17 or "max_groups" not in choice
        distances = np.linalg.norm(centres[:, None] - centres[None], axis=-1) + 1e9 * np.eye(len(centres))
        assert distances.min() >= 9.0
    if options["split"] == "none":
        assert np.array_equal(views[1].train.frames, views[1].test.frames)


def test_own_seeds_move_their_own_choice_only(files):
    config = {"split": "none", "s_img": 0.5, "gridsize": 2}
    plain = viewed(files, PrepareConfig(**config))
    grouped = viewed(files, PrepareConfig(**config, grouping_seed=123))
    drawn = viewed(files, PrepareConfig(**config, subsample_seed=456))
    assert np.array_equal(grouped.train.frames, plain.train.frames)
    assert not np.array_equal(grouped.train.groups, plain.train.groups)
    assert not np.array_equal(drawn.train.frames, plain.train.frames)
    again = viewed(files, PrepareConfig(**config, subsample_seed=456, data_seed=7))
    assert np.array_equal(again.train.frames, drawn.train.frames)


@pytest.mark.parametrize("gridsize", [1, 2])
def test_reports_say_what_was_kept_and_how_it_overlaps(files, tmp_path, gridsize):
    """D67, D68: the measures are those of the stored table; totals count before subsampling. Oracle: view.npz read back."""
    config = PrepareConfig(
        split="scans", gridsize=gridsize, s_img=0.6, subsample_seed=456, probe_diameter_px=13.0, **SPACED
    )
    view = prepared(files, tmp_path, config, test="other.npz")
    bundle = read_json(tmp_path / "metrics_bundle.json")
    assert bundle.keys() == {"train", "test"}
    for side, name in (("train", "one.npz"), ("test", "other.npz")):
        scan, groups = load_scan(files / name), getattr(view, side).groups
        entry = bundle[side]
        assert (tmp_path / entry["output_path"]).name == "view.npz"
        assert entry["set"] == side
        spacing, measures = read_json(tmp_path / entry["spacing_stats_path"]), entry["metrics"]
        assert measures == read_json(tmp_path / f"{side}_metrics.json") == view.metadata["overlap"][side]
        assert spacing == view.metadata["group_spacing"][side]
        expected = overlap_measures(scan.positions_rc_px, groups, scan.scan_index, probe_diameter_px=13.0)
        assert expected.items() <= measures.items()
        assert ("metric_1_group_based_avg" in measures) is (gridsize == 2)
        kept = round(0.6 * scan.n_frames)
        assert (measures["n_images_total"], measures["n_images_subsampled"]) == (scan.n_frames, kept)
        assert measures["n_unique_images"] == len(getattr(view, side).frames)
        assert (measures["n_groups"], measures["n_groups_actual"]) == (None, len(groups))
        assert (measures["metrics_version"], measures["neighbor_count"]) == ("1.0", 6)
        assert (measures["rng_seed_subsample"], measures["s_img"]) == (456, 0.6)
        assert spacing["n_groups_before"] == kept == spacing["n_accepted"] + spacing["n_rejected"]
        assert spacing["min_px"] >= spacing["threshold_px"] == 9.0
        assert (
            spacing["acceptance_rate"] <= spacing["geometry_acceptance_bound"] == measures["geometry_acceptance_bound"]
        )
    outputs = {f"{side}_{what}.json" for side in ("train", "test") for what in ("spacing", "metrics")}
    assert outputs | {"metrics_bundle.json"} <= read_json(tmp_path / "manifest.json")["outputs"].keys()


def test_reports_are_there_without_any_rule(files, tmp_path):
    """D68: a subsampled train side still counts all its frames."""
    prepared(files, tmp_path, PrepareConfig(split="none", gridsize=2, n_groups=30, n_subsample=100))
    train, test = (read_json(tmp_path / f"{side}_metrics.json") for side in ("train", "test"))
    n_frames = load_scan(files / "one.npz").n_frames
    assert train["n_images_total"] == test["n_images_total"] == test["n_groups_actual"] == n_frames
    assert (train["n_images_subsampled"], train["n_groups"], train["n_groups_actual"]) == (100, 30, 30)
    assert train["probe_diameter_px"] == pytest.approx(0.6 * N)
    spacing = read_json(tmp_path / "train_spacing.json")
    assert (spacing["threshold_px"], spacing["n_accepted"], spacing["n_rejected"]) == (None, 30, 0)


def test_a_spaced_view_is_the_same_twice(files, tmp_path):
    written = ("view.npz", "train_spacing.json", "test_metrics.json", "metrics_bundle.json")
    config = PrepareConfig(split="none", gridsize=2, s_img=0.8, **SPACED)
    prepared(files, tmp_path, config)
    first = [(tmp_path / name).read_bytes() for name in written]
    prepared(files, tmp_path, config)
    assert [(tmp_path / name).read_bytes() for name in written] == first


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            {"min_acceptance": 0.9},
            r"train side: infeasible: at most \d+ of \d+ \(.* %\) can pass S = .*largest S that would",
        ),
        (
            {"min_spacing_px": 60.0},
            r"train side: \d of n = \d+ groups pass S = .*proven bound \d+\); a view needs at least 16",
        ),
        ({"s_img": 0.01}, "train side: .* frames"),
    ],
)
def test_a_view_that_cannot_exist_is_skipped_or_an_error_when_strict(files, tmp_path, options, reason):
    """D64: the reason names the bound, nothing else is written but status and manifest; exit 65 only where asked for."""
    config = {"split": "none", "gridsize": 2, **SPACED, **options}
    paths = {"train_scan": files / "one.npz", "test_scan": files / "one.npz"}
    command.run(PrepareConfig(**config), view_id="v", **paths, out_dir=tmp_path)
    status = read_json(tmp_path / "status.json")
    assert status["state"] == "skipped"
    with pytest.raises(ContractError, match=reason) as refusal:
        command.run(PrepareConfig(**config, strict_views=True), view_id="v", **paths, out_dir=tmp_path)
    assert str(refusal.value) == status["reason"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "status.json"]


def test_two_choices_of_one_thing_are_refused(files):
    with pytest.raises(UsageError, match=r"min_spacing_px = 9 and n_groups = 20 both choose groups; use max_groups"):
        viewed(files, PrepareConfig(split="none", n_groups=20, **SPACED))
    with pytest.raises(UsageError, match=r"s_img = 0.5 and n_subsample = 20 both choose frames"):
        viewed(files, PrepareConfig(split="none", n_subsample=20, s_img=0.5))


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


def test_spaced_groups_are_exported_with_their_labels(files, tmp_path):
    """Patches of the true object come along with the groups. Oracle: gather at the members' own positions."""
    view = prepared(files, tmp_path, PrepareConfig(split="region", guard_px=5, gridsize=2, **SPACED))
    scans = {"train_scan": files / "one.npz", "test_scan": files / "one.npz"}
    paths = export_view.run(view=tmp_path / "view.npz", **scans, grouped=True, name="dense", out_dir=tmp_path)
    arrays, scan = read_npz(paths[1]), load_scan(files / "one.npz")
    assert np.array_equal(arrays["nn_indices"], view.test.groups)
    last = scan.positions_rc_px[view.test.groups[-1, 2]]
    assert np.array_equal(arrays["Y"][-1, ..., 2], gather(scan.object, last[None], N)[0])
