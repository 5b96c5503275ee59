"""The U-Net in PyTorch, built from the layer table of models/spec.py. It maps diffraction to complex object patches."""

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Complex64, Float32
from torch import Tensor, nn

from ptychoflow.config import ModelConfig
from ptychoflow.models.exchange import (
    LOG_GAIN,
    bias_name,
    check_weights,
    hwio_from_oihw,
    kernel_name,
    oihw_from_hwio,
)
from ptychoflow.models.spec import NetworkSpec, conv_table

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "swish": nn.functional.silu,
    "softplus": nn.functional.softplus,
    "relu": torch.relu,
}


def _conv(channels_in: int, channels_out: int) -> nn.Conv2d:
    """Return a 3x3 "same" convolution, Glorot-uniform with zero bias (a flat start collapses less, D31)."""
    layer = nn.Conv2d(channels_in, channels_out, 3, padding=1)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def _stack(channels: int, filters: tuple[int, ...], resize: nn.Module) -> nn.Sequential:
    """Return blocks of two convolutions and a change of size."""
    layers: list[nn.Module] = []
    for width in filters:
        layers += [_conv(channels, width), nn.ReLU(), _conv(width, width), nn.ReLU(), resize]
        channels = width
    return nn.Sequential(*layers)


def _upsampling_head(channels: int, spec: NetworkSpec) -> nn.Sequential:
    """Return the head that goes from side N/2 to N."""
    return nn.Sequential(
        *_stack(channels, (spec.head,), nn.Upsample(scale_factor=2)), _conv(spec.head, spec.channels_out)
    )


class Decoder(nn.Module):
    """One decoder with its end: central map before activation, border map or None (physics section 8, ends a and b)."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.border = spec.border
        self.body = _stack(spec.encoder[-1], spec.decoder, nn.Upsample(scale_factor=2))
        last = spec.decoder[-1]
        if spec.output == "full":
            self.centre_head: nn.Module = _upsampling_head(last, spec)
        else:
            self.centre_head = _conv(last - spec.border, spec.channels_out)
        self.border_head = _upsampling_head(spec.border, spec) if spec.border else None

    def forward(self, code: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the centre map before its activation, and the border map where there is a border head."""
        features = self.body(code)
        if self.border_head is None:
            return self.centre_head(features), None
        return self.centre_head(features[:, : -self.border]), self.border_head(features[:, -self.border :])


class PatchNet(nn.Module):
    """Diffraction amplitude at network scale in, complex object patches in units of the object scale out."""

    def __init__(self, spec: NetworkSpec, config: ModelConfig) -> None:
        super().__init__()
        self.spec, self.config = spec, config
        self.encoder = _stack(spec.channels_in, spec.encoder, nn.MaxPool2d(2))
        self.amplitude = Decoder(spec)
        self.phase = Decoder(spec)
        quarter = spec.n // 4
        mask = torch.ones(spec.n, spec.n)
        mask[quarter:-quarter, quarter:-quarter] = 0
        self.border_mask: Tensor
        self.register_buffer("border_mask", mask, persistent=False)
        self.log_gain = nn.Parameter(torch.zeros(())) if config.trainable_scale else None

    def forward(self, x: Float32[Tensor, "b c n n"]) -> Complex64[Tensor, "b k n n"]:
        """Return amplitude * exp(i phase); amplitude by its head's activation, phase = pi tanh."""
        code = self.encoder(x if self.log_gain is None else x / torch.exp(self.log_gain))
        centre_amplitude, border_amplitude = self.amplitude(code)
        centre_phase, border_phase = self.phase(code)
        amplitude = ACTIVATIONS[self.config.amplitude_activation](centre_amplitude.float())
        phase = math.pi * torch.tanh(centre_phase.float())
        amplitude = self.config.amplitude_limit * self._place(amplitude, border_amplitude)
        phase = self._place(phase, border_phase)
        # Not torch.polar: its gradient has the wrong sign where the amplitude is negative, as swish may be.
        return torch.complex(amplitude * torch.cos(phase), amplitude * torch.sin(phase))

    def _place(self, centre: Tensor, border: Tensor | None) -> Tensor:
        """Return the N x N map: the centre padded with zeros, the border head's swish outside it."""
        if self.spec.output == "full":
            return centre
        placed = nn.functional.pad(centre, [self.spec.n // 4] * 4)
        if border is None:
            return placed
        return placed + nn.functional.silu(border.float()) * self.border_mask


def _convs(network: PatchNet) -> dict[str, nn.Conv2d]:
    """Return the convolutions by the names of the layer table: both list them in the order of the data."""
    found = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    return {row.name: conv for row, conv in zip(conv_table(network.spec), found, strict=True)}


def export_weights(network: PatchNet) -> dict[str, np.ndarray]:
    """Return the weights by name and layout of models/exchange.py."""
    arrays = {}
    for name, conv in _convs(network).items():
        arrays[kernel_name(name)] = hwio_from_oihw(conv.weight.detach().cpu().numpy())
        arrays[bias_name(name)] = conv.bias.detach().cpu().numpy().copy()  # type: ignore[union-attr]
    if network.log_gain is not None:
        arrays[LOG_GAIN] = network.log_gain.detach().cpu().numpy().copy()
    return arrays


def import_weights(network: PatchNet, arrays: Mapping[str, np.ndarray]) -> None:
    """Take over weights that `export_weights` of any framework has written.

    Raises:
        ContractError: they are not those of this network.
    """
    check_weights(arrays, network.spec, trainable_scale=network.config.trainable_scale)
    with torch.no_grad():
        for name, conv in _convs(network).items():
            conv.weight.copy_(torch.from_numpy(oihw_from_hwio(arrays[kernel_name(name)])))
            conv.bias.copy_(torch.from_numpy(arrays[bias_name(name)]))  # type: ignore[union-attr]
        if network.log_gain is not None:
            network.log_gain.copy_(torch.from_numpy(arrays[LOG_GAIN]))
