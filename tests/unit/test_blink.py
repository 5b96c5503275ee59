"""Bare pictures: one pixel per object pixel, in place and on one set of limits."""

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image

from ptychoflow.report.blink import blink_panels, block_mean, phase_palette
from ptychoflow.report.panels import shared_limits

SHAPE = (31, 47)


@pytest.fixture
def truth():
    rows, cols = np.indices(SHAPE)
    return ((0.5 + rows / 31 + cols / 90) * np.exp(0.4j * np.sin(cols / 5 + rows / 9) + 3.1j)).astype(np.complex64)


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_values_lie_where_they_are_on_the_scale_of_the_truth(tmp_path, truth):
    """Oracle: the linear scale between the two limits, written out; colours from matplotlib's own map."""
    arm = (1.3 * truth * np.exp(0.2j)).astype(np.complex64)
    arm[:2, 40:] = 0
    found, sentence = blink_panels([("arm_gs1", arm)], truth, tmp_path, truth_name="reference")
    assert found == [
        {"name": name, "amp": f"blink_{name}_amp.png", "phase": f"blink_{name}_phase.png"}
        for name in ("reference", "arm_gs1")
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        entry[part] for entry in found for part in ("amp", "phase")
    )
    limits = shared_limits([truth], source="reference")
    assert sentence.startswith(f"colour limits from reference: amplitude {limits.low:.3g} to {limits.high:.3g}")
    for name, picture in (("reference", truth), ("arm_gs1", arm)):
        amplitude = read(tmp_path / f"blink_{name}_amp.png")
        assert amplitude.shape == SHAPE
        assert amplitude.dtype == np.uint8
        share = np.clip((np.abs(picture) - limits.low) / (limits.high - limits.low), 0, 1)
        np.testing.assert_allclose(amplitude, 255 * share, atol=0.51)
        with Image.open(tmp_path / f"blink_{name}_phase.png") as image:
            shown = np.asarray(image.convert("RGB")).astype(int)
        assert shown.shape == (*SHAPE, 3)
        low = limits.centre_rad - limits.half_range_rad
        share = np.clip((limits.relative_phase(picture) - low) / (2 * limits.half_range_rad), 0, 1)
        expected = 255 * colormaps["twilight"](share)[..., :3]
        expected[np.abs(picture) == 0] = 153
        # Half of one of 254 steps is half of two of the map's 510 colours.
        np.testing.assert_allclose(shown, expected, atol=6)


def test_a_difference_of_one_pixel_shows_in_that_pixel_only(tmp_path, truth):
    other = truth.copy()
    other[3, 44] *= 0.5 * np.exp(0.5j)
    blink_panels([("other", other)], truth, tmp_path)
    for part in ("amp", "phase"):
        first, second = (read(tmp_path / f"blink_{name}_{part}.png") for name in ("truth", "other"))
        assert np.argwhere(first != second).tolist() == [[3, 44]]


def test_without_a_truth_all_arms_set_the_limits(tmp_path, truth):
    found, sentence = blink_panels([("a", truth), ("b", 2 * truth)], None, tmp_path)
    assert [entry["name"] for entry in found] == ["a", "b"]
    assert sentence.startswith("colour limits from all arms together")
    assert read(tmp_path / "blink_a_amp.png").max() < 200 < read(tmp_path / "blink_b_amp.png").max()


def test_long_sides_become_means_over_blocks(tmp_path):
    rng = np.random.default_rng(2)
    picture = (rng.random((515, 1031)) * np.exp(1j * rng.random((515, 1031)))).astype(np.complex64)
    _, sentence = blink_panels([("big", picture)], None, tmp_path)
    assert sentence.endswith("one pixel shows the mean of 3 x 3")
    assert read(tmp_path / "blink_big_amp.png").shape == read(tmp_path / "blink_big_phase.png").shape == (172, 344)


def test_a_side_of_512_px_stays_as_it_is(tmp_path):
    picture = np.random.default_rng(2).random((3, 512)).astype(np.complex64)
    _, sentence = blink_panels([("a", picture)], None, tmp_path)
    assert "mean of" not in sentence
    assert read(tmp_path / "blink_a_amp.png").shape == (3, 512)


def test_block_means_are_those_of_the_blocks_and_of_what_is_left_at_the_edges():
    """Oracle: a plain loop over slices."""
    values = np.random.default_rng(4).standard_normal((7, 11)) + 1j
    found = block_mean(values, 3)
    assert found.shape == (3, 4)
    for row in range(3):
        for col in range(4):
            block = values[3 * row : 3 * row + 3, 3 * col : 3 * col + 3]
            assert found[row, col] == pytest.approx(block.mean())


def test_the_palette_is_cyclic_and_ends_with_grey():
    palette = phase_palette().astype(int)
    assert np.abs(palette[0] - palette[254]).max() <= 2
    assert palette[255].tolist() == [153, 153, 153]


def test_values_that_are_not_numbers_are_black_and_without_phase(tmp_path, truth):
    picture = truth.copy()
    picture[2, 5] = np.nan
    blink_panels([("a", picture)], truth, tmp_path)
    assert read(tmp_path / "blink_a_amp.png")[2, 5] == 0
    assert np.argwhere(read(tmp_path / "blink_a_phase.png") == 255).tolist() == [[2, 5]]


def test_bytes_repeat(tmp_path, truth):
    for name in ("first", "second"):
        blink_panels([("a", truth[::-1].copy())], truth, tmp_path / name)
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("first", "second")
    )
    assert len(first) == 4
    assert first == second


def test_nothing_to_show_is_an_empty_list(tmp_path):
    assert blink_panels([], None, tmp_path) == ([], "")
    assert not list(tmp_path.iterdir())


def test_pictures_that_cannot_be_laid_on_one_another_are_refused(tmp_path, truth):
    with pytest.raises(ValueError, match=r"'a' \(30, 47\) and 'truth' \(31, 47\) must have one shape"):
        blink_panels([("a", truth[1:])], truth, tmp_path)
    with pytest.raises(ValueError, match="a name of its own"):
        blink_panels([("truth", truth)], truth, tmp_path)
    assert not list(tmp_path.iterdir())
