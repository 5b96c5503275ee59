"""Outputs that cannot be written: one message and the exit code of docs/usage.md, and no file under an output's name."""

import errno
import resource
import sys
from contextlib import contextmanager

import numpy as np
import pytest

from ptychoflow import cli
from ptychoflow.data import storage
from ptychoflow.models.torch.backend import write_weights

ENTRY = '{"id": "tiny", "config": {"n": 16, "size": 60, "size_cols": 71, "step_px": 4.0}}'


@contextmanager
def files_up_to(n_bytes):
    """Let no file of this process grow larger, as a full disk would not (errno EFBIG in place of ENOSPC)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def call(monkeypatch, capsys, *arguments):
    """Return exit code and standard error of a call of the command line in this process."""
    monkeypatch.setattr(sys, "argv", ["ptychoflow", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code, capsys.readouterr().err


def test_a_full_disk_is_75_and_leaves_no_half_file(tmp_path, monkeypatch, capsys):
    with files_up_to(20_000):
        code, told = call(monkeypatch, capsys, "simulate", "--entry", ENTRY, "--out", tmp_path)
    assert (code, told) == (75, "ptychoflow: no space left for the output; free some and start again\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", ["file", "file/below"])
def test_a_folder_that_cannot_be_made_is_64_and_named(tmp_path, monkeypatch, capsys, folder):
    (tmp_path / "file").touch()
    code, told = call(monkeypatch, capsys, "simulate", "--entry", ENTRY, "--out", tmp_path / folder)
    assert code == 64
    assert told.startswith(f"ptychoflow: {tmp_path / folder} cannot be written (")
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("reason", "code"),
    [(errno.ENOSPC, 75), (errno.EDQUOT, 75), (errno.EROFS, 64), (errno.EACCES, 64), (errno.EPERM, 64)],
)
def test_each_reason_has_its_exit_code(tmp_path, monkeypatch, capsys, reason, code):
    """What this machine cannot bring about is raised by hand: quotas, read-only mounts, another user's folder."""

    def fail(*_args, **_kwargs):
        raise OSError(reason, "reason", str(tmp_path / "scan.npz"))

    monkeypatch.setattr(storage.tempfile, "mkstemp", fail)
    assert call(monkeypatch, capsys, "simulate", "--entry", ENTRY, "--out", tmp_path)[0] == code


def test_a_fault_of_another_kind_stays_a_fault(tmp_path, monkeypatch, capsys):
    def fail(*_args, **_kwargs):
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(storage.tempfile, "mkstemp", fail)
    monkeypatch.setattr(sys, "argv", ["ptychoflow", "simulate", "--entry", ENTRY, "--out", str(tmp_path)])
    with pytest.raises(OSError, match="input/output error"):
        cli.main()


@pytest.mark.parametrize(
    "write",
    [lambda values, path: write_weights({"a": values}, path), lambda values, path: storage.write_npy(path, values)],
    ids=["weights", "array"],
)
def test_writers_of_models_say_that_the_disk_is_full(tmp_path, write):
    """torch.save and numpy.save themselves raise errors that do not say so."""
    values = np.zeros((150, 151), np.float32)
    with files_up_to(20_000), pytest.raises(OSError) as caught:
        write(values, tmp_path / "values")
    assert caught.value.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == []
