"""The LSQML arm: guards in this process, reconstructions in child processes (`python test_lsqml.py SCENARIOS FOLDER`).

pty-chi takes seconds to import and changes process-wide state, so no test imports it here. The oracle of every frame of
coordinates is plain slicing: a pattern is the FFT of `probe * object[r - N/2 : r + N/2, c - N/2 : c + N/2]`.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ptychoflow.arms import lsqml, lsqml_checks
from ptychoflow.arms.status import write_status
from ptychoflow.commands import lsqml as command
from ptychoflow.config import LsqmlConfig
from ptychoflow.data.storage import load_recon, load_snapshots, read_json, save_scan, save_view
from ptychoflow.errors import ContractError, UnavailableError
from ptychoflow.frames import Region, canvas_for
from ptychoflow.physics.fourier import far_field_amplitude
from ptychoflow.physics.patches import gather
from ptychoflow.records import FrameSet, Normalization, Scan, View
from scan_files import made_from

N = 32
SHAPE = (71, 84)
BUMP_RC = (31.0, 47.0)
PHOTONS = 7.25
"""Photons in one unit of amplitude squared in the scan files of these tests: not 1, so that a forgotten factor shows."""

PIXEL_SIZE_M = 4.5e-8


def sliced_amplitude(probe, object_, centres):
    """Far-field amplitudes by slicing and NumPy's FFT; whole-pixel centres."""
    half = probe.shape[0] // 2
    waves = [probe * object_[r - half : r + half, c - half : c + half] for r, c in centres.astype(int)]
    return np.abs(np.fft.fftshift(np.fft.fft2(np.array(waves), norm="ortho"), axes=(1, 2)))


def defocused_probe(n=N, mean_counts=1e5):
    """A soft disk with defocus and coma: no symmetry that a flip of the patterns could hide behind."""
    row, col = np.mgrid[:n, :n] - n // 2
    radius = np.hypot(row, col) / n
    soft = 1 / (1 + np.exp((radius - 0.27) * 40))
    probe = soft * np.exp(1j * (60 * radius**2 + 25 * radius**2 * (row + 0.4 * col) / n))
    return probe * np.sqrt(mean_counts / (np.abs(probe) ** 2).sum())


def raster(step=5, shape=SHAPE, seed=3):
    """Whole-pixel patch centres, jittered by a pixel, one pixel and more inside `shape`."""
    axes = [np.arange(N // 2 + 2, size - N // 2 - 2, step, dtype=float) for size in shape]
    centres = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    return centres + np.random.default_rng(seed).integers(-1, 2, centres.shape)


def bump_object():
    row, col = np.indices(SHAPE)
    squared = (row - BUMP_RC[0]) ** 2 + (col - BUMP_RC[1]) ** 2
    return np.exp(1j * np.exp(-squared / (2 * 1.5**2)))


def landmark_object(shape=SHAPE, seed=5):
    """Discs and an L: no symmetry under flips and transposition."""
    row, col = np.indices(shape)
    phase = np.zeros(shape)
    generator = np.random.default_rng(seed)
    for r, c, radius, height in generator.uniform((0, 0, 3, 0.3), (*shape, 9, 1.0), (round(row.size / 400), 4)):
        phase[np.hypot(row - r, col - c) < radius] = height
    phase[25:50, 30:34] = phase[46:50, 30:45] = 1.0
    return (1 - 0.25 * phase) * np.exp(1j * phase)


def solve(amplitude, centres, probe, *, epochs, shape=SHAPE, batch=32, snapshots=()):
    config = LsqmlConfig(lsqml_epochs=epochs, lsqml_batch_size=batch, snapshots=snapshots)
    counts = (amplitude**2).astype(np.float32)
    topleft = centres - probe.shape[0] // 2
    return lsqml.reconstruct(counts, topleft, probe, shape=shape, config=config, device="cpu", seed=0)


def bump_position(object_):
    """Centroid of the phase bump, px; the constant phase is that of the surroundings."""
    phase = np.angle(object_ * np.exp(-1j * np.angle(np.median(object_.real) + 1j * np.median(object_.imag))))
    row, col = np.indices(SHAPE)
    near = np.hypot(row - BUMP_RC[0], col - BUMP_RC[1]) < 7
    weight = np.where(near & (phase > 0.15), phase, 0)
    return np.array([(row * weight).sum(), (col * weight).sum()]) / weight.sum()


# --- what the children do --------------------------------------------------------------------------------------------


def scenario_origin(folder):
    centres, probe = raster(), defocused_probe()
    amplitude = sliced_amplitude(probe, bump_object(), centres)
    inside = solve(amplitude, centres, probe, epochs=40)
    # The same on a canvas that begins at the first patch: pty-chi then needs its offset of one pixel.
    corner = centres.min(axis=0) - N // 2
    shape = tuple((centres.max(axis=0) + N // 2 - corner).astype(int).tolist())
    tight = solve(amplitude, centres - corner, probe, epochs=40, shape=shape)
    placed = np.ones(SHAPE, dtype=complex) * np.median(tight.object)
    r, c = corner.astype(int)
    placed[r : r + shape[0], c : c + shape[1]] = tight.object
    return {
        "inside": bump_position(inside.object).tolist(),
        "inside_offset": inside.facts["canvas_offset_px"],
        "tight": bump_position(placed).tolist(),
        "tight_offset": tight.facts["canvas_offset_px"],
    }


def scenario_scale(folder):
    centres, probe = raster(8), defocused_probe()
    amplitude = sliced_amplitude(probe, landmark_object(), centres)
    digests = {}
    for factor in (1.0, 100.0, 0.01):
        result = solve(amplitude, centres, probe * factor, epochs=4)
        digests[str(factor)] = digest(result.object, result.probe, result.weight)
    base = solve(amplitude, centres, probe, epochs=4).object
    brighter = solve(amplitude * 1000**0.5, centres, probe, epochs=4).object
    gauge = np.vdot(brighter, base) / np.vdot(brighter, brighter)
    return {"digests": digests, "counts": float(np.abs(base - gauge * brighter).max())}


def scenario_start(folder):
    centres, probe = raster(8), defocused_probe()
    amplitude = sliced_amplitude(probe, landmark_object(), centres)
    start = solve(amplitude, centres, probe, epochs=1)
    return {"spread": float(np.ptp(np.abs(start.object)) + np.ptp(np.angle(start.object))), "failure": start.failure}


def scenario_snapshots(folder):
    """One run that keeps states on its way, one that does not, and one that ends where the other kept a state."""
    centres, probe = raster(8), defocused_probe()
    amplitude = sliced_amplitude(probe, landmark_object(), centres)
    kept = solve(amplitude, centres, probe, epochs=6, snapshots=(2, 5, 6, 9))
    plain = solve(amplitude, centres, probe, epochs=6)
    short = solve(amplitude, centres, probe, epochs=5)
    return {
        "epochs": [one.epochs for one in kept.snapshots],
        "none": len(plain.snapshots),
        "final": [digest(result.object, result.probe, result.weight, result.loss) for result in (kept, plain)],
        "second": digest(kept.snapshots[0].object, kept.snapshots[0].probe),
        "fifth": digest(kept.snapshots[1].object, kept.snapshots[1].probe),
        "short": digest(short.object, short.probe),
        "seconds": [one.seconds for one in kept.snapshots],
        "expected": [kept.seconds["setup"] + sum(kept.epoch_seconds[:epochs].tolist()) for epochs in (2, 5)],
        "run": [kept.seconds["run"], sum(kept.epoch_seconds.tolist())],
    }


def scenario_command(folder):
    """The whole command, with cwd listing and global state before and after."""
    import torch

    def state():
        legacy = np.random.get_state()  # noqa: NPY002 - what pty-chi would disturb
        random_bytes = legacy[1].tobytes() + torch.get_rng_state().numpy().tobytes()
        names = [str(torch.get_default_dtype()), str(torch.get_default_device())]
        return [*names, legacy[2], hashlib.sha256(random_bytes).hexdigest()]

    before = state()
    centres, probe = raster(), defocused_probe()
    amplitude = sliced_amplitude(probe, landmark_object(), centres)
    held = np.arange(0, len(centres), 9)
    used = np.setdiff1d(np.arange(len(centres)), held)
    amplitude[held] = np.nan  # never read
    noise = np.random.default_rng(8).standard_normal(SHAPE) + 0j
    digests = []
    for name, guess in (("truth", landmark_object()), ("noise", noise)):
        write_files(folder / name, amplitude, centres, probe, used=used, held=held, object_=guess)
        run_command(folder / name, epochs=25)
        recon = load_recon(folder / name / "recon.npz")
        digests.append(digest(recon.object, recon.probe, recon.weight))
    write_files(folder / "short", amplitude, centres, probe, used=used, held=held, object_=noise)
    run_command(folder / "short", epochs=1)
    direct = solve(amplitude[used], centres[used] - canvas_for(centres[used], N).origin_rc_px, probe,
                   epochs=25, shape=canvas_for(centres[used], N).shape)  # fmt: skip
    difference = np.abs(direct.object - recon.object).max()
    try:
        run_command(folder / "truth", epochs=1, device="cuda")
        code = 0
    except UnavailableError as error:
        code = error.exit_code
    return {"before": before, "after": state(), "digests": digests, "direct": float(difference), "cuda_code": code,
            "cuda": torch.cuda.is_available()}  # fmt: skip


def scenario_shift(folder):
    centres, probe = raster(), defocused_probe()
    amplitude = sliced_amplitude(probe, bump_object(), centres)
    base, moved = (
        solve(amplitude, centres + np.array(shift), probe, epochs=12, shape=(81, 92)).object
        for shift in ((4, 4), (7, 2))
    )
    return {"difference": float(np.abs(moved[3:, :-2] - base[:-3, 2:]).max())}


def scenario_orientation(folder):
    """The bound needs enough frames: with 70 of them a flipped frame is nearly explained by object and probe together."""
    shape = (111, 128)
    centres, probe, truth = raster(5, shape), defocused_probe(), landmark_object(shape)
    amplitude = np.sqrt(np.random.default_rng(1).poisson(sliced_amplitude(probe, truth, centres) ** 2))
    found = {}
    for transposed in (False, True):
        for flips in ((), (1,), (2,), (1, 2)):
            # Zero frequency stays at N/2 under a flip only when the frame is rolled back by one.
            frames = np.roll(np.flip(amplitude, flips), [1] * len(flips), flips) if flips else amplitude
            frames = np.swapaxes(frames, 1, 2) if transposed else frames
            result = solve(frames, centres, probe, epochs=12, shape=shape)
            found[f"{transposed} {flips}"] = {"loss": float(result.loss[-1]), "failure": result.failure}
            if not transposed and not flips:
                inner = truth[25:-25, 25:-25]
                ours = result.object[25:-25, 25:-25]
                residual = np.angle(inner * np.conj(ours * np.vdot(ours, inner)))
    return {"losses": found, "rmse": float(np.sqrt(np.mean(residual**2))), "levels": result.facts["orientation"]}


def scenario_many(folder):
    """2,300 frames of 16 px: the last 300 alone see the right end of the canvas."""
    probe = defocused_probe(16)
    rows, cols = np.arange(10, 40, 3.0), np.arange(10, 700, 3.0)
    centres = (
        np.stack(np.meshgrid(cols, rows), axis=-1).reshape(len(rows), -1, 2).transpose(1, 0, 2).reshape(-1, 2)[:, ::-1]
    )
    shape = (52, 712)
    object_ = np.exp(1j * np.random.default_rng(2).uniform(0, 1, shape))
    result = solve(sliced_amplitude(probe, object_, centres), centres, probe, epochs=3, shape=shape, batch=256)
    seen = result.object[15:35, int(centres[2000:, 1].min()) + 10 : 690]
    return {"n_frames": result.facts["n_frames"], "asked": len(centres), "spread": float(np.angle(seen).std())}


def digest(*arrays):
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def write_files(folder, amplitude, centres, probe, *, used, held, object_):
    folder.mkdir(parents=True, exist_ok=True)
    scale = np.sqrt(PHOTONS)
    metadata = {"photons_per_intensity": PHOTONS, "object_role": "truth", "pixel_size_m": PIXEL_SIZE_M}
    scan = Scan((amplitude / scale).astype(np.float32), centres, (probe / scale).astype(np.complex64),
                np.zeros(len(centres), dtype=np.int64), object_.astype(np.complex64), metadata=metadata)  # fmt: skip
    save_scan(folder / "scan.npz", scan)
    frames = FrameSet(used, np.stack([used, np.roll(used, 1)], axis=1))  # every frame in two groups
    normalization = Normalization(1.0, 1.0, 1.0, 1.0, True)
    view = View(frames, frames, held, normalization, (Region(30, 40, 30, 50),), {})
    save_view(folder / "view.npz", made_from(view, folder / "scan.npz"))


def run_command(folder, *, epochs, device="cpu"):
    meta = {"run_id": "c__lsqml__n32__s0", "label": "lsqml", "arm": "lsqml", "condition": "c", "n": N, "seed": 0}
    command.run(LsqmlConfig(lsqml_epochs=epochs), run_meta=meta, test_scan=folder / "scan.npz", view=folder / "view.npz",
                device=device, attempt=3, out_dir=folder)  # fmt: skip


if __name__ == "__main__":
    heavy_at_import = sorted({"torch", "ptychi", "tensorflow"} & set(sys.modules))
    report = {name: globals()[f"scenario_{name}"](Path(sys.argv[2]) / name) for name in sys.argv[1].split(",")}
    (Path(sys.argv[2]) / "report.json").write_text(json.dumps(report | {"heavy_at_import": heavy_at_import}))


# --- the tests -------------------------------------------------------------------------------------------------------


def child(folder, scenarios):
    """Run scenarios in one fresh process of one thread; return their report and what it left or printed."""
    (folder / "cwd").mkdir()
    paths = [str(Path(lsqml.__file__).parents[2]), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    done = subprocess.run([sys.executable, __file__, scenarios, str(folder)], cwd=folder / "cwd", env=environment,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    printed = done.stdout + done.stderr
    return read_json(folder / "report.json") | {
        "printed": printed,
        "left": [p.name for p in (folder / "cwd").iterdir()],
        "folder": folder,
    }


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    return child(tmp_path_factory.mktemp("quick"), "command,start,snapshots")


@pytest.fixture(scope="module")
def thorough(tmp_path_factory):
    return child(tmp_path_factory.mktemp("thorough"), "origin,scale,shift,orientation,many")


@pytest.mark.slow
def test_process_state_cwd_and_terminal_are_left_alone(quick):
    assert quick["heavy_at_import"] == []
    assert quick["command"]["before"] == quick["command"]["after"]
    assert quick["left"] == []
    assert quick["printed"] == ""


def test_the_truth_and_held_out_frames_are_never_read(quick):
    first, second = quick["command"]["digests"]
    assert first == second  # one scan holds the truth, the other noise; held-out frames are NaN in both (D71)
    assert quick["start"]["spread"] == 0  # epoch 0 only rescales the probe: what it leaves is the constant start
    assert "too few" in quick["start"]["failure"]


def test_command_squares_the_stored_amplitude(quick):
    # float32 amplitudes in the file's unit, so equal to rounding, not to the bit
    assert quick["command"]["direct"] < 2e-3


def test_outputs_of_the_command(quick):
    folder = quick["folder"] / "command" / "truth"
    status, manifest = read_json(folder / "status.json"), read_json(folder / "manifest.json")
    assert (status["state"], status["stage"], status["effective_batch_size"]) == ("ok", "lsqml", 32)
    assert status["attempt"] == 3
    assert set(status["seconds"]) == {"import", "setup", "run"}
    assert set(manifest["outputs"]) == {"recon.npz", "snapshots.npz", "history.csv", "status.json"}
    recon = load_recon(folder / "recon.npz")
    assert recon.pixel_size_m == PIXEL_SIZE_M
    cost = recon.metadata["cost"]
    assert (cost["epochs"], cost["train_seconds"]) == (25, 0)
    assert cost["reconstruct_seconds"] == pytest.approx(status["seconds"]["setup"] + status["seconds"]["run"], abs=1e-5)
    centres = raster()
    n_used = len(centres) - len(range(0, len(centres), 9))
    assert manifest["facts"]["n_frames"] == recon.metadata["n_frames"] == n_used
    assert recon.metadata["initial_object"] == "ones"
    assert recon.metadata["options"]["reconstructor_options"]["noise_model"] == "gaussian"
    assert recon.metadata["options"]["data_options"]["free_space_propagation_distance_m"] == "inf"
    lines = (folder / "history.csv").read_text().splitlines()
    assert lines[0] == "epoch,loss,seconds"
    assert len(lines) == 26


def test_snapshots_of_the_command_are_states_in_the_file_s_unit(quick):
    """Oracle: the history file's epoch times, and the scale between the final probe in counts and in the file."""
    folder = quick["folder"] / "command" / "truth"
    recon, kept = load_recon(folder / "recon.npz"), load_snapshots(folder / "snapshots.npz")
    assert kept.epochs.tolist() == [1, 2, 5, 10, 20]
    assert kept.canvas == recon.canvas
    assert kept.objects.shape[1:] == recon.object.shape
    assert np.abs(kept.objects[0] - kept.objects[0, 0, 0]).max() == 0  # the first pass only rescales the probe
    distance = [np.linalg.norm(object_ - recon.object) for object_ in kept.objects]
    assert distance == sorted(distance, reverse=True)
    assert (kept.train_seconds == 0).all()
    seconds = np.loadtxt(folder / "history.csv", delimiter=",", skiprows=1)[:, 2]
    expected = recon.metadata["seconds"]["setup"] + np.cumsum(seconds)[kept.epochs - 1]
    np.testing.assert_allclose(kept.reconstruct_seconds, expected, atol=1e-4)
    power = (np.abs(kept.probes) ** 2).sum(axis=(1, 2, 3)) / (np.abs(recon.probe) ** 2).sum()
    assert power[-1] == pytest.approx(1, rel=0.02)


def test_a_snapshot_changes_nothing_and_is_what_a_shorter_run_ends_with(quick):
    """Oracle of a kept state: another run that was told to stop there. Bytes, on one thread."""
    found = quick["snapshots"]
    assert found["epochs"] == [2, 5]  # 6 is the end, 9 was never reached
    assert found["none"] == 0
    assert found["final"][0] == found["final"][1]
    assert found["fifth"] == found["short"] != found["second"]
    assert found["seconds"] == pytest.approx(found["expected"])
    assert found["run"][0] == pytest.approx(found["run"][1])


def test_where_a_plateau_ends_the_run_is_the_result_and_no_snapshot():
    """A loss that falls for 5 epochs and then stays ends after 30, by the least number of epochs."""
    done = []

    def run(n_epochs):
        done.append(max(10.0 - len(done), 5.0))

    table = {"loss": SimpleNamespace(iloc=done)}
    task = SimpleNamespace(run=run, reconstructor=SimpleNamespace(loss_tracker=SimpleNamespace(table=table)))
    config = LsqmlConfig(lsqml_epochs=50, lsqml_plateau_stop=True, snapshots=(7, 30, 40))
    loss, seconds, stopped, kept = lsqml._iterate(task, config, lambda: (np.full(3, len(done)), np.zeros(2)))
    assert (len(loss), len(seconds), stopped) == (30, 30, "plateau")
    assert list(kept) == [7]
    assert kept[7][0].tolist() == [7, 7, 7]


def test_a_scientific_failure_is_data(quick):
    folder = quick["folder"] / "command" / "short"
    status = read_json(folder / "status.json")
    assert status["state"] == "failed"
    assert "1 epochs are too few" in status["reason"]
    assert sorted(path.name for path in folder.iterdir()) == [
        "history.csv", "manifest.json", "scan.npz", "status.json", "view.npz",
    ]  # fmt: skip


def test_probe_and_object_predict_the_file(quick):
    recon = load_recon(quick["folder"] / "command" / "noise" / "recon.npz")
    centres = raster()
    used = np.setdiff1d(np.arange(len(centres)), np.arange(0, len(centres), 9))
    measured = sliced_amplitude(defocused_probe(), landmark_object(), centres[used]) / np.sqrt(PHOTONS)
    predicted = far_field_amplitude(recon.probe[0] * gather(recon.object, recon.canvas.to_local(centres[used]), N))
    assert (measured * predicted).sum() / (predicted**2).sum() == pytest.approx(1, abs=0.01)
    assert np.abs(measured - predicted).sum() / measured.sum() < 0.05


def test_a_gpu_that_is_not_there_is_69(quick):
    if quick["command"]["cuda"]:
        pytest.skip("a GPU is there")
    assert quick["command"]["cuda_code"] == 69


@pytest.mark.slow
def test_bump_appears_where_it_is(thorough):
    origin = thorough["origin"]
    assert (origin["inside_offset"], origin["tight_offset"]) == ([0, 0], [1, 1])
    for where in ("inside", "tight"):
        np.testing.assert_allclose(origin[where], BUMP_RC, atol=0.1)


@pytest.mark.slow
def test_moved_positions_move_the_object(thorough):
    assert thorough["shift"]["difference"] < 1e-4


@pytest.mark.slow
def test_scale_of_probe_and_counts_is_free(thorough):
    assert len(set(thorough["scale"]["digests"].values())) == 1
    assert thorough["scale"]["counts"] < 1e-2


@pytest.mark.slow
def test_only_the_right_orientation_passes(thorough):
    losses = thorough["orientation"]["losses"]
    passed = [name for name, found in losses.items() if found["failure"] is None]
    assert passed == ["False ()"], losses
    assert len(losses) == 8
    assert thorough["orientation"]["rmse"] < 0.1


@pytest.mark.slow
def test_every_frame_is_used(thorough):
    many = thorough["many"]
    assert many["n_frames"] == many["asked"] > 2000
    assert many["spread"] > 0.02


@pytest.mark.slow
def test_two_processes_give_the_same_bytes(quick, tmp_path):
    again = child(tmp_path, "command")
    assert again["command"]["digests"] == quick["command"]["digests"]


@pytest.mark.slow
def test_declared_operators_are_what_torchvision_asks_for():
    script = (
        "import torch\n"
        "from ptychoflow.arms.lsqml import declare_operators\n"
        "kept = declare_operators(torch)\n"
        "print(torch.ops.torchvision.nms.default._schema, torch.ops.torchvision.qnms.default._schema, sep='\\n')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(lsqml.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "torchvision::nms(Tensor a, Tensor b, float c) -> Tensor",
        "torchvision::qnms(Tensor a, Tensor b, float c) -> Tensor",
    ]


def good_input():
    probe = defocused_probe().astype(np.complex64)
    centres = raster(12)
    counts = sliced_amplitude(probe, landmark_object(), centres).astype(np.float32) ** 2
    return {"intensity_counts": counts, "topleft_rc_px": centres - N // 2, "probe": probe, "shape": SHAPE}


def spoiled(key, change):
    arrays = good_input()
    value = arrays[key]
    arrays[key] = change(value.copy() if isinstance(value, np.ndarray) else value)
    return arrays


def put(value, index):
    def change(array):
        array[index] = value
        return array

    return change


GUARDS = [
    ("NaN or infinity; one such pixel", "intensity_counts", put(np.nan, (3, 4, 5))),
    ("counts must be >= 0", "intensity_counts", put(-1, (3, 4, 5))),
    ("no counts \\(first: frame 3\\)", "intensity_counts", put(0, 3)),
    ("normalised data", "intensity_counts", lambda k: k / k.sum(axis=(1, 2), keepdims=True)),
    ("zero frequency belongs at", "intensity_counts", lambda k: np.fft.ifftshift(k, axes=(1, 2))),
    ("counts must be real", "intensity_counts", lambda k: k.astype(np.complex64)),
    ("probe must be complex", "probe", lambda p: np.abs(p)),
    ("finite and not all zero", "probe", lambda p: p * 0),
    ("do not fit a probe", "probe", lambda p: p[1:-1, 1:-1]),
    ("even side, got N = 31", "probe", lambda p: p[1:, 1:]),
    ("one \\(row, col\\) per frame", "topleft_rc_px", lambda t: t[:-1]),
    ("position is NaN", "topleft_rc_px", put(np.nan, (0, 0))),
    ("all positions are equal", "topleft_rc_px", lambda t: t * 0),
    ("too small", "shape", lambda shape: (shape[0], 60)),
]


@pytest.mark.parametrize(("message", "key", "change"), GUARDS, ids=[guard[0][:20] for guard in GUARDS])
def test_bad_input_is_refused_before_ptychi_is_imported(message, key, change):
    with pytest.raises(ContractError, match=message) as refusal:
        lsqml.reconstruct(**spoiled(key, change), config=LsqmlConfig(), device="cpu", seed=0)
    assert refusal.value.exit_code == 65
    assert "ptychi" not in sys.modules


def test_good_input_has_no_problem():
    assert lsqml_checks.input_problems(**good_input()) == []


def test_working_canvas_leaves_a_pixel_before_and_two_behind():
    topleft = np.array([[0.0, 2.5], [9.25, 20.0]])
    offset, shape = lsqml_checks.working_canvas(topleft, (42, 60), 32)
    assert offset == (1, 0)
    assert shape == (45, 60)


def test_reference_losses_tell_shot_noise_from_contrast():
    generator = np.random.default_rng(4)
    flat = generator.poisson(40.0, (80, 12, 12)).astype(np.float32)
    noise, mean_model = lsqml_checks.reference_losses(flat, seed=0)
    assert noise == pytest.approx(0.25, abs=0.02)  # the variance of sqrt(Poisson)
    assert mean_model == pytest.approx(noise, rel=0.05)
    varied = flat * generator.uniform(0.2, 1.8, (80, 1, 1)).astype(np.float32)
    assert lsqml_checks.reference_losses(varied, seed=0)[1] > 1.5 * noise


@pytest.mark.parametrize(
    ("loss", "reason"),
    [
        ([9, 3, 1.0, np.nan], "not finite after 4"),
        ([9, 1.0, 1.2, 1.0], "did not decrease"),
        ([9, 8, 7, 6], "half-way between shot noise"),
        ([9, 3, 2, 1], None),
    ],
)
def test_verdict(loss, reason):
    ones = np.ones((3, 4), dtype=np.complex64)
    failure, record = lsqml_checks.verdict(ones, ones, np.array(loss, dtype=float), (0.2, 5.0))
    assert record["decidable"]
    assert (failure is None) if reason is None else reason in failure
    assert "not finite" in lsqml_checks.verdict(ones * np.nan, ones, np.array([9, 3, 2, 1.0]), (0.2, 5.0))[0]


def test_low_dose_orientation_is_not_decidable():
    ones = np.ones((3, 4), dtype=np.complex64)
    failure, record = lsqml_checks.verdict(ones, ones, np.array([0.1, 0.09, 0.08]), (0.069, 0.078))
    assert failure is None
    assert not record["decidable"]


def test_plateau():
    falling = list(np.geomspace(10, 1, 40))
    assert not lsqml_checks.plateau_reached(falling)
    assert lsqml_checks.plateau_reached([*falling, *[1.0] * 11])
    assert not lsqml_checks.plateau_reached([1.0] * 29)


def scan_and_view(photons, test_groups, heldout):
    amplitude = np.random.default_rng(0).uniform(1, 2, (6, 8, 8)).astype(np.float32)
    metadata = {} if photons is None else {"photons_per_intensity": photons}
    scan = Scan(
        amplitude, np.zeros((6, 2)), np.ones((8, 8), np.complex64), np.zeros(6, dtype=np.int64), metadata=metadata
    )
    frames = FrameSet(np.unique(test_groups), np.asarray(test_groups))
    return scan, View(frames, frames, np.array(heldout, dtype=np.int64), Normalization(1, 1, 1, 1, True), (), {})


def test_counts_are_photons_where_the_file_knows_them():
    scan, view = scan_and_view(2.5, [[1, 3], [3, 4]], [0])
    frames = command.usable_frames(scan, view)
    assert frames.tolist() == [1, 3, 4]
    counts, photons, unit = command.counts_of(scan, frames)
    np.testing.assert_allclose(counts, 2.5 * scan.amplitude[frames] ** 2, rtol=1e-6)
    assert (photons, unit) == (2.5, "photons, by metadata.photons_per_intensity")
    scan, _ = scan_and_view(None, [[1]], [])
    counts, photons, unit = command.counts_of(scan, frames)
    np.testing.assert_array_equal(counts, scan.amplitude[frames] ** 2)
    assert photons == 1
    assert "taken as counts" in unit


@pytest.mark.parametrize(("groups", "heldout", "message"), [([[1, 6]], [], "has 6"), ([[1, 2]], [2, 5], "held out")])
def test_a_view_of_another_scan_is_refused(groups, heldout, message):
    with pytest.raises(ContractError, match=message):
        command.usable_frames(*scan_and_view(1.0, groups, heldout))


def test_only_the_measured_version_is_used():
    lsqml.require_version(lambda name: "2.2.0")
    with pytest.raises(UnavailableError, match=r"needs ptychi 2\.2\.0, found 2\.3\.0") as refusal:
        lsqml.require_version(lambda name: "2.3.0")
    assert refusal.value.exit_code == 69

    def absent(name):
        raise lsqml.importlib.metadata.PackageNotFoundError(name)

    with pytest.raises(UnavailableError, match="not installed"):
        lsqml.require_version(absent)


def test_torchvision_remedy_is_for_one_failure_only():
    def never():
        raise AssertionError("a CUDA build needs no probe")

    assert not lsqml.remedy_needed("12.8", never)
    assert not lsqml.remedy_needed(None, lambda: "")
    assert lsqml.remedy_needed(None, lambda: "Traceback\nRuntimeError: operator torchvision::nms does not exist\n")
    with pytest.raises(UnavailableError, match="ModuleNotFoundError"):
        lsqml.remedy_needed(None, lambda: "Traceback\nModuleNotFoundError: No module named 'torchvision'")


def test_status_needs_a_reason_and_finite_times(tmp_path):
    common = {"run_id": "r", "stage": "lsqml", "device": "cpu"}
    write_status(tmp_path, **common, state="ok", seconds={"run": 1.25})
    status = read_json(tmp_path / "status.json")
    assert status["peak_memory_bytes"] > 1e6
    assert status | {"peak_memory_bytes": 0} == {
        "schema_version": 1, "run_id": "r", "stage": "lsqml", "state": "ok", "reason": None, "collapsed": False,
        "device": "cpu", "seconds": {"run": 1.25}, "peak_memory_bytes": 0, "effective_batch_size": None, "attempt": 1,
    }  # fmt: skip
    with pytest.raises(ValueError, match="needs a reason"):
        write_status(tmp_path, **common, state="failed", seconds={})
    with pytest.raises(ValueError, match="finite"):
        write_status(tmp_path, **common, state="ok", seconds={"run": float("nan")})
