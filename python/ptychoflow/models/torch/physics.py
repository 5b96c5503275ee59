"""From object patches to diffraction in PyTorch (physics section 8): merge, crop, extract, illuminate, propagate.

The numbers come from models/forward.py. Merge and extract are each other's adjoint up to the weights, with the same positive
offsets; numerator and denominator of the merge carry the same weight (D17).
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Complex64, Float32
from torch import Tensor, nn

from ptychoflow.models.forward import ForwardModel
from ptychoflow.models.torch.fourier import far_field_amplitude
from ptychoflow.models.torch.losses import LEAST_RATE
from ptychoflow.models.torch.patches import gather, scatter


class Prediction(NamedTuple):
    """The three outputs of the model: local object, counts amplitude (photons^1/2), counts intensity > 0 (photons)."""

    object: Complex64[Tensor, "b 1 n n"]
    amplitude: Float32[Tensor, "b c n n"]
    intensity: Float32[Tensor, "b c n n"]


class Physics(nn.Module):
    """The fixed part of the model; its only parameter is the change of a trainable probe."""

    def __init__(self, forward_model: ForwardModel) -> None:
        super().__init__()
        self.model = forward_model
        self._probe: Tensor
        self._weight: Tensor
        self._mask: Tensor | None
        self._smoothing: Tensor | None
        self._register("_probe", forward_model.probe)
        self._register("_weight", forward_model.weight)
        self._register("_mask", forward_model.mask)
        self._register("_smoothing", forward_model.smoothing)
        if forward_model.trainable_probe:
            self.probe_change = nn.Parameter(torch.zeros(*forward_model.probe.shape, 2))

    def _register(self, name: str, array: np.ndarray | None) -> None:
        """Keep a constant on the module's device, out of its state."""
        self.register_buffer(name, None if array is None else torch.from_numpy(array), persistent=False)

    def probe(self) -> Complex64[Tensor, "k n n"]:
        """Return the probe of the moment; times a patch, it gives the counts amplitude."""
        if not self.model.trainable_probe:
            return self._probe
        change = torch.view_as_complex(self.model.probe_peak * self.probe_change)
        return self._probe + (change if self._mask is None else self._mask * change)

    def merge(
        self, patches: Complex64[Tensor, "b k n n"], offsets: Float32[Tensor, "b c 2"]
    ) -> Complex64[Tensor, "b side side"]:
        """Return the local objects: members averaged where they lie, weighted by |P|^2; one patch is padded with zeros."""
        pad = self.model.pad_px
        if self.model.patches == 1:
            return nn.functional.pad(patches[:, 0], [pad] * 4)
        side = self.model.n + 2 * pad
        total = scatter(self._weight * patches, offsets, side)
        weight = scatter(self._weight.expand(patches.shape), offsets, side)
        return torch.where(weight > 0, total / torch.where(weight > 0, weight, 1), 0)

    def trim(self, canvas: Complex64[Tensor, "b side side"]) -> Complex64[Tensor, "b 1 n n"]:
        """Return the central N x N of the local objects: output 1."""
        pad, n = self.model.pad_px, self.model.n
        return canvas[:, None, pad : pad + n, pad : pad + n]

    def extract(
        self, canvas: Complex64[Tensor, "b side side"], offsets: Float32[Tensor, "b c 2"]
    ) -> Complex64[Tensor, "b c n n"]:
        """Return what each member sees of its group's local object."""
        return canvas[:, None] if self.model.direct else gather(canvas, offsets, self.model.n)

    def diffract(
        self, windows: Complex64[Tensor, "b c n n"], log_gain: Float32[Tensor, ""] | None
    ) -> Float32[Tensor, "b c n n"]:
        """Return the counts amplitude s X^ of object windows: illumination, smoothing, FFT, scale."""
        wave = windows * self.probe()
        if self._smoothing is not None:
            blur = self._smoothing
            wave = torch.complex(blur @ wave.real @ blur.mT, blur @ wave.imag @ blur.mT)
        amplitude = far_field_amplitude(wave)
        return amplitude if log_gain is None else amplitude * torch.exp(log_gain)

    def forward(
        self,
        patches: Complex64[Tensor, "b k n n"],
        offsets: Float32[Tensor, "b c 2"],
        *,
        displaced: Float32[Tensor, "b c 2"] | None = None,
        log_gain: Float32[Tensor, ""] | None = None,
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
        return Prediction(self.trim(canvas), amplitude, amplitude.square().clamp_min(LEAST_RATE))
