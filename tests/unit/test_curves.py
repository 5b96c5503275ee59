"""Curves: what is drawn from which numbers, labels that can be read, styles that tell arms apart, stable bytes."""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from ptychoflow.metrics.frc import FrcCurve
from ptychoflow.report import curves, styles
from ptychoflow.report.curves import Point, frc_curves, mean_curve, mean_points, quality_time

ARMS = Path(__file__).parents[2] / "conf" / "arms.json"
RINGS = 17


@pytest.fixture
def drawn(monkeypatch):
    """Return the list of figures that were saved, instead of files."""
    found: list[Figure] = []
    monkeypatch.setattr(curves, "save", lambda figure, *_, **__: found.append(figure))
    return found


def make_curve(seed=0, rings=RINGS):
    q = np.arange(1, rings + 1)
    noise = 0.05 * np.random.default_rng(seed).standard_normal(rings)
    return FrcCurve(2 * q / 35, np.cos(2.5 * q / rings) + noise, np.rint(2 * np.pi * q).astype(np.int64))


def snapshot(epoch, train, reconstruct, value, *, final=False, key="phase.pearson"):
    scores = {"phase.pearson": {"value": None, "reason": "truth_phase_constant"}, key: {"value": value}}
    return {
        "epoch": epoch, "train_seconds": train, "reconstruct_seconds": reconstruct, "final": final, "scores": scores,
    }  # fmt: skip


def net_run(seed=0, **options):
    states = [(3, 3.0, 0.5), (11, 11.0, 0.9), (50 + seed, 50.0 + seed, 0.98)]
    return [
        snapshot(epoch, train, 2.0, value + 0.001 * seed, final=epoch >= 50, **options)
        for epoch, train, value in states
    ]


def iterative_run(**options):
    states = [(3, 0.75, 0.98), (11, 2.75, 0.99), (100, 25.0, 0.997)]
    return [snapshot(epoch, 0.0, seconds, value, final=epoch == 100, **options) for epoch, seconds, value in states]


def data_of(axes, label):
    (line,) = [line for line in axes.get_lines() if line.get_label() == label]
    return line


# styles


def test_registered_arms_have_the_colours_of_the_registry():
    """Oracle: conf/arms.json."""
    arms = [arm for arm in json.loads(ARMS.read_text())["arms"] if arm["kind"] != "imported"]
    labels = {arm["id"] + ("_gs2" if arm["kind"] == "train" else ""): arm["colour"] for arm in arms}
    found = styles.styles(list(labels))
    assert {label: look.colour for label, look in found.items()} == labels


def test_styles_do_not_depend_on_the_order_and_differ_without_colour():
    labels = ["pinn_torch_gs2", "lsqml", "pinn_torch_gs1", "mine", "another", "baseline_torch_gs1"]
    found = styles.styles(labels)
    assert found == styles.styles(labels[::-1])
    assert found["pinn_torch_gs1"].colour == found["pinn_torch_gs2"].colour
    assert len({look.colour for look in found.values()}) == 5
    for first, second in combinations(found.values(), 2):
        assert first.dashes != second.dashes
        assert first.marker != second.marker


def test_letters_are_dark_enough_to_read_on_white():
    """Oracle: contrast ratio of WCAG 2.1, at least 4.5 for small letters."""

    def contrast(colour):
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return 1.05 / (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)

    for colour in (*styles.ARM_COLOURS.values(), *styles.OTHER_COLOURS):
        look = styles.Style(colour, (0, ()), "o")
        assert contrast(look.text_colour) >= 4.5, colour


# Fourier ring correlation


def test_the_strong_line_is_the_mean_and_every_seed_has_a_light_one(tmp_path, drawn):
    seeds = [make_curve(seed) for seed in range(3)]
    frc_curves({"a": seeds, "b": [make_curve(7)], "c": []}, tmp_path / "x.png", title="t")
    axes = drawn[0].axes[0]
    mean = data_of(axes, "a, mean of 3 seeds")
    np.testing.assert_allclose(mean.get_ydata(), np.mean([curve.correlation for curve in seeds], axis=0))
    np.testing.assert_array_equal(mean.get_xdata(), 2 * np.arange(1, RINGS + 1) / 35)
    light = [line for line in axes.get_lines() if line.get_alpha() == 0.4]
    np.testing.assert_array_equal([line.get_ydata() for line in light], [curve.correlation for curve in seeds])
    assert {line.get_color() for line in light} == {mean.get_color()}
    np.testing.assert_array_equal(data_of(axes, "b").get_ydata(), make_curve(7).correlation)
    low, high = axes.get_ylim()
    assert low < min(line.get_ydata().min() for line in light)
    assert high > 1


def test_thresholds_are_where_resolution_is_read(tmp_path, drawn):
    """Oracle: van Heel, Schatz, J. Struct. Biol. 151, 250 (2005), eq. 17 with SNR = (sqrt(2) - 1)/2 per half."""
    curve = make_curve()
    frc_curves({"a": [curve]}, tmp_path / "x.png", title="t")
    axes = drawn[0].axes[0]
    assert set(data_of(axes, "threshold 0.5").get_ydata()) == {0.5}
    assert set(data_of(axes, "threshold 1/7").get_ydata()) == {1 / 7}
    snr = (np.sqrt(2) - 1) / 2
    root = np.sqrt(curve.n_samples)
    expected = (snr + 2 * np.sqrt(snr) / root + 1 / root) / (snr + 1 + 2 * np.sqrt(snr) / root)
    np.testing.assert_allclose(data_of(axes, "threshold half-bit").get_ydata(), expected, atol=2e-4)


def test_a_period_of_two_pixels_is_nyquist(tmp_path, drawn):
    frc_curves({"a": [make_curve()]}, tmp_path / "x.png", title="t")
    axes = drawn[0].axes[0]
    FigureCanvasAgg(drawn[0]).draw()
    (above,) = axes.child_axes
    found = {label.get_text(): place for place, label in zip(above.get_xticks(), above.get_xticklabels(), strict=True)}
    assert found["2"] == 1
    assert found["4"] == 0.5
    assert found["2.5"] == 0.8
    assert above.get_xlim() == axes.get_xlim() == (0, 1)


def test_a_ring_without_energy_in_one_seed_has_the_mean_of_the_others():
    values = np.array([[0.5, np.nan, np.nan], [0.7, 0.2, np.nan]])
    np.testing.assert_allclose(mean_curve(values), [0.6, 0.2, np.nan])


def test_curves_on_other_rings_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must share their rings, got 17 and 12 rings"):
        frc_curves({"a": [make_curve()], "b": [make_curve(rings=12)]}, tmp_path / "x.png", title="t")


# quality over time


def test_the_first_scan_pays_for_training_and_a_further_one_does_not(tmp_path, drawn):
    quality_time({"net": [net_run()], "lsqml": [iterative_run()]}, tmp_path / "x.png", title="t")
    first, further = drawn[0].axes
    np.testing.assert_allclose(data_of(first, "net").get_xdata(), [5, 13, 52])
    np.testing.assert_allclose(data_of(further, "net").get_xdata(), [2, 2, 2])
    for axes in (first, further):
        np.testing.assert_allclose(data_of(axes, "net").get_ydata(), [0.5, 0.9, 0.98])
        np.testing.assert_allclose(data_of(axes, "lsqml").get_xdata(), [0.75, 2.75, 25])
        assert axes.get_xscale() == "log"
    assert "first scan" in first.get_xlabel()
    assert "further scan" in further.get_xlabel()


def test_with_several_seeds_the_strong_line_is_their_mean(tmp_path, drawn):
    quality_time({"net": [net_run(seed) for seed in range(3)]}, tmp_path / "x.png", title="t")
    first = drawn[0].axes[0]
    line = data_of(first, "net, mean of 3 seeds")
    np.testing.assert_allclose(line.get_xdata(), [5, 13, 53])
    np.testing.assert_allclose(line.get_ydata(), [0.501, 0.901, 0.981])
    assert len([line for line in first.get_lines() if line.get_alpha() == 0.4]) == 3
    assert [text.get_text() for text in first.texts].count("50–52") == 1


def test_a_state_that_one_seed_lacks_has_no_mean():
    def point(epoch, quality, *, final=False):
        return Point(float(epoch), quality, str(epoch), final)

    early = [point(5, 0.5), point(10, 0.6), point(11, 0.7, final=True)]
    late = [point(5, 0.7), point(11, 0.8), point(30, 0.9, final=True)]
    assert mean_points([early, late]) == [Point(5.0, 0.6, "5", False), Point(20.5, 0.8, "11–30", True)]


@pytest.mark.parametrize(
    ("key", "named"),
    [
        ("phase.pearson", "Pearson correlation of phase"),
        ("amp.pearson", "Pearson correlation of amplitude"),
        ("heldout.contrast", "contrast correlation on held-out frames"),
    ],
)
def test_quality_is_the_first_score_that_there_is_and_its_name_stands_on_the_axis(tmp_path, drawn, key, named):
    lacks = [snapshot(3, 1.0, 1.0, None)]
    runs = {"lacks": [lacks], "net": [net_run(key=key)]}
    runs["net"][0][0]["scores"]["heldout.contrast"] = {"value": 0.5}
    quality_time(runs, tmp_path / "x.png", title="t")
    assert drawn[0].axes[0].get_ylabel().splitlines()[0] == named
    assert "1 is perfect" in drawn[0].axes[0].get_ylabel()
    assert [line.get_label() for line in drawn[0].axes[0].get_lines() if line.get_label()[0] != "_"] == ["net"]


def test_only_the_final_state_is_filled(tmp_path, drawn):
    quality_time({"net": [net_run()]}, tmp_path / "x.png", title="t")
    for axes in drawn[0].axes:
        line = data_of(axes, "net")
        assert line.get_markerfacecolor() == "white"
        (filled,) = [other for other in axes.get_lines() if other is not line]
        assert filled.get_markerfacecolor() == line.get_color()
        np.testing.assert_allclose(filled.get_xydata(), line.get_xydata()[-1:])


def test_qualities_near_one_stay_apart_however_low_the_curves_begin(tmp_path, drawn):
    low = [snapshot(1, 1.0, 1.0, -0.4), snapshot(2, 2.0, 1.0, 0.3, final=True)]
    quality_time({"low": [low], "lsqml": [iterative_run()]}, tmp_path / "x.png", title="t")
    axes = drawn[0].axes[0]
    FigureCanvasAgg(drawn[0]).draw()
    heights = [axes.transData.transform((1.0, value))[1] for value in (0.98, 0.99)]
    assert heights[1] - heights[0] > 20
    labels = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert len(labels) >= 5
    assert not any(first.overlaps(second) for first, second in combinations(labels, 2))
    for tick, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True):
        assert float(label.get_text()) == pytest.approx(tick)


@pytest.mark.parametrize("values", [[0.9801, 0.9804], [0.5], [1.0, 0.3], [-1.0, -0.97]])
def test_every_range_of_quality_has_an_axis_with_labels(tmp_path, drawn, values):
    run = [snapshot(epoch, 1.0 + epoch, 1.0, value) for epoch, value in enumerate(values)]
    quality_time({"a": [run]}, tmp_path / "x.png", title="t")
    axes = drawn[0].axes[0]
    low, high = axes.get_ylim()
    assert low < min(values)
    assert max(values) < high or max(values) == 1
    assert len([tick for tick in axes.get_yticks() if low <= tick <= high]) >= 2


def test_epochs_stand_beside_their_points_clear_of_one_another(tmp_path, drawn):
    crowd = [snapshot(epoch, 0.1 * epoch, 2.0, 0.9 + 0.001 * epoch, final=epoch == 30) for epoch in range(10, 31, 2)]
    quality_time({"net": [net_run()], "lsqml": [iterative_run()], "crowd": [crowd]}, tmp_path / "x.png", title="t")
    canvas = FigureCanvasAgg(drawn[0])
    canvas.draw()
    for axes in drawn[0].axes:
        words = [text for text in axes.texts if isinstance(text, Text)]
        places = axes.transData.transform(np.concatenate([line.get_xydata() for line in axes.get_lines()]))
        assert len(words) >= 8
        assert {"50", "100", "30"} <= {text.get_text() for text in words}
        for text in words:
            box = text.get_window_extent()
            assert not box.shrunk(0.9, 0.7).count_contains(places), text
            assert np.hypot(*(places - [(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2]).T).min() < 25
        boxes = [text.get_window_extent().shrunk(0.95, 0.75) for text in words]
        assert not any(first.overlaps(second) for first, second in combinations(boxes, 2))


def test_what_took_no_time_or_has_no_score_is_left_out(tmp_path, drawn):
    states = [snapshot(0, 0.0, 0.0, 0.1), snapshot(1, 0.0, 1.0, None), snapshot(2, 0.0, 2.0, 0.5, final=True)]
    quality_time({"a": [states], "b": []}, tmp_path / "x.png", title="t")
    np.testing.assert_allclose(data_of(drawn[0].axes[0], "a").get_xydata(), [[2.0, 0.5]])
    quality_time({}, tmp_path / "x.png", title="t")
    assert [text.get_text() for text in drawn[1].axes[0].texts] == ["no snapshot has a score"]


def test_curves_repeat_byte_for_byte_and_carry_their_title(tmp_path):
    for name in ("first", "second"):
        seeds = [make_curve(seed) for seed in range(2)]
        frc_curves({"a": seeds}, tmp_path / name / "frc.png", title="lines: FRC")
        quality_time({"a": [net_run()]}, tmp_path / name / "quality.png", title="lines: quality")
    for file, title in (("frc.png", "lines: FRC"), ("quality.png", "lines: quality")):
        first, second = (tmp_path / name / file for name in ("first", "second"))
        assert first.read_bytes() == second.read_bytes()
        assert len(first.read_bytes()) < 60_000
        with Image.open(first) as image:
            assert image.info["Title"] == title
            assert "Software" not in image.info
