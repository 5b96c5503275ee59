"""TensorFlow twin of physics/patches.py, for groups: bilinear `gather` from local canvases and its exact adjoint `scatter`.

Both are separable, so each axis is a matrix whose row i holds the two bilinear weights of patch pixel i:

    H(d)[i, j] = max(0, 1 - |j - i - pad - d|),   gather: H_row O H_col^T,   scatter: sum_c H_row^T p_c H_col

Matrix products need no indices: they run alike on every device, and their gradients repeat bit by bit.
"""

import tensorflow as tf
from jaxtyping import Complex64, Float32


def _hat(offset: Float32[tf.Tensor, "b c"], n: int, side: int) -> Float32[tf.Tensor, "b c n side"]:
    """Return the bilinear weights of n patch pixels on `side` canvas pixels along one axis."""
    distance = tf.range(side)[None] - (side - n) // 2 - tf.range(n)[:, None]
    return tf.nn.relu(1 - tf.abs(tf.cast(distance, tf.float32) - offset[..., None, None]))


def gather(
    canvas: Complex64[tf.Tensor, "b side side"], offsets: Float32[tf.Tensor, "b c 2"], n: int
) -> Complex64[tf.Tensor, "b c n n"]:
    """Return the N x N windows of each canvas, displaced by `offsets` (row, col; px) from its centre, zero outside."""
    side = canvas.shape[-1]
    rows, cols = _hat(offsets[..., 0], n, side), _hat(offsets[..., 1], n, side)

    def cut(part: Float32[tf.Tensor, "b side side"]) -> Float32[tf.Tensor, "b c n n"]:
        return tf.matmul(rows @ part[:, None], cols, transpose_b=True)

    return tf.complex(cut(tf.math.real(canvas)), cut(tf.math.imag(canvas)))


def scatter(
    patches: Complex64[tf.Tensor, "b c n n"] | Float32[tf.Tensor, "b c n n"],
    offsets: Float32[tf.Tensor, "b c 2"],
    side: int,
) -> Complex64[tf.Tensor, "b side side"] | Float32[tf.Tensor, "b side side"]:
    """Return the sums of the patches of each group on its canvas: the exact adjoint of `gather`, real or complex."""
    members, n = patches.shape[1], patches.shape[-1]
    rows = tf.reshape(_hat(offsets[..., 0], n, side), (-1, members * n, side))
    cols = _hat(offsets[..., 1], n, side)

    def place(part: Float32[tf.Tensor, "b c n n"]) -> Float32[tf.Tensor, "b side side"]:
        return tf.matmul(rows, tf.reshape(part @ cols, (-1, members * n, side)), transpose_a=True)

    if patches.dtype.is_complex:
        return tf.complex(place(tf.math.real(patches)), place(tf.math.imag(patches)))
    return place(patches)
