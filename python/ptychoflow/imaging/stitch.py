"""Stitching: from predicted patches to one object, by position, weighted by probe intensity, streaming (physics 12.3).

    O = sum_k scatter(w p_k at c_k) / sum_k scatter(w at c_k),   w = |P|^2

Memory is one canvas, whatever the number of patches; the size of the batches has no influence beyond rounding.
"""

import numpy as np
from jaxtyping import Complex64, Float32, Float64

from ptychoflow.errors import ContractError, NumericalError
from ptychoflow.frames import Canvas, canvas_for, topleft_from_centre
from ptychoflow.physics.patches import scatter

SEEN = 1e-6
"""Weight, relative to the largest one, below which a pixel counts as unseen and is left 0."""

ROUNDING_PX = 1e-6
"""A position counted from the canvas may differ by this much from the one that the canvas was made for."""


class Stitcher:
    """Collects batches of patches of one scan; stateful because batches stream through it."""

    def __init__(self, positions_rc_px: Float64[np.ndarray, "m 2"], probe: Complex64[np.ndarray, "n n"]) -> None:
        """Prepare a canvas that holds all positions of the scan.

        Args:
            positions_rc_px: (M, 2) patch centres of every patch that will come, px.
            probe: (N, N) probe, whose intensity weights the patches.
        """
        self.canvas: Canvas = canvas_for(positions_rc_px, probe.shape[-1])
        intensity = np.abs(probe) ** 2
        self._weight_patch = (intensity / intensity.max()).astype(np.float32)
        # Sums in double precision, patch by patch in the order given: how they come in batches cannot show.
        self._sum = np.zeros(self.canvas.shape, dtype=np.complex128)
        self._weight = np.zeros(self.canvas.shape, dtype=np.float64)

    def add(self, patches: Complex64[np.ndarray, "b n n"], positions_rc_px: Float64[np.ndarray, "k 2"]) -> None:
        """Add patches centred on positions of the scan's frame.

        Raises:
            ContractError: numbers of patches and positions differ (D15), or a patch reaches outside the canvas (D19).
            NumericalError: a patch is not finite.
        """
        if len(patches) != len(positions_rc_px):
            raise ContractError(f"{len(patches)} patches came with {len(positions_rc_px)} positions")
        if not np.isfinite(patches).all():
            raise NumericalError("a predicted patch holds NaN or infinity; it is not stitched")
        local = self.canvas.to_local(positions_rc_px)
        first = topleft_from_centre(local, patches.shape[-1])
        if (first < -ROUNDING_PX).any() or (first + patches.shape[-1] > np.add(self.canvas.shape, ROUNDING_PX)).any():
            raise ContractError("a patch reaches outside the canvas: its position is not among those of the scan")
        scatter(self._weight_patch * patches, local, self.canvas.shape, out=self._sum)
        scatter(np.broadcast_to(self._weight_patch, patches.shape), local, self.canvas.shape, out=self._weight)

    def result(self) -> tuple[Complex64[np.ndarray, "h w"], Float32[np.ndarray, "h w"]]:
        """Return object and weight; the object is 0 where the weight is."""
        seen = self._weight > SEEN * self._weight.max()
        object_ = np.zeros(self.canvas.shape, dtype=np.complex64)
        object_[seen] = (self._sum[seen] / self._weight[seen]).astype(np.complex64)
        return object_, np.where(seen, self._weight, 0).astype(np.float32)
