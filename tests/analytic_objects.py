"""A band-limited object known at every coordinate, so that shifts, turns and scales need no interpolation."""

import numpy as np


def scene(rows, cols, *, seed: int = 0, kind: str = "both", highest: float = 0.6) -> np.ndarray:
    """Return 40 plane waves of at most `highest` rad/px in amplitude and phase, at the given coordinates; complex64.

    `kind`: `both`, `amp` (flat phase) or `phase` (amplitude 1).
    """
    rng = np.random.default_rng(seed)
    total = np.zeros((2, *np.broadcast_shapes(np.shape(rows), np.shape(cols))))
    for _ in range(40):
        k, start, size = rng.uniform(-highest, highest, (2, 2)), rng.uniform(0, 2 * np.pi, 2), rng.normal(size=2)
        for part in range(2):
            total[part] += size[part] * np.cos(k[part, 0] * rows + k[part, 1] * cols + start[part]) / np.sqrt(40)
    amplitude = 1 + 0.3 * total[0] if kind != "phase" else 1.0
    phase = 0.5 * total[1] if kind != "amp" else 0.0
    return (amplitude * np.exp(1j * phase)).astype(np.complex64)


def pixels(shape: tuple[int, int], origin: tuple[float, float] = (0.0, 0.0)) -> tuple[np.ndarray, np.ndarray]:
    """Return row and column coordinates of a canvas."""
    return origin[0] + np.arange(shape[0], dtype=float)[:, None], origin[1] + np.arange(shape[1], dtype=float)
