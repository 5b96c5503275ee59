"""The external arm through the flow, with the contract double in place of the checkout, beside an arm of another N.

Oracle of what the double does: its own list of faults (tests/doubles/ptychovit), written from the reference page.
"""

import csv
import json
import subprocess
import sys
from os.path import relpath
from pathlib import Path

import pytest

from doubles.ptychovit import make_double

pytestmark = pytest.mark.pipeline

TWO, EXTERNAL = "pinn_torch,pinn_ptychovit", "stub__pinn_ptychovit__n256__s0"
TINY = ("--size", "320", "--step_train_px", "16", "--step_test_px", "16", "--min_success", "0")


def supply(double, folder, **changes):
    """Return the options that supply a double: the interpreter as seen from the launch folder, as people type it."""
    given = {
        "ptychovit_repo": double.path,
        "ptychovit_python": relpath(sys.executable, folder),
        "allow_double": double.tree_sha256,
    }
    return [part for name, value in {**given, **changes}.items() for part in (f"--{name}", value)]


@pytest.fixture(scope="module")
def launch(nextflow, project, tmp_path_factory):
    """Return -profile test with both arms on objects of 320 px: 25 frames of 256 px on each side, two epochs."""
    folder = tmp_path_factory.mktemp("external")
    double = make_double(folder / "double")
    return nextflow(folder, "run", project, "-profile", "test", "--models", TWO, *TINY, *supply(double, folder))


@pytest.mark.slow
def test_arms_of_two_n_end_in_one_table(launch):
    assert launch.returncode == 0, launch.text
    states = launch.states()
    assert states.keys() == {"lines__pinn_torch_gs1__n64__s0", "lines__pinn_ptychovit__n256__s0"}
    # Two epochs may end flat: that is data, not an error. A run without scores would be `missing`.
    assert set(states.values()) <= {"ok", "failed"}, launch.text
    condition = launch.results / "conditions" / "lines"
    table = json.loads((condition / "metrics_by_model.json").read_text())
    assert {label: entry["n"] for label, entry in table.items()} == {"pinn_torch_gs1": 64, "pinn_ptychovit": 256}
    assert table["pinn_torch_gs1"]["reference_shape"] == table["pinn_ptychovit"]["reference_shape"]
    with (launch.results / "summary" / "metrics.csv").open(newline="") as stream:
        assert {row["model"] for row in csv.DictReader(stream)} >= set(table)
    for label in table:
        assert (condition / "recons" / label / "s0" / "recon.npz").is_file()
        assert (condition / "visuals" / f"amp_phase_{label}.png").is_file()


@pytest.mark.slow
def test_what_the_external_run_was_stands_in_its_manifest(launch):
    folder = launch.results / "conditions" / "lines" / "runs" / "pinn_ptychovit" / "s0" / "reconstruct"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [manifest[name] for name in ("mode", "checkout_kind", "state")] == ["train", "double", "ok"]
    assert manifest["training"]["epochs"] == 2
    for name in (
        "stdout.log",
        "stderr.log",
        "history.csv",
        "checkpoints/run1/best_model.pth",
        "bridge_work/config.yaml",
    ):
        assert (folder / name).is_file(), name
    assert len((folder / "history.csv").read_text().splitlines()) == 1 + 2
    # Train and test pairs lie apart: upstream trains on every pair that it finds.
    pairs = launch.results / "conditions" / "lines" / "pairs"
    assert {path.name for path in pairs.iterdir()} == {"lines-train_n256_train", "lines-test_n256_test"}


@pytest.mark.slow
def test_every_published_file_is_as_recorded(launch, project):
    command = [sys.executable, "-m", "ptychoflow.cli", "verify-outputs", str(launch.results)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=project / "python")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_both_sides_are_scored_again_from_their_sheet(nextflow, project, launch, tmp_path):
    sheet = launch.results / "sheets" / "recons.csv"
    again = nextflow(tmp_path, "run", project, "--from", "evaluate", "--input", sheet, "--min_success", "0")
    assert again.returncode == 0, again.text
    assert again.states() == launch.states()
    tables = [one.results / "conditions" / "lines" / "metrics_by_model.json" for one in (launch, again)]
    first, second = (json.loads(path.read_text()) for path in tables)
    assert {label: entry["metrics"] for label, entry in first.items()} == {k: v["metrics"] for k, v in second.items()}


@pytest.mark.slow
def test_the_trained_weights_give_the_same_scores_when_they_are_given(nextflow, project, launch, tmp_path):
    """Oracle: the run that trained them. The sheet of models has the external run without a model: its weights are supplied."""
    trained = (
        launch.results
        / "conditions"
        / "lines"
        / "runs"
        / "pinn_ptychovit"
        / "s0"
        / "reconstruct"
        / "checkpoints"
        / "run1"
    )
    double = make_double(tmp_path / "double")
    sheet = launch.results / "sheets" / "models.csv"
    options = ["--from", "recon", "--input", sheet, "--ptychovit_checkpoint", trained, "--min_success", "0"]
    again = nextflow(tmp_path, "run", project, *options, *supply(double, tmp_path))
    assert again.returncode == 0, again.text
    assert again.states() == launch.states()
    assert again.tasks()["EXPORT_PAIR"] == ["lines__n256_gs1__test"]
    name = "conditions/lines/runs/pinn_ptychovit/s0/evaluate/metrics.json"
    first, second = (json.loads((one.results / name).read_text()) for one in (launch, again))
    assert second["grid"] == first["grid"]
    for metric in ("mae", "pearson"):
        one, other = (document["stitched"]["amp"][metric]["value"] for document in (first, second))
        assert one == pytest.approx(other, rel=1e-5)
    assert (first["fairness"]["saw_truth"], second["fairness"]["saw_truth"]) == (True, None)


@pytest.mark.slow
def test_an_invalid_run_is_a_failed_row_and_no_failed_task(nextflow, project, tmp_path):
    double = make_double(tmp_path / "double", faults=["exit0_nothing"])
    options = ["--models", "pinn_ptychovit", *TINY, *supply(double, tmp_path)]
    failed = nextflow(tmp_path, "run", project, "-profile", "test", *options)
    assert failed.returncode == 0, failed.text
    assert failed.states() == {"lines__pinn_ptychovit__n256__s0": "failed"}
    assert "PV-ARTIFACT" in (failed.results / "summary" / "run_status.tsv").read_text()
    assert "EVALUATE" not in failed.tasks()


@pytest.fixture(scope="module")
def stub(nextflow, project, tmp_path_factory):
    """Return a stub run of both arms."""
    folder = tmp_path_factory.mktemp("stub_external")
    return nextflow(folder, "run", project, "-stub-run", "--study", "lines", "--models", TWO)


def test_the_flow_makes_frames_views_and_pairs_of_the_arms_own_n(stub):
    assert stub.returncode == 0, stub.text
    tasks = stub.tasks("COMPLETED")
    assert tasks["SIMULATE"] == ["stub-test", "stub-test_n256", "stub-train", "stub-train_n256"]
    assert tasks["PREPARE"] == ["stub__gs1", "stub__n256_gs1"]
    assert tasks["EXPORT_PAIR"] == ["stub__n256_gs1__test", "stub__n256_gs1__train"]
    assert tasks["PTYCHOVIT"] == [EXTERNAL]
    assert tasks["COMPARE"] == ["stub"]
    assert stub.states()[EXTERNAL] == "ok"
    for name in (
        "pairs/stub-test_n256_test/manifest.json",
        "views/n256_gs1/view.npz",
        "recons/pinn_ptychovit/s0/recon.npz",
    ):
        assert (stub.results / "conditions" / "stub" / name).is_file(), name


def test_each_run_is_scored_with_the_views_of_the_other_sides(stub):
    """One N of two is another one: the links that each task staged hold exactly one view of it."""
    staged = {
        row["tag"]: [path.resolve() for path in (Path(row["workdir"]) / "others").rglob("view.npz")]
        for row in stub.trace()
        if row["process"] == "EVALUATE"
    }
    made = {
        row["tag"]: Path(row["workdir"]).resolve() / "view.npz" for row in stub.trace() if row["process"] == "PREPARE"
    }
    assert staged.pop(EXTERNAL) == [made["stub__gs1"]]
    assert list(staged.values()) == [[made["stub__n256_gs1"]]] * 2


def test_the_external_run_is_never_served_from_a_cache(nextflow, project, stub):
    again = nextflow(stub.folder, "run", project, "-stub-run", "--study", "lines", "--models", TWO, "-resume")
    assert again.returncode == 0, again.text
    assert again.tasks("COMPLETED")["PTYCHOVIT"] == [EXTERNAL]
    assert {"TRAIN", "RECONSTRUCT", "LSQML", "EXPORT_PAIR", "PREPARE"} <= again.tasks("CACHED").keys()
