"""Groups of four frames with known truth, for the tests of both frameworks. No framework is imported here.

Object: non-square, without symmetry; odd N; positions anywhere between the pixels. The loss that the true patches must have
comes from physics/patches.py and plain numpy.fft, with none of the code under test.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter

from ptychoflow.config import ModelConfig
from ptychoflow.data.normalize import measure_normalization
from ptychoflow.models.forward import member_offsets, padding_px
from ptychoflow.models.spec import NetworkSpec, network_spec
from ptychoflow.physics.patches import gather, scatter
from ptychoflow.records import Normalization

N, SHAPE, GROUPS = 17, (67, 91), 5

PUBLISHED = [
    (64, 1, True, 2_331_772),
    (64, 2, False, 2_333_500),
    (64, 2, True, 2_340_208),
    (128, 1, True, 4_661_212),
    (128, 2, True, 4_667_056),
    (256, 1, True, 12_912_268),
    (256, 2, True, 12_916_816),
]
"""Side, gridsize, object_big and number of trainable parameters, measured on the reference implementation (section 8)."""


@dataclass(frozen=True)
class GroupCase:
    """Frames of groups, where they lie, and the patches that they come from."""

    spec: NetworkSpec
    config: ModelConfig
    x: np.ndarray
    offsets: np.ndarray
    patches: np.ndarray
    probe: np.ndarray
    normalization: Normalization
    pad_px: int

    @property
    def mean_amplitude(self) -> float:
        """Mean counts amplitude: the MAE of a dark prediction."""
        return float(self.normalization.intensity_scale * self.x.mean())


def odd_spec(gridsize: int, config: ModelConfig) -> NetworkSpec:
    """Return a table for frames of an odd side, which no network is built from."""
    return replace(network_spec(64, gridsize, config), n=N)


def group_case(*, whole_px: bool, photons: float = 7.25, **options) -> GroupCase:
    """Return groups whose members lie whole pixels from their centre, or anywhere.

    Args:
        whole_px: the centre itself is off the pixels in both cases.
        photons: in a unit of amplitude squared.
        options: of the model.
    """
    rng = np.random.default_rng(3)
    amplitude, phase = (gaussian_filter(field, 5) for field in rng.normal(size=(2, *SHAPE)))
    image = (1 + 3 * amplitude) * np.exp(12j * phase)
    offsets = np.array([[3, -2], [-4, 1], [2, 5], [-1, -4]], dtype=float)
    offsets = np.stack([offsets[rng.permutation(4)] * rng.choice([-1, 1], 2) for _ in range(GROUPS)])
    if not whole_px:
        offsets += rng.uniform(-0.5, 0.5, offsets.shape)
        offsets -= offsets.mean(axis=1, keepdims=True)
    centres = rng.uniform([16, 16], np.array(SHAPE) - 16, (GROUPS, 2))
    positions = (centres[:, None] + offsets).reshape(-1, 2)
    patches = gather(image, positions, N)
    axis = np.arange(N) - N // 2
    probe = 20 * np.exp(-((axis[:, None] - 1) ** 2 / 24 + axis**2 / 40) + 0.05j * (axis[:, None] ** 2 + 2 * axis))
    frames = np.abs(np.fft.fftshift(np.fft.fft2(probe * patches, norm="ortho"), axes=(1, 2))).astype(np.float32)
    probe = probe.astype(np.complex64)
    norm = measure_normalization(frames, np.arange(len(frames)), probe, photons_per_intensity=photons)
    config = ModelConfig(**options)
    members = member_offsets(positions, np.arange(4 * GROUPS).reshape(GROUPS, 4))
    return GroupCase(
        spec=odd_spec(2, config),
        config=config,
        x=(norm.alpha * frames).astype(np.float32).reshape(GROUPS, 4, N, N),
        offsets=members,
        patches=(patches / norm.object_scale).astype(np.complex64).reshape(GROUPS, 4, N, N),
        probe=probe,
        normalization=norm,
        pad_px=padding_px(members, jitter_px=config.extraction_jitter_px),
    )


def merged(case: GroupCase) -> np.ndarray:
    """Return the local objects (B, S, S) by the NumPy gather and scatter."""
    side = N + 2 * case.pad_px
    weight = np.abs(case.probe.astype(np.complex128)) ** 2
    canvases = np.zeros((GROUPS, side, side), np.complex128)
    for canvas, patches, offsets in zip(canvases, case.patches.astype(np.complex128), case.offsets, strict=True):
        places = case.pad_px + N // 2 + offsets.astype(float)
        total = scatter(weight * patches, places, (side, side))
        share = scatter(np.broadcast_to(weight, patches.shape), places, (side, side))
        canvas[share > 0] = total[share > 0] / share[share > 0]
    return canvases


def expected_loss(case: GroupCase) -> float:
    """Return the amplitude MAE that the true patches have after merge and extraction, in photons^1/2."""
    norm = case.normalization
    errors = []
    for canvas, x, offsets in zip(merged(case), case.x, case.offsets, strict=True):
        windows = gather(canvas, case.pad_px + N // 2 + offsets.astype(float), N) * norm.object_scale
        wave = np.fft.fftshift(np.fft.fft2(case.probe * windows, norm="ortho"), axes=(1, 2))
        errors.append(np.abs(norm.alpha * np.abs(wave) - x))
    return float(norm.intensity_scale * np.mean(errors))
