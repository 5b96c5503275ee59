"""The encoder: 16-pixel tokens of the pattern and a few blocks of attention."""

import torch
from torch import nn


def waves_of_position(side, embed_dim):
    """Return sines and cosines of row and column, `[side * side, embed_dim]`: smooth objects are then learned in few steps."""
    position = (torch.arange(side) + 0.5) / side
    angles = torch.pi * position[:, None] * torch.arange(1, embed_dim // 4 + 1) / 2
    along = torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)
    rows, cols = along[:, None].expand(side, side, -1), along[None].expand(side, side, -1)
    return torch.cat([rows, cols], dim=2).flatten(0, 1)


class PatchEmbed(nn.Module):
    def __init__(self, patch_size, embed_dim):
        super().__init__()
        self.proj = nn.Conv2d(1, embed_dim, patch_size, stride=patch_size)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    def __init__(self, embed_dim, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.proj = nn.Linear(embed_dim, embed_dim)

    def forward(self, x):
        batch, tokens, channels = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, channels))


class Mlp(nn.Module):
    def __init__(self, embed_dim):
        super().__init__()
        self.fc1 = nn.Linear(embed_dim, 4 * embed_dim)
        self.fc2 = nn.Linear(4 * embed_dim, embed_dim)

    def forward(self, x):
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, embed_dim, num_heads):
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim)
        self.attn = Attention(embed_dim, num_heads)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.mlp = Mlp(embed_dim)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Encoder(nn.Module):
    """Tokens `[B, embed_dim, side, side]` of patterns `[B,1,img_size,img_size]`; another size fails on the embedding."""

    def __init__(self, img_size, patch_size, embed_dim, depth, num_heads):
        super().__init__()
        self.patch_embed = PatchEmbed(patch_size, embed_dim)
        side = img_size // patch_size
        self.pos_embed = nn.Parameter(waves_of_position(side, embed_dim)[None])
        self.blocks = nn.Sequential(*[Block(embed_dim, num_heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(embed_dim)
        self.side = side

    def forward(self, x):
        tokens = self.norm(self.blocks(self.patch_embed(x) + self.pos_embed))
        return tokens.transpose(1, 2).unflatten(2, (self.side, self.side))
