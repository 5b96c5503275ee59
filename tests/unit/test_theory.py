"""Deliberately shifted, ramped, scaled, conjugated and rotated copies of a truth get the scores that theory gives.

The truth is a random band-limited object on a torus, so a copy shifted by any fraction of a pixel is exact (a phase factor on its
spectrum, no interpolation); both are then cut out of the torus. Independent of the code under test throughout.
"""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import j0

from ptychoflow.config import EvaluateConfig
from ptychoflow.frames import Canvas, Region
from ptychoflow.records import Recon
from ptychoflow.scoring.pieces import score_piece
from torus import SHAPE, TORUS, torus_object, torus_spectrum

REGION = Region(20, 151, 18, 173)
CANVAS = Canvas((0, 0), SHAPE)


def scored(image, truth=None, **options):
    recon = Recon(image.astype(np.complex64), np.ones(SHAPE, np.float32), CANVAS)
    return score_piece(recon, torus_object() if truth is None else truth, CANVAS, REGION, EvaluateConfig(**options))


def value(piece, part, name):
    return piece.scores[part][name].value


def test_the_object_is_what_the_tests_think():
    assert np.std(torus_object()) == pytest.approx(0.2, rel=0.1)
    assert np.abs(torus_object(shift=(3.0, -2.0))[10:, :-10] - torus_object()[7:-3, 2:-8]).max() < 1e-5


def test_a_complex_factor_costs_nothing():
    piece = scored(0.3 * np.exp(2.1j) * torus_object())
    assert value(piece, "complex", "nrmse") < 1e-6
    assert value(piece, "amp", "ssim") == pytest.approx(1, abs=1e-5)
    assert piece.scores["complex"]["frc50"].status == "never"
    assert any("complex factor" in sentence for sentence in piece.alignment.record()["corrected"])


@pytest.mark.parametrize("shift", [(0.5, 0.5), (-0.5, 0.6)])
def test_a_shift_costs_what_theory_says_and_registration_gives_it_back(shift):
    """An isotropic spectrum shifted by s has FRC(f) = J0(2 pi f |s|), the mean of the phase factor over a ring."""
    moved = torus_object(shift=shift)
    left = scored(moved)
    distance = float(np.hypot(*shift))
    crossing = brentq(lambda u: j0(np.pi * u * distance) - 0.5, 0.01, 1)
    assert value(left, "complex", "frc50") == pytest.approx(crossing, abs=0.03)
    named = " ".join(left.alignment.record()["not_corrected"])
    assert "shift" in named
    registered = scored(moved, align="register")
    assert registered.scores["complex"]["frc50"].status == "never"
    assert value(registered, "complex", "nrmse") < 0.1 * value(left, "complex", "nrmse")
    found = registered.alignment.record()["registration"]["shift_rc_px"]
    np.testing.assert_allclose(found, shift, atol=0.02)
    assert any("shift" in sentence for sentence in registered.alignment.record()["corrected"])


def test_a_ramp_costs_a_quarter_of_its_swing_and_is_removed_when_asked_for():
    """exp(i a x) over a width w leaves a phase spread evenly over +- a w / 2 about the gauge: mean |p| = a w / 4."""
    slope = 0.008
    ramped = torus_object() * np.exp(1j * slope * np.arange(SHAPE[1]))
    left = scored(ramped)
    assert value(left, "phase", "mae") == pytest.approx(slope * REGION.shape[1] / 4, rel=0.02)
    assert any("ramp" in sentence for sentence in left.alignment.record()["not_corrected"])
    removed = scored(ramped, phase_ramp=True)
    assert value(removed, "phase", "mae") < 1e-3
    assert any("ramp" in sentence for sentence in removed.alignment.record()["corrected"])


def test_everything_at_once_is_undone_at_once():
    moved = 1.7 * np.exp(-0.4j) * torus_object(shift=(0.5, -0.25)) * np.exp(0.01j * np.arange(SHAPE[0]))[:, None]
    piece = scored(moved, align="register", phase_ramp=True)
    # What is left is the spline's loss near Nyquist, up to which this object has its content.
    assert value(piece, "complex", "nrmse") < 0.02
    record = piece.alignment.record()
    np.testing.assert_allclose(record["registration"]["shift_rc_px"], (0.5, -0.25), atol=0.02)
    np.testing.assert_allclose(record["ramp_rad_per_px"], (-0.01, 0), atol=1e-4)
    assert len(record["corrected"]) == 3


def test_a_conjugate_scores_as_one_and_is_named():
    """conj(T) has T's amplitude and the opposite phase: correlations 1 and -1, and nothing is flipped."""
    piece = scored(np.conj(torus_object()), align="register", phase_ramp=True)
    assert value(piece, "amp", "pearson") == pytest.approx(1, abs=1e-3)
    assert value(piece, "phase", "pearson") == pytest.approx(-1, abs=1e-2)
    assert any("conj" in sentence for sentence in piece.alignment.record()["not_corrected"])


@pytest.mark.parametrize("turns", [1, 2])
def test_a_rotated_copy_scores_as_a_stranger_and_is_named(turns):
    """Two parts of a random object have nothing in common: correlation 0, within 3 / sqrt(independent pixels)."""
    square = (171, 171)
    truth = torus_object()[:, :171]
    region, canvas = Region(20, 151, 20, 151), Canvas((0, 0), square)
    turned = np.rot90(truth, turns).copy()
    recon = Recon(turned, np.ones(square, np.float32), canvas)
    piece = score_piece(recon, truth, canvas, region, EvaluateConfig(align="register"))
    assert abs(value(piece, "amp", "pearson")) < 3 / np.sqrt(131**2 * 0.6)
    record = piece.alignment.record()
    assert any("rotat" in sentence and str(90 * turns) in sentence for sentence in record["not_corrected"])
    assert not any("shift" in sentence for sentence in record["corrected"])


def test_noise_alone_is_not_registered():
    rng = np.random.default_rng(5)
    noise = (1 + 0.2 * rng.normal(size=(*SHAPE, 2)).view(np.complex128)[..., 0]).astype(np.complex64)
    piece = scored(noise, align="register")
    assert piece.alignment.record()["registration"]["believed"] is False
    assert not any("shift" in sentence for sentence in piece.alignment.record()["corrected"])


def test_the_canonical_grid_changes_pixels_and_not_the_verdict():
    """Half the samples: a band-limited object keeps its scores; the region and the direction of every score stay."""
    truth = torus_object(cut_off=0.4)
    worse = truth + 0.05 * (torus_object(7, cut_off=0.4) - 1)
    full, coarse = (scored(worse, truth, canonical_grid=side) for side in (None, 78))
    assert coarse.recon.shape == (65, 78)
    assert value(coarse, "complex", "nrmse") == pytest.approx(value(full, "complex", "nrmse"), rel=0.15)


def test_another_pixel_size_is_brought_to_the_truths_grid():
    """The same torus sampled at 1.25 times the pixel: recon pixel (i, j) is truth coordinate 0.8 (i, j)."""
    truth = torus_object(cut_off=0.3)
    rows, cols = (np.arange(length * 5 // 4) * 0.8 for length in SHAPE)
    frequencies = [np.fft.fftfreq(length) for length in TORUS]
    waves = [np.exp(2j * np.pi * np.outer(at, f)) / len(f) for at, f in zip((rows, cols), frequencies, strict=True)]
    fine = 1 + waves[0] @ torus_spectrum(0, 0.3) @ waves[1].T
    recon = Recon(fine.astype(np.complex64), np.ones(fine.shape, np.float32), Canvas((0, 0), fine.shape))
    piece = score_piece(recon, truth, CANVAS, REGION, EvaluateConfig(), ratio=1.25)
    assert value(piece, "complex", "nrmse") < 1e-3
    wrong = score_piece(
        replace(recon, canvas=Canvas((1, 0), fine.shape)), truth, CANVAS, REGION, EvaluateConfig(), ratio=1.25
    )
    assert value(wrong, "complex", "nrmse") > 0.02
