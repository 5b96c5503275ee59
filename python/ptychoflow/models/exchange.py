"""Weights as both frameworks know them: names and layouts, framework-free.

Each convolution of models/spec.py gives `<name>.kernel` (3, 3, in, out) and `<name>.bias` (out,), float32. `log_gain` (), where
the scale is trainable, is the learnt change of the logarithm of the intensity scale: log_scale = log s + log_gain.
`export_weights` and `import_weights` in the network.py of each framework write and read such a set.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float32

from ptychoflow.errors import refuse
from ptychoflow.models.spec import NetworkSpec, conv_table

LOG_GAIN = "log_gain"


def kernel_name(conv: str) -> str:
    """Return the name of a convolution's kernel."""
    return f"{conv}.kernel"


def bias_name(conv: str) -> str:
    """Return the name of a convolution's bias."""
    return f"{conv}.bias"


def weight_shapes(spec: NetworkSpec, *, trainable_scale: bool) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every array of a weight set, in the order of the layers."""
    shapes: dict[str, tuple[int, ...]] = {}
    for conv in conv_table(spec):
        shapes[kernel_name(conv.name)] = (3, 3, conv.channels_in, conv.channels_out)
        shapes[bias_name(conv.name)] = (conv.channels_out,)
    return shapes | ({LOG_GAIN: ()} if trainable_scale else {})


def check_weights(arrays: Mapping[str, np.ndarray], spec: NetworkSpec, *, trainable_scale: bool) -> None:
    """Refuse a weight set that is not the one of this network.

    Raises:
        ContractError: arrays that are missing, unknown or of another shape, all at once.
    """
    expected = weight_shapes(spec, trainable_scale=trainable_scale)
    problems = [f"{name} is missing" for name in expected if name not in arrays]
    problems += [f"{name} is not part of this network" for name in arrays if name not in expected]
    problems += [
        f"{name} has shape {arrays[name].shape}, expected {shape}"
        for name, shape in expected.items()
        if name in arrays and arrays[name].shape != shape
    ]
    refuse(problems, what="these weights do not fit the network (was it built with the same model options?)")


def hwio_from_oihw(kernel: Float32[np.ndarray, "o i h w"]) -> Float32[np.ndarray, "h w i o"]:
    """Return a PyTorch kernel in the layout of the exchange, contiguous."""
    return np.ascontiguousarray(kernel.transpose(2, 3, 1, 0))


def oihw_from_hwio(kernel: Float32[np.ndarray, "h w i o"]) -> Float32[np.ndarray, "o i h w"]:
    """Return a kernel of the exchange in PyTorch's layout, contiguous."""
    return np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
