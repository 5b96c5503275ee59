"""`check-device`: what it says of GPUs, and how a framework that fails ends it. The driver is a double of libcuda."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from ptychoflow.commands import check_device
from ptychoflow.commands.check_device import Gpu, driver_version, run, run_apart, step, visible_gpus
from ptychoflow.data.storage import read_json
from ptychoflow.errors import NumericalError, UnavailableError

REAL_RUN = subprocess.run
CARDS = [("Tesla T4", 15 * 2**30, (7, 5)), ("NVIDIA H100 80GB HBM3", 80 * 2**30, (9, 0))]


def driver(cards=(), error=0):
    """The functions of the CUDA driver API that are called; arguments that ctypes passes by reference are filled in."""

    def put(reference, value):
        reference._obj.value = value
        return 0

    def attribute(reference, number, device):
        return put(reference, cards[device.value - 100][2][{75: 0, 76: 1}[number]])

    def name(buffer, size, device):
        buffer.value = cards[device.value - 100][0].encode()[: size - 1]
        return 0

    return SimpleNamespace(
        cuInit=lambda flags: error,
        cuDeviceGetCount=lambda count: put(count, len(cards)),
        cuDeviceGet=lambda device, index: put(device, 100 + index),
        cuDeviceGetName=name,
        cuDeviceTotalMem_v2=lambda memory, device: put(memory, cards[device.value - 100][1]),
        cuDeviceGetAttribute=attribute,
    )


@pytest.fixture
def fake_child(monkeypatch):
    """Return `set(program)`: every child process runs this Python text instead."""

    def put(program):
        monkeypatch.setattr(
            check_device.subprocess,
            "run",
            lambda command, **options: REAL_RUN([sys.executable, "-c", program], **options),
        )

    return put


def test_gpus_are_told_with_memory_and_capability():
    assert visible_gpus(driver(CARDS)) == [
        Gpu("Tesla T4", 15 * 2**30, "7.5"),
        Gpu("NVIDIA H100 80GB HBM3", 80 * 2**30, "9.0"),
    ]


def test_no_gpu_is_69_with_the_drivers_error_and_what_hides_it(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    with pytest.raises(UnavailableError, match=r"error is 100 with CUDA_VISIBLE_DEVICES='7': .*-profile gpu") as caught:
        visible_gpus(driver(error=100))
    assert caught.value.exit_code == 69
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with pytest.raises(UnavailableError, match="the driver shows none: "):
        visible_gpus(driver())


def test_no_driver_is_69_before_any_framework_is_asked(tmp_path, monkeypatch):
    def absent(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(check_device.ctypes, "CDLL", absent)
    monkeypatch.setattr(check_device, "run_apart", lambda *_: pytest.fail("a framework was started"))
    with pytest.raises(UnavailableError, match=r"no NVIDIA driver \(libcuda.so.1\) here"):
        run("cuda", out_dir=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 2023\nGCC version: 12.2.0\n",
            "535.104.05",
        ),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\n", "570.86.15"),
        ("NVRM version: something else\n", "unknown"),
    ],
)
def test_the_driver_is_read_from_the_kernel(tmp_path, text, version):
    (tmp_path / "version").write_text(text)
    assert driver_version(tmp_path / "version") == version
    assert driver_version(tmp_path / "absent") == "unknown"


def test_a_gpu_and_no_framework_is_69(tmp_path, monkeypatch):
    monkeypatch.setattr(check_device, "load_driver", lambda: driver(CARDS))
    monkeypatch.setattr(check_device.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match="take the cuda image"):
        run("cuda", out_dir=tmp_path)


def test_what_was_found_is_written_and_said(tmp_path, monkeypatch):
    monkeypatch.setattr(check_device, "load_driver", lambda: driver(CARDS[1:]))
    monkeypatch.setattr(check_device, "driver_version", lambda: "570.86.15")
    fact = {"package": "torch", "version": "2.10.0", "precision": "bf16", "loss": 0.5, "seconds": 3.25}
    monkeypatch.setattr(check_device, "run_apart", lambda framework, device: fact | {"package": framework})
    said = run("cuda", out_dir=tmp_path).splitlines()
    assert said[:2] == ["NVIDIA H100 80GB HBM3, 80.0 GiB, compute capability 9.0", "driver 570.86.15"]
    assert said[2] == "torch 2.10.0: a step and a prediction on cuda in 3.2 s"
    found = read_json(tmp_path / "device.json")
    assert found["gpus"][0]["compute_capability"] == "9.0"
    assert set(found["frameworks"]) == {"torch", "tf"}


def test_the_cpu_asks_no_driver_and_may_have_no_framework(tmp_path, monkeypatch):
    monkeypatch.setattr(check_device, "load_driver", lambda: pytest.fail("the driver was asked"))
    monkeypatch.setattr(check_device.importlib.util, "find_spec", lambda name: None)
    assert "no framework is installed here" in run("cpu", out_dir=tmp_path)
    assert read_json(tmp_path / "device.json")["frameworks"] == {}


def test_a_framework_that_fails_ends_it_with_its_last_words(fake_child):
    fake_child("import sys; sys.stderr.write('noise\\nno kernel image for sm_70\\n'); sys.exit(1)")
    with pytest.raises(UnavailableError, match="torch on cuda ended with 1: no kernel image for sm_70"):
        run_apart("torch", "cuda")
    fake_child("import sys; sys.stderr.write('loss nan'); sys.exit(70)")
    with pytest.raises(NumericalError, match="loss nan"):
        run_apart("torch", "cuda")
    fake_child("import os; os.abort()")
    with pytest.raises(UnavailableError, match="ended with -6: no message"):
        run_apart("tf", "cpu")


def test_what_a_framework_prints_before_its_answer_does_not_matter(fake_child):
    fake_child("print('a banner'); print('{\"loss\": 1.5}')")
    assert run_apart("torch", "cpu") == {"loss": 1.5}


@pytest.mark.slow
def test_a_step_on_the_cpu_is_finite():
    found = step("torch", "cpu")
    assert found["package"] == "torch"
    assert 0 < found["loss"] < 10


@pytest.mark.slow
def test_each_framework_has_a_process_of_its_own(tmp_path: Path):
    """TensorFlow and PyTorch really imported, by children: the parent imports neither by it."""
    before = "tensorflow" in sys.modules
    run("cpu", out_dir=tmp_path)
    assert ("tensorflow" in sys.modules) is before
    frameworks = read_json(tmp_path / "device.json")["frameworks"]
    assert {name: fact["package"] for name, fact in frameworks.items()} == {"torch": "torch", "tf": "tensorflow"}
