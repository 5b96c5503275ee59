"""What makes a baseline stale, wrong or somebody else's: each change of one good folder is told, and nothing else is.

Oracle: the list of checks of the reference page, section 17. The one run that makes the folder loads torch: slow.
"""

import json
import os
import shutil

import h5py
import numpy as np
import pytest

from doubles.ptychovit import make_double
from ptychoflow.commands import ptychovit_verify
from ptychoflow.errors import ContractError
from ptychovit_cases import fresh, make_checkpoint

pytestmark = pytest.mark.slow

RUN = "runs/pinn_ptychovit"
RECON = "recons/pinn_ptychovit/recon.npz"
DP, PARA = (f"{RUN}/bridge_work/data/test/test_{kind}.hdf5" for kind in ("dp", "para"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("verify")
    double = make_double(root / "checkout")
    checkpoint = make_checkpoint(root / "weights", double.path)
    for name in ("baseline", "earlier"):
        fresh(double, root / name, checkpoint, nimgs_test=1, report_object=0)
    return root


@pytest.fixture
def out(made, tmp_path):
    """A copy of the good folder, times kept."""
    return shutil.copytree(made / "baseline", tmp_path / "baseline")


def findings(out, *, allow_double=True):
    """Return the findings of a folder that does not pass, and that the command exits with 65."""
    with pytest.raises(ContractError) as caught:
        ptychovit_verify.run(out, allow_double=allow_double)
    assert caught.value.exit_code == 65
    listed = str(caught.value).splitlines()
    assert listed[0].startswith(f"baseline is no fresh baseline: {len(listed) - 1} finding(s)")
    return [line.removeprefix("  - ") for line in listed[1:]]


def edit(out, **changes):
    """Change keys of the manifest, which lists no checksum of itself."""
    path = out / RUN / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def relist(out, name):
    """Give a changed file's checksum to the manifest: a forger would."""
    import hashlib

    manifest = json.loads((out / RUN / "manifest.json").read_text())
    edit(out, outputs=manifest["outputs"] | {name: hashlib.sha256((out / name).read_bytes()).hexdigest()})


def rewrite(out, **arrays):
    """Change arrays of the reconstruction and its checksum."""
    kept = dict(np.load(out / RECON))
    np.savez(out / RECON, **(kept | arrays))
    relist(out, RECON)


def test_the_good_folder_passes_also_as_a_copy(out):
    assert "every check passed" in ptychovit_verify.run(out, allow_double=True)


def test_a_double_passes_only_when_told(out):
    found = findings(out, allow_double=False)
    assert len(found) == 2
    assert "a baseline needs the real one" in found[0]
    assert "the checkout is not verified" in found[1]


def test_a_stale_reconstruction(out, made):
    """That of another run: another file. The same file from before: older than the start."""
    shutil.copy(made / "earlier" / RECON, out / RECON)
    assert findings(out) == [f"{RECON} is not the file that this run made: its sha256 differs from the manifest's"]
    shutil.copy2(made / "baseline" / RECON, out / RECON)
    os.utime(out / RECON, ns=(1, 1))
    assert findings(out) == [f"{RECON} is older than the start of the run"]


def test_an_edited_pair(out):
    with h5py.File(out / PARA, "r+") as file:
        file["probe_position_x_m"][...] = 0.0
    found = findings(out)
    assert found[0] == f"{PARA} is not the file that this run made: its sha256 differs from the manifest's"
    assert any(one.startswith("PV-POSDEG: position x is constant") for one in found)
    relist(out, PARA)
    assert all(one.startswith("PV-") for one in findings(out))


def test_edited_patterns(out):
    """Even with a new checksum: the loader divided by another maximum."""
    with h5py.File(out / DP, "r+") as file:
        file["dp"][...] *= np.float32(1.25)
    relist(out, DP)
    assert [one.split(":")[0] for one in findings(out)] == ["PV-NORMFALL"]


def test_reused_output(out):
    edit(out, reused_recons=True)
    assert findings(out) == ["the reconstruction of an earlier run was used again (--reuse-existing-recons)"]


@pytest.mark.parametrize("log", ["stdout.log", "stderr.log"])
@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("Warning: Normalization file not found at x.pkl. Using default: 100000.0", "PV-NORMFALL"),
        ("Warning: Object 'test' not found in normalization dictionary", "PV-NORMFALL"),
        ("Warning: Error loading normalization file: truncated", "PV-NORMFALL"),
        ("Skipped backend execution", "PV-ARTIFACT"),
        ("Traceback (most recent call last):", "PV-EXIT"),
    ],
)
def test_a_warning_in_a_log(out, log, line, code):
    with (out / RUN / log).open("a") as stream:
        stream.write(f" 30%|###| {line}\n")
    relist(out, f"{RUN}/{log}")
    (found,) = findings(out)
    assert found.startswith(f"{code}: the run is invalid: {log}, line")


@pytest.mark.parametrize(
    "name",
    [
        *("visuals/amp_phase_pinn_ptychovit.png", "visuals/compare_amp_phase.png", "recons/gt/recon.npz"),
        *(f"{RUN}/{name}" for name in ("stdout.log", "stderr.log", "invocation.json")),
    ],
)
def test_a_missing_file(out, name):
    (out / name).unlink()
    assert findings(out) == [f"{name} is missing"]


def test_a_file_that_the_run_did_not_make(out):
    manifest = json.loads((out / RUN / "manifest.json").read_text())
    del manifest["outputs"]["visuals/compare_amp_phase.png"]
    edit(out, outputs=manifest["outputs"])
    assert findings(out) == ["visuals/compare_amp_phase.png is not in the manifest: this run did not make it"]


def test_without_a_manifest_nothing_is_proven(out):
    (out / RUN / "manifest.json").unlink()
    (out / "metrics_by_model.json").unlink()
    found = findings(out)
    assert found[0].startswith("manifest.json cannot be read")
    assert found[1:] == ["metrics_by_model.json is missing"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"mode": "train"}, "mode is 'train', expected 'inference'"),
        ({"training_returncode": 0}, "training_returncode is 0, expected None"),
        ({"resume_from_checkpoint": True}, "resume_from_checkpoint is True, expected False"),
        ({"state": "failed"}, "state is 'failed', expected 'ok'"),
        ({"command": "ptychovit run"}, "the manifest is of 'ptychovit run'"),
        ({"dialect": "F"}, "dialect is 'F', expected 'P'"),
        ({"checkpoint": "elsewhere/best_model.pth"}, "checkpoint is 'elsewhere/best_model.pth'"),
        ({"checkpoint_sha256": "0" * 64}, "are not the same file"),
        ({"started_ns": None}, "does not say when the run started"),
        ({"test_dp": []}, "the manifest names no pair"),
        ({"run_id": "another"}, "metrics_by_model.json is of run pinn_ptychovit__fresh__"),
        ({"violations": [{"code": "PV-FLAT", "kind": "R", "message": "flat"}]}, "the run itself found PV-FLAT: flat"),
    ],
)
def test_what_the_manifest_must_say(out, changes, told):
    edit(out, **changes)
    (found,) = findings(out)
    assert told in found


def test_another_checkpoint_in_its_place(out):
    (out / RUN / "best_model.pth").write_bytes(b"other weights")
    relist(out, f"{RUN}/best_model.pth")
    (found,) = findings(out)
    assert "are not the same file" in found


def test_what_the_reconstruction_must_be(out):
    """Oracle: closed form: a constant, a hole, another shape, another place, no coverage."""
    recon = dict(np.load(out / RECON))
    image, occupancy = recon["YY_pred"], recon["occupancy"]
    rewrite(out, YY_pred=np.where(occupancy > 0, np.complex64(0.97), 0).astype(np.complex64))
    (found,) = findings(out)
    assert found.startswith("PV-FLAT: amplitude of YY_pred has standard deviation 0 over occupancy > 0")
    hole = image.copy()
    hole[150, 151] = np.nan
    rewrite(out, YY_pred=hole)
    assert "YY_pred has values that are not finite" in findings(out)[0]
    rewrite(out, YY_pred=image[1:], occupancy=occupancy[1:])
    assert "YY_pred of shape (321, 322) at [-1, -1] is the object of no pair" in findings(out)[0]
    rewrite(out, YY_pred=image, occupancy=occupancy, origin_rc_px=np.array([0, -1]))
    assert "at [0, -1] is the object of no pair" in findings(out)[0]
    rewrite(out, origin_rc_px=recon["origin_rc_px"], occupancy=0 * occupancy)
    assert "covers nothing of YY_pred" in findings(out)[0]


def test_what_the_scores_must_be(out):
    path = out / "metrics_by_model.json"
    good = json.loads(path.read_text())
    for text, told in (
        (json.dumps(good).replace('"reference_shape"', '"nan": NaN, "reference_shape"'), "the token NaN is not JSON"),
        (json.dumps({"pinn": good["pinn_ptychovit"]}), "has no entry pinn_ptychovit, only ['pinn']"),
        (json.dumps({"pinn_ptychovit": good["pinn_ptychovit"] | {"metrics": {}}}), "holds no scores"),
        (json.dumps({"pinn_ptychovit": good["pinn_ptychovit"] | {"metrics": {"mae": [1e999, None]}}}).replace("Infinity", "1e999"),
         "1 values that are not finite"),
    ):  # fmt: skip
        path.write_text(text)
        relist(out, "metrics_by_model.json")
        (found,) = findings(out)
        assert told in found
