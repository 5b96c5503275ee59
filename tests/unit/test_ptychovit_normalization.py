"""The normalization dictionary: values, what may be read back, and the traces of a run that did not use it."""

import io
import pickle
import sys

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptychoflow.arms.ptychovit.normalization import (
    BLOCK,
    check_config,
    check_dictionary,
    check_loaded,
    check_streams,
    largest_intensity,
    make_dictionary,
    write_dictionary,
)
from ptychoflow.errors import ContractError


def dp_file(folder, name, values):
    folder.mkdir(exist_ok=True)
    with h5py.File(folder / f"{name}_dp.hdf5", "w") as file:
        file["dp"] = np.asarray(values, dtype=np.float32)
    return folder / f"{name}_dp.hdf5"


@pytest.mark.parametrize("place", [0, BLOCK - 1, BLOCK, 2 * BLOCK + 2])
def test_the_value_is_the_largest_of_the_whole_file(tmp_path, place):
    """Oracle: the one value put above all others, as float32 holds it; in each block and at the edges of blocks."""
    values = np.random.default_rng(0).random((2 * BLOCK + 3, 5, 7))
    values[place, 4, 6] = 1.1
    assert largest_intensity(dp_file(tmp_path, "a", values)) == float(np.float32(1.1)) != 1.1


def test_the_dictionary_is_what_upstream_reads(tmp_path):
    """Oracle: plain `pickle.load`, as upstream does it: text keys without `_dp`, plain floats."""
    files = [dp_file(tmp_path / "train", "cell_dp1", [[[3]]]), dp_file(tmp_path / "test", "star", [[[2], [0.5]]])]
    values = make_dictionary(files)
    write_dictionary(tmp_path / "n.pkl", values)
    loaded = pickle.loads((tmp_path / "n.pkl").read_bytes())
    assert loaded == {"cell_dp1": 3.0, "star": 2.0}
    assert [type(value) for value in loaded.values()] == [float, float]
    assert check_dictionary(tmp_path / "n.pkl", values) == []
    with pytest.raises(ContractError, match="object name 'star' is that of several pairs"):
        make_dictionary([*files, dp_file(tmp_path / "train", "star", [[[4]]])])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([1.0], "must hold a dictionary, got list"),
        ({"other": 2.0}, "no key 'star'"),
        ({"star": 0.0}, "has 0.0, which must be a finite float above 0"),
        ({"star": float("nan")}, "has nan, which"),
        ({"star": 2}, "has 2, which"),
        ({"star": 2.0000001}, "has 2.0000001, but max(dp) = 2.0"),
        ({"star": np.float64(2)}, "cannot be read: it asks for numpy"),
        ({"star": sys.exit}, "cannot be read: it asks for sys.exit"),
    ],
)
def test_a_dictionary_that_upstream_could_not_use_is_refused(tmp_path, content, expected):
    """Oracle: row PV-NORM. A pickle that would run code is never executed."""
    (tmp_path / "n.pkl").write_bytes(pickle.dumps(content))
    (found,) = check_dictionary(tmp_path / "n.pkl", {"star": 2.0})
    assert (found.code, found.kind) == ("PV-NORM", "E")
    assert expected in found.message


def test_a_dictionary_absent_or_broken_is_refused(tmp_path):
    (found,) = check_dictionary(tmp_path / "n.pkl", {"star": 2.0})
    assert "n.pkl is missing; it must hold {'star': 2.0}" in found.message
    for content in (b"", b"nonsense", b"\x80\x04}"):
        (tmp_path / "n.pkl").write_bytes(content)
        (found,) = check_dictionary(tmp_path / "n.pkl", {"star": 2.0})
        assert "cannot be read" in found.message


def test_both_config_keys_must_name_the_dictionary(tmp_path):
    """Oracle: section 5: an unset path falls back without a word."""
    path = tmp_path / "n.pkl"
    good = {"data": {"normalization_dict_path": str(path), "test_normalization": str(path)}}
    assert check_config(good, path) == []
    found = check_config({"data": {"normalization_dict_path": None, "test_normalization": str(path)}}, path)
    assert [one.message.split(" is ")[0] for one in found] == ["config key data.normalization_dict_path"]
    assert len(check_config({}, path)) == 2


LINES = {
    "Warning: Normalization file not found at /some where/n.pkl. Using default: 100000.0": True,
    "Warning: Object 'scan 12 [a]' not found in normalization dictionary, using 100000.0": True,
    "Warning: Error loading normalization file: invalid load key": True,
    "  3%|#         | 1/33 Warning: Error loading normalization file: x": True,
    "Loading normalization file n.pkl": False,
    "Object 'a' found in normalization dictionary": False,
}


@pytest.mark.parametrize(("line", "invalid"), LINES.items())
@pytest.mark.parametrize("stream", ["train stderr.log", "driver stdout.log"])
def test_every_fallback_text_in_any_stream_makes_the_run_invalid(line, invalid, stream):
    """Oracle: the three texts of section 5 with names and paths filled in; row PV-NORMFALL."""
    streams = {"other": io.StringIO("all well\n"), stream: io.StringIO(f"epoch 1\n{line}\nepoch 2\n")}
    found = check_streams(streams, ["star", "cell"])
    assert [(one.code, one.kind) for one in found] == [("PV-NORMFALL", "R")] * invalid
    if invalid:
        said = line[line.index("Warning: ") + 9 :]
        assert found[0].message == f"the run is invalid: {stream}, line 2: '{said}' (objects: star, cell)"
        assert "run again from clean" in found[0].text


def test_a_text_behind_a_progress_bar_is_found(tmp_path):
    """A progress bar goes back to the start of its line; the text then follows a carriage return, not a line feed."""
    (tmp_path / "stderr.log").write_bytes(b"10%\r20%\rWarning: Object 'a' not found in normalization dictionary\r30%\n")
    with (tmp_path / "stderr.log").open() as lines:
        (found,) = check_streams({"stderr.log": lines}, ["a"])
    assert "'Object 'a' not found in normalization dictionary'" in found.message


@settings(max_examples=50, deadline=None)
@given(st.floats(1e-30, 1e30), st.sampled_from(["same", "default", "absent", "near"]))
def test_another_value_in_the_loader_makes_the_run_invalid(value, case):
    """Property: only our own value passes; the silent fallback is named."""
    value = float(np.float32(value))
    loaded = {"same": {"a": value}, "default": {"a": 1e5}, "absent": {}, "near": {"a": value * (1 + 1e-15)}}
    found = check_loaded(loaded[case], {"a": value})
    assert [one.code for one in found] == ["PV-NORMFALL"] * (loaded[case].get("a") != value)
    if found and case == "default":
        assert "divided object 'a' by 100000.0, upstream's default 100000, not by" in found[0].message
