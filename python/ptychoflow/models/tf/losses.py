"""Losses of the neural arms (physics section 10), the twin of models/torch/losses.py, channels last.

    total = w_real TV(O) + w_mae mean|s X^ - s X| + w_nll D / mean_train(y),   y = (s X)^2,  lambda = (s X^)^2
    D = mean(lambda - y + y log(y / lambda)) >= 0,  0 log 0 = 0,  lambda >= 1e-8

The loss of a sample never depends on the batch it came in (D27); D is 0 at lambda = y (D28).
"""

import tensorflow as tf
from jaxtyping import Complex64, Float32

from ptychoflow.config import TrainConfig

LEAST_RATE = 1e-8


def amplitude_mae(
    predicted: Float32[tf.Tensor, "b rows cols c"], measured: Float32[tf.Tensor, "b rows cols c"]
) -> Float32[tf.Tensor, ""]:
    """Return the mean absolute difference of two amplitudes, in their unit."""
    return tf.reduce_mean(tf.abs(predicted - measured))


def poisson_deviance(
    rate: Float32[tf.Tensor, "b rows cols c"], counts: Float32[tf.Tensor, "b rows cols c"]
) -> Float32[tf.Tensor, ""]:
    """Return mean(lambda - y + y log(y / lambda)): the Poisson NLL plus a term without parameters."""
    rate = tf.maximum(rate, LEAST_RATE)
    return tf.reduce_mean(rate - counts + tf.math.xlogy(counts, tf.maximum(counts, LEAST_RATE) / rate))


def total_variation(patches: Complex64[tf.Tensor, "b rows cols c"]) -> Float32[tf.Tensor, ""]:
    """Return the mean over patches of the sum of squared finite differences, real and imaginary part (D30)."""
    rows = tf.reduce_sum(tf.square(tf.abs(patches[:, 1:] - patches[:, :-1])))
    cols = tf.reduce_sum(tf.square(tf.abs(patches[:, :, 1:] - patches[:, :, :-1])))
    return (rows + cols) / (patches.shape[0] * patches.shape[3])


def physics_loss(
    predicted: Float32[tf.Tensor, "b rows cols c"],
    measured: Float32[tf.Tensor, "b rows cols c"],
    objects: Complex64[tf.Tensor, "b rows cols k"],
    *,
    config: TrainConfig,
    mean_counts: float,
) -> Float32[tf.Tensor, ""]:
    """Return the self-supervised loss of counts amplitudes (photons^1/2) `s X^` against `s X`, and of the local objects."""
    total = tf.zeros(())
    if config.realspace_weight:
        total += config.realspace_weight * total_variation(objects)
    if config.mae_weight:
        total += config.mae_weight * amplitude_mae(predicted, measured)
    if config.nll_weight:
        total += config.nll_weight * poisson_deviance(tf.square(predicted), tf.square(measured)) / mean_counts
    return total


def supervised_loss(
    patches: Complex64[tf.Tensor, "b rows cols c"],
    labels: Complex64[tf.Tensor, "b rows cols c"],
    weight: Float32[tf.Tensor, "rows cols"],
) -> Float32[tf.Tensor, ""]:
    """Return MAE of the amplitude plus MAE of the wrapped phase, against object patches (never |P O|, D23).

    Pixels count by `weight`, of mean 1 (forward.illumination_weight): diffraction says nothing of those that the probe
    does not reach, and unweighted they outnumber the others.
    """
    weight = weight[:, :, None]
    amplitude = tf.reduce_mean(weight * tf.abs(tf.abs(patches) - tf.abs(labels)))
    product = patches * tf.math.conj(labels)
    # Where there is no phase its slope is 0; TensorFlow's own would be 0 / 0.
    turn = tf.abs(tf.math.angle(tf.where(product == 0, tf.ones_like(product), product)))
    phase = tf.reduce_mean(weight * turn)
    return amplitude + phase
