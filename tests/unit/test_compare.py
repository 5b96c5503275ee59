"""`ptychoflow compare`: files from anywhere, scored, drawn and reported without a workflow."""

import csv

import numpy as np
import pytest

from ptychoflow.commands import compare
from ptychoflow.config import EvaluateConfig
from ptychoflow.data.storage import read_json, save_recon, save_scan
from ptychoflow.errors import ContractError, UsageError
from ptychoflow.frames import Canvas
from ptychoflow.records import Recon, Scan
from torus import SHAPE, torus_object


@pytest.fixture
def _no_pictures(monkeypatch):
    """Drawing takes seconds: most tests look at the numbers only."""

    for name in ("compare_amp_phase", "amp_phase", "error_maps", "frc_curves"):
        monkeypatch.setattr(f"ptychoflow.commands.condition.{name}", lambda *_a, **_k: None)
    monkeypatch.setattr("ptychoflow.commands.condition.blink_panels", lambda *_a, **_k: ([], ""))


def write(path, image, *, origin=(0, 0), **changes):
    recon = Recon(image.astype(np.complex64), np.ones(image.shape, np.float32), Canvas(origin, image.shape), **changes)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_recon(path, recon)
    return path


def noisy(image, amount, seed):
    return image + amount * np.random.default_rng(seed).normal(size=(*image.shape, 2)).view(np.complex128)[..., 0]


def run(tmp_path, recons, truth, *, labels=None, region=None, **options):
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    truths = truth if isinstance(truth, list) else [truth]
    text = compare.run(
        EvaluateConfig(**options), recons=recons, truths=truths, labels=labels, region=region, out_dir=out
    )
    return out, text


def scores(out, metric, part):
    rows = csv.DictReader((out / "metrics.csv").read_text().splitlines())
    return {(row["model"], int(row["seed"])): row for row in rows if (row["metric"], row["part"]) == (metric, part)}


@pytest.mark.usefixtures("_no_pictures")
def test_files_of_every_kind_are_read(tmp_path):
    truth = torus_object()
    np.save(tmp_path / "truth.npy", truth)
    np.savez(tmp_path / "bare.npz", anything=2j * truth, real=np.ones(3))
    np.save(tmp_path / "plain.npy", noisy(truth, 0.1, 1))
    placed = write(tmp_path / "placed" / "recon.npz", truth[5:160, 8:180], origin=(5, 8))
    out, text = run(
        tmp_path,
        [tmp_path / "bare.npz", tmp_path / "plain.npy", placed],
        tmp_path / "truth.npy",
        region=(10, 150, 10, 170),
    )
    mae = scores(out, "mae", "amp")
    assert float(mae["bare", 0]["value"]) == pytest.approx(0, abs=1e-6)
    assert float(mae["placed", 0]["value"] if ("placed", 0) in mae else mae["recon", 0]["value"]) == pytest.approx(
        0, abs=1e-6
    )
    assert 0.05 < float(mae["plain", 0]["value"]) < 0.15
    assert "plain" in text
    for name in ("report.html", "statistics.csv", "comparisons.csv", "metrics_by_model.json", "manifest.json"):
        assert (out / name).stat().st_size > 0


@pytest.mark.usefixtures("_no_pictures")
def test_a_scan_with_an_object_is_a_truth(tmp_path):
    truth = torus_object()
    rows, cols = np.meshgrid(np.arange(20, 150, 10.0), np.arange(20, 170, 10.0), indexing="ij")
    positions = np.stack([rows.ravel(), cols.ravel()], axis=1)
    frames = np.ones((len(positions), 16, 16), np.float32)
    index = np.zeros(len(positions), np.int64)
    scan = Scan(frames, positions, np.ones((16, 16), np.complex64), index, truth, metadata={"object_role": "truth"})
    save_scan(tmp_path / "scan.npz", scan)
    out, _ = run(tmp_path, [write(tmp_path / "a" / "recon.npz", truth)], tmp_path / "scan.npz", labels=["a"])
    assert read_json(out / "metrics_by_model.json")["a"]["reference_shape"] == [121, 141]


@pytest.mark.usefixtures("_no_pictures")
def test_arms_that_differ_by_noise_only_are_declared_equal(tmp_path):
    truth = torus_object()
    np.save(tmp_path / "truth.npy", truth)
    plan = [("one", 0.2, seed) for seed in range(4)] + [("two", 0.2, seed + 10) for seed in range(4)]
    plan += [("worse", 0.4, seed + 20) for seed in range(4)]
    files = [
        write(tmp_path / f"{label}{seed}" / "recon.npz", noisy(truth, amount, seed)) for label, amount, seed in plan
    ]
    out, text = run(tmp_path, files, tmp_path / "truth.npy", labels=[label for label, _, _ in plan])
    rows = list(csv.DictReader((out / "comparisons.csv").read_text().splitlines()))
    assert {row["n"] for row in rows if row["kind"] == "seeds"} == {"4"}
    verdict = {(row["kind"], row["part"], row["metric"], row["first"], row["second"]): row["verdict"] for row in rows}
    equal = {key: found for key, found in verdict.items() if {"one", "two"} == set(key[3:])}
    apart = {key: found for key, found in verdict.items() if "worse" in key[3:] and key[2] in ("mae", "nrmse")}
    assert equal
    assert set(equal.values()) == {"no difference shown"}
    assert apart
    assert set(apart.values()) == {"first"}  # the better one comes first
    assert "no difference shown" in text


@pytest.mark.usefixtures("_no_pictures")
def test_one_picture_of_each_is_judged_by_its_blocks(tmp_path):
    truth = torus_object()
    np.save(tmp_path / "truth.npy", truth)
    plan = [("one", 0.2, 1), ("two", 0.2, 2), ("worse", 0.3, 3)]
    files = [write(tmp_path / label / "recon.npz", noisy(truth, amount, seed)) for label, amount, seed in plan]
    out, text = run(tmp_path, files, tmp_path / "truth.npy")
    entries = read_json(out / "visuals" / "comparison.json")["spatial"]
    verdict = {(entry["first"], entry["second"], entry["part"]): entry["verdict"] for entry in entries}
    assert verdict["one", "two", "amp"] == verdict["one", "two", "phase"] == "no difference shown"
    assert verdict["one", "worse", "amp"] == verdict["two", "worse", "phase"] == "first"
    assert "n = 1" in text


@pytest.mark.usefixtures("_no_pictures")
def test_adding_an_arm_changes_no_score_of_another(tmp_path):
    truth = torus_object()
    np.save(tmp_path / "truth.npy", truth)
    files = [write(tmp_path / name / "recon.npz", noisy(truth, 0.2, seed)) for seed, name in enumerate(("a", "b"))]
    alone, _ = run(tmp_path, files[:1], tmp_path / "truth.npy", align="register")
    before = read_json(alone / "metrics_by_model.json")["a"]
    both, _ = run(tmp_path, files, tmp_path / "truth.npy", align="register")
    assert read_json(both / "metrics_by_model.json")["a"] == before


@pytest.mark.usefixtures("_no_pictures")
def test_names_are_stated_in_the_files_or_told_from_their_paths(tmp_path):
    """The output tree has .../<label>/s0/recon.npz: two arms must never become two seeds of one called s0."""
    truth = torus_object()
    np.save(tmp_path / "truth.npy", truth)
    bare = [write(tmp_path / label / "s0" / "recon.npz", truth) for label in ("lsqml", "pinn")]
    out, _ = run(tmp_path, bare, tmp_path / "truth.npy")
    assert set(scores(out, "mae", "amp")) == {("lsqml", 0), ("pinn", 0)}
    stated = [write(tmp_path / name / "recon.npz", truth, metadata={"label": "net"}) for name in ("x", "y")]
    out, _ = run(tmp_path, stated, tmp_path / "truth.npy")
    assert set(scores(out, "mae", "amp")) == {("net", 0), ("net", 1)}
    with pytest.raises(UsageError, match="--labels"):
        run(tmp_path, [bare[0], bare[0]], tmp_path / "truth.npy")


@pytest.mark.usefixtures("_no_pictures")
def test_truths_must_be_one_object(tmp_path):
    truth = torus_object()
    files = [write(tmp_path / name / "recon.npz", truth) for name in ("n64", "n128", "a", "b")]
    run(tmp_path, files[2:], files[:2])
    other = write(tmp_path / "other" / "recon.npz", torus_object(9))
    with pytest.raises(ContractError, match="same object"):
        run(tmp_path, files[2:], [files[0], other])
    with pytest.raises(UsageError, match="one for all, or one for each"):
        run(tmp_path, files, files[:2])


@pytest.mark.usefixtures("_no_pictures")
def test_pixel_sizes_that_differ_are_refused_unless_asked_for(tmp_path):
    truth = write(tmp_path / "truth" / "recon.npz", torus_object(cut_off=0.3), pixel_size_m=10e-9)
    other = write(tmp_path / "a" / "recon.npz", torus_object(cut_off=0.3), pixel_size_m=12e-9)
    with pytest.raises(ContractError, match="resample_pixel_size"):
        run(tmp_path, [other], truth)
    run(tmp_path, [other], truth, resample_pixel_size=True, region=(10, 120, 10, 140))


@pytest.mark.usefixtures("_no_pictures")
def test_what_cannot_be_scored_is_refused_in_words(tmp_path):
    truth = write(tmp_path / "truth" / "recon.npz", torus_object())
    np.save(tmp_path / "small.npy", torus_object()[:50])
    with pytest.raises(ContractError, match="without an origin cannot be placed"):
        run(tmp_path, [tmp_path / "small.npy"], truth)
    np.savez(tmp_path / "real.npz", image=np.ones((9, 9)))
    with pytest.raises(ContractError, match="exactly one complex image"):
        run(tmp_path, [tmp_path / "real.npz"], truth)
    with pytest.raises(ContractError, match="not inside the canvas"):
        run(tmp_path, [write(tmp_path / "part" / "recon.npz", torus_object()[:50])], truth)
    with pytest.raises(UsageError, match="--labels names 2"):
        run(tmp_path, [truth], truth, labels=["a", "b"])
    with pytest.raises(UsageError, match="four numbers"):
        run(tmp_path, [truth], truth, region=(1, 2, 3))


@pytest.mark.slow
def test_the_report_names_what_was_corrected_and_what_not(tmp_path):
    """The whole command with its pictures, on copies whose faults are known."""
    truth = torus_object()
    np.save(tmp_path / "truth.npy", truth)
    copies = {
        "shifted": 1.3j * torus_object(shift=(0.5, -0.25)),
        "ramped": truth * np.exp(0.01j * np.arange(SHAPE[1])),
        "conjugated": truth.conj(),
        "noise_a": noisy(truth, 0.2, 1),
        "noise_b": noisy(truth, 0.2, 2),
    }
    files = [write(tmp_path / name / "recon.npz", image) for name, image in copies.items()]
    out, _ = run(tmp_path, files, tmp_path / "truth.npy", align="register")
    html = (out / "report.html").read_text()
    for text in ("shift of (0.50, -0.25) px", "phase ramp", "conj"):
        assert text in html
    assert len(html) < 5_000_000
