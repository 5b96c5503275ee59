"""A decoder: tokens to one channel of full size, doubling the side at every stage."""

from itertools import pairwise

from torch import nn


class Upsample(nn.Module):
    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.block = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(channels_in, channels_out, 3, padding=1)
        )

    def forward(self, x):
        return self.block(x)


class Refine(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.block = nn.Sequential(nn.GELU(), nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x):
        return x + self.block(x)


class Decoder(nn.Module):
    def __init__(self, embed_dim, base_channels, num_stages):
        super().__init__()
        widths = [embed_dim, *(base_channels * 2**stage for stage in reversed(range(num_stages)))]
        self.stages = nn.ModuleList(
            nn.Sequential(Upsample(wide, narrow), Refine(narrow)) for wide, narrow in pairwise(widths)
        )
        self.output = nn.Conv2d(base_channels, 1, 3, padding=1)

    def forward(self, x):
        for stage in self.stages:
            x = stage(x)
        return self.output(x)
