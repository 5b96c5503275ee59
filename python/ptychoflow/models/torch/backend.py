"""PyTorch behind the training loop: device, precision, network, physics, Adam.

Two backends, one for each way to learn: `PhysicsBackend` compares diffraction (no object is ever given to it),
`SupervisedBackend` compares object patches with labels. Inference uses encoder and decoders only.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Complex64, Float32, Int64
from torch import Tensor

from ptychoflow.config import ModelConfig, TrainConfig
from ptychoflow.errors import DeviceMemoryError, UnavailableError
from ptychoflow.models.spec import NetworkSpec
from ptychoflow.models.torch.fourier import far_field_amplitude
from ptychoflow.models.torch.losses import physics_loss, supervised_loss
from ptychoflow.models.torch.network import PatchNet
from ptychoflow.records import Normalization

logger = logging.getLogger(__name__)

InputOf = Callable[[Int64[np.ndarray, "b"]], Float32[np.ndarray, "b c n n"]]
LabelOf = Callable[[Int64[np.ndarray, "b"]], Complex64[np.ndarray, "b c n n"]]


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


def save_weights(network: PatchNet, path: Path) -> None:
    """Write the weights in PyTorch's own format, contiguous, on the CPU."""
    torch.save({name: value.cpu().contiguous() for name, value in network.state_dict().items()}, path)


def load_weights(network: PatchNet, path: Path) -> None:
    """Read weights written by `save_weights`; nothing but tensors is unpickled."""
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))


def weights_sha256(network: PatchNet) -> str:
    """Return the sha256 of all weights, by name, as bytes: independent of the file format."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def predict_patches(
    network: PatchNet, x: Float32[np.ndarray, "b c n n"], runtime: Runtime
) -> Complex64[np.ndarray, "b k n n"]:
    """Return object patches in units of the object scale; encoder and decoders only, no physics."""
    network.eval()
    with torch.inference_mode(), _autocast(runtime):
        return network(_to_device(x, runtime)).cpu().numpy()


def _autocast(runtime: Runtime) -> torch.autocast:
    return torch.autocast(runtime.device.type, dtype=torch.bfloat16, enabled=runtime.bf16)


def _to_device(array: np.ndarray, runtime: Runtime) -> Tensor:
    tensor = torch.from_numpy(array).to(runtime.device, non_blocking=True)
    return tensor.to(memory_format=torch.channels_last) if tensor.is_floating_point() else tensor


class _TorchBackend:
    """What both backends share: optimizer, steps, state as arrays."""

    def __init__(self, network: PatchNet, runtime: Runtime, config: TrainConfig, input_of: InputOf) -> None:
        self.network, self.runtime, self.config, self._input_of = network, runtime, config, input_of
        self.optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate, fused=True)

    def _loss(self, batch: Int64[np.ndarray, "b"]) -> Tensor:
        raise TypeError("use PhysicsBackend or SupervisedBackend")

    def train_step(self, batch: Int64[np.ndarray, "b"], learning_rate: float) -> float:
        """Take one Adam step and return the loss before it."""
        self.network.train()
        self.optimizer.param_groups[0]["lr"] = learning_rate
        try:
            loss = self._loss(batch)
            loss.backward()
            self.optimizer.step()
        except torch.cuda.OutOfMemoryError as error:
            raise DeviceMemoryError(
                f"the GPU ran out of memory with {len(batch)} groups a step; lower batch_size"
            ) from error
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    def loss(self, batch: Int64[np.ndarray, "b"]) -> float:
        """Return the loss without a step."""
        self.network.eval()
        with torch.no_grad():
            return float(self._loss(batch))

    def state(self) -> dict[str, np.ndarray]:
        """Return weights and Adam moments as arrays."""
        arrays = {f"weights.{name}": value.detach().cpu().numpy() for name, value in self.network.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            arrays |= {f"adam.{index}.{name}": value.cpu().numpy() for name, value in moments.items()}
        return arrays

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Take over weights and Adam moments."""
        weights = {
            name.removeprefix("weights."): torch.from_numpy(state[name])
            for name in state
            if name.startswith("weights.")
        }
        self.network.load_state_dict(weights)
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


class PhysicsBackend(_TorchBackend):
    """Self-supervised: predicts the diffraction of its own patches and compares it with the measured one."""

    def __init__(
        self,
        network: PatchNet,
        runtime: Runtime,
        config: TrainConfig,
        input_of: InputOf,
        *,
        probe: Complex64[np.ndarray, "n n"],
        normalization: Normalization,
    ) -> None:
        """Put the probe on the device, scaled so that network patches give counts amplitudes s X^."""
        super().__init__(network, runtime, config, input_of)
        self.normalization = normalization
        scale = normalization.object_scale * normalization.alpha * normalization.intensity_scale
        self._probe = torch.from_numpy((probe * scale).astype(np.complex64)).to(runtime.device)

    def _loss(self, batch: Int64[np.ndarray, "b"]) -> Tensor:
        x = _to_device(self._input_of(batch), self.runtime)
        with _autocast(self.runtime):
            patches = self.network(x)
        predicted = far_field_amplitude(patches * self._probe)
        return physics_loss(
            predicted,
            self.normalization.intensity_scale * x,
            patches,
            config=self.config,
            mean_counts=self.normalization.mean_counts_per_pixel,
        )


class SupervisedBackend(_TorchBackend):
    """Supervised: compares patches with object patches, in units of the object scale."""

    def __init__(
        self, network: PatchNet, runtime: Runtime, config: TrainConfig, input_of: InputOf, *, label_of: LabelOf
    ) -> None:
        super().__init__(network, runtime, config, input_of)
        self._label_of = label_of

    def _loss(self, batch: Int64[np.ndarray, "b"]) -> Tensor:
        with _autocast(self.runtime):
            patches = self.network(_to_device(self._input_of(batch), self.runtime))
        return supervised_loss(patches, _to_device(self._label_of(batch), self.runtime))
