"""The records that travel between functions: a scan, a view of it, a reconstruction. Frozen; arrays are never mutated."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Complex64, Float32, Float64, Int64, Real

from ptychoflow.frames import Canvas, Region


@dataclass(frozen=True)
class Scan:
    """One ptychography scan as it lies in `scan.npz`.

    Attributes:
        amplitude: (M, N, N) float32 diffraction amplitude, zero frequency at [N//2, N//2]; may be memory-mapped.
        positions_rc_px: (M, 2) float64 patch centres in object pixels.
        probe: (N, N) complex64; with the object it reproduces `amplitude` (orthonormal FFT, same unit).
        object: (H, W) complex64 or None: truth of a simulation or the reconstruction that came with a measured scan.
        scan_index: (M,) int64, which object each frame belongs to.
        metadata: the JSON metadata of the file (see data/schema.py).
    """

    amplitude: Real[np.ndarray, "m n n"]
    positions_rc_px: Float64[np.ndarray, "m 2"]
    probe: Complex64[np.ndarray, "n n"]
    scan_index: Int64[np.ndarray, "m"]
    object: Complex64[np.ndarray, "h w"] | None = None
    positions_start_rc_px: Float64[np.ndarray, "m 2"] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Side of a frame in px."""
        return int(self.amplitude.shape[-1])

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return int(self.amplitude.shape[0])

    @property
    def object_role(self) -> str | None:
        """`truth` for simulated data, `reference` for a measured scan's reconstruction, None without an object."""
        return None if self.object is None else str(self.metadata.get("object_role", "reference"))

    @property
    def pixel_size_m(self) -> float | None:
        """Side of an object pixel, m; None where the file does not know it."""
        value = self.metadata.get("pixel_size_m")
        return None if value is None else float(value)

    @property
    def photons_per_intensity(self) -> float | None:
        """Photons in one unit of amplitude squared; None where the file does not know it."""
        value = self.metadata.get("photons_per_intensity")
        return None if value is None else float(value)


@dataclass(frozen=True)
class FrameSet:
    """One index set of a view: its frames, and the groups of frames that enter a model together.

    Attributes:
        frames: (m,) int64 frame indices into the scan, sorted.
        groups: (B, C) int64 frame indices; the seed frame is member 0.
    """

    frames: Int64[np.ndarray, "m"]
    groups: Int64[np.ndarray, "b c"]


@dataclass(frozen=True)
class Normalization:
    """The scaling of one view, measured on its train frames only (physics section 6).

    Attributes:
        alpha: network input is `alpha * amplitude`, so that a train frame's mean energy is (N/2)^2.
        intensity_scale: counts amplitude is `intensity_scale * alpha * amplitude`; None when photons are unknown.
        object_scale: illuminated RMS modulus of the object, sqrt(mean frame energy / probe energy); a pure gauge.
        mean_counts_per_pixel: train mean of the intensity in photons (or file units), the unit of the deviance loss.
    """

    alpha: float
    intensity_scale: float
    object_scale: float
    mean_counts_per_pixel: float
    photons_known: bool


@dataclass(frozen=True)
class View:
    """A split, grouping and normalization over untouched scans: indices, no copies of frames."""

    train: FrameSet
    test: FrameSet
    heldout: Int64[np.ndarray, "m"]
    normalization: Normalization
    score_regions: tuple[Region, ...]
    metadata: dict[str, Any]

    @property
    def gridsize(self) -> int:
        """Square root of the number of members of a group."""
        return round(self.test.groups.shape[1] ** 0.5)


@dataclass(frozen=True)
class Recon:
    """One reconstruction as it lies in `recon.npz`, the same for every arm.

    Attributes:
        object: (H, W) complex64.
        weight: (H, W) float32 coverage; 0 where nothing was seen.
        canvas: where pixel [0, 0] lies in the scan's frame.
        probe: (modes, N, N) complex64 refined probe, or None.
        pixel_size_m: side of an object pixel, m; None where unknown.
    """

    object: Complex64[np.ndarray, "h w"]
    weight: Float32[np.ndarray, "h w"]
    canvas: Canvas
    probe: Complex64[np.ndarray, "modes n n"] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    pixel_size_m: float | None = None


@dataclass(frozen=True)
class Snapshots:
    """What a reconstruction looked like on its way, as it lies in `snapshots.npz`; the final state is not among them.

    Attributes:
        epochs: (S,) int64 epochs done, increasing.
        train_seconds: (S,) float64 wall time of training up to there; 0 for an arm without training.
        reconstruct_seconds: (S,) float64 wall time from frames to object; of inference, or of the iterations up to there.
        objects: (S, H, W) complex64, all on `canvas`.
        canvas: where pixel [0, 0] lies in the scan's frame.
        probes: (S, modes, N, N) complex64 refined probes, or None.
    """

    epochs: Int64[np.ndarray, "s"]
    train_seconds: Float64[np.ndarray, "s"]
    reconstruct_seconds: Float64[np.ndarray, "s"]
    objects: Complex64[np.ndarray, "s h w"]
    canvas: Canvas
    probes: Complex64[np.ndarray, "s modes n n"] | None = None
