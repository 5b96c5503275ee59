"""Every refusal of ingest and validate: its message, and exit code 65; then the report on a good file, and views of one."""

# ruff: noqa: E501 - the tables of refusals read best with one case a line

import json
import pickle
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from ptychoflow.commands import prepare, validate
from ptychoflow.commands.simulate import simulate_scan
from ptychoflow.config import IngestConfig, PrepareConfig, SimulateConfig
from ptychoflow.data.storage import load_scan, load_view, save_scan, save_view
from ptychoflow.errors import ContractError
from ptychoflow.provenance import sha256_file
from scan_files import SHAPE, M, N, grid_lines_arrays, scan_arrays, tike_arrays, write


def changed(**changes) -> dict[str, np.ndarray]:
    """Return a good contract scan with some arrays replaced; None removes one."""
    arrays = {**scan_arrays(), **changes}
    return {key: value for key, value in arrays.items() if value is not None}


def spoiled(key: str, index: tuple, value: float) -> np.ndarray:
    array = scan_arrays()[key].copy()
    array[index] = value
    return array


FRAMES = scan_arrays()["diff3d"]
METADATA = {
    "dose": json.dumps({"dose_asked": "1e4"}),
    "n": json.dumps({"physics_parameters": {"N": 64}}),
    "pixel": json.dumps({"pixel_size_m": 2e-8}),
    "scale": json.dumps({"photons_per_intensity": 3.0}),
    "intensity": json.dumps({"domain": "intensity"}),
}

REFUSED = {
    "no frames": (changed(diff3d=None), {}, r"key 'diff3d' \(or its alias 'diffraction'\) is missing; the file has"),
    "no x": (changed(xcoords=None), {}, "key 'xcoords' is missing"),
    "no y": (changed(ycoords=None), {}, "key 'ycoords' is missing"),
    "no probe": (changed(probeGuess=None), {}, "key 'probeGuess' is missing"),
    "unknown format": ({"foo": np.zeros(3)}, {}, r"not a known scan format.*The file has \['foo'\]"),
    "alias conflict": (changed(diffraction=FRAMES + 1), {}, "two names of the frames but hold different ones"),
    "alias of other shape": (changed(diffraction=FRAMES[1:]), {}, "hold different ones; keep one"),
    "pickled frames": (changed(diff3d=np.array([None, 1])), {}, "key 'diff3d' is a pickled object, which is never loaded"),
    "nan": (changed(diff3d=spoiled("diff3d", (7, 2, 3), np.nan)), {}, "NaN or infinite values in 1 of 40 frames, first in frame 7"),
    "inf": (changed(diff3d=spoiled("diff3d", (9, 0, 0), np.inf)), {}, "NaN or infinite values in 1 of 40 frames, first in frame 9"),
    "negative": (changed(diff3d=spoiled("diff3d", (3, 1, 1), -0.5)), {}, "negative values in 1 of 40 frames, first in frame 3, least -0.5"),
    "zero frame": (changed(diff3d=spoiled("diff3d", (5,), 0)), {}, "zero everywhere in 1 of 40 frames, first in frame 5; remove them"),
    "counts": (changed(diff3d=np.round(FRAMES**2)), {}, "looks like counts: all values are whole numbers.*state domain = intensity"),
    "uint16 counts": (changed(diff3d=np.round(FRAMES**2).astype(np.uint16)), {}, "looks like counts"),
    "intensity": (changed(diff3d=FRAMES**2), {}, r"to the power 1\.[89]\d+: this is intensity; state domain = intensity"),
    "root too many": (changed(), {"domain": "intensity"}, r"to the power 0\.\d+: a square root too many was taken"),
    "uint16 overflow": (changed(diff3d=spoiled("diff3d", (), 1).astype(np.uint16) * 65535), {}, "reaches 65535, the largest uint16: values have overflowed"),
    "corner": (changed(diff3d=np.fft.ifftshift(FRAMES, axes=(1, 2))), {}, r"must have its zero frequency at \[8, 8\].*apply fftshift"),
    "short x": (changed(xcoords=np.arange(M - 1.0)), {}, r"must have shape \(M, N, N\) with M = 39 positions, got \(40, 17, 17\)"),
    "short y": (changed(ycoords=np.arange(M - 1.0)), {}, r"'ycoords' must be 40 real numbers, one a frame as in 'xcoords', got shape \(39,\)"),
    "short start": (changed(xcoords_start=np.zeros(3), ycoords_start=np.zeros(3)), {}, "'xcoords_start' must be 40 real numbers"),
    "half a start": (changed(xcoords_start=np.zeros(M)), {}, "'xcoords_start' is there without its partner"),
    "short index": (changed(scan_index=np.zeros(3, int)), {}, r"'scan_index' must be 40 whole numbers, one a frame, got shape \(3,\)"),
    "short labels": (changed(Y=np.ones((3, N, N), complex)), {}, "'Y' must hold one label patch for each of 40 frames"),
    "complex frames": (changed(diff3d=FRAMES.astype(complex)), {}, "'diff3d' must hold real numbers, got complex128"),
    "boolean frames": (changed(diff3d=FRAMES > 1), {}, "'diff3d' must hold real numbers, got bool"),
    "text positions": (changed(xcoords=np.full(M, "a")), {}, "'xcoords' must be 40 real numbers, one a frame.*<U1"),
    "integer probe": (changed(probeGuess=np.ones((N, N), int)), {}, "'probeGuess' must be complex, got int64"),
    "probe size": (changed(probeGuess=np.ones((N - 1, N - 1), complex)), {}, r"'probeGuess' must have shape \(17, 17\) like the frames, got \(16, 16\)"),
    "real object": (changed(objectGuess=np.ones(SHAPE)), {}, r"'objectGuess' must be a complex \(H, W\) array"),
    "nan probe": (changed(probeGuess=spoiled("probeGuess", (0, 0), np.nan)), {}, "'probe' has 1 NaN or infinite of 289 pixels"),
    "zero probe": (changed(probeGuess=np.zeros((N, N), complex)), {}, "'probe' is zero everywhere"),
    "nan object": (changed(objectGuess=spoiled("objectGuess", (0, 0), np.nan)), {}, "'object' has 1 NaN or infinite"),
    "nan position": (changed(xcoords=spoiled("xcoords", (4,), np.nan)), {}, "positions are NaN or infinite for 1 of 40 frames, first for frame 4"),
    "nan start": (changed(xcoords_start=np.full(M, np.nan), ycoords_start=np.zeros(M)), {}, "start positions have NaN"),
    "constant": (changed(xcoords=np.full(M, 30.0), ycoords=np.full(M, 31.0)), {}, r"positions are constant: all 40 frames lie at \(row, col\) = \(31, 30\)"),
    "object too small": (changed(objectGuess=scan_arrays()["objectGuess"][:-3]), {}, r"object 58 x 83 is too small: the 17 x 17 window of \d+ of 40 frames leaves it"),
    "not square": (changed(diff3d=FRAMES[:, :, :-1]), {}, r"must have shape \(M, N, N\) with M = 40 positions, got \(40, 17, 16\)"),
    "grouped": (changed(diff3d=np.stack([FRAMES, FRAMES], axis=-1)), {}, "frames that are grouped already cannot be read"),
    "one number": (changed(diff3d=np.float32(3)), {}, r"must have shape \(M, N, N\) with M = 40 positions, got \(\)"),
    "no frame at all": (changed(diff3d=FRAMES[:0], xcoords=np.zeros(0), ycoords=np.zeros(0)), {}, r"holds no frame \(M = 0\)"),
    "wrong layout": (changed(), {"layout": "HWN"}, r"got \(40, 17, 17\) in the stated layout HWN"),
    "layout against metadata": (changed(metadata='{"axis_order": "NHW"}'), {"layout": "HWN"}, "layout = 'HWN' contradicts the file's metadata"),
    "n": (changed(), {"expect_n": 64}, "parameter N = 64, but the frames are 17 x 17"),
    "n in metadata": (changed(metadata=METADATA["n"]), {}, "metadata says N = 64, but the frames are 17 x 17"),
    "dose": (changed(metadata=METADATA["dose"]), {"expect_dose": "1e9"}, r"dose = 1e\+09 contradicts the file's metadata, dose = 10000"),
    "pixel size": (changed(metadata=METADATA["pixel"]), {"pixel_size_m": 1e-8}, "pixel_size_m = 1e-08 contradicts the file's metadata, pixel_size_m = 2e-08"),
    "photon scale": (changed(metadata=METADATA["scale"]), {"photons_per_intensity": 1.0}, "photons_per_intensity = 1 contradicts"),
    "domain": (changed(metadata=METADATA["intensity"]), {"domain": "amplitude"}, "domain = 'amplitude' contradicts the file's metadata, domain = 'intensity'"),
    "unknown domain": (changed(metadata='{"domain": "counts"}'), {}, "'domain' must be 'amplitude' or 'intensity', got 'counts'"),
    "unknown role": (changed(metadata='{"object_role": "guess"}'), {}, "'object_role' must be 'truth' or 'reference'"),
    "dose in words": (changed(metadata='{"dose": "high"}'), {}, "metadata 'dose' must be a number, got 'high'"),
    "metadata no json": (changed(metadata="{"), {}, "'metadata' is not JSON"),
    "metadata with NaN": (changed(metadata='{"dose": NaN}'), {}, "'metadata' is not JSON: the token NaN"),
    "metadata a list": (changed(metadata="[]"), {}, "'metadata' must be a JSON object"),
    "schema in words": (changed(metadata='{"schema_version": "two"}'), {}, "'schema_version' must be a whole number, got 'two'"),
    "newer schema": (changed(metadata='{"schema_version": 99}'), {}, "schema version 99, this program reads up to"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_contract_file_is_refused_with_the_reason(tmp_path, case):
    arrays, options, message = REFUSED[case]
    with pytest.raises(ContractError, match=message) as refusal:
        validate.run(write(tmp_path, arrays), config=IngestConfig(**options))
    assert refusal.value.exit_code == 65
    assert str(refusal.value).startswith("given.npz: ")
    assert str(tmp_path) not in str(refusal.value)


def without(arrays: dict, *keys: str) -> dict:
    return {key: value for key, value in arrays.items() if key not in keys}


GRID = grid_lines_arrays()
TIKE = tike_arrays()
FOREIGN = {
    "grid: relative positions only": (without(GRID, "coords_offsets"), "key 'coords_offsets' is missing; it alone holds absolute"),
    "grid: no frames": (without(GRID, "diffraction"), "key 'diffraction' is missing"),
    "grid: no probe": (without(GRID, "probeGuess"), r"key 'probe_simulated' \(or 'probeGuess'\) is missing"),
    "grid: gridsize 2": ({**GRID, "diffraction": np.repeat(GRID["diffraction"], 4, axis=3)}, "groups of C = 4 frames.*give the file of gridsize 1"),
    "grid: offsets": ({**GRID, "coords_offsets": np.zeros((M, 2))}, r"'coords_offsets' must have shape \(40, 1, 2, 1\)"),
    "grid: two objects": ({**GRID, "YY_full": np.repeat(GRID["YY_full"], 2, axis=0)}, "holds 2 objects.*nimgs = 1"),
    "grid: real object": ({**GRID, "YY_full": np.abs(GRID["YY_full"])}, "'YY_full' must be complex"),
    "grid: probe size": ({**GRID, "probeGuess": np.ones((9, 9), complex)}, r"'probeGuess' must have shape \(17, 17\)"),
    "grid: x and y swapped": ({**GRID, "coords_offsets": GRID["coords_offsets"][:, :, ::-1]}, "with 'x and y swapped' it is 1.000"),
    "grid: other object": ({**GRID, "YY_full": scan_arrays(seed=9)["objectGuess"][None, :, :, None]}, "neither as patch centres nor as first pixels"),
    "grid: scalar frames": ({**GRID, "diffraction": np.float32(1)}, "must have shape"),
    "tike: no probe": (without(TIKE, "probe"), "key 'probe' is missing"),
    "tike: scan": ({**TIKE, "scan": np.zeros((M, 3))}, r"'scan' must have shape \(M, 2\)"),
    "tike: short scan": ({**TIKE, "scan": TIKE["scan"][:, 1:]}, "must have shape .M, N, N. with M = 39"),
    "tike: centred frames": ({**TIKE, "data": np.fft.fftshift(TIKE["data"], axes=(2, 3))}, r"zero frequency at the corner \[0, 0\].*apply ifftshift"),
    "tike: negative": ({**TIKE, "data": TIKE["data"].astype(float) - 1}, "'data' has negative values"),
    "tike: probe size": ({**TIKE, "probe": TIKE["probe"][..., 1:]}, "'probe' must have shape"),
}  # fmt: skip


@pytest.mark.parametrize("case", FOREIGN)
def test_file_of_another_program_is_refused_with_the_reason(tmp_path, case):
    arrays, message = FOREIGN[case]
    with pytest.raises(ContractError, match=message) as refusal:
        validate.run(write(tmp_path, arrays), config=IngestConfig())
    assert refusal.value.exit_code == 65


def test_all_problems_are_named_at_once(tmp_path):
    arrays = changed(probeGuess=np.zeros((N, N), complex), diff3d=spoiled("diff3d", (3, 1, 1), -0.5))
    with pytest.raises(ContractError, match=r"2 problems\n  - 'diff3d' has negative.*\n  - 'probe' is zero"):
        validate.run(write(tmp_path, arrays), config=IngestConfig())


def test_a_key_twice_is_refused(tmp_path):
    path = write(tmp_path, scan_arrays())
    with zipfile.ZipFile(path) as archive:
        content = archive.read("xcoords.npy")
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("xcoords.npy", content)
    with pytest.raises(ContractError, match="key 'xcoords' is in the file twice"):
        validate.run(path, config=IngestConfig())


def test_files_that_are_no_npz_are_refused(tmp_path):
    with pytest.raises(ContractError, match=r"gone.npz: no such file"):
        validate.run(tmp_path / "gone.npz", config=IngestConfig())
    (tmp_path / "text.npz").write_text("xcoords,ycoords\n")
    with pytest.raises(ContractError, match=r"text.npz: not an NPZ file"):
        validate.run(tmp_path / "text.npz", config=IngestConfig())
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(scan_arrays()))
    with pytest.raises(ContractError, match=r"pickle.npz: not an NPZ file"):
        validate.run(tmp_path / "pickle.npz", config=IngestConfig())


def test_the_report_says_what_the_file_holds(tmp_path):
    metadata = json.dumps({"photons_per_intensity": 1.0, "dose_asked": "1e9", "pixel_size_m": 1e-8})
    arrays = changed(metadata=metadata)
    path = write(tmp_path, arrays)
    before = path.read_bytes()
    report = validate.run(path, config=IngestConfig(expect_n=N, expect_dose="1e9"))
    photons = float((FRAMES.astype(float) ** 2).sum(axis=(1, 2)).mean())
    rows, cols = arrays["ycoords"], arrays["xcoords"]
    for text in (
        "given.npz: valid",
        "contract NPZ",
        f"M = {M}, N = {N}, float32 in the file",
        f"{photons:.6g} photons a frame, measured mean; 1e9 asked for",
        f"rows {rows.min():.2f} to {rows.max():.2f} px, columns {cols.min():.2f} to {cols.max():.2f} px",
        "median distance to the nearest position",
        "61 x 83 px, reference",
        "1e-08 m",
        "as in the file: contrast 1.000",
        "warning: the stated dose is 1e+09 photons a frame",
    ):
        assert text in report
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_report_without_object_says_so(tmp_path):
    report = validate.run(write(tmp_path, TIKE), config=IngestConfig())
    assert "not checked: no object in the file" in report
    undecided = changed(objectGuess=scan_arrays(seed=9)["objectGuess"])
    report = validate.run(write(tmp_path, undecided), config=IngestConfig())
    assert "not decidable: no axis mapping reproduces the frames" in report
    assert "photon scale unknown" in report


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Return a folder with two scans."""
    root = tmp_path_factory.mktemp("scans")
    options = {"n": 24, "size": 95, "size_cols": 141, "jitter_px": 1.0, "dose": "1e5", "phase": "independent"}
    for index, step in ((1, 6.0), (2, 5.0)):
        config = SimulateConfig(**options, step_px=step, object_stream=index)
        save_scan(root / f"scan{index}.npz", simulate_scan(config, None))
    return root


VIEW = {"split": "region", "split_axis": "x", "guard_px": 20.0, "min_spacing_px": 7.0, "view_gridsize": 2}


def view_of(scans, folder, *, test: str = "scan1.npz", **options):
    paths = (scans / "scan1.npz", scans / test)
    config = PrepareConfig(**{**VIEW, "gridsize": 2, **options})
    view = prepare.prepare(config, *map(load_scan, paths), heldout_column=None, same_scan=paths[0] == paths[1])
    made_from = dict(zip(("train", "test"), map(sha256_file, paths), strict=True))
    save_view(folder / "view.npz", replace(view, metadata={**view.metadata, "scans": made_from}))
    return folder / "view.npz"


def validated(scans, view, name: str = "scan1.npz") -> str:
    return validate.run(scans / name, config=IngestConfig(check_mapping=False), view=view)


def changed_view(path, **sides):
    """Write the view with other frame sets, and return its path."""
    save_view(path, replace(load_view(path), **sides))
    return path


def test_a_view_that_keeps_its_promises_is_valid(scans, tmp_path):
    """Oracle: distances by hand, along the axis of the split."""
    report = validated(scans, path := view_of(scans, tmp_path))
    view, positions = load_view(path), load_scan(scans / "scan1.npz").positions_rc_px
    assert "view.npz: valid for the train and test frames of this scan" in report
    gap = positions[view.test.frames, 1].min() - positions[view.train.frames, 1].max()
    assert gap >= 20
    assert f"train and test at least {gap:.2f} px apart along x, 20 px asked for" in report
    for side in (view.train, view.test):
        centres = positions[side.groups].mean(axis=1)
        least = (np.linalg.norm(centres[:, None] - centres, axis=2) + 1e9 * np.eye(len(centres))).min()
        assert f"{len(side.groups)} groups; closest centres {least:.2f} px apart, at least 7 px asked for" in report


def test_two_groups_closer_than_the_views_spacing_are_refused(scans, tmp_path):
    """Design section 9: the pair and its distance are named."""
    path = view_of(scans, tmp_path)
    view, positions = load_view(path), load_scan(scans / "scan1.npz").positions_rc_px
    twin = view.test.groups[[4]][:, [1, 0, 2, 3]]
    # A copy of group 4 with one member exchanged for another frame, the nearest to it: its centre moves by a few pixels.
    others = np.setdiff1d(view.test.frames, twin)
    twin[0, 3] = others[np.argmin(np.linalg.norm(positions[others] - positions[twin[0, 3]], axis=1))]
    groups = np.concatenate([view.test.groups, twin])
    bad = changed_view(path, test=replace(view.test, groups=groups))
    moved = np.linalg.norm(positions[twin[0]].mean(axis=0) - positions[view.test.groups[4]].mean(axis=0))
    assert 0 < moved < 7
    with pytest.raises(ContractError) as refusal:
        validated(scans, bad)
    assert refusal.value.exit_code == 65
    assert str(refusal.value) == (
        f"view.npz: test groups 4 and {len(groups) - 1} have their centres {moved:.4f} px apart, min_spacing_px is 7"
    )


def test_train_and_test_frames_closer_than_the_guard_are_refused(scans, tmp_path):
    """T9: along the axis of the split, whatever lies between them along the other."""
    path = view_of(scans, tmp_path, min_spacing_px=None, gridsize=1)
    view, positions = load_view(path), load_scan(scans / "scan1.npz").positions_rc_px
    first = view.test.frames[np.argmin(positions[view.test.frames, 1])]
    between = np.flatnonzero(positions[:, 1] < positions[first, 1])
    # In the guard band, and as far as it goes from that test frame along y.
    band = np.setdiff1d(between, view.train.frames)
    stray = band[np.argmax(np.abs(positions[band, 0] - positions[first, 0]))]
    assert np.linalg.norm(positions[stray] - positions[first]) > 20 > positions[first, 1] - positions[stray, 1]
    frames = np.union1d(view.train.frames, [stray])
    bad = changed_view(path, train=replace(view.train, frames=frames))
    gap = positions[first, 1] - positions[stray, 1]
    expected = rf"train frame {stray} and test frame {first} are {gap:.4f} px apart along x, guard_px is 20"
    with pytest.raises(ContractError, match=expected):
        validated(scans, bad)


def test_spacing_is_not_asked_of_frames_that_are_read_singly(scans, tmp_path):
    report = validated(scans, view_of(scans, tmp_path, gridsize=1))
    text = "the spacing of 7 px belongs to groups of gridsize 2 and is not checked on those of gridsize 1"
    assert report.count(text) == 2


def test_a_view_of_two_scans_is_checked_against_each(scans, tmp_path):
    path = view_of(scans, tmp_path, split="scans", test="scan2.npz")
    assert "valid for the train frames of this scan" in validated(scans, path)
    assert "valid for the test frames of this scan" in validated(scans, path, "scan2.npz")
    other = view_of(scans, tmp_path)
    with pytest.raises(ContractError, match=r"view.npz: not a view of scan2.npz, whose sha256 is .* made from"):
        validated(scans, other, "scan2.npz")


def test_a_view_without_a_rule_only_tells_its_spacing(scans, tmp_path):
    path = view_of(scans, tmp_path, min_spacing_px=None)
    assert validated(scans, path).count("no least distance asked for") == 2
    view = load_view(path)
    old = {name: value for name, value in view.metadata.items() if name != "spacing_rule"}
    assert validated(scans, changed_view(path, metadata=old)).count("no least distance asked for") == 2


def test_frames_that_are_not_there_are_refused(scans, tmp_path):
    path = view_of(scans, tmp_path)
    view, n_frames = load_view(path), load_scan(scans / "scan1.npz").n_frames
    beyond = replace(view.test, frames=np.append(view.test.frames, n_frames))
    foreign = replace(view.train, frames=view.train.frames[1:])
    with pytest.raises(ContractError, match=rf"2 problems(.|\n)*train groups use frame {view.train.frames[0]}"):
        validated(scans, changed_view(path, test=beyond, train=foreign))
    with pytest.raises(ContractError, match=rf"test frame {n_frames} is not among the scan's {n_frames}"):
        validated(scans, changed_view(path, test=beyond, train=view.train))
