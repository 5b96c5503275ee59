"""Child of the parity test: `child_torch.py OUT SOURCE CASE...` computes cases in PyTorch.

Where SOURCE holds weights of a case, written by the other child, it takes them; else it draws some, trains one step so that
biases are not zero, and writes them to OUT.
"""

import sys
from pathlib import Path

import numpy as np
import torch

import parity_case
from ptychoflow.models.exchange import hwio_from_oihw
from ptychoflow.models.torch import backend as module
from ptychoflow.models.torch.network import _convs, export_weights, import_weights


def gradients(backend, name: str) -> dict[str, np.ndarray]:
    """Return loss and gradients of the first step of a backend, by the names of the exchange."""
    backend.network.train()
    loss = backend._loss(np.arange(parity_case.BATCH))
    loss.backward()
    arrays = {f"{name}/loss": loss.detach().numpy()}
    for conv, layer in _convs(backend.network).items():
        arrays[f"{name}/grad/{conv}.kernel"] = hwio_from_oihw(layer.weight.grad.numpy())
        arrays[f"{name}/grad/{conv}.bias"] = layer.bias.grad.numpy()
    if backend.network.log_gain is not None and backend.network.log_gain.grad is not None:
        arrays[f"{name}/grad/log_gain"] = backend.network.log_gain.grad.numpy()
    if backend.physics is not None and backend.forward_model.trainable_probe:
        arrays[f"{name}/grad/probe_change"] = backend.physics.probe_change.grad.numpy()
    backend.optimizer.zero_grad(set_to_none=True)
    return {key: np.array(value) for key, value in arrays.items()}


def compute(case: str, weights: dict[str, np.ndarray] | None, out: Path) -> None:
    """Write weights and results of one case."""
    batch = np.arange(parity_case.BATCH)
    if weights is None:
        first, _ = parity_case.backends(module, case, None, import_weights)
        first.train_step(batch, parity_case.RATE)
        weights = export_weights(first.network)
        np.savez(out / f"{case}.weights.npz", **weights)
    physics, supervised = parity_case.backends(module, case, weights, import_weights)
    data = parity_case.inputs(case)
    results = {"patches": module.predict_patches(physics.network, data["x"], physics.runtime)}
    with torch.no_grad():
        outputs = physics.physics(
            torch.from_numpy(results["patches"]), torch.from_numpy(data["offsets"]), log_gain=physics.network.log_gain
        )
    results |= {name: value.numpy() for name, value in outputs._asdict().items()}
    results |= gradients(physics, "physics") | gradients(supervised, "supervised")
    for name, backend in (("physics", physics), ("supervised", supervised)):
        results[f"{name}/steps"] = np.array(
            [backend.train_step(batch, parity_case.RATE) for _ in range(parity_case.STEPS)]
        )
    np.savez(out / f"{case}.results.npz", **results)


if __name__ == "__main__":
    folder, source, *cases = sys.argv[1:]
    for one in cases:
        written = Path(source) / f"{one}.weights.npz"
        compute(one, parity_case.read(written) if written.exists() else None, Path(folder))
