"""The iterative arm: pty-chi's LSQML engine, arrays in and arrays out. The only module that imports ptychi.

Source: Odstrcil, Menzel, Guizar-Sicairos, Opt. Express 26, 3108 (2018); pty-chi 2.2.0 (other versions differ by up to a pixel).

Conventions of the two sides, converted here and nowhere else:

    patterns    pty-chi takes INTENSITY in counts, zero frequency at the centre (even N only)
    probe       its FFT is not normalised: p_ptychi = p / N for our orthonormal p, in sqrt(counts)
    positions   top-left pixels of the patches, once the origin of a patch is SPECIFIED as (N - 1) / 2
    object      starts from ones, never from a truth; global phase, amplitude and a small ramp are free

pty-chi changes process-wide state (random generators, default dtype and device); it is put back afterwards. Still, one process
is one reconstruction: on one CPU thread the same input then gives the same bytes, on a GPU only to a tolerance.
"""

import contextlib
import functools
import importlib.metadata
import logging
import math
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from jaxtyping import Complex64, Complex128, Float32, Float64

from ptychoflow.arms.lsqml_checks import (
    coverage,
    input_problems,
    plateau_reached,
    reference_losses,
    verdict,
    working_canvas,
)
from ptychoflow.config import LsqmlConfig
from ptychoflow.errors import DeviceMemoryError, UnavailableError, UsageError, refuse

logger = logging.getLogger(__name__)

PTYCHI_VERSION = "2.2.0"
MISSING_OPERATOR = "operator torchvision::nms does not exist"
LOG_EVERY = 10


@dataclass(frozen=True)
class LsqmlSnapshot:
    """Object and probe on their way, as `LsqmlResult` has them at the end.

    Attributes:
        epochs: passes done.
        seconds: wall time of setup and of the passes up to there, without that of copying, s.
    """

    epochs: int
    seconds: float
    object: Complex64[np.ndarray, "h w"]
    probe: Complex64[np.ndarray, "1 n n"]


@dataclass(frozen=True)
class LsqmlResult:
    """What one reconstruction gave.

    Attributes:
        object: (H, W) complex64 on the caller's canvas; ones times a factor where no frame saw it.
        weight: (H, W) float32, summed initial probe intensity over its largest value; 0 where nothing was seen.
        probe: (1, N, N) complex64 refined probe: |F(probe * patch)| is the square root of the counts (orthonormal F).
        loss: (epochs,) float64 mean squared error of sqrt(counts), a mean over the batches while they update.
        epoch_seconds: (epochs,) float64 wall time, s.
        failure: None, or why the result must not be used.
        seconds: wall time of `import`, `setup` and `run` (the passes), s.
        facts: JSON-ready record: options, scale factors, offset, epochs, stop reason, orientation check, versions.
        snapshots: states after fewer epochs, by epoch.
    """

    object: Complex64[np.ndarray, "h w"]
    weight: Float32[np.ndarray, "h w"]
    probe: Complex64[np.ndarray, "1 n n"]
    loss: Float64[np.ndarray, "epochs"]
    epoch_seconds: Float64[np.ndarray, "epochs"]
    failure: str | None
    seconds: dict[str, float]
    facts: dict[str, Any]
    snapshots: tuple[LsqmlSnapshot, ...]


@dataclass(frozen=True)
class _Ptychi:
    """The imported packages; `operators` keeps declared torchvision operators alive."""

    torch: Any
    api: Any
    task: Any
    operators: Any
    import_seconds: float


def reconstruct(
    intensity_counts: Float32[np.ndarray, "m n n"],
    topleft_rc_px: Float64[np.ndarray, "m 2"],
    probe: Complex64[np.ndarray, "n n"] | Complex128[np.ndarray, "n n"],
    *,
    shape: tuple[int, int],
    config: LsqmlConfig,
    device: str,
    seed: int,
) -> LsqmlResult:
    """Return the object that explains the patterns, refined together with the probe.

    Args:
        intensity_counts: (M, N, N) counts, never amplitudes; zero frequency at [N/2, N/2].
        topleft_rc_px: (M, 2) canvas coordinate of patch pixel (0, 0), fractions allowed, px.
        probe: (N, N) initial probe in the orthonormal convention; its scale is free.
        shape: (H, W) of the canvas, which must hold every patch.
        config: epochs, batch size, plateau stop, epochs to keep.
        device: `cpu` or `cuda`.
        seed: root seed; the order of the batches does not depend on it (measured), so replicates need other data.

    Raises:
        ContractError: naming every way in which the arrays are not what LSQML needs.
        UnavailableError: ptychi 2.2.0 or the GPU is absent.
        DeviceMemoryError: the GPU is too small for this batch size.
    """
    n = probe.shape[-1]
    refuse(input_problems(intensity_counts, topleft_rc_px, probe, shape), what="input of the LSQML reconstruction")
    ptychi = _ptychi()
    if device not in ("cpu", "cuda"):
        raise UsageError(f"device must be 'cpu' or 'cuda', got '{device}'")
    if device == "cuda" and not ptychi.torch.cuda.is_available():
        raise UnavailableError(
            "device 'cuda' was asked for, but torch sees no GPU; ask for 'cpu' or start where one is"
        )

    mean_counts = float(intensity_counts.sum(axis=(1, 2), dtype=np.float64).mean())
    prescale = math.sqrt(mean_counts / float((np.abs(probe.astype(np.complex128)) ** 2).sum()))
    offset, working_shape = working_canvas(topleft_rc_px, shape, n)
    local = topleft_rc_px + np.asarray(offset, dtype=np.float64)
    options = _options(ptychi.api, config, n=n, device=device, seed=seed)
    started, cpu_started = time.perf_counter(), time.process_time()
    with _process_state_kept(ptychi.torch), _memory_errors(ptychi.torch, config):
        task_arrays = {
            "diffraction_data": intensity_counts,
            "object_data": np.ones((1, *working_shape), dtype=np.complex64),
            "probe_data": (probe * (prescale / n)).astype(np.complex64)[None, None],
            "probe_position_y_px": local[:, 0],
            "probe_position_x_px": local[:, 1],
            "opr_mode_weights_data": np.ones((len(local), 1), dtype=np.float32),
        }
        with ptychi.task(options, **task_arrays) as task:
            setup_seconds = time.perf_counter() - started

            def now() -> tuple[np.ndarray, np.ndarray]:
                """Return copies of object and probe, which the task deletes when it is left."""
                # The crop is whole pixels: nothing is resampled and no gauge taken out; evaluation does that for every arm.
                window = np.s_[offset[0] : offset[0] + shape[0], offset[1] : offset[1] + shape[1]]
                object_ = task.get_data_to_cpu("object", as_numpy=True)[0][window].astype(np.complex64)
                return object_, (task.get_data_to_cpu("probe", as_numpy=True)[0] * n).astype(np.complex64)

            loss, epoch_seconds, stopped, kept = _iterate(task, config, now)
            object_, refined = now()

    levels = reference_losses(intensity_counts, seed=seed)
    failure, orientation = verdict(object_, refined, loss, levels)
    return LsqmlResult(
        object=object_,
        weight=coverage(topleft_rc_px, probe, shape),
        probe=refined,
        loss=loss,
        epoch_seconds=epoch_seconds,
        failure=failure,
        seconds={"import": ptychi.import_seconds, "setup": setup_seconds, "run": float(epoch_seconds.sum())},
        facts={
            "options": _plain(options.get_dict()),
            "probe_prescale": prescale,
            "probe_fft_factor": 1.0 / n,
            "mean_counts_per_frame": mean_counts,
            "canvas_offset_px": list(offset),
            "working_shape_px": list(working_shape),
            "n_frames": len(intensity_counts),
            "epochs_done": len(loss),
            "stop_reason": stopped,
            "orientation": orientation,
            "initial_object": "ones",
            "cpu_seconds": time.process_time() - cpu_started,
            "threads": int(ptychi.torch.get_num_threads()),
            "torchvision": importlib.metadata.version("torchvision"),
            "torchvision_remedy": ptychi.operators is not None,
        },
        snapshots=tuple(
            LsqmlSnapshot(epochs, setup_seconds + float(epoch_seconds[:epochs].sum()), *arrays)
            for epochs, arrays in kept.items()
        ),
    )


def _iterate(
    task: Any, config: LsqmlConfig, now: Callable[[], tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray, str, dict[int, tuple[np.ndarray, np.ndarray]]]:
    """Run epoch by epoch; return losses, wall times (s), why it stopped, and what `now` gave after each epoch to keep.

    The last epoch done, whichever that turns out to be, is the result and not kept.
    """
    loss: list[float] = []
    seconds: list[float] = []
    kept: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    stopped = "epochs done"
    while len(loss) < config.lsqml_epochs:
        started = time.perf_counter()
        task.run(1)
        loss.append(float(task.reconstructor.loss_tracker.table["loss"].iloc[-1]))
        seconds.append(time.perf_counter() - started)
        if len(loss) in config.snapshots and len(loss) < config.lsqml_epochs:
            kept[len(loss)] = now()
        if len(loss) % LOG_EVERY == 0 or len(loss) == config.lsqml_epochs:
            pace = np.mean(seconds[-LOG_EVERY:])
            logger.info("epoch %d/%d: loss %.5g, %.3g s per epoch", len(loss), config.lsqml_epochs, loss[-1], pace)
        if not math.isfinite(loss[-1]):
            stopped = "loss not finite"
            break
        if config.lsqml_plateau_stop and plateau_reached(loss):
            stopped = "plateau"
            break
    kept.pop(len(loss), None)
    return np.array(loss, dtype=np.float64), np.array(seconds, dtype=np.float64), stopped, kept


def _options(api: Any, config: LsqmlConfig, *, n: int, device: str, seed: int) -> Any:
    """Return the options of one run: what is not set here is a default of pty-chi 2.2.0, and is recorded with the rest."""
    options = api.LSQMLOptions()
    engine = options.reconstructor_options
    engine.default_device = api.Devices.CPU if device == "cpu" else api.Devices.GPU
    engine.num_epochs = config.lsqml_epochs
    engine.batch_size = config.lsqml_batch_size
    engine.batching_mode = api.BatchingModes.RANDOM
    engine.noise_model = api.NoiseModels.GAUSSIAN
    engine.momentum_acceleration_gain = 0.0
    engine.rescale_probe_intensity_in_first_epoch = True
    engine.random_seed = seed
    options.data_options.fft_shift = True
    options.object_options.determine_position_origin_coords_by = api.ObjectPosOriginCoordsMethods.SPECIFIED
    options.object_options.position_origin_coords = [(n - 1) / 2, (n - 1) / 2]
    # A guessed probe that is kept fixed costs ten times the error of one that is refined from the start.
    options.probe_options.optimizable = True
    options.probe_position_options.optimizable = False
    return options


def _plain(value: Any) -> Any:
    """Return options as strict JSON knows them: enums and infinities become text, tuples lists."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


@functools.cache
def _ptychi() -> _Ptychi:
    """Import torch and ptychi, once: some seconds and 150 MB that no other command pays."""
    started = time.perf_counter()
    require_version()
    import torch

    operators = None
    if remedy_needed(torch.version.cuda, _torchvision_complaint):
        operators = declare_operators(torch)
    import ptychi.api as api
    from ptychi.api.task import PtychographyTask

    return _Ptychi(torch, api, PtychographyTask, operators, time.perf_counter() - started)


def require_version(installed: Callable[[str], str] = importlib.metadata.version) -> None:
    """Refuse any ptychi but the one that this adapter was measured with.

    Raises:
        UnavailableError: ptychi is absent or another version.
    """
    try:
        found = installed("ptychi")
    except importlib.metadata.PackageNotFoundError:
        raise UnavailableError(f"the lsqml arm needs ptychi {PTYCHI_VERSION}, which is not installed here") from None
    if found != PTYCHI_VERSION:
        raise UnavailableError(
            f"the lsqml arm needs ptychi {PTYCHI_VERSION}, found {found}: origins and options differ"
        )


def remedy_needed(cuda_build: str | None, complaint_of: Callable[[], str]) -> bool:
    """Return whether torchvision's operators have to be declared before ptychi is imported.

    Only a CPU build of torch beside PyPI's torchvision needs it, which is linked against the CUDA build. Beside a working
    torchvision the declaration would break its import, so a throw-away process tries that first.

    Args:
        cuda_build: `torch.version.cuda`; None for a CPU build.
        complaint_of: returns what importing torchvision in another process wrote when it failed, else "".

    Raises:
        UnavailableError: torchvision fails in another way.
    """
    if cuda_build is not None:
        return False
    complaint = complaint_of().strip()
    if complaint and MISSING_OPERATOR not in complaint:
        raise UnavailableError(f"torchvision, which ptychi needs, cannot be imported: {complaint.splitlines()[-1]}")
    return bool(complaint)


def _torchvision_complaint() -> str:
    child = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, text=True, check=False)
    return child.stderr if child.returncode else ""


def declare_operators(torch: Any) -> Any:
    """Declare the two operator schemas that torchvision's import asks for; they live as long as the returned object."""
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor a, Tensor b, float c) -> Tensor")
    library.define("qnms(Tensor a, Tensor b, float c) -> Tensor")
    return library


@contextlib.contextmanager
def _process_state_kept(torch: Any) -> Iterator[None]:
    """Put back what pty-chi changes for the whole process: random generators, torch's defaults; keep it quiet."""
    legacy_state = np.random.get_state()  # noqa: NPY002 - pty-chi seeds this generator, so it is the one to keep
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    chatter = logging.getLogger("ptychi")
    level = chatter.level
    # At INFO it prints a line and a progress bar an epoch; ours is the progress line every ten.
    chatter.setLevel(logging.WARNING)
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            # pty-chi reads scalars off tensors with gradients, without harm.
            warnings.filterwarnings("ignore", message="Converting a tensor with requires_grad=True to a scalar")
            yield
    finally:
        chatter.setLevel(level)
        np.random.set_state(legacy_state)  # noqa: NPY002
        torch.set_default_dtype(dtype)
        torch.set_default_device(device)


@contextlib.contextmanager
def _memory_errors(torch: Any, config: LsqmlConfig) -> Iterator[None]:
    """Turn the GPU's out-of-memory error into ours, which the workflow answers with a smaller batch."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise DeviceMemoryError(
            f"out of GPU memory with lsqml_batch_size {config.lsqml_batch_size}: {error}"
        ) from error
