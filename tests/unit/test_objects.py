"""Simulated objects (physics section 13)."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.draw import line

from ptychoflow.frames import Region
from ptychoflow.physics import objects


def test_segments_match_bresenham() -> None:
    """Independent source: skimage.draw.line. Ties at half a pixel may go either way, so single pixels may differ by one."""
    rng = np.random.default_rng(0)
    for ends in rng.integers(0, [37, 53, 37, 53], size=(40, 4)):
        ours = objects.draw_segments((37, 53), ends[None])
        rows, cols = line(*(int(end) for end in ends))
        assert ours.sum() == len(rows)
        assert ours[ends[0], ends[1]]
        assert ours[ends[2], ends[3]]
        distance = np.abs(np.argwhere(ours)[:, None] - np.stack([rows, cols], axis=1)[None]).sum(axis=2)
        assert distance.min(axis=1).max() <= 1


def test_segments_do_not_add() -> None:
    ends = np.array([[5, 0, 5, 20], [0, 9, 12, 9], [5, 3, 5, 3]])
    mask = objects.draw_segments((13, 21), ends)
    assert mask.sum() == 21 + 13 - 1


@pytest.mark.parametrize("shape", [(101, 75), (30, 210)])
def test_lines_equal_the_recipe_written_out(shape: tuple[int, int]) -> None:
    """Independent source: section 13 step by step, segments by skimage, whole canvas blurred; also where the canvas is small."""
    ours = objects.lines_amplitude(shape, np.random.default_rng(7))
    draws = np.random.default_rng(7).random((400, 4))
    canvas = np.zeros((2 * shape[0], 2 * shape[1]))
    for a, b, c, d in draws:
        rows, cols = line(
            int(a * len(canvas)), int(b * canvas.shape[1]), int(c * len(canvas)), int(d * canvas.shape[1])
        )
        canvas[rows, cols] = 1.0
    total = sum(f * gaussian_filter(canvas, s, mode="constant") for f, s in ((1, 1), (2, 5), (5, 10)))
    top, left = shape[0] // 2, shape[1] // 2
    expected = total[top : top + shape[0], left : left + shape[1]]
    # Half-pixel ties of the two rasterizers move single pixels; after the blurs that is far below one percent on average.
    assert ours.shape == shape
    assert np.abs(ours - expected).mean() < 0.01 * expected.mean()


def test_lines_have_the_published_statistics() -> None:
    """Independent source: physics section 13: 392 px, amplitude about 0.7-5.5 (0.66-5.21 seen), mean 2.8, sd 0.68."""
    image = objects.lines_amplitude((392, 392), np.random.default_rng(11))
    assert 0.4 < image.min() < 1.4
    assert 4.0 < image.max() < 6.0
    assert image.mean() == pytest.approx(2.8, abs=0.25)
    assert image.std() == pytest.approx(0.68, abs=0.12)


def test_phase_of_amplitude_uses_the_whole_batch() -> None:
    """Independent source: the formula of section 13 evaluated by hand; range about -0.7 to 0.96 rad for lines."""
    first = objects.lines_amplitude((120, 90), np.random.default_rng(1))
    second = 1.5 * objects.lines_amplitude((120, 90), np.random.default_rng(2))
    phases = objects.phase_from_amplitude([first, second])
    top, mean = max(first.max(), second.max()), (first.sum() + second.sum()) / (2 * first.size)
    assert phases[0][4, 7] == pytest.approx(np.pi * np.tanh((first[4, 7] - top / 2) / (3 * mean)))
    assert phases[1][90, 3] == pytest.approx(np.pi * np.tanh((second[90, 3] - top / 2) / (3 * mean)))


def test_independent_phase_is_bounded_and_not_flat() -> None:
    phase = objects.independent_phase((150, 131), np.random.default_rng(3))
    assert -1 < phase.min() < -0.7
    assert 0.7 < phase.max() < 1
    assert 0.4 < phase.std() < 0.7


def test_star_values_spokes_and_symmetry() -> None:
    """Independent source: counting. Modulus 1 to 0.8, phase 0 to 0.8 rad; 23 of 24 spokes on a circle; no symmetric double."""
    shape = (331, 287)
    star = objects.siemens_star(shape, np.random.default_rng(5))
    assert np.abs(star).min() == pytest.approx(0.8)
    assert np.abs(star).max() == pytest.approx(1.0)
    assert np.angle(star).min() == 0.0
    assert np.angle(star).max() == pytest.approx(0.8)
    angle = np.linspace(0, 2 * np.pi, 20000, endpoint=False)
    radius = 0.3 * min(shape)
    rows = np.rint(165 + radius * np.sin(angle)).astype(int)
    cols = np.rint(143 + radius * np.cos(angle)).astype(int)
    material = np.angle(star)[rows, cols] > 0.4
    assert np.count_nonzero(material & ~np.roll(material, 1)) == objects.N_SPOKES - 1
    edge = (np.angle(star) > 0.01) & (np.angle(star) < 0.79)
    assert edge.mean() > 0.005, "edges are anti-aliased"
    square = np.angle(objects.siemens_star((201, 201), np.random.default_rng(5)))
    for k in range(8):
        turned = np.rot90(square.T if k >= 4 else square, k % 4)
        assert k == 0 or np.abs(turned - square).mean() > 0.01


def test_star_landmark_is_at_the_first_corner() -> None:
    """The disc is up and left of the star whatever the seed, so a flipped picture is seen at a glance."""
    for seed in range(3):
        phase = np.angle(objects.siemens_star((301, 251), np.random.default_rng(seed)))
        side = min(phase.shape) * objects.DISC_DISTANCE / np.sqrt(2)
        assert phase[round(150 - side), round(125 - side)] == pytest.approx(0.8)
        assert phase[round(150 + side), round(125 - side)] == 0.0
        assert phase[round(150 - side), round(125 + side)] == 0.0


def test_side_by_side_keeps_each_object_in_its_rectangle() -> None:
    parts = [np.full((5, 7), value, dtype=complex) for value in (1 + 1j, 2, 3j)]
    frame, regions = objects.side_by_side(parts, 4)
    assert frame.shape == (5, 3 * 7 + 2 * 4)
    assert frame.dtype == np.complex64
    assert regions == (Region(0, 5, 0, 7), Region(0, 5, 11, 18), Region(0, 5, 22, 29))
    for part, region in zip(parts, regions, strict=True):
        np.testing.assert_array_equal(frame[:, region.c0 : region.c1], part)
    assert np.count_nonzero(frame) == 3 * 35
