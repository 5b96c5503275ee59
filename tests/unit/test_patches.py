"""gather and scatter: one bilinear map and its exact adjoint (physics sections 1.1, 5; T5, D14)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from ptychoflow.physics import patches
from ptychoflow.physics.patches import gather, scatter

SHAPE = (41, 57)


def complex_noise(shape: tuple[int, ...], seed: int, dtype: type = np.complex128) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(dtype)


def map_coordinates_patches(image: np.ndarray, positions: np.ndarray, n: int) -> np.ndarray:
    """Patches by SciPy's own linear interpolation, from the rule 'patch pixel i lies at c - N//2 + i'."""
    offset = np.arange(n) - n // 2
    out = np.empty((len(positions), n, n), dtype=image.dtype)
    for index, (row, col) in enumerate(positions):
        grid = np.meshgrid(row + offset, col + offset, indexing="ij")
        parts = [map_coordinates(part, grid, order=1, mode="grid-constant") for part in (image.real, image.imag)]
        out[index] = parts[0] + 1j * parts[1]
    return out


@pytest.mark.parametrize("n", [8, 11])
def test_gather_equals_map_coordinates(n: int) -> None:
    """Independent source: scipy.ndimage.map_coordinates, order 1; some patches reach over every edge."""
    image = complex_noise(SHAPE, 1)
    rng = np.random.default_rng(2)
    positions = rng.uniform([-9, -9], [SHAPE[0] + 9, SHAPE[1] + 9], size=(60, 2))
    np.testing.assert_allclose(gather(image, positions, n), map_coordinates_patches(image, positions, n), atol=1e-12)


@pytest.mark.parametrize("n", [8, 9])
def test_integer_positions_are_slices(n: int) -> None:
    """Independent source: NumPy slicing. Equality to the bit: no value is interpolated."""
    image = complex_noise(SHAPE, 3, np.complex64)
    for row, col in [(n // 2, n // 2), (17, 30), (SHAPE[0] - n + n // 2, SHAPE[1] - n + n // 2)]:
        expected = image[row - n // 2 : row - n // 2 + n, col - n // 2 : col - n // 2 + n]
        np.testing.assert_array_equal(gather(image, np.array([[row, col]], dtype=float), n)[0], expected)


def test_the_position_is_the_pixel_under_the_patch_middle() -> None:
    """Independent source: a delta image. A convention off by half a pixel (edges for centres) fails here."""
    image = np.zeros(SHAPE)
    image[13, 22] = 1.0
    for n in (8, 9):
        patch = gather(image, np.array([[13.0, 22.0]]), n)[0]
        assert np.unravel_index(patch.argmax(), patch.shape) == (n // 2, n // 2)
        assert patch[n // 2, n // 2] == 1.0
        assert patch.sum() == 1.0


def test_sub_pixel_shift_of_a_ramp_is_exact() -> None:
    """Independent source: algebra. On row + 100 col, bilinear interpolation is exact, so each pixel reads its own coordinate."""
    rows, cols = np.meshgrid(np.arange(SHAPE[0]), np.arange(SHAPE[1]), indexing="ij")
    image = rows + 100.0 * cols
    positions = np.array([[20.25, 31.75], [12.5, 19.125]])
    offset = np.arange(7) - 3
    expected = (positions[:, 0, None, None] + offset[:, None]) + 100 * (positions[:, 1, None, None] + offset)
    np.testing.assert_allclose(gather(image, positions, 7), expected, rtol=1e-13)


def test_a_transposed_object_gives_transposed_patches() -> None:
    """Independent source: symmetry. Row and col must be treated alike; swapped positions only fit the transposed image."""
    image = complex_noise(SHAPE, 4)
    positions = np.random.default_rng(5).uniform(5, 36, size=(9, 2))
    swapped = gather(image.T.copy(), positions[:, ::-1].copy(), 8)
    np.testing.assert_allclose(swapped.transpose(0, 2, 1), gather(image, positions, 8), atol=1e-13)
    assert not np.allclose(gather(image, positions[:, ::-1].copy(), 8), gather(image, positions, 8), atol=0.1)


def test_patch_moves_with_the_object() -> None:
    """T2, independent source: np.roll. Object moved by t, position moved by t: the same patch."""
    image = complex_noise(SHAPE, 6)
    moved = np.roll(image, (3, -5), axis=(0, 1))
    position = np.array([[20.3, 25.8]])
    np.testing.assert_allclose(gather(moved, position + np.array([3, -5]), 8), gather(image, position, 8), atol=1e-13)


@pytest.mark.parametrize("n", [1, 8])
def test_scatter_moves_content_by_plus_t(n: int) -> None:
    """D14, independent source: a delta patch. Moving the position by +t moves the placed content by +t, sub-pixel too."""
    patch = np.zeros((1, n, n))
    patch[0, n // 2, n // 2] = 1.0
    rows, cols = np.arange(SHAPE[0]), np.arange(SHAPE[1])
    for row, col in [(20.0, 30.0), (22.0, 27.0), (20.25, 30.75)]:
        placed = scatter(patch, np.array([[row, col]]), SHAPE)
        assert placed.sum() == pytest.approx(1.0)
        centroid = ((placed.sum(axis=1) * rows).sum(), (placed.sum(axis=0) * cols).sum())
        np.testing.assert_allclose(centroid, (row, col), atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 12),
    count=st.integers(1, 2 * patches.BLOCK + 1),
    rows=st.integers(1, 23),
    cols=st.integers(1, 23),
)
def test_scatter_is_the_adjoint_of_gather(seed: int, n: int, count: int, rows: int, cols: int) -> None:
    """T5, independent source: the definition <gather(O), p> = <O, scatter(p)>. In float64, so 1e-12 of the norms is rounding."""
    rng = np.random.default_rng(seed)
    image = complex_noise((rows, cols), seed)
    p = complex_noise((count, n, n), seed + 1)
    positions = rng.uniform([-15, -15], [rows + 15, cols + 15], size=(count, 2))
    left = np.vdot(gather(image, positions, n), p)
    right = np.vdot(image, scatter(p, positions, (rows, cols)))
    assert abs(left - right) <= 1e-12 * np.linalg.norm(image) * np.linalg.norm(p)


def test_merge_of_extracted_patches_is_the_object() -> None:
    """T5: at whole-pixel positions scatter(gather(O)) / scatter(1) is O wherever a patch was; a half-pixel error is not."""
    image = complex_noise(SHAPE, 7)
    rows, cols = np.meshgrid(np.arange(4, SHAPE[0] - 4, 3.0), np.arange(4, SHAPE[1] - 4, 3.0), indexing="ij")
    positions = np.stack([rows.ravel(), cols.ravel()], axis=1)
    cut = gather(image, positions, 8)
    weight = scatter(np.ones(cut.shape), positions, SHAPE)
    covered = weight > 0.5
    merged = scatter(cut, positions, SHAPE)[covered] / weight[covered]
    assert covered.mean() > 0.9
    np.testing.assert_allclose(merged, image[covered], atol=1e-12)
    off = scatter(cut, positions + 0.5, SHAPE)[covered] / weight[covered]
    assert np.abs(off - image[covered]).mean() > 0.1


def test_dtype_is_kept_and_inputs_are_not_changed() -> None:
    """No promotion to double (twice the memory) and no mutation; far-away positions read zeros."""
    image = complex_noise(SHAPE, 8, np.complex64)
    before = image.copy()
    positions = np.array([[1e6, -1e6], [20.5, 20.5]])
    cut = gather(image, positions, 8)
    assert cut.dtype == np.complex64
    assert not cut[0].any()
    assert scatter(cut, positions, SHAPE).dtype == np.complex64
    assert scatter(np.ones((2, 3, 3), np.float32), positions, SHAPE).dtype == np.float32
    np.testing.assert_array_equal(image, before)
