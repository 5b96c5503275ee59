"""PyTorch twin of physics/patches.py, for groups: bilinear `gather` from local canvases and its exact adjoint `scatter`.

Both are separable, so each axis is a matrix whose row i holds the two bilinear weights of patch pixel i:

    H(d)[i, j] = max(0, 1 - |j - i - pad - d|),   gather: H_row O H_col^T,   scatter: sum_c H_row^T p_c H_col

Matrix products need no indices: they run alike on every device, and their gradients repeat bit by bit.
"""

import torch
from jaxtyping import Complex64, Float32
from torch import Tensor


def _hat(offset: Float32[Tensor, "b c"], n: int, side: int) -> Float32[Tensor, "b c n side"]:
    """Return the bilinear weights of n patch pixels on `side` canvas pixels along one axis."""
    pixel = torch.arange(n, device=offset.device)
    distance = torch.arange(side, device=offset.device) - (side - n) // 2 - pixel[:, None]
    return (1 - (distance - offset[..., None, None]).abs()).clamp_min(0)


def gather(
    canvas: Complex64[Tensor, "b side side"], offsets: Float32[Tensor, "b c 2"], n: int
) -> Complex64[Tensor, "b c n n"]:
    """Return the N x N windows of each canvas, displaced by `offsets` (row, col; px) from its centre, zero outside."""
    side = canvas.shape[-1]
    rows, cols = _hat(offsets[..., 0], n, side), _hat(offsets[..., 1], n, side).mT
    return torch.complex(rows @ canvas.real[:, None] @ cols, rows @ canvas.imag[:, None] @ cols)


def scatter(
    patches: Complex64[Tensor, "b c n n"] | Float32[Tensor, "b c n n"], offsets: Float32[Tensor, "b c 2"], side: int
) -> Complex64[Tensor, "b side side"] | Float32[Tensor, "b side side"]:
    """Return the sums of the patches of each group on its canvas: the exact adjoint of `gather`, real or complex."""
    n = patches.shape[-1]
    rows = _hat(offsets[..., 0], n, side).flatten(1, 2).mT
    cols = _hat(offsets[..., 1], n, side)

    def place(part: Float32[Tensor, "b c n n"]) -> Float32[Tensor, "b side side"]:
        return rows @ (part @ cols).flatten(1, 2)

    if patches.is_complex():
        return torch.complex(place(patches.real), place(patches.imag))
    return place(patches)
