"""The framework-free half of the forward model (physics sections 4, 6 to 8): numbers that both frameworks build theirs from.

Members of a group lie at `offsets`, (row, col) displacements in px from the group's centre, positive downwards and to the
right. Only files hold them the other way round (`coords_relative`, sign -1, axis 2 = [x, y]); `offsets_of_relative` converts.

A group's patches meet on a local canvas of side N + 2 pad, whose pixel pad + N // 2 is the group's centre: pixel i of a patch
lies at pad + offset + i. The pad is one number for a whole view, so that the shapes never change.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Complex64, Float, Float32, Float64, Int64, Num

from ptychoflow.config import ModelConfig
from ptychoflow.errors import ContractError
from ptychoflow.models.spec import NetworkSpec
from ptychoflow.records import Normalization

LEAST_WEIGHT = 1e-12
"""Probe intensity, relative to its peak, below which a pixel has no weight in the merge."""

JITTER_LIMIT = 4.0
"""Standard deviations at which the extraction jitter is cut, so that a window stays on the canvas."""

LOCAL_OFFSET_SIGN = -1
"""Sign of `coords_relative` in grouped files."""


def member_offsets(
    positions_rc_px: Float64[np.ndarray, "m 2"], groups: Int64[np.ndarray, "b c"]
) -> Float32[np.ndarray, "b c 2"]:
    """Return the offsets of the members from their group's centre, the mean of its own members (D16), px."""
    members = positions_rc_px[groups]
    return (members - members.mean(axis=1, keepdims=True)).astype(np.float32)


def offsets_of_relative(coords_relative: Num[np.ndarray, "b 1 2 c"]) -> Float32[np.ndarray, "b c 2"]:
    """Return offsets (row, col) for a grouped file's `coords_relative` (axis 2 = [x, y], sign -1)."""
    return (LOCAL_OFFSET_SIGN * coords_relative[:, 0, ::-1].transpose(0, 2, 1)).astype(np.float32)


def relative_of_offsets(offsets: Float[np.ndarray, "b c 2"]) -> Float[np.ndarray, "b 1 2 c"]:
    """Return `coords_relative` of a grouped file: the inverse of `offsets_of_relative`."""
    return np.ascontiguousarray(LOCAL_OFFSET_SIGN * offsets.transpose(0, 2, 1)[:, None, ::-1])


def padding_px(offsets: Float32[np.ndarray, "b c 2"], *, jitter_px: float = 0.0) -> int:
    """Return the pad of the local canvas on which every window of these groups lies; 0 where nothing is ever displaced."""
    largest = float(np.abs(offsets).max(initial=0)) + JITTER_LIMIT * jitter_px
    return 0 if offsets.shape[1] == 1 and largest == 0 else int(np.floor(largest)) + 1


def jitter(shape: tuple[int, int, int], sigma_px: float, *, seed: int, step: int) -> Float32[np.ndarray, "b c 2"]:
    """Return the displacements of one training step: a function of seed and step, so a resumed run repeats them."""
    normal = np.random.default_rng([seed, 3, step]).normal(size=shape)
    return (sigma_px * np.clip(normal, -JITTER_LIMIT, JITTER_LIMIT)).astype(np.float32)


def disc_mask(n: int) -> Float32[np.ndarray, "n n"]:
    """Return the disc of radius N/4 about the middle of the frame, (N - 1)/2, edge included."""
    squared = (np.arange(n) - (n - 1) / 2) ** 2
    return (squared[:, None] + squared <= (n / 4) ** 2).astype(np.float32)


def smoothing_matrix(n: int, sigma_px: float) -> Float32[np.ndarray, "n n"]:
    """Return G such that G psi G^T is psi, zero outside the frame, smoothed by a Gaussian that is cut at 4 sigma."""
    distance = np.arange(n) - np.arange(n)[:, None]
    radius = int(4 * sigma_px + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma_px) ** 2).sum()
    band = np.where(np.abs(distance) <= radius, np.exp(-0.5 * (distance / sigma_px) ** 2), 0)
    return (band / kernel).astype(np.float32)


def illumination_weight(probe: Complex64[np.ndarray, "n n"]) -> Float32[np.ndarray, "n n"]:
    """Return |P|^2 with mean 1: how much each pixel of a patch counts where patches are compared with labels."""
    intensity = np.abs(probe).astype(np.float64) ** 2
    return (intensity / intensity.mean()).astype(np.float32)


@dataclass(frozen=True)
class ForwardModel:
    """What the physics of one training run is made of.

    Attributes:
        n: side of a frame, px.
        members: C, frames per group.
        patches: object patches that the network gives per group, C or 1.
        pad_px: pad of the local canvas.
        probe: (K, N, N) complex64 such that |F(probe * patch)| is the counts amplitude s X^; K = C with one probe per member.
        probe_peak: largest modulus of `probe`, the unit in which a trainable probe changes.
        probe_scale: `probe` divided by it is in the unit of the scan's probe.
        mask: (N, N) float32 disc that the illumination is cut to, or None.
        weight: (N, N) float32 weight of a patch in the merge: |P|^2 of the starting probe, largest value 1.
        smoothing: (N, N) float32 matrix of the smoothing of the exit wave, or None.
        trainable_probe: whether the probe is refined.
    """

    n: int
    members: int
    patches: int
    pad_px: int
    probe: Complex64[np.ndarray, "k n n"]
    probe_peak: float
    probe_scale: float
    mask: Float32[np.ndarray, "n n"] | None
    weight: Float32[np.ndarray, "n n"]
    smoothing: Float32[np.ndarray, "n n"] | None
    trainable_probe: bool

    @property
    def direct(self) -> bool:
        """Whether the one patch is the object and the window: a single member that is never displaced."""
        return self.members == 1 and self.pad_px == 0


def forward_model(
    spec: NetworkSpec,
    config: ModelConfig,
    *,
    probe: Complex64[np.ndarray, "n n"],
    normalization: Normalization,
    pad_px: int,
) -> ForwardModel:
    """Return the numbers of the forward model.

    Args:
        spec: the network's table.
        config: the options of its physics.
        probe: the scan's probe, which with the object reproduces its amplitudes.
        normalization: scaling of the view.
        pad_px: what `padding_px` gives for all groups of the view.
    """
    mask = disc_mask(spec.n) if config.probe_mask else None
    seen = probe if mask is None else probe * mask
    intensity = np.abs(seen).astype(np.float64) ** 2
    weight = intensity / intensity.max()
    scale = normalization.object_scale * normalization.alpha * normalization.intensity_scale
    scaled = (seen * scale).astype(np.complex64)
    return ForwardModel(
        n=spec.n,
        members=spec.channels_in,
        patches=spec.channels_out,
        pad_px=pad_px,
        probe=np.repeat(scaled[None], spec.channels_in if config.per_channel_probe else 1, axis=0),
        probe_peak=float(np.abs(scaled).max()),
        probe_scale=scale,
        mask=mask,
        weight=np.where(weight < LEAST_WEIGHT, 0, weight).astype(np.float32),
        smoothing=smoothing_matrix(spec.n, config.exit_wave_sigma_px) if config.exit_wave_sigma_px else None,
        trainable_probe=config.trainable_probe,
    )


def check_input(spec: NetworkSpec, x: Float32[np.ndarray, "b c rows cols"]) -> None:
    """Refuse frames that the network is not made for.

    Raises:
        ContractError: another number of members, or another side.
    """
    if x.shape[1:] != (spec.channels_in, spec.n, spec.n):
        raise ContractError(
            f"the network takes {spec.channels_in} frame(s) of {spec.n} x {spec.n} px per group, "
            f"got {x.shape[1]} of {x.shape[2]} x {x.shape[3]}; is the view's gridsize the model's?"
        )


def check_offsets(forward: ForwardModel, offsets: Float32[np.ndarray, "b c 2"]) -> None:
    """Refuse offsets that do not belong to the frames or to the canvas (D19).

    Raises:
        ContractError: another number of members than frames, or a window that reaches outside the canvas.
    """
    if offsets.shape[1] != forward.members:
        raise ContractError(f"{forward.members} frame(s) per group came with {offsets.shape[1]} position(s)")
    largest = float(np.abs(offsets).max(initial=0))
    if largest > forward.pad_px:
        raise ContractError(
            f"a member lies {largest:.3g} px from its group's centre, but the local canvas has a margin of "
            f"{forward.pad_px} px; make the pad from all groups of the view (padding_px)"
        )


def check_labels(spec: NetworkSpec, labels: Complex64[np.ndarray, "b k rows cols"]) -> None:
    """Refuse labels that are not one for each predicted patch.

    Raises:
        ContractError: another number of labels per group.
    """
    if labels.shape[1] != spec.channels_out:
        raise ContractError(
            f"the network predicts {spec.channels_out} object patch(es) per group, got {labels.shape[1]} label(s)"
        )
