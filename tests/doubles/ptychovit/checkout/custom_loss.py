"""The losses of `training.loss_function`."""

import torch
from torch.nn import functional

ELEMENTWISE = {"smooth_l1": functional.smooth_l1_loss, "mse": functional.mse_loss, "l1": functional.l1_loss}


def make_loss(name, weighted_loss):
    """Return a function of prediction and target; `weighted_loss` (loss_type, threshold, alpha) is for `weighted` only."""
    if name == "poisson_nll":
        return lambda predicted, target: functional.poisson_nll_loss(predicted, target, log_input=False)
    if name == "weighted":
        elementwise = ELEMENTWISE[weighted_loss["loss_type"]]
        threshold, alpha = weighted_loss["threshold"], weighted_loss["alpha"]

        def weighted(predicted, target):
            weights = torch.where(target > threshold, 1 + alpha, 1.0)
            return (weights * elementwise(predicted, target, reduction="none")).mean()

        return weighted
    return ELEMENTWISE[name]
