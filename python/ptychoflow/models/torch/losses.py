"""Losses of the neural arms (physics section 10), one definition for every framework.

    total = w_real TV(O) + w_mae mean|s X^ - s X| + w_nll D / mean_train(y),   y = (s X)^2,  lambda = (s X^)^2
    D = mean(lambda - y + y log(y / lambda)) >= 0,  0 log 0 = 0,  lambda >= 1e-8

The loss of a sample never depends on the batch it came in (D27); D is 0 at lambda = y (D28).
"""

import torch
from jaxtyping import Complex64, Float32
from torch import Tensor

from ptychoflow.config import TrainConfig

LEAST_RATE = 1e-8


def amplitude_mae(
    predicted: Float32[Tensor, "b c rows cols"], measured: Float32[Tensor, "b c rows cols"]
) -> Float32[Tensor, ""]:
    """Return the mean absolute difference of two amplitudes, in their unit."""
    return (predicted - measured).abs().mean()


def poisson_deviance(
    rate: Float32[Tensor, "b c rows cols"], counts: Float32[Tensor, "b c rows cols"]
) -> Float32[Tensor, ""]:
    """Return mean(lambda - y + y log(y / lambda)): the Poisson NLL plus a term without parameters."""
    rate = rate.clamp_min(LEAST_RATE)
    return (rate - counts + torch.xlogy(counts, counts.clamp_min(LEAST_RATE) / rate)).mean()


def total_variation(patches: Complex64[Tensor, "b c rows cols"]) -> Float32[Tensor, ""]:
    """Return the mean over patches of the sum of squared finite differences, real and imaginary part (D30)."""
    rows = (patches[..., 1:, :] - patches[..., :-1, :]).abs().square().sum()
    cols = (patches[..., :, 1:] - patches[..., :, :-1]).abs().square().sum()
    return (rows + cols) / (patches.shape[0] * patches.shape[1])


def physics_loss(
    predicted: Float32[Tensor, "b c rows cols"],
    measured: Float32[Tensor, "b c rows cols"],
    objects: Complex64[Tensor, "b k rows cols"],
    *,
    config: TrainConfig,
    mean_counts: float,
) -> Float32[Tensor, ""]:
    """Return the self-supervised loss of counts amplitudes (photons^1/2) `s X^` against `s X`, and of the local objects."""
    total = predicted.new_zeros(())
    if config.realspace_weight:
        total = total + config.realspace_weight * total_variation(objects)
    if config.mae_weight:
        total = total + config.mae_weight * amplitude_mae(predicted, measured)
    if config.nll_weight:
        deviance = poisson_deviance(predicted.square(), measured.square())
        total = total + config.nll_weight * deviance / mean_counts
    return total


def supervised_loss(
    patches: Complex64[Tensor, "b c rows cols"],
    labels: Complex64[Tensor, "b c rows cols"],
    weight: Float32[Tensor, "rows cols"],
) -> Float32[Tensor, ""]:
    """Return MAE of the amplitude plus MAE of the wrapped phase, against object patches (never |P O|, D23).

    Pixels count by `weight`, of mean 1 (forward.illumination_weight): diffraction says nothing of those that the probe
    does not reach, and unweighted they outnumber the others.
    """
    amplitude = (weight * (patches.abs() - labels.abs()).abs()).mean()
    phase = (weight * torch.angle(patches * labels.conj()).abs()).mean()
    return amplitude + phase
