"""Pictures: orientation, shared limits, stable bytes."""

import io
import os
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.offsetbox import AnchoredOffsetbox
from PIL import Image

from ptychoflow.frames import Region
from ptychoflow.records import FrameSet, Normalization, Scan, View
from ptychoflow.report import figures, panels, previews
from ptychoflow.report.panels import has_phase, phase_panel, pixels, save, scale_bar, shared_limits

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
    previews.scan_preview(scan, folder / "scan.png")
    figures.amp_phase(recon, truth, title="run: truth", path=folder / "amp_phase.png")
    figures.compare_amp_phase([("a", recon), ("b", truth)], truth, folder / "compare.png", title="condition: arms")
    covered = np.arange(47) > np.arange(31)[:, None]
    figures.error_maps(recon, truth, covered, title="run: errors", path=folder / "errors.png", pixel_size_m=7e-9)
    positions = scan.positions_rc_px
    previews.view_preview(positions, positions, make_view(scan.n_frames, members=4), folder / "view.png")
    figures.training_curve([{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0}], folder / "curve.png")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_pictures_repeat_byte_for_byte_and_carry_no_date(tmp_path, truth, recon):
    first, second = (draw_everything(tmp_path / name, truth, recon) for name in ("a", "b"))
    assert len(first) == 6
    assert first == second
    for png in first.values():
        assert b"Software" not in png
        assert b"tIME" not in png
        assert len(png) < 400_000


@pytest.mark.slow
def test_the_title_in_the_file_says_whose_picture_it_is(tmp_path, truth, recon):
    drawn = draw_everything(tmp_path, truth, recon)
    assert Image.open(io.BytesIO(drawn["amp_phase.png"])).info["Title"] == "run: truth"
    assert Image.open(io.BytesIO(drawn["compare.png"])).info["Title"] == "condition: arms"
    assert Image.open(io.BytesIO(drawn["errors.png"])).info["Title"] == "run: errors"


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


def bar_of(axes):
    """Return the text of a scale bar, and the columns that its stroke covers, px."""
    axes.figure.canvas.draw()
    (box,) = [artist for artist in axes.artists if isinstance(artist, AnchoredOffsetbox)]
    text, stroke = box.get_child().get_children()
    (rectangle,) = stroke.get_children()
    ends = axes.transData.inverted().transform(rectangle.get_window_extent().get_points())
    return text.get_text(), float(np.ptp(ends[:, 0]))


def panel_of(shape):
    figure = Figure()
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    pixels(axes, np.zeros(shape), title="", cmap="gray", limits=(0, 1))
    return axes


@pytest.mark.parametrize(("cols", "text"), [(47, "5 px"), (240, "20 px"), (512, "100 px"), (3, "1 px")])
def test_scale_bar_is_as_long_as_it_says(cols, text):
    axes = panel_of((31, cols))
    scale_bar(axes, (31, cols))
    found, length = bar_of(axes)
    assert found == text
    assert f"{length:.4g} px" == text


@pytest.mark.parametrize(
    ("size_m", "text"),
    [
        (7.125e-9, "20 px = 142 nm"),
        (1e-10, "20 px = 2 nm"),
        (0.81234e-9, "20 px = 16.2 nm"),
        (1e-6, "20 px = 20000 nm"),
    ],
)
def test_scale_bar_says_its_length_in_nm_where_the_pixel_size_is_known(size_m, text):
    axes = panel_of((31, 240))
    scale_bar(axes, (31, 240), pixel_size_m=size_m)
    assert bar_of(axes)[0] == text


def test_a_reconstruction_of_another_shape_is_refused(tmp_path, truth, recon):
    with pytest.raises(ValueError, match="must have one shape; align first"):
        figures.amp_phase(recon[1:], truth, title="", path=tmp_path / "x.png")
    with pytest.raises(ValueError, match="must have one shape; align first"):
        figures.error_maps(recon[1:], truth, None, title="", path=tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"coverage .* must have one shape"):
        figures.error_maps(recon, truth, np.ones((47, 31), bool), title="", path=tmp_path / "x.png")


@pytest.mark.slow
def test_what_is_absent_is_left_out(tmp_path, truth, recon):
    figures.error_maps(recon, truth, None, title="coverage unknown", path=tmp_path / "errors.png")
    previews.scan_preview(make_scan(truth, with_object=False), tmp_path / "scan.png")
    figures.amp_phase(recon, None, title="no truth", path=tmp_path / "alone.png")
    figures.compare_amp_phase([], truth, tmp_path / "truth.png")
    figures.compare_amp_phase([], None, tmp_path / "nothing.png")
    figures.compare_amp_phase([(name, recon) for name in "abcde"], None, tmp_path / "five.png")
    scan = make_scan(truth)
    previews.view_preview(scan.positions_rc_px, scan.positions_rc_px, make_view(1, heldout=0), tmp_path / "view.png")
    figures.training_curve([], tmp_path / "curve.png")
    figures.training_curve([{"epoch": "0", "loss": "", "validation_loss": "-1"}], tmp_path / "negative.png")
    assert len(list(tmp_path.iterdir())) == 9


@pytest.fixture
def drawn_figures(monkeypatch):
    """Return the list of figures that were saved, instead of files."""
    found = []
    monkeypatch.setattr(figures, "save", lambda figure, *_, **__: found.append(figure))
    return found


def image_of(axes):
    return axes.images[0].get_array()


def test_error_maps_show_signed_errors_on_limits_of_the_truth(tmp_path, truth, drawn_figures):
    recon = truth.copy()
    recon[4, 9] = 1.25 * truth[4, 9] * np.exp(0.3j)
    recon[20, 2] = 0.5 * truth[20, 2] * np.exp(-3.0j)
    covered = np.ones(SHAPE, bool)
    covered[:3, 40:] = False
    for picture in (recon, 3 * recon):
        figures.error_maps(picture, truth, covered, title="", path=tmp_path / "x.png")
    amplitude, phase, coverage = (image_of(axes) for axes in drawn_figures[0].axes[:3])
    expected = np.zeros(SHAPE)
    expected[4, 9], expected[20, 2] = 0.25 * abs(truth[4, 9]), -0.5 * abs(truth[20, 2])
    np.testing.assert_allclose(amplitude[covered], expected[covered], atol=1e-6)
    expected[4, 9], expected[20, 2] = 0.3, -3.0
    np.testing.assert_allclose(phase[covered], expected[covered], atol=1e-6)
    for error in (amplitude, phase):
        np.testing.assert_array_equal(np.ma.getmaskarray(error), ~covered)
    np.testing.assert_array_equal(coverage, covered)
    assert drawn_figures[0].axes[2].get_title() == f"coverage: 21 of {31 * 47} px not seen"
    first, second = ([axes.images[0].get_clim() for axes in figure.axes[:2]] for figure in drawn_figures)
    assert first == second
    limits = shared_limits([truth], source="truth")
    assert first[0] == pytest.approx(((limits.low - limits.high) / 2, (limits.high - limits.low) / 2))
    assert first[1] == pytest.approx((-limits.half_range_rad / 2, limits.half_range_rad / 2))


def test_the_words_under_a_picture_fit_its_width(tmp_path, truth, recon, drawn_figures):
    for covered in (None, np.ones(SHAPE, bool)):
        figures.error_maps(recon, truth, covered, title="", path=tmp_path / "x.png", truth_name="reference")
    figures.compare_amp_phase([("a", recon)], truth, tmp_path / "x.png")
    for figure in drawn_figures:
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        (words,) = [text for text in figure.texts if "colour limits" in text.get_text()]
        extent = words.get_window_extent()
        assert extent.x0 >= 0
        assert extent.x1 <= figure.bbox.width


def test_rows_of_a_comparison_are_filled_evenly(tmp_path, truth, recon, drawn_figures):
    figures.compare_amp_phase([(name, recon) for name in "abcd"], truth, tmp_path / "x.png", per_row=4)
    used = [axes for axes in drawn_figures[0].axes if axes.images and axes.get_title()]
    assert len(used) == 10
    assert len({round(axes.get_position().x0, 3) for axes in used}) == 3


def test_saved_colours_are_those_that_were_drawn(tmp_path, truth, recon):
    figure = Figure(figsize=(3, 2))
    axes = figure.subplots(1, 2)
    pixels(axes[0], np.angle(recon), title="phase", cmap="twilight", limits=(-3, 3))
    pixels(axes[1], np.abs(recon), title="amplitude", cmap="gray", limits=(0, 2))
    save(figure, tmp_path / "x.png")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = np.asarray(canvas.buffer_rgba())[..., :3].astype(int)
    saved = np.asarray(Image.open(tmp_path / "x.png").convert("RGB")).astype(int)
    assert saved.shape == drawn.shape == (2 * panels.DPI, 3 * panels.DPI, 3)
    assert np.abs(saved - drawn).max() <= 0.05 * 255
    assert (saved[(drawn == 255).all(axis=-1)] == 255).all()


def test_a_pixel_that_is_not_a_number_leaves_the_others_their_phase(truth):
    picture = truth.copy()
    picture[2, 3] = np.nan
    assert np.argwhere(~has_phase(picture)).tolist() == [[2, 3]]
