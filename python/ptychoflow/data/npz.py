"""Arrays of NPZ and NPY files from anywhere: no pickles, no byte of memory before sizes are known to be true.

Members of an uncompressed NPZ are memory-mapped, so a scan larger than memory can be read frame by frame. What a header
promises is held against the bytes that are there: a file of a kilobyte may claim 10^12 numbers.
"""

import math
import zipfile
import zlib
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from ptychoflow.errors import ContractError

MOST_DEFLATED = 1032
"""Bytes that one byte of the deflate format can at most become."""

MOST_AXES = 32
"""Axes that an array may have."""

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Compression methods that numpy.savez and numpy.savez_compressed write."""

ENCRYPTED = 0x1
"""Flag of a ZIP member with a password."""


class _Header(NamedTuple):
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def order(self) -> Literal["F", "C"]:
        return "F" if self.fortran else "C"


def read_npz(path: Path, *, skip: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Return the arrays of an NPZ by key; uncompressed members are memory-mapped read-only.

    Args:
        path: the file.
        skip: keys that are left out, unread; the way past a pickled member that is known and not needed.

    Raises:
        ContractError: not an NPZ, a key twice, a pickled (object) member, or one that promises more than the file holds;
            the text names the member.
    """
    path = Path(path)
    arrays: dict[str, np.ndarray] = {}
    seen: set[str] = set()
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                if name in seen:
                    raise ContractError(f"{path.name}: key '{name}' is in the file twice; remove one of them")
                seen.add(name)
                if name not in skip:
                    _check_member(path, info, name, size)
                    arrays[name] = _read_member(path, archive, info, name, size)
    # NotImplementedError: a kind of ZIP that Python does not know; UnicodeDecodeError: names of members.
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeDecodeError) as error:
        raise ContractError(f"{path.name}: not an NPZ file ({error}); expected the output of numpy.savez") from error
    return arrays


def read_npy(path: Path) -> np.ndarray:
    """Return the array of an NPY file, memory-mapped read-only.

    Raises:
        ContractError: not an NPY file, a pickled (object) array, or one that promises more than the file holds.
    """
    path = Path(path)
    with path.open("rb") as stream:
        header = _read_header(stream, path.name)
        offset = stream.tell()
    if path.stat().st_size - offset < header.nbytes:
        raise _cut_short(path.name, header)
    return _mapped(path, offset, header)


def _check_member(path: Path, info: zipfile.ZipInfo, name: str, size: int) -> None:
    """Refuse a member whose entry in the file's directory cannot be true."""
    if info.flag_bits & ENCRYPTED or info.compress_type not in METHODS:
        kind = "encrypted" if info.flag_bits & ENCRYPTED else f"compressed by method {info.compress_type}"
        raise ContractError(f"{path.name}: key '{name}' is {kind}; expected the output of numpy.savez")
    most = info.compress_size * (1 if info.compress_type == zipfile.ZIP_STORED else MOST_DEFLATED)
    if not 0 <= info.header_offset <= size - info.compress_size or info.file_size > most:
        raise ContractError(
            f"{path.name}: key '{name}' is said to hold {info.file_size} bytes, more than a file of {size} bytes can; "
            "copy the file again"
        )


def _read_member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, size: int) -> np.ndarray:
    """Return one member: memory-mapped where it is stored plainly, else read."""
    what = f"{path.name}: key '{name}'"
    with archive.open(info) as member:
        header = _read_header(member, what)
        if info.file_size - member.tell() < header.nbytes:
            raise _cut_short(what, header)
        if info.compress_type != zipfile.ZIP_STORED:
            data = member.read(header.nbytes)
            if len(data) < header.nbytes:
                raise _cut_short(what, header)
            flat = np.frombuffer(data, dtype=header.dtype, count=math.prod(header.shape))
            return flat.reshape(header.shape, order=header.order)
        start = member.tell()
    with path.open("rb") as stream:
        stream.seek(info.header_offset + 26)
        name_length, extra_length = np.frombuffer(stream.read(4), dtype="<u2").tolist()
    offset = info.header_offset + 30 + name_length + extra_length + start
    if size - offset < header.nbytes:
        raise _cut_short(what, header)
    return _mapped(path, offset, header)


def _read_header(stream: Any, what: str) -> _Header:
    """Return the header of an NPY stream, which then stands at the first byte of the data."""
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        header = _Header(*read(stream))
    # The header is the text of a dictionary: what its parser raises depends on what is in the way.
    except (ValueError, TypeError, SyntaxError, KeyError, RecursionError, MemoryError, EOFError) as error:
        raise ContractError(f"{what} is not a NumPy array ({error})") from error
    if header.dtype.hasobject:
        raise ContractError(
            f"{what} is a pickled object, which is never loaded; "
            "store metadata as a JSON string and arrays as plain numbers"
        )
    # The product of axes without the empty ones: NumPy asks that it can be counted too.
    largest = math.prod(max(1, length) for length in header.shape) * max(1, header.dtype.itemsize)
    lengths = all(type(length) is int and length >= 0 for length in header.shape)
    if not lengths or len(header.shape) > MOST_AXES or largest > np.iinfo(np.intp).max:
        raise ContractError(f"{what} has an impossible shape: {header.shape} {header.dtype}; copy the file again")
    return header


def _mapped(path: Path, offset: int, header: _Header) -> np.ndarray:
    """Return an array that lies plainly in a file; what has no bytes, or one number only, is no map."""
    if header.nbytes == 0:
        return np.empty(header.shape, dtype=header.dtype)
    if not header.shape:
        with path.open("rb") as stream:
            stream.seek(offset)
            return np.frombuffer(stream.read(header.nbytes), dtype=header.dtype)[0:1].reshape(())
    return np.memmap(path, dtype=header.dtype, mode="r", offset=offset, shape=header.shape, order=header.order)


def _cut_short(what: str, header: _Header) -> ContractError:
    return ContractError(f"{what} is cut short: its header promises {header.shape} {header.dtype}; copy the file again")
