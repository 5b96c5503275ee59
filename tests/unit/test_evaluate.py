"""EVALUATE from files to metrics.json: regions, coverage, collapse, consistency, refusals (D58, D61, T8)."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ptychoflow.commands.evaluate import read_frc, run
from ptychoflow.config import EvaluateConfig
from ptychoflow.data.storage import read_json, save_recon, save_scan, save_snapshots, save_view, write_json
from ptychoflow.errors import ContractError, UsageError
from ptychoflow.frames import Canvas, Region
from ptychoflow.physics.fourier import far_field_amplitude
from ptychoflow.physics.patches import gather
from ptychoflow.records import FrameSet, Normalization, Recon, Scan, Snapshots, View
from ptychoflow.scoring.diffraction import CONSISTENCY_FRAMES, evenly, reference_consistency
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
RUN = {**META, "kind": "train", "supervised": False}
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
    folder: Path,
    scan: Scan,
    view: View,
    recon: Recon,
    *,
    patch: dict | None = None,
    snapshots: Snapshots | None = None,
    meta: dict[str, Any] = RUN,
    **options: Any,
) -> dict[str, Any]:
    """Write the inputs, run the command, read metrics.json back."""
    save_scan(folder / "scan.npz", scan)
    save_view(folder / "view.npz", made_from(view, folder / "scan.npz"))
    save_recon(folder / "recon.npz", recon)
    if patch is not None:
        write_json(folder / "patch_metrics.json", patch)
    if snapshots is not None:
        save_snapshots(folder / "snapshots.npz", snapshots)
    run(
        EvaluateConfig(**options),
        run_meta=meta,
        recon=folder / "recon.npz",
        test_scan=folder / "scan.npz",
        view=folder / "view.npz",
        patch_metrics=None if patch is None else folder / "patch_metrics.json",
        snapshots=None if snapshots is None else folder / "snapshots.npz",
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
    assert list(rows[0]) == ["seed", "object", "part", "frequency_nyquist", "frc", "n_samples"]
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
    assert "phase" not in {row.split(",")[2] for row in (tmp_path / "frc.csv").read_text().splitlines()}


def test_without_an_object_only_consistency_is_scored(tmp_path: Path, scan: Scan, view: View):
    bare = replace(scan, object=None)
    metrics = evaluated(tmp_path, bare, view, recon_of(truth_object()))
    assert metrics["against"] is None
    assert metrics["stitched"] == {"not_applicable": "no object in the scan"}
    assert metrics["by_object"] == []
    assert metrics["consistency"]["heldout"]["contrast"]["value"] > 0.9999
    assert metrics["collapsed"] is False
    assert evaluated(tmp_path, bare, view, recon_of(np.full(SHAPE, 0.7)))["collapsed"] is True
    assert reference_consistency(bare, view) == {"not_applicable": "no object in the scan"}


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
    block = reference_consistency(scan, view)
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
    bad = recon_of(image, canvas=Canvas((30, 2), CANVAS.shape), probe=np.full((1, 8, 8), np.nan, dtype=np.complex64))
    with pytest.raises(ContractError) as error:
        evaluated(tmp_path, scan, view, bad)
    # The canvas misses the top rows of both regions.
    for text in ("4 problems", "'object' has 1 values that are NaN", "'probe' has 64 values", "not inside the canvas"):
        assert text in str(error.value)
    assert not (tmp_path / "metrics.json").exists()
    with pytest.raises(ContractError, match="nothing is covered"):
        evaluated(tmp_path, scan, view, recon_of(truth_object(), weight=np.zeros(CANVAS.shape, dtype=np.float32)))
    np.savez(tmp_path / "recon.npz", object=np.ones(CANVAS.shape))
    with pytest.raises(ContractError, match="'weight' is missing"):
        run(
            EvaluateConfig(), run_meta=RUN, recon=tmp_path / "recon.npz", test_scan=tmp_path / "scan.npz",
            view=tmp_path / "view.npz", patch_metrics=None, snapshots=None, out_dir=tmp_path,
        )  # fmt: skip


def test_a_run_entry_without_its_ids_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match=r"keys \['run_id', 'condition'\] are missing"):
        run(
            EvaluateConfig(), run_meta={k: RUN[k] for k in list(RUN)[2:]}, recon=tmp_path, test_scan=tmp_path,
            view=tmp_path, patch_metrics=None, snapshots=None, out_dir=tmp_path,
        )  # fmt: skip


def test_long_sets_are_thinned_evenly_to_both_ends():
    frames = np.arange(100, 3000)
    chosen = evenly(frames, CONSISTENCY_FRAMES)
    assert len(chosen) == len(set(chosen)) == CONSISTENCY_FRAMES
    assert (chosen[0], chosen[-1]) == (100, 2999)
    assert np.ptp(np.diff(chosen)) <= 1
    np.testing.assert_array_equal(evenly(frames[:7], CONSISTENCY_FRAMES), frames[:7])


def test_another_scan_than_the_views_is_refused(tmp_path: Path, scan: Scan, view: View):
    """D77: indices of one file say nothing about another, even of the same size."""
    evaluated(tmp_path, scan, view, recon_of(truth_object()))
    save_scan(tmp_path / "scan.npz", replace(scan, amplitude=scan.amplitude[::-1].copy()))
    options = {"recon": tmp_path / "recon.npz", "test_scan": tmp_path / "scan.npz", "view": tmp_path / "view.npz"}
    with pytest.raises(ContractError, match=r"scan.npz is not the test scan that the view was made from"):
        run(EvaluateConfig(), run_meta=RUN, patch_metrics=None, snapshots=None, out_dir=tmp_path, **options)


def test_a_probe_of_another_side_predicts_no_frame(tmp_path: Path, scan: Scan, view: View):
    """Arms with different N are compared in object space; their probes say nothing about these frames."""
    metrics = evaluated(tmp_path, scan, view, recon_of(truth_object(), probe=np.ones((1, 8, 8), dtype=np.complex64)))
    assert "8 px a side" in metrics["consistency"]["not_applicable"]
    assert metrics["stitched"]["amp"]["mae"]["value"] == pytest.approx(0, abs=1e-6)


def test_the_deviance_needs_the_photon_scale(tmp_path: Path, scan: Scan, view: View):
    block = evaluated(tmp_path, scan, view, recon_of(truth_object()))["consistency"]["heldout"]
    assert block["deviance"]["value"] is None
    assert "how many photons" in block["deviance"]["reason"]
    known = replace(scan, metadata={"object_role": "truth", "photons_per_intensity": 7.0})
    block = evaluated(tmp_path, known, view, recon_of(truth_object()))["consistency"]["heldout"]
    # Noise-free frames: the rate equals the counts but for float32 rounding and its least value in dark pixels.
    assert block["deviance"]["value"] == pytest.approx(0, abs=1e-6)
    noisy = recon_of(truth_object() * (1 + 0.3 * np.random.default_rng(0).normal(size=SHAPE)))
    assert evaluated(tmp_path, known, view, noisy)["consistency"]["heldout"]["deviance"]["value"] > 1e-3


def test_quality_over_time_ends_with_the_final_state(tmp_path: Path, scan: Scan, view: View):
    """Earlier states are scored like the final one: the state that equals it has its scores."""
    noise = np.random.default_rng(3).normal(size=(2, *SHAPE))
    rough = recon_of(truth_object() * (1 + 0.4 * noise[0] + 0.4j * noise[1])).object
    cost = {"epochs": 40, "train_seconds": 8.0, "reconstruct_seconds": 2.0}
    final = recon_of(truth_object() * (1 + 0.1 * noise[1]), metadata={"cost": cost})
    states = Snapshots(
        np.array([1, 5]), np.array([0.5, 2.5]), np.array([2.0, 2.1]), np.stack([rough, final.object]), CANVAS
    )
    metrics = evaluated(tmp_path, scan, view, final, snapshots=states)
    entries = metrics["snapshots"]
    assert [(e["epoch"], e["train_seconds"], e["final"]) for e in entries] == [
        (1, 0.5, False),
        (5, 2.5, False),
        (40, 8.0, True),
    ]
    phase = [entry["scores"]["phase.pearson"]["value"] for entry in entries]
    assert phase[0] < phase[1] == pytest.approx(phase[2], abs=1e-6)
    assert phase[2] == metrics["stitched"]["phase"]["pearson"]["value"]
    contrast = [entry["scores"]["heldout.contrast"]["value"] for entry in entries]
    assert contrast[0] < contrast[1] == pytest.approx(contrast[2], abs=1e-6)
    assert evaluated(tmp_path, scan, view, recon_of(truth_object()))["snapshots"] == []


def test_fairness_tells_what_an_arm_was_given(tmp_path: Path, scan: Scan, view: View):
    cost = {"epochs": 40, "train_seconds": 8.0, "reconstruct_seconds": 2.0}
    recon = recon_of(truth_object(), metadata={"cost": cost, "device": "cpu"})
    block = evaluated(tmp_path, scan, view, recon)["fairness"]
    assert (block["reads_test_frames"], block["saw_truth"], block["train_test"]) == (True, False, "the same frames")
    assert (block["epochs"], block["train_seconds"], block["device"]) == (40, 8.0, "cpu")
    assert "trained on the test frames" in block["notes"][0]
    iterative = evaluated(tmp_path, scan, view, recon, meta={**RUN, "kind": "iterative"})["fairness"]
    assert (iterative["reads_test_frames"], iterative["n_train_frames"]) == (True, 0)
    imported = evaluated(tmp_path, scan, view, recon, meta={**RUN, "kind": "imported"})["fairness"]
    assert imported["reads_test_frames"] is imported["saw_truth"] is None


def test_a_leak_is_an_error_and_never_scored(tmp_path: Path, scan: Scan, view: View):
    leaking = replace(view, heldout=np.append(view.heldout, view.test.frames[3]))
    with pytest.raises(ContractError, match="1 held-out frames are also test frames"):
        evaluated(tmp_path, scan, leaking, recon_of(truth_object()))
    with pytest.raises(ContractError, match="learned from the truth of the frames"):
        evaluated(tmp_path, scan, view, recon_of(truth_object()), meta={**RUN, "supervised": True})
    two_parts = replace(view, metadata={"split": {"kind": "region"}})
    with pytest.raises(ContractError, match="train frames are also test frames"):
        evaluated(tmp_path, scan, two_parts, recon_of(truth_object()))
    pair = replace(view, metadata={"split": {"kind": "scans"}})
    with pytest.raises(ContractError, match="the same file"):
        evaluated(tmp_path, scan, pair, recon_of(truth_object()))
    assert not (tmp_path / "metrics.json").exists()


def test_curves_come_back_from_their_file(tmp_path: Path, scan: Scan, view: View):
    evaluated(tmp_path, scan, view, recon_of(truth_object() * (1 + 0.2 * np.random.default_rng(1).normal(size=SHAPE))))
    curves = read_frc(tmp_path / "frc.csv")
    assert [sorted(parts) for parts in curves] == [["amp", "complex", "phase"]] * 2
    first = curves[0]["complex"]
    assert first.frequency_nyquist[0] == pytest.approx(2 / 31, abs=1e-6)
    assert first.correlation[0] > 0.9 > 0.5 > first.correlation[-1]


@pytest.mark.parametrize(("supervised", "epochs", "saw_truth", "states"), [(True, 3, True, 1), (False, None, None, 0)])
def test_an_external_arm_is_trained_here_or_brings_its_weights(
    tmp_path: Path, scan: Scan, view: View, supervised: bool, epochs: int | None, saw_truth: bool | None, states: int
):
    """Nothing is claimed of weights that were given: neither what they saw, nor how quality grew."""
    cost = {"epochs": epochs, "train_seconds": 2.0, "reconstruct_seconds": 1.0}
    recon = recon_of(truth_object(), metadata={"cost": cost})
    # A training has a train set apart; which frames are in it does not matter here.
    split = {"split": {"kind": "region" if supervised else "none"}}
    train = FrameSet(view.heldout, view.heldout[:, None])
    apart = replace(view, train=train, heldout=view.heldout[:0], metadata=split) if supervised else view
    meta = {**RUN, "kind": "external", "supervised": supervised}
    metrics = evaluated(tmp_path, scan, apart, recon, meta=meta)
    assert metrics["fairness"]["saw_truth"] is saw_truth
    assert metrics["fairness"]["n_train_frames"] == (len(view.heldout) if supervised else 0)
    assert len(metrics["snapshots"]) == states
