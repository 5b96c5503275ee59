"""PyTorch behind the training loop: device, precision, network, physics, Adam.

Two backends, one for each way to learn: `PhysicsBackend` compares diffraction (no object is ever given to it),
`SupervisedBackend` compares object patches with labels. Inference uses encoder and decoders only.
"""

import contextlib
import hashlib
import io
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Complex64, Float32, Int64
from torch import Tensor

from ptychoflow.config import ModelConfig, TrainConfig
from ptychoflow.data.storage import atomic_write
from ptychoflow.errors import DeviceMemoryError, UnavailableError
from ptychoflow.models.forward import (
    check_input,
    check_labels,
    check_offsets,
    forward_model,
    illumination_weight,
    jitter,
)
from ptychoflow.models.spec import NetworkSpec
from ptychoflow.models.torch.losses import physics_loss, supervised_loss
from ptychoflow.models.torch.network import PatchNet
from ptychoflow.models.torch.physics import Physics
from ptychoflow.records import Normalization

logger = logging.getLogger(__name__)

InputOf = Callable[[Int64[np.ndarray, "b"]], Float32[np.ndarray, "b c n n"]]
LabelOf = Callable[[Int64[np.ndarray, "b"]], Complex64[np.ndarray, "b k n n"]]
OffsetsOf = Callable[[Int64[np.ndarray, "b"]], Float32[np.ndarray, "b c 2"]]

WEIGHTS_SUFFIX = ".pt"
"""Ending of weight files."""


@dataclass(frozen=True)
class Runtime:
    """Where and how exactly the network runs."""

    device: torch.device
    bf16: bool

    @property
    def precision(self) -> str:
        """`bf16` (convolutions only) or `fp32`."""
        return "bf16" if self.bf16 else "fp32"

    @property
    def threads(self) -> int:
        """Threads of the CPU kernels: results repeat bit by bit only with the same number."""
        return torch.get_num_threads()


def choose_runtime(device: str, precision: str) -> Runtime:
    """Return device and precision; deterministic algorithms are switched on.

    `auto` takes bfloat16 on a GPU that has it, and on a CPU only with matrix units (AMX): with vector instructions alone
    (AVX-512 BF16) it is slower than float32 (measured: training 0.62 times the rate).

    Raises:
        UnavailableError: a GPU was asked for and is not there; nothing falls back to the CPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UnavailableError(
            "a GPU was asked for (--device cuda) and PyTorch sees none; check the driver, or leave --use_gpu off"
        )
    if device == "cuda":
        bf16 = precision == "bf16" or (precision == "auto" and torch.cuda.is_bf16_supported())
    else:
        bf16 = precision == "bf16" or (precision == "auto" and torch.cpu._is_amx_tile_supported())
    torch.use_deterministic_algorithms(True, warn_only=device == "cuda")
    return Runtime(torch.device(device), bf16)


def build_network(spec: NetworkSpec, config: ModelConfig, runtime: Runtime, *, seed: int) -> PatchNet:
    """Return a network with weights drawn from `seed`, channels-last on its device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = PatchNet(spec, config)
    return network.to(runtime.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def weights_of(network: PatchNet) -> dict[str, np.ndarray]:
    """Return the weights as contiguous arrays by name."""
    return {name: value.detach().cpu().contiguous().numpy() for name, value in network.state_dict().items()}


def save_weights(network: PatchNet, path: Path) -> None:
    """Write the weights in PyTorch's own format, contiguous, on the CPU."""
    write_weights(weights_of(network), path)


def write_weights(weights: Mapping[str, np.ndarray], path: Path) -> None:
    """Write weights returned by `weights_of` as `save_weights` does."""
    buffer = io.BytesIO()
    torch.save({name: torch.from_numpy(value) for name, value in weights.items()}, buffer)
    # What torch.save itself says of a full disk has no error code.
    with atomic_write(path) as stream:
        stream.write(buffer.getbuffer())


def load_weights(network: PatchNet, path: Path) -> None:
    """Read weights written by `save_weights`; nothing but tensors is unpickled."""
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))


def weights_sha256(network: PatchNet) -> str:
    """Return the sha256 of all weights, by name, as bytes: independent of the file format."""
    digest = hashlib.sha256()
    for name, value in sorted(weights_of(network).items()):
        digest.update(name.encode() + value.tobytes())
    return digest.hexdigest()


def predict_patches(
    network: PatchNet, x: Float32[np.ndarray, "b c n n"], runtime: Runtime
) -> Complex64[np.ndarray, "b k n n"]:
    """Return object patches in units of the object scale; encoder and decoders only, no physics.

    Raises:
        ContractError: frames that the network is not made for.
        DeviceMemoryError: the GPU is too small for this many frames.
    """
    check_input(network.spec, x)
    network.eval()
    with torch.inference_mode(), _autocast(runtime), _memory_errors(f"{len(x)} frames a call; lower infer_batch_size"):
        return network(_to_device(x, runtime)).cpu().numpy()


def _autocast(runtime: Runtime) -> torch.autocast:
    return torch.autocast(runtime.device.type, dtype=torch.bfloat16, enabled=runtime.bf16)


def trace_inference(network: PatchNet, sizes: Iterable[int], runtime: Runtime) -> None:
    """Do nothing: PyTorch runs as it is written, and there is nothing to compile before `predict_patches`."""


@contextlib.contextmanager
def _memory_errors(advice: str) -> Iterator[None]:
    """Turn the GPU's out-of-memory error into ours, which the workflow answers with a smaller batch."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise DeviceMemoryError(f"the GPU ran out of memory with {advice}") from error


def _to_device(array: np.ndarray, runtime: Runtime) -> Tensor:
    tensor = torch.from_numpy(array).to(runtime.device, non_blocking=True)
    return tensor.to(memory_format=torch.channels_last) if tensor.is_floating_point() else tensor


class _TorchBackend:
    """What both backends share: optimizer, steps, state as arrays. Nothing is compiled: PyTorch runs as it is written."""

    compile_seconds = 0.0

    def __init__(
        self,
        network: PatchNet,
        runtime: Runtime,
        config: TrainConfig,
        input_of: InputOf,
        *,
        physics: Physics | None = None,
    ) -> None:
        self.network, self.runtime, self.config, self._input_of = network, runtime, config, input_of
        self.physics = physics
        self._steps = 0
        trained = [*network.parameters(), *(physics.parameters() if physics else ())]
        self.optimizer = torch.optim.Adam(trained, lr=config.learning_rate, fused=True)

    def _loss(self, batch: Int64[np.ndarray, "b"]) -> Tensor:
        raise TypeError("use PhysicsBackend or SupervisedBackend")

    def train_step(self, batch: Int64[np.ndarray, "b"], learning_rate: float) -> float:
        """Take one Adam step and return the loss before it."""
        self.network.train()
        self.optimizer.param_groups[0]["lr"] = learning_rate
        with _memory_errors(f"{len(batch)} groups a step; lower batch_size"):
            loss = self._loss(batch)
            loss.backward()
            self.optimizer.step()
        self._steps += 1
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    def loss(self, batch: Int64[np.ndarray, "b"]) -> float:
        """Return the loss without a step."""
        self.network.eval()
        with torch.no_grad(), _memory_errors(f"{len(batch)} groups of validation; lower batch_size"):
            return float(self._loss(batch))

    def state(self) -> dict[str, np.ndarray]:
        """Return weights, what the physics has learnt, Adam moments and the number of steps as arrays."""
        arrays = {"steps": np.array([self._steps])}
        arrays |= {f"weights.{name}": value for name, value in weights_of(self.network).items()}
        if self.physics is not None:
            arrays |= {f"physics.{name}": value.cpu().numpy() for name, value in self.physics.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            arrays |= {f"adam.{index}.{name}": value.cpu().numpy() for name, value in moments.items()}
        return arrays

    def weights(self) -> dict[str, np.ndarray]:
        """Return the weights alone, as inference needs them."""
        return weights_of(self.network)

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Take over a state returned by `state`."""
        self._steps = int(state["steps"][0])
        self.network.load_state_dict(_tensors(state, "weights."))
        if self.physics is not None:
            self.physics.load_state_dict(_tensors(state, "physics."))
        parameters = self.optimizer.param_groups[0]["params"]
        moments: dict[int, dict[str, Tensor]] = {}
        for name in state:
            if name.startswith("adam."):
                _, index, key = name.split(".")
                value = torch.from_numpy(state[name])
                # The fused kernel walks moments and weights by memory order: both must be channels-last.
                like = parameters[int(index)]
                moments.setdefault(int(index), {})[key] = torch.empty_like(like).copy_(value) if value.ndim else value
        adam = self.optimizer.state_dict()
        self.optimizer.load_state_dict({"state": moments, "param_groups": adam["param_groups"]})


def _tensors(state: Mapping[str, np.ndarray], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): torch.from_numpy(state[name]) for name in state if name.startswith(prefix)}


class PhysicsBackend(_TorchBackend):
    """Self-supervised: predicts the diffraction of its own patches and compares it with the measured one."""

    def __init__(
        self,
        network: PatchNet,
        runtime: Runtime,
        config: TrainConfig,
        input_of: InputOf,
        *,
        offsets_of: OffsetsOf | None = None,
        probe: Complex64[np.ndarray, "n n"],
        normalization: Normalization,
        pad_px: int = 0,
        seed: int = 0,
    ) -> None:
        """Build the physics around the network.

        Args:
            network: the network to train.
            runtime: where to train it.
            config: optimizer and losses.
            input_of: frames X (B, C, N, N) of a batch of groups, at network scale.
            offsets_of: offsets (B, C, 2) of their members from the groups' centres, px (row, col); None with gridsize 1.
            probe: the scan's probe.
            normalization: scaling of the view.
            pad_px: what `forward.padding_px` gives for all groups of the view.
            seed: decides the extraction jitter.
        """
        self.forward_model = forward_model(
            network.spec, network.config, probe=probe, normalization=normalization, pad_px=pad_px
        )
        self._physics = Physics(self.forward_model).to(runtime.device)
        super().__init__(network, runtime, config, input_of, physics=self._physics)
        self.normalization, self._seed = normalization, seed
        self._offsets_of = offsets_of or (lambda batch: np.zeros((len(batch), 1, 2), np.float32))

    def probe(self) -> Complex64[np.ndarray, "k n n"]:
        """Return the probe of the moment in the unit of the scan's probe."""
        return self._physics.probe().detach().cpu().numpy() / np.float32(self.forward_model.probe_scale)

    def weights(self) -> dict[str, np.ndarray]:
        """Return the weights as inference needs them, and `probe` where it is refined."""
        return super().weights() | ({"probe": self.probe()} if self.forward_model.trainable_probe else {})

    def _loss(self, batch: Int64[np.ndarray, "b"]) -> Tensor:
        frames, offsets = self._input_of(batch), self._offsets_of(batch)
        check_input(self.network.spec, frames)
        check_offsets(self.forward_model, offsets)
        x = _to_device(frames, self.runtime)
        with _autocast(self.runtime):
            patches = self.network(x)
        objects, amplitude, _ = self._physics(
            patches,
            torch.from_numpy(offsets).to(self.runtime.device),
            displaced=self._displaced(offsets),
            log_gain=self.network.log_gain,
        )
        return physics_loss(
            amplitude,
            self.normalization.intensity_scale * x,
            objects,
            config=self.config,
            mean_counts=self.normalization.mean_counts_per_pixel,
        )

    def _displaced(self, offsets: Float32[np.ndarray, "b c 2"]) -> Tensor | None:
        """Return the offsets of the extraction of this step; None where they are the members' own."""
        sigma = self.network.config.extraction_jitter_px
        if not (sigma and self.network.training):
            return None
        moved = offsets + jitter(offsets.shape, sigma, seed=self._seed, step=self._steps)
        return torch.from_numpy(moved).to(self.runtime.device)


class SupervisedBackend(_TorchBackend):
    """Supervised: compares patches with object patches, in units of the object scale, where the probe reaches."""

    def __init__(
        self,
        network: PatchNet,
        runtime: Runtime,
        config: TrainConfig,
        input_of: InputOf,
        *,
        label_of: LabelOf,
        probe: Complex64[np.ndarray, "n n"],
    ) -> None:
        super().__init__(network, runtime, config, input_of)
        self._label_of = label_of
        self._weight = torch.from_numpy(illumination_weight(probe)).to(runtime.device)

    def _loss(self, batch: Int64[np.ndarray, "b"]) -> Tensor:
        frames, labels = self._input_of(batch), self._label_of(batch)
        check_input(self.network.spec, frames)
        check_labels(self.network.spec, labels)
        with _autocast(self.runtime):
            patches = self.network(_to_device(frames, self.runtime))
        return supervised_loss(patches, _to_device(labels, self.runtime), self._weight)
