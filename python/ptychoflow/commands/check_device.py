"""`ptychoflow check-device`: what this machine computes with, and whether every installed framework really can.

    -> device.json: the GPUs and the driver; per framework: version, loss of one training step, seconds

The driver's own library (libcuda) tells of the GPUs: it is there wherever CUDA works, needs no framework, and shows what this
process may use, with CUDA_VISIBLE_DEVICES and MIG heeded. Each framework then takes one training step and makes one prediction,
each in a process of its own: a list of GPUs does not prove that a framework has code for them.
"""

import ctypes
import importlib.util
import json
import math
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

import ptychoflow
from ptychoflow.config import ModelConfig, TrainConfig
from ptychoflow.data.normalize import measure_normalization
from ptychoflow.data.schema import SCHEMA_VERSION
from ptychoflow.data.storage import write_json
from ptychoflow.errors import NumericalError, PtychoflowError, UnavailableError
from ptychoflow.models.spec import network_spec
from ptychoflow.physics.fourier import far_field_amplitude
from ptychoflow.provenance import versions

FRAMEWORKS = {"torch": "torch", "tf": "tensorflow"}
"""Packages below `ptychoflow.models`, and what they are made with."""

ADVICE = (
    "containers get the GPUs by -profile gpu, Slurm jobs by --gres; nvidia-smi tells what the machine has; "
    "to compute on the CPU, leave --use_gpu and -profile gpu off"
)

N_FRAMES, SIDE_PX = 2, 64
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76
"""Attributes of a device in the CUDA driver API (`CUdevice_attribute`)."""


@dataclass(frozen=True)
class Gpu:
    """One GPU that this process may use.

    Attributes:
        name: as the driver calls it.
        memory_bytes: all of its memory, or that of its MIG slice.
        compute_capability: e.g. `9.0`.
    """

    name: str
    memory_bytes: int
    compute_capability: str


def run(device: str, *, out_dir: Path) -> str:
    """Write device.json and return the same in words.

    Args:
        device: `cpu` or `cuda`.
        out_dir: folder of the task.

    Raises:
        UnavailableError: a GPU was asked for and is absent, or a framework cannot use what there is.
        NumericalError: a framework computes something that is no number.
    """
    gpus, driver = (visible_gpus(load_driver()), driver_version()) if device == "cuda" else ([], None)
    names = [name for name, package in FRAMEWORKS.items() if importlib.util.find_spec(package)]
    if device == "cuda" and not names:
        raise UnavailableError(
            "a GPU was asked for, and no framework is installed here that could use it: take the cuda image"
        )
    frameworks = {name: run_apart(name, device) for name in names}
    facts = {"device": device, "gpus": [asdict(gpu) for gpu in gpus], "driver": driver, "frameworks": frameworks}
    write_json(out_dir / "device.json", {"schema_version": SCHEMA_VERSION, **facts, "versions": versions()})
    lines = [
        f"{gpu.name}, {gpu.memory_bytes / 2**30:.1f} GiB, compute capability {gpu.compute_capability}" for gpu in gpus
    ]
    lines += [f"driver {driver}"] if driver else []
    lines += [
        f"{fact['package']} {fact['version']}: a step and a prediction on {device} in {fact['seconds']:.1f} s"
        for fact in frameworks.values()
    ]
    return "\n".join(lines or ["no framework is installed here: nothing to train or reconstruct with"])


def load_driver() -> Any:
    """Return the driver's library.

    Raises:
        UnavailableError: there is none, hence no usable NVIDIA GPU.
    """
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise UnavailableError(
            f"a GPU was asked for, and there is no NVIDIA driver (libcuda.so.1) here: {ADVICE}"
        ) from None


def visible_gpus(driver: Any) -> list[Gpu]:
    """Return the GPUs that this process may use.

    Args:
        driver: libcuda as ctypes loads it (CUDA driver API: cuInit, cuDeviceGet...).

    Raises:
        UnavailableError: there are none.
    """
    count = ctypes.c_int(0)
    error = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if error or count.value == 0:
        why = f"the driver's error is {error}" if error else "the driver shows none"
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        chosen = "" if hidden is None else f" with CUDA_VISIBLE_DEVICES='{hidden}'"
        raise UnavailableError(f"a GPU was asked for, and {why}{chosen}: {ADVICE}")
    return [_gpu(driver, index) for index in range(count.value)]


def _gpu(driver: Any, index: int) -> Gpu:
    device, memory, name = ctypes.c_int(), ctypes.c_size_t(), ctypes.create_string_buffer(256)
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    capability = []
    for attribute in (CAPABILITY_MAJOR, CAPABILITY_MINOR):
        value = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        capability.append(str(value.value))
    return Gpu(name.value.decode(), memory.value, ".".join(capability))


def driver_version(path: Path = Path("/proc/driver/nvidia/version")) -> str:
    """Return the version of the kernel's NVIDIA driver, or `unknown` where the machine hides it."""
    if not path.is_file():
        return "unknown"
    words = path.read_text().splitlines()[0].split()
    return next((word for word in words if word[0].isdigit() and "." in word), "unknown")


def run_apart(framework: str, device: str) -> dict[str, Any]:
    """Return what `step` finds in a process of its own.

    Raises:
        UnavailableError: the framework cannot be imported or cannot use the device.
        NumericalError: its result is no number.
    """
    # The child takes the package from where this one has it, and nothing from the folder it starts in.
    environment = os.environ | {"PYTHONPATH": str(Path(ptychoflow.__file__).parents[1])}
    command = [sys.executable, "-P", "-m", __spec__.name, framework, device]
    child = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if child.returncode == 0:
        found: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
        return found
    last = (child.stderr.strip().splitlines() or ["no message"])[-1]
    error = NumericalError if child.returncode == NumericalError.exit_code else UnavailableError
    raise error(f"{FRAMEWORKS[framework]} on {device} ended with {child.returncode}: {last}")


def step(framework: str, device: str) -> dict[str, Any]:
    """Train a small network for one step and predict with it; return package, version, loss and seconds.

    Raises:
        UnavailableError: the device is not there for this framework.
        NumericalError: loss or prediction are not finite.
    """
    started = time.perf_counter()
    backend = import_module(f"ptychoflow.models.{framework}.backend")
    runtime = backend.choose_runtime(device, "auto")
    config = ModelConfig(n_filters_scale=1)
    network = backend.build_network(network_spec(SIDE_PX, 1, config), config, runtime, seed=0)
    axis = np.arange(SIDE_PX) - SIDE_PX / 2
    probe = (9 * np.exp(-(axis[:, None] ** 2 + (axis - 3) ** 2) / 300)).astype(np.complex64)
    phase = np.random.default_rng(0).uniform(size=(N_FRAMES, SIDE_PX, SIDE_PX))
    frames = far_field_amplitude((probe * np.exp(1j * phase)).astype(np.complex64)).astype(np.float32)
    scaling = measure_normalization(frames, np.arange(N_FRAMES), probe, photons_per_intensity=1.0)
    x = (scaling.alpha * frames).astype(np.float32)[:, None]
    physics = backend.PhysicsBackend(
        network, runtime, TrainConfig(), lambda batch: x[batch], probe=probe, normalization=scaling
    )
    loss = physics.train_step(np.arange(N_FRAMES), 1e-3)
    patches = backend.predict_patches(network, x, runtime)
    if not (math.isfinite(loss) and np.isfinite(patches).all()):
        raise NumericalError(f"loss {loss} of a step, {np.isfinite(patches).mean():.0%} of a prediction finite")
    package = FRAMEWORKS[framework]
    version = getattr(import_module(package), "__version__", "unknown")
    return {
        "package": package,
        "version": version,
        "precision": runtime.precision,
        "loss": loss,
        "seconds": time.perf_counter() - started,
    }


def main() -> None:
    """Entry of the child: prints one line of JSON, or ends with the exit code of our own errors."""
    try:
        sys.stdout.write(json.dumps(step(*sys.argv[1:3])) + "\n")
    except PtychoflowError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
