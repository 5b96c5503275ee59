"""Pictures: orientation, shared limits, stable bytes."""

import os
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from ptychoflow.frames import Region
from ptychoflow.records import FrameSet, Normalization, Scan, View
from ptychoflow.report import figures
from ptychoflow.report.html import png_title
from ptychoflow.report.panels import phase_panel, pixels, scale_bar, shared_limits

SHAPE = (31, 47)


@pytest.fixture
def truth():
    rows, cols = np.indices(SHAPE)
    return ((0.5 + rows / 31) * np.exp(0.4j * np.sin(cols / 5) + 3.1j)).astype(np.complex64)


@pytest.fixture
def recon(truth):
    noise = np.random.default_rng(3).standard_normal(SHAPE)
    return (truth * np.exp(0.2j * noise)).astype(np.complex64)


def make_scan(truth, *, with_object=True):
    rng = np.random.default_rng(5)
    rows, cols = np.meshgrid(np.arange(6, 26, 4.0), np.arange(6, 40, 5.0), indexing="ij")
    positions = np.stack([rows.ravel(), cols.ravel()], axis=1)
    return Scan(
        amplitude=rng.poisson(4, (len(positions), 9, 9)).astype(np.float32),
        positions_rc_px=positions,
        probe=np.ones((9, 9), np.complex64),
        scan_index=np.zeros(len(positions), np.int64),
        object=truth if with_object else None,
        metadata={"object_role": "truth"},
    )


def make_view(n_frames, *, members=1, heldout=3):
    frames = np.arange(n_frames, dtype=np.int64)
    groups = np.stack([np.roll(frames, -shift) for shift in range(members)], axis=1)
    sets = FrameSet(frames, groups)
    normalization = Normalization(1.0, 1.0, 1.0, 1.0, True)
    return View(sets, sets, frames[:heldout], normalization, (Region(8, 20, 9, 30),), {"split": {"kind": "region"}})


def draw_everything(folder, truth, recon):
    scan = make_scan(truth)
    figures.scan_preview(scan, folder / "scan.png")
    figures.amp_phase(recon, truth, title="run: truth", path=folder / "amp_phase.png")
    figures.compare_amp_phase([("a", recon), ("b", truth)], truth, folder / "compare.png", title="condition: arms")
    positions = scan.positions_rc_px
    figures.view_preview(positions, positions, make_view(scan.n_frames, members=4), folder / "view.png")
    figures.training_curve([{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0}], folder / "curve.png")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_pictures_repeat_byte_for_byte_and_carry_no_date(tmp_path, truth, recon):
    first, second = (draw_everything(tmp_path / name, truth, recon) for name in ("a", "b"))
    assert len(first) == 5
    assert first == second
    for png in first.values():
        assert b"Software" not in png
        assert b"tIME" not in png
        assert len(png) < 400_000


def test_the_title_in_the_file_says_whose_picture_it_is(tmp_path, truth, recon):
    drawn = draw_everything(tmp_path, truth, recon)
    assert png_title(drawn["amp_phase.png"]) == "run: truth"
    assert png_title(drawn["compare.png"]) == "condition: arms"


def test_pyplot_is_never_imported():
    # In a process of its own: other tests may import it for themselves.
    code = "import sys, ptychoflow.report.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


def test_row_zero_is_on_top_and_columns_run_right(tmp_path):
    figure = Figure(figsize=(0.5, 0.3), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    values = np.zeros((3, 5))
    values[0, 4] = 1
    pixels(axes, values, title="", cmap="gray", limits=(0, 1))
    axes.set_axis_off()
    figure.savefig(tmp_path / "corner.png", dpi=100)
    drawn = imread(tmp_path / "corner.png")[..., 0]
    assert drawn.shape == (30, 50)
    bright = np.argwhere(drawn > 0.5)
    # Half a pixel is where this goes wrong: the bright square covers exactly the last of 5 columns, first of 3 rows.
    assert bright.min(axis=0).tolist() == [0, 40]
    assert bright.max(axis=0).tolist() == [9, 49]


def test_pixel_centres_lie_on_whole_numbers():
    axes = Figure().subplots()
    image = pixels(axes, np.zeros((3, 5)), title="", cmap="gray", limits=(0, 1), origin_rc_px=(10, 20))
    assert list(image.get_extent()) == [19.5, 24.5, 12.5, 9.5]


def test_limits_come_from_the_truth_and_follow_its_phase_across_the_wrap(truth):
    limits = shared_limits([truth], source="truth")
    assert np.abs(truth).min() <= limits.low < limits.high <= np.abs(truth).max()
    # Phases swing by 0.4 rad about 3.1 rad, over the cut at pi: the bar is centred there, twice as wide as they are.
    assert np.angle(np.exp(1j * (limits.centre_rad - 3.1))) == pytest.approx(0, abs=0.1)
    assert 0.7 < limits.half_range_rad < 1.0
    assert np.ptp(limits.relative_phase(truth)) == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("value", [0, 1, 1 + 1j])
def test_constant_pictures_get_limits_that_can_be_drawn(value):
    limits = shared_limits([np.full(SHAPE, value, np.complex64)], source="truth")
    assert limits.high > limits.low
    assert limits.half_range_rad == pytest.approx(np.pi)


def test_dark_pixels_have_no_phase(truth):
    picture = truth.copy()
    picture[:, :10] = 0
    drawn = phase_panel(Figure().subplots(), picture, shared_limits([truth], source="truth"), title="").get_array()
    assert drawn is not None
    assert np.ma.getmaskarray(drawn)[:, :10].all()
    assert not np.ma.getmaskarray(drawn)[:, 10:].any()


@pytest.mark.parametrize(("cols", "text"), [(47, "5 px"), (240, "20 px"), (512, "100 px"), (3, "1 px")])
def test_scale_bar_is_as_long_as_it_says(cols, text):
    axes = Figure().subplots()
    scale_bar(axes, (31, cols))
    assert [label.get_text() for label in axes.texts] == [text]
    assert f"{axes.patches[-1].get_width():g} px" == text


def test_a_reconstruction_of_another_shape_is_refused(tmp_path, truth, recon):
    with pytest.raises(ValueError, match="must have one shape; align first"):
        figures.amp_phase(recon[1:], truth, title="", path=tmp_path / "x.png")


def test_what_is_absent_is_left_out(tmp_path, truth, recon):
    figures.scan_preview(make_scan(truth, with_object=False), tmp_path / "scan.png")
    figures.amp_phase(recon, None, title="no truth", path=tmp_path / "alone.png")
    figures.compare_amp_phase([], truth, tmp_path / "truth.png")
    figures.compare_amp_phase([], None, tmp_path / "nothing.png")
    figures.compare_amp_phase([(name, recon) for name in "abcde"], None, tmp_path / "five.png")
    scan = make_scan(truth)
    figures.view_preview(scan.positions_rc_px, scan.positions_rc_px, make_view(1, heldout=0), tmp_path / "view.png")
    figures.training_curve([], tmp_path / "curve.png")
    figures.training_curve([{"epoch": "0", "loss": "", "validation_loss": "-1"}], tmp_path / "negative.png")
    assert len(list(tmp_path.iterdir())) == 8
