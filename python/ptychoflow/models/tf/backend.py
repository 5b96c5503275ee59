"""TensorFlow behind the training loop: device, network, physics, Adam; float32 throughout.

Two backends, one for each way to learn: `PhysicsBackend` compares diffraction (no object is ever given to it),
`SupervisedBackend` compares object patches with labels. Inference uses encoder and decoders only.
"""

import contextlib
import hashlib
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from jaxtyping import Complex64, Float32, Int64

from ptychoflow.config import ModelConfig, TrainConfig
from ptychoflow.errors import DeviceMemoryError, UnavailableError
from ptychoflow.models.exchange import LOG_GAIN
from ptychoflow.models.forward import (
    check_input,
    check_labels,
    check_offsets,
    forward_model,
    illumination_weight,
    jitter,
)
from ptychoflow.models.spec import NetworkSpec
from ptychoflow.models.tf.losses import physics_loss, supervised_loss
from ptychoflow.models.tf.network import Autoencoder, PatchNet, export_weights
from ptychoflow.models.tf.physics import Physics
from ptychoflow.records import Normalization

InputOf = Callable[[Int64[np.ndarray, "b"]], Float32[np.ndarray, "b c n n"]]
LabelOf = Callable[[Int64[np.ndarray, "b"]], Complex64[np.ndarray, "b k n n"]]
OffsetsOf = Callable[[Int64[np.ndarray, "b"]], Float32[np.ndarray, "b c 2"]]

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8
"""Adam's constants, those of the PyTorch twin."""

WEIGHTS_SUFFIX = ".weights.h5"
"""Ending of weight files; Keras insists on it."""


@dataclass(frozen=True)
class Runtime:
    """Where the network runs; results repeat bit by bit only with the same number of threads."""

    device: str
    threads: int

    @property
    def precision(self) -> str:
        """Always `fp32`."""
        return "fp32"


def choose_runtime(device: str, precision: str) -> Runtime:
    """Return device and threads; deterministic operations are switched on. Call it before any other TensorFlow work.

    TensorFlow is the one library here that does not heed OMP_NUM_THREADS, so it is told.

    Raises:
        UnavailableError: bfloat16 or a GPU was asked for and is not there; nothing falls back to the CPU.
    """
    if precision == "bf16":
        raise UnavailableError("the TensorFlow arms compute in float32 only; leave the precision at auto or fp32")
    gpus = tf.config.list_physical_devices("GPU")
    if device == "cuda" and not gpus:
        raise UnavailableError(
            "a GPU was asked for (--device cuda) and TensorFlow sees none; check the driver and that the installed "
            "tensorflow is not tensorflow-cpu, or leave --use_gpu off"
        )
    threads = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    if device == "cuda":
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
    elif gpus:
        tf.config.set_visible_devices([], "GPU")
    return Runtime("/GPU:0" if device == "cuda" else "/CPU:0", threads)


def build_network(spec: NetworkSpec, config: ModelConfig, runtime: Runtime, *, seed: int) -> PatchNet:
    """Return a network with weights drawn from `seed`, on its device."""
    with tf.device(runtime.device):
        return PatchNet(spec, config, seed=seed)


def weights_of(network: PatchNet) -> dict[str, np.ndarray]:
    """Return the weights as contiguous arrays by name."""
    return export_weights(network)


def save_weights(network: PatchNet, path: Path) -> None:
    """Write the weights in Keras' own format; the name must end in `.weights.h5`."""
    network.save_weights(path)


class _Shelf(keras.Model):
    """Weights without a network, laid out as a `PatchNet` lays them out, for Keras' own writer."""

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        super().__init__()
        kernels = sorted(name for name in weights if name.endswith(".kernel"))
        self.convs = {}
        for name in kernels:
            kernel, conv = weights[name], name.removesuffix(".kernel")
            layer = keras.layers.Conv2D(kernel.shape[3], 3)
            layer.build((None, None, None, kernel.shape[2]))
            layer.set_weights([kernel, weights[f"{conv}.bias"]])
            self.convs[conv] = layer
        if LOG_GAIN in weights:
            self.add_weight(name=LOG_GAIN, shape=()).assign(weights[LOG_GAIN])
        self.built = True


def write_weights(weights: Mapping[str, np.ndarray], path: Path) -> None:
    """Write weights returned by `weights_of` as `save_weights` does."""
    _Shelf(weights).save_weights(path)


def load_weights(network: PatchNet, path: Path) -> None:
    """Read weights written by `save_weights`; the file holds arrays only."""
    network.load_weights(path)


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
    with tf.device(runtime.device), _memory_errors(f"{len(x)} frames a call; lower infer_batch_size"):
        return np.ascontiguousarray(network.infer(tf.constant(_last(x))).numpy().transpose(0, 3, 1, 2))


def trace_inference(network: PatchNet, sizes: Iterable[int], runtime: Runtime) -> None:
    """Compile what `predict_patches` runs, for each number of groups in a call."""
    spec = network.spec
    with tf.device(runtime.device):
        for size in sizes:
            network.infer.get_concrete_function(tf.TensorSpec((size, spec.n, spec.n, spec.channels_in)))


@contextlib.contextmanager
def _memory_errors(advice: str) -> Iterator[None]:
    """Turn the GPU's out-of-memory error into ours, which the workflow answers with a smaller batch."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        raise DeviceMemoryError(f"the GPU ran out of memory with {advice}") from error


def _last(images: np.ndarray) -> np.ndarray:
    """Return (B, N, N, C) of (B, C, N, N)."""
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1))


class _TensorFlowBackend:
    """What both backends share: optimizer, compiled steps, state as arrays.

    A step is traced once per number of groups: for whole batches and for the last, smaller one. Tracing, gradients included,
    is `compile_seconds`; what the runtime optimizes in the first run of a trace cannot be told from running it.
    """

    def __init__(
        self, network: PatchNet, model: keras.Model, runtime: Runtime, config: TrainConfig, input_of: InputOf
    ) -> None:
        self.network, self.model, self.runtime, self.config = network, model, runtime, config
        self._input_of = input_of
        self._steps = 0
        self.compile_seconds = 0.0
        self._traced: set[tuple[str, int]] = set()
        with tf.device(runtime.device):
            self._variables = [variable.value for variable in model.trainable_variables]
            self._moments = [
                [tf.Variable(tf.zeros_like(value), trainable=False) for value in self._variables] for _ in range(2)
            ]
        self._names = [variable.path for variable in model.trainable_variables]
        self._compiled_step = tf.function(self._step, autograph=False)
        self._compiled_loss = tf.function(self._loss, autograph=False)

    def _tensors(self, batch: Int64[np.ndarray, "b"], *, training: bool) -> tuple[np.ndarray, ...]:
        """Return what `_loss` takes, for a batch."""
        raise TypeError("use PhysicsBackend or SupervisedBackend")

    def _loss(self, *tensors: tf.Tensor) -> tf.Tensor:
        raise TypeError("use PhysicsBackend or SupervisedBackend")

    def _step(self, rate: tf.Tensor, epsilon: tf.Tensor, *tensors: tf.Tensor) -> tf.Tensor:
        """Take one Adam step and return the loss before it; rate and epsilon hold the corrections of the moments' bias."""
        with tf.GradientTape() as tape:
            loss = self._loss(*tensors)
        gradients = tape.gradient(loss, self._variables)
        for value, first, second, gradient in zip(self._variables, *self._moments, gradients, strict=True):
            tf.raw_ops.ResourceApplyAdam(
                var=value.handle, m=first.handle, v=second.handle, beta1_power=0.0, beta2_power=0.0, lr=rate,
                beta1=BETA_1, beta2=BETA_2, epsilon=epsilon, grad=gradient,
            )  # fmt: skip
        return loss

    def train_step(self, batch: Int64[np.ndarray, "b"], learning_rate: float) -> float:
        """Take one Adam step and return the loss before it."""
        tensors = self._tensors(batch, training=True)
        self._steps += 1
        bias_1, bias_2 = 1 - BETA_1**self._steps, math.sqrt(1 - BETA_2**self._steps)
        rate, epsilon = tf.constant(learning_rate * bias_2 / bias_1), tf.constant(EPSILON * bias_2)
        with tf.device(self.runtime.device), _memory_errors(f"{len(batch)} groups a step; lower batch_size"):
            return self._run("step", self._compiled_step, len(batch), rate, epsilon, *map(tf.constant, tensors))

    def loss(self, batch: Int64[np.ndarray, "b"]) -> float:
        """Return the loss without a step."""
        tensors = self._tensors(batch, training=False)
        with tf.device(self.runtime.device), _memory_errors(f"{len(batch)} groups of validation; lower batch_size"):
            return self._run("loss", self._compiled_loss, len(batch), *map(tf.constant, tensors))

    def _run(
        self, name: str, compiled: tf.types.experimental.PolymorphicFunction, size: int, *tensors: tf.Tensor
    ) -> float:
        """Return the loss; a number of groups that is new to the function is traced before, and timed apart."""
        if (name, size) not in self._traced:
            clock = time.monotonic()
            compiled.get_concrete_function(*tensors)
            self._traced.add((name, size))
            self.compile_seconds += time.monotonic() - clock
        return float(compiled(*tensors))

    def state(self) -> dict[str, np.ndarray]:
        """Return weights, Adam moments and the number of steps as arrays."""
        arrays = {"steps": np.array([self._steps])}
        kinds = zip(("weights", "adam.m", "adam.v"), (self._variables, *self._moments), strict=True)
        for kind, values in kinds:
            arrays |= {f"{kind}.{name}": value.numpy() for name, value in zip(self._names, values, strict=True)}
        return arrays

    def weights(self) -> dict[str, np.ndarray]:
        """Return the weights alone, as inference needs them."""
        return weights_of(self.network)

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Take over weights, Adam moments and the number of steps."""
        self._steps = int(state["steps"][0])
        kinds = zip(("weights", "adam.m", "adam.v"), (self._variables, *self._moments), strict=True)
        for kind, values in kinds:
            for name, value in zip(self._names, values, strict=True):
                value.assign(state[f"{kind}.{name}"])


class PhysicsBackend(_TensorFlowBackend):
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
        with tf.device(runtime.device):
            model = Autoencoder(network, Physics(self.forward_model), intensity_scale=normalization.intensity_scale)
        super().__init__(network, model, runtime, config, input_of)
        self.normalization, self._seed = normalization, seed
        self._offsets_of = offsets_of or (lambda batch: np.zeros((len(batch), 1, 2), np.float32))

    def probe(self) -> Complex64[np.ndarray, "k n n"]:
        """Return the probe of the moment in the unit of the scan's probe."""
        return self.model.physics.probe().numpy() / np.float32(self.forward_model.probe_scale)

    def weights(self) -> dict[str, np.ndarray]:
        """Return the weights as inference needs them, and `probe` where it is refined."""
        return super().weights() | ({"probe": self.probe()} if self.forward_model.trainable_probe else {})

    def _tensors(self, batch: Int64[np.ndarray, "b"], *, training: bool) -> tuple[np.ndarray, ...]:
        x, offsets = self._input_of(batch), self._offsets_of(batch)
        check_input(self.network.spec, x)
        check_offsets(self.forward_model, offsets)
        sigma = self.network.config.extraction_jitter_px
        measured = _last(np.float32(self.normalization.intensity_scale) * x)
        positions = np.ascontiguousarray(offsets.transpose(0, 2, 1)[:, None])
        if not (training and sigma):
            return measured, positions
        return measured, positions, offsets + jitter(offsets.shape, sigma, seed=self._seed, step=self._steps)

    def _loss(self, measured: tf.Tensor, positions: tf.Tensor, displaced: tf.Tensor | None = None) -> tf.Tensor:
        objects, amplitude, _ = self.model([measured, positions], displaced=displaced)
        return physics_loss(
            amplitude, measured, objects, config=self.config, mean_counts=self.normalization.mean_counts_per_pixel
        )


class SupervisedBackend(_TensorFlowBackend):
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
        super().__init__(network, network, runtime, config, input_of)
        self._label_of = label_of
        self._weight = tf.constant(illumination_weight(probe))

    def _tensors(self, batch: Int64[np.ndarray, "b"], *, training: bool) -> tuple[np.ndarray, ...]:
        x, labels = self._input_of(batch), self._label_of(batch)
        check_input(self.network.spec, x)
        check_labels(self.network.spec, labels)
        return _last(x), _last(labels)

    def _loss(self, x: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        return supervised_loss(self.network(x), labels, self._weight)
