"""SIMULATE: forward model, dose, random streams, base files (physics sections 7 and 13; T2, T3, D8, D25, D29, D47-D50)."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ptychoflow.commands.simulate import run, simulate_scan
from ptychoflow.config import SimulateConfig
from ptychoflow.data.base import load_base
from ptychoflow.data.storage import load_scan, read_json, save_recon, save_scan
from ptychoflow.errors import ContractError, UsageError
from ptychoflow.frames import Canvas
from ptychoflow.physics import diffraction
from ptychoflow.physics.diffraction import expose, predict_amplitude
from ptychoflow.physics.patches import gather
from ptychoflow.records import Recon, Scan

SMALL = SimulateConfig(n=17, size=61, size_cols=44, step_px=9.0, phase="independent", probe="defocused", dose="1e5")

MEASURED = Path(__file__).parents[3] / "shared/data/siemens_star/siemens_star_N64.npz"


def frames_by_hand(scan: Scan) -> np.ndarray:
    """Noise-free amplitude from the definition: whole-pixel slices of the stored object, stored probe, NumPy's own FFT."""
    assert scan.object is not None
    out = []
    for row, col in np.rint(scan.positions_rc_px).astype(int) - scan.n // 2:
        wave = scan.probe.astype(complex) * scan.object[row : row + scan.n, col : col + scan.n]
        out.append(np.abs(np.fft.fftshift(np.fft.fft2(wave))) / scan.n)
    return np.array(out)


@pytest.mark.parametrize("kind", ["lines", "siemens"])
def test_stored_probe_and_object_reproduce_the_noise_free_frames(kind: str) -> None:
    """D25, independent source: the definition with numpy.fft; 1e-5 of each frame's peak covers single precision."""
    config = replace(SMALL, kind=kind, noise=False, phase="independent" if kind == "lines" else "none")
    scan = simulate_scan(config, None)
    expected = frames_by_hand(scan)
    assert scan.amplitude.dtype == np.float32
    peak = expected.max(axis=(1, 2), keepdims=True)
    assert np.abs((scan.amplitude - expected) / peak).max() < 1e-5


def test_several_objects_match_their_frames() -> None:
    """D47: each frame is re-simulated from its own object's rectangle, cut out and counted from its own corner."""
    scan = simulate_scan(replace(SMALL, n_objects=3, noise=False), None)
    assert scan.object is not None
    assert scan.object.shape == (61, 3 * 44 + 2 * 17)
    assert np.bincount(scan.scan_index).tolist() == [len(scan.scan_index) // 3] * 3
    for number, (r0, r1, c0, c1) in enumerate(scan.metadata["objects"]):
        mine = scan.scan_index == number
        alone = scan.object[r0:r1, c0:c1]
        again = predict_amplitude(alone, scan.probe, scan.positions_rc_px[mine] - [r0, c0])
        np.testing.assert_allclose(again, scan.amplitude[mine], rtol=1e-5, atol=1e-4)
        other = scan.object[r0:r1, : c1 - c0] if number else scan.object[r0:r1, -(c1 - c0) :]
        wrong = predict_amplitude(other, scan.probe, scan.positions_rc_px[mine] - [r0, c0])
        assert np.abs(wrong - scan.amplitude[mine]).mean() > 0.05 * scan.amplitude[mine].mean()


def test_moving_object_and_position_together_changes_nothing() -> None:
    """T2: an object moved by whole pixels, seen from a position moved likewise, gives the same frame."""
    scan = simulate_scan(replace(SMALL, noise=False), None)
    assert scan.object is not None
    moved = np.pad(scan.object, ((3, 0), (0, 5)))
    frames = predict_amplitude(moved, scan.probe, scan.positions_rc_px + np.array([3, 0]))
    np.testing.assert_allclose(frames, scan.amplitude, rtol=1e-4, atol=1e-4)


def test_energy_of_a_frame_is_the_energy_of_its_exit_wave() -> None:
    """T2: sum A^2 = sum |P O|^2 per frame, at sub-pixel positions."""
    scan = simulate_scan(replace(SMALL, noise=False, jitter_px=3.0), None)
    assert scan.object is not None
    wave = scan.probe * gather(scan.object, scan.positions_rc_px, scan.n)
    expected = (np.abs(wave) ** 2).sum(axis=(1, 2))
    np.testing.assert_allclose((scan.amplitude.astype(float) ** 2).sum(axis=(1, 2)), expected, rtol=1e-5)


@pytest.mark.parametrize("dose", ["3", "1e4", "1e9"])
def test_measured_dose_is_within_three_sigma(dose: str) -> None:
    """D50, T3: M frames of mean dose d have a mean of standard deviation sqrt(d / M); stored as asked and as measured."""
    scan = simulate_scan(replace(SMALL, dose=dose), None)
    counts = scan.amplitude.astype(np.float64) ** 2
    measured = counts.sum(axis=(1, 2)).mean()
    assert abs(measured - float(dose)) < 3 * np.sqrt(float(dose) / scan.n_frames)
    assert scan.metadata["dose_asked"] == dose
    assert scan.metadata["dose_measured_mean"] == pytest.approx(measured, rel=1e-6)


def test_noise_is_poisson() -> None:
    """Independent source: (counts - lambda) / sqrt(lambda) has mean 0 and variance 1; counts are whole numbers."""
    clean = simulate_scan(replace(SMALL, noise=False), None).amplitude.astype(np.float64) ** 2
    counts = simulate_scan(SMALL, None).amplitude.astype(np.float64) ** 2
    bright = clean > 5
    np.testing.assert_allclose(counts[bright], np.rint(counts[bright]), rtol=1e-6)
    z = (counts[bright] - clean[bright]) / np.sqrt(clean[bright])
    assert abs(z.mean()) < 4 / np.sqrt(z.size)
    assert z.var() == pytest.approx(1.0, abs=4 * np.sqrt(2.5 / z.size))


def test_incoherent_modes_add_intensities() -> None:
    """D29: two modes of the same shape give sqrt(2) of the amplitude, not 2; one mode equals the plain probe."""
    scan = simulate_scan(replace(SMALL, noise=False), None)
    assert scan.object is not None
    single = predict_amplitude(scan.object, scan.probe, scan.positions_rc_px)
    one = predict_amplitude(scan.object, scan.probe[None], scan.positions_rc_px)
    two = predict_amplitude(scan.object, np.stack([scan.probe, 1j * scan.probe]), scan.positions_rc_px)
    np.testing.assert_allclose(one, single, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(two, np.sqrt(2) * single, rtol=1e-5, atol=1e-5)


def test_seed_and_stream_change_the_data_and_are_recorded() -> None:
    """D48: same seed, same bytes; another seed or stream, another object, other noise; both are in the metadata."""
    first, again = simulate_scan(SMALL, None), simulate_scan(SMALL, None)
    np.testing.assert_array_equal(first.amplitude, again.amplitude)
    for change in ({"data_seed": 7}, {"object_stream": 1}):
        other = simulate_scan(replace(SMALL, **change), None)
        assert np.abs(other.object - first.object).mean() > 0.1
        assert other.metadata["seeds"] | change == other.metadata["seeds"]
    star = [simulate_scan(replace(SMALL, kind="siemens", phase="none", data_seed=seed), None) for seed in (1, 2)]
    assert np.abs(star[0].object - star[1].object).mean() > 0.01


def test_the_object_does_not_depend_on_the_side_of_the_frames() -> None:
    """D52: scans of N = 17 and N = 24 are scored against one and the same full object; only their frames differ."""
    small, large = (simulate_scan(replace(SMALL, n=n, jitter_px=2.0), None) for n in (17, 24))
    assert small.object.shape == (61, 44)
    np.testing.assert_array_equal(small.object, large.object)
    assert small.metadata["objects"] == large.metadata["objects"] == [[0, 61, 0, 44]]
    assert (small.n, large.n) == (17, 24)


def test_streams_are_independent() -> None:
    """Adding an object leaves the first one as it was; another dose or probe leaves object and positions as they were."""
    one = simulate_scan(replace(SMALL, jitter_px=2.0), None)
    two = simulate_scan(replace(SMALL, jitter_px=2.0, n_objects=2), None)
    np.testing.assert_array_equal(two.object[:, :44], one.object)
    np.testing.assert_array_equal(two.positions_rc_px[two.scan_index == 0], one.positions_rc_px)
    weak = simulate_scan(replace(SMALL, jitter_px=2.0, dose="10", probe="ideal_disk"), None)
    np.testing.assert_array_equal(weak.object, one.object)
    np.testing.assert_array_equal(weak.positions_rc_px, one.positions_rc_px)


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streaming: one frame at a time equals all at once (noise is drawn in the order of the frames)."""
    whole = simulate_scan(SMALL, None)
    monkeypatch.setattr(diffraction, "BLOCK_BYTES", 1)
    piecewise = simulate_scan(SMALL, None)
    np.testing.assert_array_equal(piecewise.amplitude, whole.amplitude)


def test_run_writes_three_files_and_touches_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """D8: the global generator and the working folder are as before; the written scan is the simulated one."""
    out, cwd = tmp_path / "out", tmp_path / "cwd"
    out.mkdir()
    cwd.mkdir()
    monkeypatch.chdir(cwd)
    np.random.seed(54321)  # noqa: NPY002 - a state that no run before this one can have left behind
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - the legacy global state is what must not move
    run(SMALL, dataset_id="toy", base=None, out_dir=out)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    assert os.listdir(cwd) == []  # noqa: PTH208
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "preview.png", "scan.npz"]
    scan = load_scan(out / "scan.npz")
    np.testing.assert_array_equal(scan.amplitude, simulate_scan(SMALL, None).amplitude)
    assert scan.object_role == "truth"
    assert scan.photons_per_intensity == 1.0
    assert (scan.metadata["domain"], scan.metadata["unit"]) == ("amplitude", "sqrt(photons)")
    assert scan.metadata["probe_pipeline"] == "defocused|smooth:0.5"
    assert scan.metadata["dataset"] == "toy"
    manifest = read_json(out / "manifest.json")
    assert manifest["parameters"]["dataset"] == "toy"
    assert set(manifest["outputs"]) == {"scan.npz", "preview.png"}
    assert str(tmp_path) not in json.dumps(manifest)


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        run(SMALL, dataset_id="toy", base=None, out_dir=tmp_path / name)
    assert (tmp_path / "a/scan.npz").read_bytes() == (tmp_path / "b/scan.npz").read_bytes()


def test_jitter_stores_the_nominal_raster_and_random_scans_count_frames() -> None:
    scan = simulate_scan(replace(SMALL, jitter_px=2.0), None)
    nominal = simulate_scan(SMALL, None)
    assert nominal.positions_start_rc_px is None
    np.testing.assert_array_equal(scan.positions_start_rc_px, nominal.positions_rc_px)
    random = simulate_scan(replace(SMALL, scan="random", n_frames=11, n_objects=3), None)
    assert np.bincount(random.scan_index).tolist() == [4, 4, 3]


def test_scan_as_base_gives_its_object_probe_and_positions(tmp_path: Path) -> None:
    """Simulating from one's own scan at its own positions, without smoothing and noise, gives the same frames."""
    first = simulate_scan(replace(SMALL, n_objects=2, noise=False, jitter_px=2.0), None)
    save_scan(tmp_path / "scan.npz", first)
    base = load_base(tmp_path / "scan.npz")
    config = SimulateConfig(
        n=17, kind="base", probe="base", scan="base", probe_smoothing_sigma_px=0, noise=False, dose="1e5"
    )
    again = simulate_scan(config, base)
    np.testing.assert_allclose(again.amplitude, first.amplitude, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(again.scan_index, first.scan_index)
    assert again.metadata["objects"] == first.metadata["objects"]


@pytest.mark.skipif(not MEASURED.exists(), reason=f"the measured scan is not at ../shared/data ({MEASURED.name})")
def test_measured_scan_as_base_reproduces_the_measured_contrast() -> None:
    """Independent source: a measured scan. Its object, probe and positions give frames that correlate with the measured ones.

    The mean frame is subtracted from both; a transposed or flipped gather correlates below 0.3 (physics section 2.8).
    """
    config = SimulateConfig(kind="base", probe="base", scan="base", probe_smoothing_sigma_px=0, noise=False, dose="1e6")
    base = load_base(MEASURED)
    measured = np.asarray(load_scan(MEASURED).amplitude, dtype=np.float64)

    def contrast(amplitude: np.ndarray) -> float:
        frames = amplitude - amplitude.mean(axis=0)
        return float(np.corrcoef(frames.ravel(), (measured - measured.mean(axis=0)).ravel())[0, 1])

    right = simulate_scan(config, base)
    assert contrast(right.amplitude) > 0.88
    wrong = predict_amplitude(right.object.T.copy(), right.probe, right.positions_rc_px)
    assert contrast(wrong) < 0.3


def test_recon_and_pair_as_base(tmp_path: Path) -> None:
    """recon.npz and a bare pair give object and probe; neither has positions."""
    first = simulate_scan(SMALL, None)
    assert first.object is not None
    save_recon(
        tmp_path / "recon.npz",
        Recon(
            first.object, np.ones(first.object.shape, np.float32), Canvas((3, 4), first.object.shape), first.probe[None]
        ),
    )
    np.savez(tmp_path / "pair.npz", objectGuess=first.object, probeGuess=first.probe)
    for name in ("recon.npz", "pair.npz"):
        base = load_base(tmp_path / name)
        np.testing.assert_array_equal(base.object, first.object)
        np.testing.assert_array_equal(base.probe, first.probe)
        scan = simulate_scan(replace(SMALL, kind="base", probe="base", phase="none"), base)
        assert scan.object_role == "truth"
        with pytest.raises(ContractError, match="has no positions"):
            simulate_scan(replace(SMALL, kind="base", probe="base", scan="base", phase="none"), base)


GOOD = {"object": np.ones((40, 50), np.complex64), "probe": np.ones((16, 16), np.complex64)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probe": None}, "expected one of the keys 'probeGuess' and 'probe'"),
        ({"objectGuess": GOOD["object"]}, r"got \['objectGuess', 'object'\]"),
        ({"object": np.ones((40, 50))}, "'object' must be complex, got float64"),
        ({"object": np.full((40, 50), np.nan + 0j)}, "not finite"),
        ({"object": np.ones((2, 40, 50), complex)}, r"shape \(H, W\), got \(2, 40, 50\)"),
        ({"probe": np.ones((16, 12), complex)}, r"must be square, got \(16, 12\)"),
        ({"probe": np.ones((3, 16, 16), complex)}, "has 3 modes"),
        ({"probe": np.ones((16,), complex)}, r"shape \(N, N\), got \(16,\)"),
        ({"probe": np.ones((0, 0), complex)}, "'probe' is empty"),
        ({"xcoords": np.zeros(3), "ycoords": np.zeros(4)}, "must be equally long"),
        ({"xcoords": np.full(3, np.inf), "ycoords": np.zeros(3)}, "not finite"),
        ({"metadata": "[1]"}, "'metadata' must be a JSON object"),
        ({"metadata": '{"objects": [[0, 40, 0]]}'}, "'objects'"),
        ({"metadata": '{"objects": [[0, 40, 0, 60]]}'}, "'objects'"),
    ],
)
def test_bad_base_files_are_refused(tmp_path: Path, change: dict, message: str) -> None:
    arrays = {key: value for key, value in {**GOOD, **change}.items() if value is not None}
    np.savez(tmp_path / "base.npz", **arrays)
    with pytest.raises(ContractError, match=message):
        load_base(tmp_path / "base.npz")


def test_base_that_does_not_fit_the_options_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "pair.npz", **GOOD, xcoords=[20.0, 45.0], ycoords=[20.0, 20.0])
    base = load_base(tmp_path / "pair.npz")
    config = SimulateConfig(kind="base", probe="base", n=16)
    with pytest.raises(ContractError, match="side 16 px but N = 24"):
        simulate_scan(replace(config, n=24), base)
    with pytest.raises(ContractError, match="1 of the base file's 2 frames have a patch of N = 16 px that leaves"):
        simulate_scan(replace(config, scan="base"), base)
    with pytest.raises(ContractError, match="40 x 50 px is smaller than N = 48"):
        simulate_scan(replace(config, n=48, probe="defocused"), base)
    with pytest.raises(ContractError, match="no frame has a photon"):
        simulate_scan(config, replace(base, object=np.zeros((40, 50), np.complex64)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "base"}, "needs a base file"),
        ({"kind": "base", "n_objects": 2}, "the file decides"),
        ({"probe": "base", "scan": "base"}, "probe and scan = 'base' needs a base file"),
        ({"size": 12}, r"12 x 44 px is smaller than a frame of N = 17"),
        ({"kind": "siemens"}, "only lines objects take a phase option"),
        ({"scan": "random"}, "needs n_frames"),
        ({"n_frames": 5}, "n_frames = 5 is for scan = 'random'"),
        ({"scan": "random", "n_frames": 2, "n_objects": 3}, "cannot cover"),
        ({"scan": "random", "n_frames": 9, "jitter_px": 1.0}, "jitter_px = 1.0 is for scan = 'raster'"),
        ({"scan": "base", "n_objects": 2}, "positions are for one object"),
        ({"dose": "0"}, "dose = 0 photons"),
        ({"dose": "1e15"}, "at most 1e\\+14"),
    ],
)
def test_options_that_exclude_each_other_are_refused(change: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        simulate_scan(replace(SMALL, **change), None)


def test_an_unused_base_file_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "pair.npz", **GOOD)
    with pytest.raises(UsageError, match="neither kind, probe nor scan is 'base'"):
        simulate_scan(SMALL, load_base(tmp_path / "pair.npz"))


def test_expose_does_not_change_its_inputs() -> None:
    image, probe = np.ones((30, 31), np.complex64), np.ones((8, 8), np.complex64)
    expose(image, probe, np.array([[9.0, 9.0]]), dose_photons=100.0, rng=np.random.default_rng(0))
    assert np.all(image == 1)
    assert np.all(probe == 1)
