"""From object patches to diffraction in TensorFlow (physics section 8): merge, crop, extract, illuminate, propagate.

The numbers come from models/forward.py. Merge and extract are each other's adjoint up to the weights, with the same positive
offsets; numerator and denominator of the merge carry the same weight (D17).
"""

from typing import NamedTuple

import keras
import tensorflow as tf
from jaxtyping import Complex64, Float32

from ptychoflow.models.forward import ForwardModel
from ptychoflow.models.tf.fourier import far_field_amplitude
from ptychoflow.models.tf.losses import LEAST_RATE
from ptychoflow.models.tf.patches import gather, scatter


class Prediction(NamedTuple):
    """The three outputs of the model: local object, counts amplitude (photons^1/2), counts intensity > 0 (photons)."""

    object: Complex64[tf.Tensor, "b 1 n n"]
    amplitude: Float32[tf.Tensor, "b c n n"]
    intensity: Float32[tf.Tensor, "b c n n"]


class Physics(keras.Model):
    """The fixed part of the model; its only parameter is the change of a trainable probe."""

    def __init__(self, forward_model: ForwardModel) -> None:
        super().__init__(name="physics")
        self.model = forward_model
        if forward_model.trainable_probe:
            self.probe_change = self.add_weight(
                name="probe_change", shape=(*forward_model.probe.shape, 2), initializer="zeros"
            )
        self.built = True

    def probe(self) -> Complex64[tf.Tensor, "k n n"]:
        """Return the probe of the moment; times a patch, it gives the counts amplitude."""
        start = tf.constant(self.model.probe)
        if not self.model.trainable_probe:
            return start
        change = self.model.probe_peak * tf.convert_to_tensor(self.probe_change)
        if self.model.mask is not None:
            change *= self.model.mask[..., None]
        return start + tf.complex(change[..., 0], change[..., 1])

    def merge(
        self, patches: Complex64[tf.Tensor, "b k n n"], offsets: Float32[tf.Tensor, "b c 2"]
    ) -> Complex64[tf.Tensor, "b side side"]:
        """Return the local objects: members averaged where they lie, weighted by |P|^2; one patch is padded with zeros."""
        pad = self.model.pad_px
        if self.model.patches == 1:
            return tf.pad(patches[:, 0], [[0, 0], [pad, pad], [pad, pad]])
        side = self.model.n + 2 * pad
        share = tf.constant(self.model.weight)
        total = scatter(tf.cast(share, tf.complex64) * patches, offsets, side)
        weight = scatter(tf.broadcast_to(share, tf.shape(patches)), offsets, side)
        seen = weight > 0
        mean = total / tf.cast(tf.where(seen, weight, 1), tf.complex64)
        return tf.where(seen, mean, 0)

    def trim(self, canvas: Complex64[tf.Tensor, "b side side"]) -> Complex64[tf.Tensor, "b 1 n n"]:
        """Return the central N x N of the local objects: output 1."""
        pad, n = self.model.pad_px, self.model.n
        return canvas[:, None, pad : pad + n, pad : pad + n]

    def extract(
        self, canvas: Complex64[tf.Tensor, "b side side"], offsets: Float32[tf.Tensor, "b c 2"]
    ) -> Complex64[tf.Tensor, "b c n n"]:
        """Return what each member sees of its group's local object."""
        return canvas[:, None] if self.model.direct else gather(canvas, offsets, self.model.n)

    def diffract(
        self, windows: Complex64[tf.Tensor, "b c n n"], log_gain: Float32[tf.Tensor, ""] | None
    ) -> Float32[tf.Tensor, "b c n n"]:
        """Return the counts amplitude s X^ of object windows: illumination, smoothing, FFT, scale."""
        wave = windows * self.probe()
        if self.model.smoothing is not None:
            blur = tf.constant(self.model.smoothing)
            parts = (
                tf.matmul(blur @ part, blur, transpose_b=True) for part in (tf.math.real(wave), tf.math.imag(wave))
            )
            wave = tf.complex(*parts)
        amplitude = far_field_amplitude(wave)
        return amplitude if log_gain is None else amplitude * tf.exp(log_gain)

    def call(
        self,
        patches: Complex64[tf.Tensor, "b k n n"],
        offsets: Float32[tf.Tensor, "b c 2"],
        *,
        displaced: Float32[tf.Tensor, "b c 2"] | None = None,
        log_gain: Float32[tf.Tensor, ""] | None = None,
    ) -> Prediction:
        """Return object, amplitude and intensity.

        Args:
            patches: in units of the object scale, as the network gives them.
            offsets: members from their group's centre, px (row, col), positive.
            displaced: where windows are extracted instead, in training with jitter.
            log_gain: change of the logarithm of the intensity scale, where that is trainable.
        """
        canvas = self.merge(patches, offsets)
        windows = self.extract(canvas, offsets if displaced is None else displaced)
        amplitude = self.diffract(windows, log_gain)
        return Prediction(self.trim(canvas), amplitude, tf.maximum(tf.square(amplitude), LEAST_RATE))
