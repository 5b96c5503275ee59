"""Files: round trips, memory-mapping, the same bytes each time, and what the readers refuse."""

import json
import os
import zipfile

import numpy as np
import pytest

from ptychoflow.data import storage
from ptychoflow.errors import ContractError
from ptychoflow.frames import Canvas, Region
from ptychoflow.records import FrameSet, Normalization, Recon, Scan, View


def a_scan(*, full: bool = True) -> Scan:
    rng = np.random.default_rng(3)
    pair = rng.normal(size=(2, 9, 13))
    positions = rng.uniform(4, 8, (6, 2))
    return Scan(
        amplitude=rng.random((6, 5, 5), dtype=np.float32),
        positions_rc_px=positions,
        probe=rng.normal(size=(5, 5)).astype(np.complex64),
        scan_index=np.array([0, 0, 0, 1, 1, 1]),
        object=(pair[0] + 1j * pair[1]).astype(np.complex64) if full else None,
        positions_start_rc_px=positions + np.array([0.5, -0.25]) if full else None,
        metadata={"source": "test", "object_role": "truth"} if full else {},
    )


@pytest.mark.parametrize("full", [True, False])
def test_scan_round_trip(tmp_path, full):
    scan = a_scan(full=full)
    storage.save_scan(tmp_path / "scan.npz", scan)
    back = storage.load_scan(tmp_path / "scan.npz")
    for name in ("amplitude", "positions_rc_px", "probe", "scan_index", "object", "positions_start_rc_px"):
        given, read = getattr(scan, name), getattr(back, name)
        assert (given is None) == (read is None), name
        if given is not None:
            np.testing.assert_array_equal(given, read, err_msg=name)
            assert given.dtype == read.dtype
    assert {**scan.metadata, "schema_version": 1} == back.metadata
    assert back.object_role == ("truth" if full else None)


def test_files_are_plain_numpy_without_pickles(tmp_path):  # D5
    storage.save_scan(tmp_path / "scan.npz", a_scan())
    with np.load(tmp_path / "scan.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    np.testing.assert_array_equal(arrays["xcoords"], a_scan().positions_rc_px[:, 1])
    np.testing.assert_array_equal(arrays["ycoords"], a_scan().positions_rc_px[:, 0])
    assert json.loads(str(arrays["metadata"]))["source"] == "test"


def test_extra_arrays_are_kept_and_cannot_hide_declared_ones(tmp_path):
    mask = np.array([True, False] * 3)
    storage.save_scan(tmp_path / "scan.npz", a_scan(), extra={"heldout": mask})
    np.testing.assert_array_equal(storage.read_npz(tmp_path / "scan.npz")["heldout"], mask)
    assert storage.load_scan(tmp_path / "scan.npz").n_frames == 6
    with pytest.raises(ValueError, match=r"must not be named \['xcoords'\]"):
        storage.save_scan(tmp_path / "scan.npz", a_scan(), extra={"xcoords": mask})


def test_view_round_trip(tmp_path):
    view = View(
        train=FrameSet(np.array([0, 2, 3]), np.array([[0, 2], [3, 0]])),
        test=FrameSet(np.array([1]), np.array([[1, 1]])),
        heldout=np.zeros(0, dtype=np.int64),
        normalization=Normalization(0.5, 2.0, 1.25, 3.5, photons_known=True),
        score_regions=(Region(1, 8, 2, 9), Region(0, 4, 20, 31)),
        metadata={"split": "region"},
    )
    storage.save_view(tmp_path / "view.npz", view)
    back = storage.load_view(tmp_path / "view.npz")
    for part in ("train", "test"):
        np.testing.assert_array_equal(getattr(back, part).frames, getattr(view, part).frames)
        np.testing.assert_array_equal(getattr(back, part).groups, getattr(view, part).groups)
    assert back.heldout.shape == (0,)
    assert back.normalization == view.normalization
    assert back.score_regions == view.score_regions
    assert back.metadata == {"split": "region", "schema_version": 1}


@pytest.mark.parametrize("modes", [0, 2])
def test_recon_round_trip(tmp_path, modes):
    rng = np.random.default_rng(4)
    image = (rng.normal(size=(7, 11)) + 1j * rng.normal(size=(7, 11))).astype(np.complex64)
    probe = rng.normal(size=(modes, 5, 5)).astype(np.complex64) if modes else None
    recon = Recon(image, rng.random((7, 11), dtype=np.float32), Canvas((-3, 14), (7, 11)), probe, {"arm": "x"})
    storage.save_recon(tmp_path / "recon.npz", recon)
    back = storage.load_recon(tmp_path / "recon.npz")
    np.testing.assert_array_equal(back.object, image)
    np.testing.assert_array_equal(back.weight, recon.weight)
    assert back.canvas == recon.canvas
    assert (back.probe is None) == (probe is None)
    arrays = storage.read_npz(tmp_path / "recon.npz")
    np.testing.assert_allclose(arrays["amp"] * np.exp(1j * arrays["phase"]), image, rtol=1e-5)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed, None])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_any_layout_come_back(tmp_path, save, order):
    arrays = {
        "frames": np.asarray(np.arange(60, dtype=np.float32).reshape(3, 4, 5), order=order),
        "number": np.array(2.5),
        "text": np.array("words"),
        "empty": np.zeros((0, 3), np.complex64),
        "mask": np.array([True, False]),
    }
    path = tmp_path / "some.npz"
    if save is None:
        storage.write_npz(path, arrays)
    else:
        save(path, **arrays)
    back = storage.read_npz(path)
    assert list(back) == list(arrays)
    for key, array in arrays.items():
        np.testing.assert_array_equal(back[key], array)
        assert back[key].dtype == array.dtype
    assert isinstance(back["frames"], np.memmap) == (save is not np.savez_compressed)


def test_mapped_frames_cannot_be_changed(tmp_path):
    storage.save_scan(tmp_path / "scan.npz", a_scan())
    frames = storage.load_scan(tmp_path / "scan.npz").amplitude
    assert isinstance(frames, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        frames[0] = 0


def test_same_arrays_give_the_same_bytes(tmp_path):
    for name in ("a.npz", "b.npz"):
        storage.save_scan(tmp_path / name, a_scan())
    os.utime(tmp_path / "a.npz", (0, 0))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_pickled_members_are_refused_and_can_be_skipped_unread(tmp_path):  # D5
    np.savez(tmp_path / "p.npz", good=np.arange(3), _metadata=np.array({"a": 1}, dtype=object))
    with pytest.raises(ContractError, match="key '_metadata' is a pickled object, which is never loaded") as refusal:
        storage.read_npz(tmp_path / "p.npz")
    assert refusal.value.exit_code == 65
    assert list(storage.read_npz(tmp_path / "p.npz", skip=("_metadata",))) == ["good"]


@pytest.mark.parametrize("skip", [(), ("x",)])
def test_duplicate_members_are_refused(tmp_path, skip):
    np.savez(tmp_path / "d.npz", x=np.arange(3))
    with zipfile.ZipFile(tmp_path / "d.npz") as archive:
        content = archive.read("x.npy")
    with zipfile.ZipFile(tmp_path / "d.npz", "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("x.npy", content)
    with pytest.raises(ContractError, match="key 'x' is in the file twice"):
        storage.read_npz(tmp_path / "d.npz", skip=skip)


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "scan.npz"
    storage.save_scan(path, a_scan())
    content = path.read_bytes()
    for length in (0, 10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ContractError, match=r"scan.npz: not an NPZ file"):
            storage.read_npz(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"no array")
    with pytest.raises(ContractError, match="key 'x' is not a NumPy array"):
        storage.read_npz(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_shorter_than_its_header_is_refused(tmp_path, method):
    np.save(tmp_path / "x.npy", np.arange(100.0))
    with zipfile.ZipFile(tmp_path / "short.npz", "w", method) as archive:
        archive.writestr("x.npy", (tmp_path / "x.npy").read_bytes()[:-8])
    with pytest.raises(ContractError, match=r"key 'x' is cut short: its header promises \(100,\) float64"):
        storage.read_npz(tmp_path / "short.npz")


def test_damaged_compressed_data_are_refused(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", x=np.random.default_rng(0).random(500))
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[300:400] = bytes(100)
    (tmp_path / "x.npz").write_bytes(bytes(content))
    with pytest.raises(ContractError, match=r"x.npz: "):
        storage.read_npz(tmp_path / "x.npz")


def test_load_scan_names_every_violation(tmp_path):
    arrays = {"diff3d": np.zeros((3, 4, 4)), "xcoords": np.zeros(2), "ycoords": np.zeros(3, complex)}
    storage.write_npz(tmp_path / "scan.npz", arrays)
    with pytest.raises(ContractError) as refusal:
        storage.load_scan(tmp_path / "scan.npz")
    for text in (
        "'xcoords' has shape (2,) but axis M is 3",
        "'ycoords' must be float64",
        "key 'probeGuess' is missing",
    ):
        assert text in str(refusal.value)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.npz"
    storage.write_npz(path, {"x": np.arange(3)})
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"[Oo]bject arrays"):
        storage.write_npz(path, {"x": np.array([None])})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_strict_both_ways(tmp_path):  # D61
    storage.write_json(tmp_path / "a.json", {"b": 1, "a": [None, 0.5]})
    assert storage.read_json(tmp_path / "a.json") == {"a": [None, 0.5], "b": 1}
    with pytest.raises(ValueError, match="JSON compliant"):
        storage.write_json(tmp_path / "b.json", {"a": float("nan")})
    assert not (tmp_path / "b.json").exists()
    (tmp_path / "c.json").write_text('{"a": NaN}')
    with pytest.raises(ContractError, match=r"the token NaN is not JSON"):
        storage.read_json(tmp_path / "c.json")
