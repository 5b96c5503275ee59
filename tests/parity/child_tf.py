"""Child of the parity test: `child_tf.py OUT SOURCE CASE...` computes cases in TensorFlow.

Where SOURCE holds weights of a case, written by the other child, it takes them; else it draws some, trains one step so that
biases are not zero, and writes them to OUT.
"""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

import parity_case
from ptychoflow.models.tf import backend as module
from ptychoflow.models.tf.network import export_weights, import_weights


def gradients(backend, name: str) -> dict[str, np.ndarray]:
    """Return loss and gradients of the first step of a backend, by the names of the exchange."""
    tensors = [tf.constant(array) for array in backend._tensors(np.arange(parity_case.BATCH), training=True)]
    with tf.GradientTape() as tape:
        loss = backend._loss(*tensors)
    arrays = {f"{name}/loss": loss.numpy()}
    for path, value in zip(backend._names, tape.gradient(loss, backend._variables), strict=True):
        if value is not None:
            known = path.split("/")[-1] if path.split("/")[0] in ("physics", "patch_net") else path.replace("/", ".")
            arrays[f"{name}/grad/{known}"] = value.numpy()
    return arrays


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
    outputs = physics.model([tf.constant(array) for array in physics._tensors(batch, training=False)])
    for key, value in zip(("object", "amplitude", "intensity"), outputs, strict=True):
        results[key] = value.numpy().transpose(0, 3, 1, 2)
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
