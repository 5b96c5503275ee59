"""COMPARE: the arrays that were scored, by label and seed, whoever is missing."""

import json

import numpy as np
import pytest

from ptychoflow.commands import compare_condition, evaluate
from ptychoflow.config import EvaluateConfig
from ptychoflow.data.storage import read_json, read_npz, save_recon, save_scan, save_view
from ptychoflow.errors import ContractError, UsageError
from ptychoflow.frames import Canvas, Region
from ptychoflow.records import FrameSet, Normalization, Recon, Scan, View
from scan_files import made_from

SHAPE = (41, 53)
REGION = Region(9, 31, 11, 42)
CONDITION = {"id": "lines"}


def make_scan(*, with_object=True):
    rng = np.random.default_rng(2)
    smooth = rng.standard_normal(SHAPE).cumsum(axis=1) / 8
    truth = ((1 + 0.3 * rng.random(SHAPE)) * np.exp(1j * smooth)).astype(np.complex64)
    rows, cols = np.meshgrid(np.arange(8, 34, 5.0), np.arange(8, 45, 6.0), indexing="ij")
    positions = np.stack([rows.ravel(), cols.ravel()], axis=1)
    return Scan(
        amplitude=rng.random((len(positions), 9, 9)).astype(np.float32),
        positions_rc_px=positions,
        probe=np.ones((9, 9), np.complex64),
        scan_index=np.zeros(len(positions), np.int64),
        object=truth if with_object else None,
        metadata={"object_role": "truth"} if with_object else {},
    )


class Study:
    """A folder with a scan, a view and reconstructions, scored by EVALUATE itself."""

    def __init__(self, folder, *, with_object=True):
        self.folder, self.scan = folder, make_scan(with_object=with_object)
        self.scan_path, self.view_path = folder / "scan.npz", folder / "view.npz"
        frames = np.arange(self.scan.n_frames, dtype=np.int64)
        sets = FrameSet(frames[:-4], frames[:-4, None])
        view = View(sets, sets, frames[-4:], Normalization(1.0, 1.0, 1.0, 1.0, True), (REGION,), {})
        save_scan(self.scan_path, self.scan)
        save_view(self.view_path, made_from(view, self.scan_path))
        self.recons, self.metrics, self.curves = [], [], []

    def add(self, label, seed, picture, *, config=None):
        """Score a reconstruction: `picture` on the object's grid, stored on a canvas that starts elsewhere."""
        run_id = f"lines__{label}__n9__s{seed}"
        folder = self.folder / run_id
        canvas = Canvas((-3, 2), (SHAPE[0] + 5, SHAPE[1] - 2))
        stored = np.zeros(canvas.shape, np.complex64)
        stored[3 : 3 + SHAPE[0], :] = picture[:, 2:]
        recon = Recon(stored, np.ones(canvas.shape, np.float32), canvas, metadata={"run_id": run_id})
        save_recon(folder / "recon.npz", recon)
        meta = {
            "run_id": run_id, "condition": "lines", "label": label, "arm": label, "gridsize": 1, "n": 9, "seed": seed,
            "kind": "train", "supervised": False,
        }  # fmt: skip
        evaluate.run(
            config or EvaluateConfig(), run_meta=meta, recon=folder / "recon.npz", test_scan=self.scan_path,
            view=self.view_path, patch_metrics=None, snapshots=None, out_dir=folder,
        )  # fmt: skip
        self.recons.append(folder / "recon.npz")
        self.metrics.append(folder / "metrics.json")
        self.curves.append(folder / "frc.csv")
        return read_json(folder / "metrics.json")

    def compare(self, **changes):
        out_dir = self.folder / "out"
        arguments = {
            "condition": CONDITION, "test_scans": [self.scan_path], "views": [self.view_path], "recons": self.recons,
            "metrics": self.metrics, "curves": self.curves, "out_dir": out_dir,
        }  # fmt: skip
        out_dir.mkdir(exist_ok=True)
        compare_condition.run(**{**arguments, **changes})
        return out_dir


@pytest.fixture(autouse=True)
def _no_pictures(request, monkeypatch):
    """Drawing takes seconds: only the tests of pictures draw."""
    if "pictures" in request.node.name or "stands_alone" in request.node.name:
        return
    for name in ("compare_amp_phase", "amp_phase", "error_maps", "frc_curves"):
        monkeypatch.setattr(f"ptychoflow.commands.condition.{name}", lambda *_args, **_options: None)
    monkeypatch.setattr("ptychoflow.commands.condition.blink_panels", lambda *_args, **_options: ([], ""))
    monkeypatch.setattr("ptychoflow.commands.evaluate.amp_phase", lambda *_args, path, **_options: path.touch())


def noisy(truth, amount, seed):
    return truth + amount * np.random.default_rng(seed).standard_normal((*SHAPE, 2)).view(np.complex128)[..., 0]


def test_aligned_arrays_are_those_that_were_scored(tmp_path):
    study = Study(tmp_path)
    truth = study.scan.object
    rows, cols = np.indices(SHAPE)
    ramped = truth * np.exp(1j * (0.03 * rows - 0.02 * cols)) * 3 * np.exp(0.7j)
    study.add("exact", 0, 2.5 * np.exp(1.1j) * truth)
    study.add("ramped", 0, ramped, config=EvaluateConfig(phase_ramp=True))
    study.add("raw", 0, 1.25 * truth, config=EvaluateConfig(align="none"))
    out = study.compare()
    arrays = read_npz(out / "reconstructions_aligned.npz")
    target = truth[9:31, 11:42]
    assert np.array_equal(arrays["ground_truth_complex"], target)
    assert arrays["origin_rc_px"].tolist() == [[9, 11]]
    # float32 rounding of a product, 1e-6 relative; the ramp is found to 6e-5 of a frequency step of 2 pi / 22 per px,
    # which over 31 px gives at most 5e-4 rad
    assert np.allclose(arrays["exact_s0_complex"], target, rtol=0, atol=5e-6)
    assert np.allclose(arrays["ramped_s0_complex"], target, rtol=0, atol=1e-3)
    assert np.allclose(arrays["raw_s0_complex"], 1.25 * target, rtol=0, atol=5e-6)
    metadata = json.loads(str(arrays["metadata"]))
    assert metadata["runs"]["exact_s0"] == "lines__exact__n9__s0"
    assert metadata["alignment"]["raw_s0"]["by_object"][0]["mode"] == "none"


def test_models_are_means_over_seeds_with_every_seed_beside(tmp_path):
    study = Study(tmp_path)
    truth = study.scan.object
    documents = [study.add("net", seed, noisy(truth, amount, seed)) for seed, amount in ((0, 0.02), (1, 0.3))]
    flat = study.add("net", 2, np.full(SHAPE, 1.0))
    study.add("lsqml", 0, truth)
    models = read_json(study.compare() / "metrics_by_model.json")
    assert sorted(models) == ["lsqml", "net"]
    net = models["net"]
    assert flat["collapsed"]
    assert (net["seeds"], net["collapsed_seeds"]) == ([0, 1], [2])
    assert net["reference_shape"] == [22, 31]
    values = [document["stitched"]["phase"]["mae"]["value"] for document in documents]
    assert net["metrics"]["mae"][1] == pytest.approx(sum(values) / 2)
    assert net["metrics"]["complex_nrmse"] == pytest.approx(
        sum(document["stitched"]["complex"]["nrmse"]["value"] for document in documents) / 2
    )
    assert sorted(net["by_seed"]) == ["0", "1", "2"]
    assert net["by_seed"]["1"]["stitched"] == documents[1]["stitched"]
    assert net["consistency"]["heldout"]["contrast"]["n"] == 2


def test_an_arm_whose_every_seed_collapsed_has_no_mean(tmp_path):
    study = Study(tmp_path)
    study.add("net", 0, np.full(SHAPE, 1.0))
    net = read_json(study.compare() / "metrics_by_model.json")["net"]
    assert net["metrics"] == {"not_applicable": "every seed collapsed"}
    assert net["by_seed"]["0"]["stitched"]["amp"]["mae"]["value"] > 0


def test_adding_an_arm_changes_no_other(tmp_path):
    study = Study(tmp_path)
    study.add("a", 0, noisy(study.scan.object, 0.1, 1))
    alone = read_json(study.compare() / "metrics_by_model.json")["a"]
    study.add("b", 0, noisy(study.scan.object, 0.5, 2))
    assert read_json(study.compare() / "metrics_by_model.json")["a"] == alone


def test_without_any_run_the_truth_stands_alone(tmp_path):
    out = Study(tmp_path).compare()
    assert read_json(out / "metrics_by_model.json") == {}
    assert sorted(read_npz(out / "reconstructions_aligned.npz")) == ["ground_truth_complex", "metadata", "origin_rc_px"]
    assert b"lines: one seed of every arm" in (out / "visuals" / "compare_amp_phase.png").read_bytes()
    assert (out / "manifest.json").exists()


def test_the_scans_own_object_is_scored_by_the_same_code(tmp_path):
    own = read_json(Study(tmp_path).compare() / "visuals" / "comparison.json")["reference"]
    assert (own["condition"], own["name"]) == ("lines", "truth")
    assert own["consistency"]["heldout"]["contrast"]["value"] is not None


def test_without_an_object_the_first_arm_sets_scale_and_phase(tmp_path):
    study = Study(tmp_path, with_object=False)
    picture = make_scan().object
    study.add("a", 0, picture)
    study.add("b", 0, 4j * picture)
    out = study.compare()
    assert read_json(out / "visuals" / "comparison.json")["reference"] is None
    arrays = read_npz(out / "reconstructions_aligned.npz")
    assert "ground_truth_complex" not in arrays
    assert np.allclose(arrays["a_s0_complex"], arrays["b_s0_complex"], atol=5e-6)
    assert json.loads(str(arrays["metadata"]))["scale_and_phase_of"] == "a_s0"
    assert "not_applicable" in read_json(out / "metrics_by_model.json")["a"]["metrics"]


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    study = Study(tmp_path)
    for label in ("a", "b"):
        study.add(label, 0, study.scan.object)
    with pytest.raises(ContractError, match="came with the metrics of run 'lines__b"):
        study.compare(metrics=study.metrics[::-1])
    with pytest.raises(UsageError, match="one of each per run"):
        study.compare(metrics=study.metrics[:1])
    study.add("coarse", 0, study.scan.object, config=EvaluateConfig(canonical_grid=16))
    with pytest.raises(ContractError, match="the same --canonical_grid"):
        study.compare()
    with pytest.raises(ContractError, match="belongs to condition 'lines', not to 'star'"):
        study.compare(condition={"id": "star"})


def test_every_arm_has_its_pictures_and_curves(tmp_path):
    study = Study(tmp_path)
    truth = study.scan.object
    for seed in (0, 1):
        study.add("net", seed, noisy(truth, 0.2, seed))
    study.add("lsqml", 0, truth)
    out = study.compare()
    document = read_json(out / "visuals" / "comparison.json")
    names = document["pictures"]
    assert (names["compare"], names["frc"], names["quality"]) == ("compare_amp_phase.png", "frc_curves.png", None)
    assert sorted(names["arms"]) == sorted(names["errors"]) == ["lsqml", "net"]
    assert [entry["name"] for entry in names["blink"]] == ["truth", "net", "lsqml"]
    listed = {names["compare"], names["frc"], *names["arms"].values(), *names["errors"].values()}
    listed |= {entry[part] for entry in names["blink"] for part in ("amp", "phase")}
    assert {path.name for path in (out / "visuals").iterdir()} == listed | {"comparison.json"}
    rows = (out / "net_frc.csv").read_text().splitlines()
    assert {row.split(",")[0] for row in rows[1:]} == {"0", "1"}
    assert sorted(read_json(out / "manifest.json")["outputs"]) == sorted(
        {f"visuals/{name}" for name in (*listed, "comparison.json")}
        | {"reconstructions_aligned.npz", "metrics_by_model.json", "net_frc.csv", "lsqml_frc.csv", "gt_recon.npz"}
    )


def test_arms_differ_within_an_image_or_not(tmp_path):
    """Blocks of one image: an exact arm beats a noisy one, two that differ by noise only are told apart from neither."""
    study = Study(tmp_path)
    truth = study.scan.object
    for label, amount, seed in (("exact", 0.0, 0), ("noise_a", 0.2, 1), ("noise_b", 0.2, 2)):
        study.add(label, 0, noisy(truth, amount, seed))
    entries = read_json(study.compare() / "visuals" / "comparison.json")["spatial"]
    found = {(entry["first"], entry["second"], entry["part"]): entry for entry in entries}
    assert len(found) == 6
    # The rectangle of 22 x 31 px holds one block of 32 px: nothing can be said from it.
    assert {entry["verdict"] for entry in entries} == {"one run each"}
    assert found["exact", "noise_a", "amp"]["mean"] < -0.05
