"""EVALUATE from files to metrics.json: regions, coverage, collapse, consistency, refusals (D58, D61, T8)."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ptychoflow.commands.evaluate import CONSISTENCY_FRAMES, _evenly, evaluate_reference, run
from ptychoflow.config import EvaluateConfig
from ptychoflow.data.storage import read_json, save_recon, save_scan, save_view, write_json
from ptychoflow.errors import ContractError, UsageError
from ptychoflow.frames import Canvas, Region
from ptychoflow.physics.fourier import far_field_amplitude
from ptychoflow.physics.patches import gather
from ptychoflow.records import FrameSet, Normalization, Recon, Scan, View
from scan_files import made_from

N = 16
SHAPE = (61, 84)
REGIONS = (Region(10, 51, 9, 40), Region(10, 51, 44, 75))
META = {
    "run_id": "c__pinn_gs1__n16__s0",
    "condition": "c",
    "label": "pinn_gs1",
    "arm": "pinn",
    "gridsize": 1,
    "n": N,
    "seed": 0,
}
CANVAS = Canvas((3, 2), (55, 80))


def truth_object() -> np.ndarray:
    rng = np.random.default_rng(7)
    amplitude = 1 + gaussian_filter(rng.normal(size=SHAPE), 2)
    return (amplitude * np.exp(3j * gaussian_filter(rng.normal(size=SHAPE), 3))).astype(np.complex64)


def probe() -> np.ndarray:
    row, col = np.mgrid[0:N, 0:N] - N // 2
    return (5 * np.exp(-(row**2 / 20 + col**2 / 12) + 0.2j * row)).astype(np.complex64)


@pytest.fixture
def scan() -> Scan:
    row, col = np.meshgrid(np.arange(12.0, 48, 4), np.arange(12.0, 72, 4), indexing="ij")
    positions = np.stack([row.ravel(), col.ravel()], axis=1) + 0.3
    amplitude = far_field_amplitude(probe() * gather(truth_object(), positions, N)).astype(np.float32)
    index = np.zeros(len(positions), dtype=np.int64)
    return Scan(amplitude, positions, probe(), index, truth_object(), metadata={"object_role": "truth"})


@pytest.fixture
def view(scan: Scan) -> View:
    frames = np.arange(scan.n_frames)
    heldout, used = frames[::9], np.delete(frames, frames[::9])
    sets = FrameSet(used, used[:, None])
    return View(sets, sets, heldout, Normalization(1.0, 1.0, 1.0, 1.0, True), REGIONS, {})


@pytest.fixture(autouse=True)
def _no_picture(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes a second: only the test of the files draws."""
    if "csv" not in request.node.name:
        monkeypatch.setattr("ptychoflow.commands.evaluate.amp_phase", lambda *_args, path, **_kwargs: path.touch())


def recon_of(image: np.ndarray, **changes: Any) -> Recon:
    r0, c0 = CANVAS.origin_rc_px
    cut = image[r0 : r0 + CANVAS.shape[0], c0 : c0 + CANVAS.shape[1]].astype(np.complex64)
    return replace(Recon(cut, np.ones(CANVAS.shape, dtype=np.float32), CANVAS), **changes)


def evaluated(
    folder: Path, scan: Scan, view: View, recon: Recon, *, patch: dict | None = None, **options: Any
) -> dict[str, Any]:
    """Write the inputs, run the command, read metrics.json back."""
    save_scan(folder / "scan.npz", scan)
    save_view(folder / "view.npz", made_from(view, folder / "scan.npz"))
    save_recon(folder / "recon.npz", recon)
    if patch is not None:
        write_json(folder / "patch_metrics.json", patch)
    run(
        EvaluateConfig(**options),
        run_meta=META,
        recon=folder / "recon.npz",
        test_scan=folder / "scan.npz",
        view=folder / "view.npz",
        patch_metrics=None if patch is None else folder / "patch_metrics.json",
        out_dir=folder,
    )
    return read_json(folder / "metrics.json")


def test_the_truth_up_to_a_factor_scores_perfectly_in_every_region(tmp_path: Path, scan: Scan, view: View):
    """Same pixels by origin (D58): the canvas starts elsewhere than the truth, and a shift of one pixel would show."""
    metrics = evaluated(tmp_path, scan, view, recon_of(0.5j * truth_object()))
    assert {name: metrics[name] for name in META} == META
    assert metrics["against"] == "truth"
    assert metrics["collapsed"] is False
    assert metrics["coverage"] == 1
    assert metrics["stitched"]["amp"]["mae"]["value"] == pytest.approx(0, abs=1e-6)
    assert metrics["stitched"]["phase"]["pearson"]["value"] == pytest.approx(1)
    assert metrics["stitched"]["phase"]["frc50"]["status"] == "never"
    assert metrics["stitched"]["amp"]["ssim"]["region"] == [[10, 51, 9, 40], [10, 51, 44, 75]]
    assert [block["object"] for block in metrics["by_object"]] == [0, 1]
    assert metrics["alignment"]["by_object"][1]["gauge_abs"] == pytest.approx(2, rel=1e-5)
    assert metrics["patch"] == {"not_applicable": "this arm has no patch metrics"}
    for name in ("heldout", "test"):
        block = metrics["consistency"][name]
        assert block["r_factor"]["value"] < 1e-5
        assert block["contrast"]["value"] > 0.9999
        assert block["scale"] == pytest.approx(2, rel=1e-4)
    shifted = evaluated(tmp_path, scan, view, recon_of(np.roll(truth_object(), 1, axis=1)))
    assert shifted["stitched"]["amp"]["mae"]["value"] > 0.02


def test_stitched_is_the_mean_over_objects(tmp_path: Path, scan: Scan, view: View):
    image = truth_object()
    image[:, 44:] += 0.1 * np.random.default_rng(1).normal(size=image[:, 44:].shape)
    metrics = evaluated(tmp_path, scan, view, recon_of(image))
    parts = [block["amp"]["mae"]["value"] for block in metrics["by_object"]]
    assert parts[0] < 1e-6 < 0.01 < parts[1]
    assert metrics["stitched"]["amp"]["mae"]["value"] == pytest.approx(sum(parts) / 2)


def test_frc_csv_and_the_picture_are_written(tmp_path: Path, scan: Scan, view: View):
    evaluated(tmp_path, scan, view, recon_of(truth_object()))
    rows = list(csv.DictReader((tmp_path / "frc.csv").read_text().splitlines()))
    assert list(rows[0]) == ["object", "part", "frequency_nyquist", "frc", "n_samples"]
    assert {(row["object"], row["part"]) for row in rows} == {(o, p) for o in "01" for p in ("amp", "phase", "complex")}
    assert len(rows) == 2 * 3 * (31 // 2)
    assert (tmp_path / "amp_phase.png").stat().st_size > 1000


def test_a_phase_free_truth_gives_null_scores_with_a_reason_in_strict_json(tmp_path: Path, scan: Scan, view: View):
    flat = replace(scan, object=np.abs(truth_object()).astype(np.complex64))
    metrics = evaluated(tmp_path, flat, view, recon_of(truth_object()))
    for score in metrics["stitched"]["phase"].values():
        assert score["value"] is None
        assert score["reason"] == "truth_phase_constant"
    assert metrics["stitched"]["complex"]["nrmse"]["value"] > 0
    text = (tmp_path / "metrics.json").read_text()
    json.loads(text, parse_constant=lambda token: pytest.fail(token))
    assert "phase" not in {row.split(",")[1] for row in (tmp_path / "frc.csv").read_text().splitlines()}


def test_without_an_object_only_consistency_is_scored(tmp_path: Path, scan: Scan, view: View):
    bare = replace(scan, object=None)
    metrics = evaluated(tmp_path, bare, view, recon_of(truth_object()))
    assert metrics["against"] is None
    assert metrics["stitched"] == {"not_applicable": "no object in the scan"}
    assert metrics["by_object"] == []
    assert metrics["consistency"]["heldout"]["contrast"]["value"] > 0.9999
    assert metrics["collapsed"] is False
    assert evaluated(tmp_path, bare, view, recon_of(np.full(SHAPE, 0.7)))["collapsed"] is True
    assert evaluate_reference(bare, view) == {"not_applicable": "no object in the scan"}


def test_a_reference_is_called_one(tmp_path: Path, scan: Scan, view: View):
    metrics = evaluated(tmp_path, replace(scan, metadata={"object_role": "reference"}), view, recon_of(truth_object()))
    assert metrics["against"] == "reference"


def test_a_flat_amplitude_or_phase_is_flagged_as_collapsed(tmp_path: Path, scan: Scan, view: View):
    """T8: the standard-deviation ratio to the truth, separately for amplitude and phase."""
    truth = truth_object()
    flat_amplitude = np.exp(1j * np.angle(truth))
    for image in (flat_amplitude, np.abs(truth), np.ones(SHAPE), np.zeros(SHAPE)):
        metrics = evaluated(tmp_path, scan, view, recon_of(image))
        assert metrics["collapsed"] is True
    weak = (1 + 0.4 * (np.abs(truth) - 1)) * np.exp(0.4j * np.angle(truth))
    assert evaluated(tmp_path, scan, view, recon_of(weak))["collapsed"] is False
    assert evaluated(tmp_path, scan, view, recon_of(weak), collapse_ratio=0.6)["collapsed"] is True


def test_a_flat_reconstruction_has_a_reason_instead_of_a_contrast(tmp_path: Path, scan: Scan, view: View):
    block = evaluated(tmp_path, scan, view, recon_of(np.ones(SHAPE)))["consistency"]["test"]
    assert block["contrast"]["value"] is None
    assert "predicted frames do not differ" in block["contrast"]["reason"]
    assert block["r_factor"]["value"] > 0.05


def test_uncovered_pixels_lower_the_coverage_and_skip_their_frames(tmp_path: Path, scan: Scan, view: View):
    weight = np.ones(CANVAS.shape, dtype=np.float32)
    weight[:, 40:] = 1e-4
    recon = recon_of(truth_object(), weight=weight)
    metrics = evaluated(tmp_path, scan, view, recon)
    # Columns from 2 + 40 on are uncovered: all of the second region, none of the first.
    assert metrics["coverage"] == pytest.approx(0.5)
    frames = metrics["consistency"]["test"]["frames"]
    assert frames["uncovered"] == int((scan.positions_rc_px[view.test.frames, 1] > 42).sum())
    assert frames["uncovered"] + frames["scored"] == frames["chosen"] == len(view.test.frames)
    at = scan.positions_rc_px[view.heldout, 1]
    far = replace(view, heldout=view.heldout[at > 50])
    block = evaluated(tmp_path, scan, far, recon)["consistency"]["heldout"]
    assert block["r_factor"]["value"] is None
    assert block["r_factor"]["reason"] == "no heldout frame is covered by the reconstruction"


def test_without_held_out_frames_the_block_says_so(tmp_path: Path, scan: Scan, view: View):
    none = replace(view, heldout=np.zeros(0, dtype=np.int64))
    block = evaluated(tmp_path, scan, none, recon_of(truth_object()))["consistency"]["heldout"]
    assert block["contrast"] == {
        "value": None,
        "unit": "1",
        "direction": "higher",
        "range": None,
        "reason": "no heldout frames",
    }
    assert block["frames"]["scored"] == 0


def test_a_refined_probe_is_used_for_consistency(tmp_path: Path, scan: Scan, view: View):
    """Two half-intensity modes predict what the scan's probe does; a wrong probe does worse."""
    modes = np.stack([probe(), probe()]) / np.sqrt(2)
    metrics = evaluated(tmp_path, scan, view, recon_of(truth_object(), probe=modes.astype(np.complex64)))
    assert metrics["consistency"]["test"]["probe"] == "reconstruction"
    assert metrics["consistency"]["test"]["r_factor"]["value"] < 1e-5
    wrong = evaluated(tmp_path, scan, view, recon_of(truth_object(), probe=np.ones((1, N, N), dtype=np.complex64)))
    assert wrong["consistency"]["test"]["r_factor"]["value"] > 0.1


def test_the_scans_own_object_is_consistent(scan: Scan, view: View):
    block = evaluate_reference(scan, view)
    assert block["heldout"]["r_factor"]["value"] < 1e-6
    assert block["test"]["contrast"]["value"] == pytest.approx(1)
    assert block["test"]["frames"]["uncovered"] == 0


def test_options_reach_the_alignment(tmp_path: Path, scan: Scan, view: View):
    ramp = np.exp(0.05j * np.arange(SHAPE[0]))[:, None]
    with_ramp = recon_of(truth_object() * ramp)
    left = evaluated(tmp_path, scan, view, with_ramp)
    removed = evaluated(tmp_path, scan, view, with_ramp, phase_ramp=True)
    assert left["stitched"]["phase"]["mae"]["value"] > 0.2
    assert removed["stitched"]["phase"]["mae"]["value"] < 1e-3
    np.testing.assert_allclose(removed["alignment"]["by_object"][0]["ramp_rad_per_px"], [-0.05, 0], atol=1e-4)
    raw = evaluated(tmp_path, scan, view, recon_of(2 * truth_object()), align="none")
    assert raw["stitched"]["complex"]["nrmse"]["value"] == pytest.approx(1, rel=1e-5)


def test_patch_metrics_are_passed_on(tmp_path: Path, scan: Scan, view: View):
    patch = {"mae_amp": {"value": 0.1, "unit": "1", "direction": "lower", "range": None}}
    assert evaluated(tmp_path, scan, view, recon_of(truth_object()), patch=patch)["patch"] == patch


def test_a_malformed_reconstruction_is_refused_with_all_its_faults(tmp_path: Path, scan: Scan, view: View):
    image = truth_object()
    image[20, 20] = np.nan
    bad = recon_of(image, canvas=Canvas((30, 2), CANVAS.shape), probe=np.ones((1, 8, 8), dtype=np.complex64))
    with pytest.raises(ContractError) as error:
        evaluated(tmp_path, scan, view, bad)
    # The canvas misses the top rows of both regions.
    for text in ("4 problems", "'object' has 1 values that are NaN", "8 px a side", "not inside the canvas"):
        assert text in str(error.value)
    assert not (tmp_path / "metrics.json").exists()
    with pytest.raises(ContractError, match="nothing is covered"):
        evaluated(tmp_path, scan, view, recon_of(truth_object(), weight=np.zeros(CANVAS.shape, dtype=np.float32)))
    np.savez(tmp_path / "recon.npz", object=np.ones(CANVAS.shape))
    with pytest.raises(ContractError, match="'weight' is missing"):
        run(
            EvaluateConfig(), run_meta=META, recon=tmp_path / "recon.npz", test_scan=tmp_path / "scan.npz",
            view=tmp_path / "view.npz", patch_metrics=None, out_dir=tmp_path,
        )  # fmt: skip


def test_a_run_entry_without_its_ids_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match=r"keys \['run_id', 'condition'\] are missing"):
        run(
            EvaluateConfig(), run_meta={k: META[k] for k in list(META)[2:]}, recon=tmp_path, test_scan=tmp_path,
            view=tmp_path, patch_metrics=None, out_dir=tmp_path,
        )  # fmt: skip


def test_long_sets_are_thinned_evenly_to_both_ends():
    frames = np.arange(100, 3000)
    chosen = _evenly(frames, CONSISTENCY_FRAMES)
    assert len(chosen) == len(set(chosen)) == CONSISTENCY_FRAMES
    assert (chosen[0], chosen[-1]) == (100, 2999)
    assert np.ptp(np.diff(chosen)) <= 1
    np.testing.assert_array_equal(_evenly(frames[:7], CONSISTENCY_FRAMES), frames[:7])


def test_another_scan_than_the_views_is_refused(tmp_path: Path, scan: Scan, view: View):
    """D77: indices of one file say nothing about another, even of the same size."""
    evaluated(tmp_path, scan, view, recon_of(truth_object()))
    save_scan(tmp_path / "scan.npz", replace(scan, amplitude=scan.amplitude[::-1].copy()))
    options = {"recon": tmp_path / "recon.npz", "test_scan": tmp_path / "scan.npz", "view": tmp_path / "view.npz"}
    with pytest.raises(ContractError, match=r"scan.npz is not the test scan that the view was made from"):
        run(EvaluateConfig(), run_meta=META, patch_metrics=None, out_dir=tmp_path, **options)
