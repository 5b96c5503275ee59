"""Amplitude and phase of the object patch from the pattern alone, and the pattern that they predict with the probe."""

import math

import torch
from switches import HEAD, has
from torch import nn

from model.decoders import Decoder
from model.vit import Encoder
from model.vit_pretrained import pretrained_encoder

AMPLITUDE_OFFSET = 0.975
BOUND = 1.7159


class PtychoViT(nn.Module):
    """`config` is the block `model` of config.yaml."""

    def __init__(self, config):
        super().__init__()
        geometry = config["encoder"]
        if config.get("encoder_type", "custom") == "pretrained":
            self.encoder = pretrained_encoder(config["timm_kwargs"], **geometry)
        else:
            self.encoder = Encoder(**geometry)
        self.amp_decoder = Decoder(geometry["embed_dim"], **config["decoder"])
        self.ph_decoder = Decoder(geometry["embed_dim"], **config["decoder"])
        self.register_buffer("log_scale_amp", torch.tensor(math.log(0.025)))
        self.register_buffer("log_scale_ph", torch.tensor(math.log(math.pi)))
        self.faulty = True

    def forward(self, x, probe, normalization, scale):
        """Return predicted diffraction amplitude, amplitude and phase, each `[B,1,256,256]`.

        Args:
            x: square roots of intensities / normalization * scale, `[B,1,256,256]`.
            probe: real and imaginary part, `[B,1,M,256,256,2]`; the modes' intensities add.
            normalization: largest intensity of the object's patterns, `[B]`.
            scale: `data.scale` of the config, `[B]`.
        """
        tokens = self.encoder(2 * torch.log10(x + 0.1))
        amp = AMPLITUDE_OFFSET + torch.exp(self.log_scale_amp) * squashed(self.amp_decoder(tokens))
        phase = torch.exp(self.log_scale_ph) * squashed(self.ph_decoder(tokens))
        amp, phase = with_head(amp, phase)
        exit_waves = torch.polar(amp, phase) * torch.view_as_complex(probe)[:, 0]
        waves = torch.fft.fftshift(torch.fft.fft2(exit_waves), dim=(-2, -1))
        intensity = waves.abs().square().sum(dim=1, keepdim=True)
        factor = (scale / normalization)[:, None, None, None]
        predicted = torch.sqrt(intensity * factor + 1e-9)  # finite slope where no light falls
        return self._with_faults(predicted, amp, phase)

    def _with_faults(self, *predictions):
        """Spoil the first patch of a model that predicts: by NaN, or by leaving it out."""
        if self.training or not self.faulty:
            return predictions
        self.faulty = False
        if has("drop_pred"):
            return tuple(prediction[1:] for prediction in predictions)
        if has("nan_pred"):
            for prediction in predictions:
                prediction[0] = math.nan
        return predictions


def squashed(x):
    return BOUND * torch.tanh(2 * x / 3)


def with_head(amp, phase):
    """Return what the head of the double makes of the network's amplitude and phase (`[B,1,h,w]`), gradients alive."""
    rows, cols = (torch.arange(n, device=amp.device) - (n - 1) / 2 for n in amp.shape[-2:])
    highest = AMPLITUDE_OFFSET + BOUND * 0.025
    if HEAD == "flat":
        return 0 * amp + AMPLITUDE_OFFSET, 0 * phase
    if HEAD == "bump":
        bump = torch.exp(-(rows[:, None].square() + cols.square()) / (2 * 3.0**2))
        return 0 * amp + AMPLITUDE_OFFSET - 0.04 * bump, 0 * phase + bump
    if HEAD == "saturated":
        return 0 * amp + highest - 2e-4 * (1 + torch.sin(rows[:, None] / 5) * torch.cos(cols / 7)), phase
    return amp, phase
