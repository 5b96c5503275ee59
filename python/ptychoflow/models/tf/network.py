"""The U-Net in TensorFlow, built from the layer table of models/spec.py, and the specified models around it.

`PatchNet` maps diffraction to complex object patches. `Autoencoder` is the whole trained model, [s X, positions] in and
[object, amplitude, intensity] out; `DiffractionToObject` shares its layers and stops at the object.
"""

import math
from collections.abc import Callable, Mapping

import keras
import numpy as np
import tensorflow as tf
from jaxtyping import Complex64, Float32

from ptychoflow.config import ModelConfig
from ptychoflow.errors import ContractError
from ptychoflow.models.exchange import LOG_GAIN, bias_name, check_weights, kernel_name
from ptychoflow.models.spec import Conv, NetworkSpec, conv_table
from ptychoflow.models.tf.physics import Physics

ACTIVATIONS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "sigmoid": tf.sigmoid,
    "swish": tf.nn.silu,
    "softplus": tf.nn.softplus,
    "relu": tf.nn.relu,
}


def _conv(row: Conv, seed: int) -> keras.layers.Conv2D:
    """Return a 3x3 "same" convolution, Glorot-uniform with zero bias (a flat start collapses less, D31).

    ReLU comes with it, except where a map leaves the network.
    """
    layer = keras.layers.Conv2D(
        row.channels_out,
        3,
        padding="same",
        activation=None if row.name.endswith(("_centre", "_out")) else "relu",
        kernel_initializer=keras.initializers.GlorotUniform(seed=seed),
        name=row.name,
    )
    layer.build((None, None, None, row.channels_in))
    return layer


def _double(x: Float32[tf.Tensor, "b rows cols c"]) -> Float32[tf.Tensor, "b rows2 cols2 c"]:
    """Return twice the size by nearest neighbours; one axis at a time, for the gradient is 7 times faster that way."""
    return tf.repeat(tf.repeat(x, 2, axis=1), 2, axis=2)


class PatchNet(keras.Model):
    """Diffraction amplitude at network scale in, complex object patches in units of the object scale out."""

    def __init__(self, spec: NetworkSpec, config: ModelConfig, *, seed: int) -> None:
        super().__init__(name="patch_net")
        self.spec, self.config = spec, config
        table = conv_table(spec)
        seeds = np.random.SeedSequence(seed).generate_state(len(table)).tolist()
        # Kept by sorted name: the order in which Keras numbers the layers in a weight file.
        self.convs = {
            row.name: _conv(row, own)
            for own, row in sorted(zip(seeds, table, strict=True), key=lambda pair: pair[1].name)
        }
        if config.trainable_scale:
            self.log_gain = self.add_weight(name=LOG_GAIN, shape=(), initializer="zeros")
        quarter = spec.n // 4
        mask = np.ones((1, spec.n, spec.n, 1), np.float32)
        mask[:, quarter:-quarter, quarter:-quarter] = 0
        self._border_mask = mask
        self.infer = tf.function(self.call, autograph=False)
        self.built = True

    def gain(self) -> Float32[tf.Tensor, ""] | None:
        """Return log_scale - log s, None where the scale is fixed."""
        return tf.convert_to_tensor(self.log_gain) if self.config.trainable_scale else None

    def call(self, x: Float32[tf.Tensor, "b n n c"]) -> Complex64[tf.Tensor, "b n n k"]:
        """Return amplitude * exp(i phase); amplitude by its head's activation, phase = pi tanh."""
        gain = self.gain()
        code = x if gain is None else x / tf.exp(gain)
        for number in range(1, len(self.spec.encoder) + 1):
            code = tf.nn.max_pool2d(self._block("encoder", number, code), 2, 2, "VALID")
        centre_amplitude, border_amplitude = self._decode("amplitude", code)
        centre_phase, border_phase = self._decode("phase", code)
        amplitude = ACTIVATIONS[self.config.amplitude_activation](centre_amplitude)
        amplitude = self.config.amplitude_limit * self._place(amplitude, border_amplitude)
        phase = self._place(math.pi * tf.tanh(centre_phase), border_phase)
        return tf.complex(amplitude * tf.cos(phase), amplitude * tf.sin(phase))

    def _block(self, prefix: str, number: int, x: tf.Tensor) -> tf.Tensor:
        return self.convs[f"{prefix}_{number}b"](self.convs[f"{prefix}_{number}a"](x))

    def _head(self, prefix: str, x: tf.Tensor) -> tf.Tensor:
        """Return the map of a head that goes from side N/2 to N."""
        return self.convs[f"{prefix}_out"](_double(self._block(prefix, 1, x)))

    def _decode(self, part: str, code: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Return the centre map before its activation, and the border map where there is a border head."""
        for number in range(1, len(self.spec.decoder) + 1):
            code = _double(self._block(part, number, code))
        if self.spec.output == "full":
            return self._head(f"{part}_full", code), None
        border = self.spec.border
        if not border:
            return self.convs[f"{part}_centre"](code), None
        centre = self.convs[f"{part}_centre"](code[..., :-border])
        return centre, self._head(f"{part}_border", code[..., -border:])

    def _place(self, centre: tf.Tensor, border: tf.Tensor | None) -> tf.Tensor:
        """Return the N x N map: the centre padded with zeros, the border head's swish outside it."""
        if self.spec.output == "full":
            return centre
        quarter = self.spec.n // 4
        placed = tf.pad(centre, [[0, 0], [quarter, quarter], [quarter, quarter], [0, 0]])
        return placed if border is None else placed + tf.nn.silu(border) * self._border_mask


def export_weights(network: PatchNet) -> dict[str, np.ndarray]:
    """Return the weights by name and layout of models/exchange.py."""
    arrays = {}
    for row in conv_table(network.spec):
        conv = network.convs[row.name]
        arrays[kernel_name(row.name)] = conv.kernel.value.numpy()
        arrays[bias_name(row.name)] = conv.bias.value.numpy()
    if network.config.trainable_scale:
        arrays[LOG_GAIN] = np.asarray(network.log_gain.value.numpy())
    return arrays


def import_weights(network: PatchNet, arrays: Mapping[str, np.ndarray]) -> None:
    """Take over weights that `export_weights` of any framework has written.

    Raises:
        ContractError: they are not those of this network.
    """
    check_weights(arrays, network.spec, trainable_scale=network.config.trainable_scale)
    for name, conv in network.convs.items():
        conv.kernel.assign(arrays[kernel_name(name)])
        conv.bias.assign(arrays[bias_name(name)])
    if network.config.trainable_scale:
        network.log_gain.assign(arrays[LOG_GAIN])


def members_first(images: tf.Tensor) -> tf.Tensor:
    """Return (B, C, N, N) of (B, N, N, C)."""
    return tf.transpose(images, (0, 3, 1, 2))


def members_last(images: tf.Tensor) -> tf.Tensor:
    """Return (B, N, N, C) of (B, C, N, N)."""
    return tf.transpose(images, (0, 2, 3, 1))


def _offsets(network: PatchNet, diffraction: tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
    """Return positions as (B, C, 2).

    Raises:
        ContractError: frames or positions that the network is not made for.
    """
    spec = network.spec
    frames, places = tuple(diffraction.shape[1:]), tuple(positions.shape[1:])
    wanted = (spec.n, spec.n, spec.channels_in), (1, 2, spec.channels_in)
    if (frames, places) != wanted:
        raise ContractError(
            f"the model takes diffraction (B, {', '.join(map(str, wanted[0]))}) and positions "
            f"(B, {', '.join(map(str, wanted[1]))}), got (B, {', '.join(map(str, frames))}) and (B, {', '.join(map(str, places))})"
        )
    return tf.transpose(positions[:, 0], (0, 2, 1))


class Autoencoder(keras.Model):
    """The specified model: [s X (B,N,N,C), positions (B,1,2,C)] -> [object (B,N,N,1), amplitude, intensity (B,N,N,C)].

    Positions are displacements from the group's centre in px, axis 2 = (row, col), positive downwards and to the right; a
    grouped file's `coords_relative` goes through `forward.offsets_of_relative` first. The intensity scaler divides by
    exp(log_scale), log_scale = log s + log_gain, and multiplies by it after the FFT (s is part of the scaled probe).
    """

    def __init__(self, network: PatchNet, physics: Physics, *, intensity_scale: float) -> None:
        super().__init__(name="autoencoder")
        self.network, self.physics, self.intensity_scale = network, physics, intensity_scale
        self.built = True

    def call(self, inputs: list[tf.Tensor], displaced: tf.Tensor | None = None) -> list[tf.Tensor]:
        """Return [object, amplitude, intensity]; `displaced` (B,C,2) replaces the positions of the extraction."""
        diffraction, positions = inputs
        offsets = _offsets(self.network, diffraction, positions)
        patches = members_first(self.network(diffraction / self.intensity_scale))
        outputs = self.physics(patches, offsets, displaced=displaced, log_gain=self.network.gain())
        return [members_last(output) for output in outputs]


class DiffractionToObject(keras.Model):
    """The inference half of `Autoencoder`: [s X, positions] -> object (B,N,N,1), the centre of the local object."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__(name="diffraction_to_obj")
        self.network, self.physics = autoencoder.network, autoencoder.physics
        self.intensity_scale = autoencoder.intensity_scale
        self.built = True

    def call(self, inputs: list[tf.Tensor]) -> tf.Tensor:
        """Return the object in units of the object scale."""
        diffraction, positions = inputs
        offsets = _offsets(self.network, diffraction, positions)
        patches = members_first(self.network(diffraction / self.intensity_scale))
        return members_last(self.physics.trim(self.physics.merge(patches, offsets)))
