"""Files from anywhere: headers that lie are refused in words before memory is touched, and nothing in a file is ever run."""

import contextlib
import json
import pickle
import struct
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ptychoflow.arms.card import read_card
from ptychoflow.cli import _json
from ptychoflow.data.hdf5 import read_datasets
from ptychoflow.data.npz import read_npy, read_npz
from ptychoflow.data.plain_yaml import read_yaml
from ptychoflow.data.storage import read_json
from ptychoflow.errors import ContractError, UsageError

FIXED = [HealthCheck.function_scoped_fixture]
CENTRAL_ENTRY = b"PK\x01\x02"


def npy(shape, descr="'<f4'", data=b"\0\0\0\0"):
    """Return an NPY stream whose header says what it is told to say; written out by hand (NumPy's format, version 1.0)."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (63 - (len(header) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def archive(path, data, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("diff3d.npy", data)
    return path


def claim(path, offset, value):
    """Write another 32-bit number into the first entry of a ZIP's directory."""
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, content.rfind(CENTRAL_ENTRY) + offset, value)
    path.write_bytes(content)
    return path


@pytest.fixture
def memory(monkeypatch):
    """Make the allocation of more than a megabyte by the reader an error."""
    real = {name: getattr(np, name) for name in ("empty", "frombuffer", "memmap")}

    def spy(name):
        def call(*args, **kwargs):
            made = real[name](*args, **kwargs)
            assert made.nbytes < 2**20, f"{name} of {made.nbytes} bytes"
            return made

        return call

    for name in real:
        monkeypatch.setattr(np, name, spy(name))


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("shape", ["(1000000000000,)", "(10000, 10000, 10000)", f"({2**63}, {2**63})"])
def test_a_header_that_claims_a_million_million_numbers_is_refused(tmp_path, memory, shape, compression):
    path = archive(tmp_path / "scan.npz", npy(shape), compression)
    with pytest.raises(
        ContractError, match=r"scan\.npz: key 'diff3d' (is cut short: its header promises|has an impossible shape)"
    ):
        read_npz(path)
    (tmp_path / "probe.npy").write_bytes(npy(shape))
    with pytest.raises(ContractError, match=r"probe\.npy (is cut short: its header promises|has an impossible shape)"):
        read_npy(tmp_path / "probe.npy")


def test_sizes_in_the_directory_of_a_file_must_be_possible(tmp_path, memory):
    """The header asks for 4 GB and the ZIP's directory confirms it, stored (compressed size too) and deflated."""
    huge = npy("(1000000000,)")
    stored = claim(claim(archive(tmp_path / "a.npz", huge), 24, 4_000_000_200), 20, 4_000_000_200)
    deflated = claim(archive(tmp_path / "b.npz", huge, zipfile.ZIP_DEFLATED), 24, 4_000_000_200)
    shifted = claim(archive(tmp_path / "c.npz", npy("(1,)")), 42, 0xFFFFFFF0)
    for path in (stored, deflated, shifted):
        with pytest.raises(ContractError, match="more than a file of"):
            read_npz(path)


def test_a_member_never_reaches_into_its_neighbour(tmp_path):
    """The file is large enough for what the first header promises, the member is not."""
    path = archive(tmp_path / "scan.npz", npy("(1000,)"))
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("other.npy", npy("(3000,)", data=bytes(12_000)))
    with pytest.raises(ContractError, match="key 'diff3d' is cut short"):
        read_npz(path)


@pytest.mark.parametrize(
    "shape", ["(-1, 5)", "(-1, -5)", "(True,)", "(0, 1000000000000000000000)", f"({'1,' * 65})", "(1.5,)"]
)
def test_impossible_shapes_are_refused(tmp_path, shape):
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with pytest.raises(ContractError, match=r"impossible shape|is not a NumPy array"):
            read_npz(archive(tmp_path / "scan.npz", npy(shape), compression))


def test_an_honest_deflated_file_is_read_however_well_it_packs(tmp_path):
    """Zeros pack close to the bound of the format, about 1030 to 1."""
    np.savez_compressed(tmp_path / "zeros.npz", diff3d=np.zeros((7, 301, 300), np.float32))
    assert read_npz(tmp_path / "zeros.npz")["diff3d"].shape == (7, 301, 300)


@settings(max_examples=200, deadline=None, suppress_health_check=FIXED)
@given(data=st.data(), packed=st.booleans())
def test_damaged_archives_are_refused_and_never_crash(tmp_path, data, packed):
    """Any bytes changed, and any end cut off, of a small archive."""
    path = tmp_path / f"{packed}.npz"
    if not path.exists():
        save = np.savez_compressed if packed else np.savez
        save(path, diff3d=np.arange(35, dtype=np.float32).reshape(5, 7), metadata=np.array('{"a": 1}'))
    content = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    with contextlib.suppress(ContractError):
        read_npz(damaged)


class Armed:
    """What runs code when it is unpickled."""

    def __reduce__(self):
        return (Path.touch, (Path("pwned"),))


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_pickles_are_never_loaded(tmp_path, monkeypatch, compression):
    monkeypatch.chdir(tmp_path)
    path = archive(tmp_path / "scan.npz", npy("()", "'|O'", pickle.dumps(Armed())), compression)
    with pytest.raises(ContractError, match="pickled object"):
        read_npz(path)
    (tmp_path / "probe.npy").write_bytes(npy("()", "'|O'", pickle.dumps(Armed())))
    with pytest.raises(ContractError, match="pickled object"):
        read_npy(tmp_path / "probe.npy")
    (tmp_path / "fields.npy").write_bytes(npy("(1,)", "[('a', '|O')]", pickle.dumps(Armed())))
    with pytest.raises(ContractError, match="pickled object"):
        read_npy(tmp_path / "fields.npy")
    assert not (tmp_path / "pwned").exists()


def test_datasets_of_hdf5_are_in_the_file_of_plain_numbers_and_no_larger_than_stored(tmp_path):
    """A sparse dataset of 10^12 numbers costs a kilobyte of file."""
    elsewhere = tmp_path / "elsewhere.hdf5"
    with h5py.File(elsewhere, "w") as file:
        file["dp"] = np.ones((3, 5), np.float32)
    (tmp_path / "raw.bin").write_bytes(bytes(60))
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file["plain"] = np.arange(15, dtype=np.float32).reshape(3, 5)
        file.create_dataset("packed", data=np.zeros((40, 500)), compression="gzip")
        file.create_dataset("sparse", shape=(10**12,), dtype="f4", chunks=(2**16,))
        file["soft"], file["linked"] = h5py.SoftLink("/plain"), h5py.ExternalLink("elsewhere.hdf5", "/dp")
        file.create_dataset("outside", shape=(3, 5), dtype="f4", external=[("raw.bin", 0, 60)])
        layout = h5py.VirtualLayout(shape=(3, 5), dtype="f4")
        layout[...] = h5py.VirtualSource(str(elsewhere), "dp", shape=(3, 5))
        file.create_virtual_dataset("virtual", layout)
        file["text"] = np.array(["a", "bc"], dtype=h5py.string_dtype())
        file.create_group("group")
    names = ("plain", "packed", "sparse", "soft", "linked", "outside", "virtual", "text", "group", "absent")
    with h5py.File(tmp_path / "x.hdf5") as file:
        found, problems = read_datasets(file, names)
        assert sorted(found) == ["packed", "plain"]
    said = {problem.split()[0]: problem for problem in problems}
    assert sorted(said) == ["linked", "outside", "soft", "sparse", "text", "virtual"]
    assert "promises (1000000000000,) float32, and the file stores 0 bytes of it" in said["sparse"]
    assert all("somewhere else" in said[name] for name in ("soft", "linked"))
    assert all("in other files than x.hdf5" in said[name] for name in ("outside", "virtual"))
    assert "must hold plain numbers, got object" in said["text"]


def test_a_card_that_names_files_outside_of_its_model_is_refused(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    for name in ("probe.npy", "weights.pt"):
        (model / name).touch()
        (tmp_path / name).touch()
    (model / "card.json").write_text(json.dumps({"weights": "../weights.pt", "snapshots": []}))
    with pytest.raises(ContractError, match=r"outside of the model: \.\./weights\.pt"):
        read_card(model)


@settings(max_examples=60, deadline=None, suppress_health_check=FIXED)
@given(
    text=st.one_of(
        st.text(alphabet='[]{}",:0naNIfty\\u \n', max_size=20),
        st.binary(max_size=12).map(lambda raw: raw.decode("latin-1")),
    )
)
@example(text="[" * 100_000)
@example(text="NaN")
@example(text='{"a": 1e999}')
@example(text="\x00")
def test_json_from_anywhere_is_read_or_refused(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_bytes(text.encode("latin-1", "replace"))
    for read, refusal in ((lambda: read_json(path), ContractError), (lambda: _json(text, what="--run"), UsageError)):
        try:
            read()
        except refusal as error:
            assert "JSON" in str(error)  # noqa: PT017  either is allowed, no other exception is


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", "line 2: an alias"),
        ("[" * 100_000, "more than 20 deep"),
        ("{a: " * 21, "more than 20 deep"),
        ("!!python/object/apply:pathlib.Path.touch [[pwned]]", "constructor"),
        ("a: [1, 2", "expected"),
    ],
)
def test_yaml_says_no_more_than_was_written_and_makes_no_objects(tmp_path, monkeypatch, text, said):
    """Ten lines of aliases to aliases of ten values each would be 10^10 values."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=said):
        read_yaml(text)
    assert not list(tmp_path.iterdir())


def test_plain_yaml_is_read():
    assert read_yaml("datasets:\n  - {id: a, N: 64}\n") == {"datasets": [{"id": "a", "N": 64}]}
