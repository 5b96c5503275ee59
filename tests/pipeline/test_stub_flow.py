"""The shape of the flow, without science: every process is reached, cached, isolated, and accounted for."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.pipeline

NEURAL, ITERATIVE = "stub__pinn_torch_gs1__n64__s0", "stub__lsqml__n64__s0"
FLOW = {
    "PLAN": 1, "SIMULATE": 2, "PREPARE": 1, "TRAIN": 1, "RECONSTRUCT": 1, "LSQML": 1, "EVALUATE": 2, "COMPARE": 1,
    "COLLECT": 1,
}  # fmt: skip
TREE = [
    "datasets/stub-test/scan.npz",
    "datasets/stub-test/manifest.json",
    "datasets/stub-test/preview.png",
    "conditions/stub/metrics_by_model.json",
    "conditions/stub/reconstructions_aligned.npz",
    "conditions/stub/lsqml_frc.csv",
    "conditions/stub/views/gs1/view.npz",
    "conditions/stub/recons/gt/recon.npz",
    "conditions/stub/recons/lsqml/s0/recon.npz",
    "conditions/stub/recons/pinn_torch_gs1/s0/recon.npz",
    "conditions/stub/runs/pinn_torch_gs1/s0/train/model/card.json",
    "conditions/stub/runs/pinn_torch_gs1/s0/train/model/snapshots/epoch_00001.pt",
    "conditions/stub/runs/pinn_torch_gs1/s0/train/status.json",
    "conditions/stub/runs/pinn_torch_gs1/s0/reconstruct/snapshots.npz",
    "conditions/stub/runs/pinn_torch_gs1/s0/reconstruct/status.json",
    "conditions/stub/runs/pinn_torch_gs1/s0/evaluate/metrics.json",
    "conditions/stub/visuals/amp_phase_lsqml_s0.png",
    "conditions/stub/visuals/amp_phase_lsqml.png",
    "conditions/stub/visuals/compare_amp_phase.png",
    "conditions/stub/visuals/comparison.json",
    *(f"sheets/{name}.csv" for name in ("scans", "views", "models", "recons")),
    *(f"summary/{name}.csv" for name in ("metrics", "statistics", "comparisons")),
    "summary/run_status.tsv",
    "summary/summary.md",
    "summary/report.html",
    *(f"pipeline_info/{name}" for name in ("plan.json", "plan.txt", "trace.tsv", "report.html", "timeline.html")),
    *(f"pipeline_info/{name}" for name in ("dag.mmd", "params.json", "versions.yml", "manifest.json")),
]


def counts(launch, *statuses):
    return {process: len(tags) for process, tags in launch.tasks(*statuses).items()}


def test_every_process_runs_and_every_run_is_ok(stub_launch):
    assert stub_launch.returncode == 0, stub_launch.text
    assert counts(stub_launch, "COMPLETED") == FLOW
    assert stub_launch.states() == {NEURAL: "ok", ITERATIVE: "ok"}


def test_the_output_tree_is_complete(stub_launch):
    assert [name for name in TREE if not (stub_launch.results / name).is_file()] == []
    parameters = json.loads((stub_launch.results / "pipeline_info" / "params.json").read_text())
    assert parameters["study"] == "lines"


def test_versions_name_workflow_and_containers(stub_launch):
    found = yaml.safe_load((stub_launch.results / "pipeline_info" / "versions.yml").read_text())
    assert found["workflow"]["nextflow"] in stub_launch.text
    assert found["workflow"]["engine"] == "no container"
    assert set(found["containers"].values()) == {"no container"}
    assert found["containers"].keys() >= FLOW.keys() - {"COLLECT"}  # the last line of the trace may come late


def test_the_completion_table_is_printed(stub_launch):
    for run_id in (NEURAL, ITERATIVE):
        assert any(line.split() == [run_id, "ok"] for line in stub_launch.text.splitlines())


def test_a_second_run_does_no_work_whatever_its_output_folder(nextflow, project, stub_launch):
    options = ["-stub-run", "--study", "lines", "--outdir", "other/results", "-resume"]
    again = nextflow(stub_launch.folder, "run", project, *options)
    again = replace(again, folder=again.folder / "other")
    assert again.returncode == 0, again.text
    assert counts(again, "CACHED") == FLOW
    assert counts(again) == FLOW
    assert [name for name in TREE if not (again.results / name).is_file()] == []


def test_pictures_of_runs_and_of_conditions_share_a_folder(stub_launch):
    """COMPARE's folder must not replace the one that EVALUATE's pictures went to."""
    folder = stub_launch.results / "conditions" / "stub" / "visuals"
    assert {"amp_phase_lsqml.png", "amp_phase_lsqml_s0.png"} <= {path.name for path in folder.iterdir()}


@pytest.fixture(scope="module")
def stub_rescored(nextflow, project, tmp_path_factory):
    """Return a stub run of --from evaluate: one scan with its view, and one that has to be prepared."""
    folder = tmp_path_factory.mktemp("evaluate")
    (folder / "datasets").mkdir()
    (folder / "datasets" / "scan.npz").touch()
    (folder / "sheets").mkdir()
    for name in ("view", "raw", "mine", "yours"):
        (folder / "sheets" / f"{name}.npz").touch()
    (folder / "sheets" / "recons.csv").write_text("recon,scan,label\n")
    return nextflow(folder, "run", project, "-stub-run", "--from", "evaluate", "--input", "sheets/recons.csv")


def test_reconstructions_from_elsewhere_join_the_flow_at_the_scoring(stub_rescored):
    assert stub_rescored.returncode == 0, stub_rescored.text
    assert stub_rescored.tasks("COMPLETED") == {
        "PLAN": ["-"], "INGEST": ["raw"], "PREPARE": ["raw__gs1"],
        "EVALUATE": ["raw__yours__n64__s3", "ready__mine__n64__s0"], "COMPARE": ["raw", "ready"], "COLLECT": ["-"],
    }  # fmt: skip
    assert stub_rescored.states() == {"ready__mine__n64__s0": "ok", "raw__yours__n64__s3": "ok"}
    # The sheet that such a run came from may lie in the same output folder.
    assert not (stub_rescored.results / "sheets").exists()


def test_given_files_are_staged_as_they_are(stub_rescored):
    (evaluated,) = (row for row in stub_rescored.trace() if row["tag"] == "ready__mine__n64__s0")
    task = Path(evaluated["workdir"])
    for staged, given in {
        "recon/mine.npz": "sheets/mine.npz",
        "view/view.npz": "sheets/view.npz",
        "test/scan.npz": "datasets/scan.npz",
    }.items():
        assert (task / staged).resolve() == (stub_rescored.folder / given).resolve()


@pytest.mark.parametrize(
    ("start", "absent", "sheets"),
    [
        ("prepare", ["SIMULATE"], ["models", "recons", "views"]),
        ("train", ["SIMULATE", "PREPARE"], ["models", "recons"]),
        ("recon", ["SIMULATE", "PREPARE", "TRAIN"], ["recons"]),
    ],
)
def test_what_earlier_stages_made_joins_the_flow_where_they_do(nextflow, project, tmp_path, start, absent, sheets):
    given = tmp_path / "given"
    (given / "model").mkdir(parents=True)
    for name in ("scan.npz", "view.npz", "sheet.csv"):
        (given / name).touch()
    launch = nextflow(tmp_path, "run", project, "-stub-run", "--from", start, "--input", "given/sheet.csv")
    assert launch.returncode == 0, launch.text
    assert counts(launch, "COMPLETED") == {process: n for process, n in FLOW.items() if process not in absent}
    assert launch.states() == {NEURAL: "ok", ITERATIVE: "ok"}
    assert sorted(path.stem for path in (launch.results / "sheets").iterdir()) == sheets
    (task,) = (Path(row["workdir"]) for row in launch.trace() if row["process"] == "RECONSTRUCT")
    assert ((task / "model" / "model").resolve() == given / "model") is (start == "recon")
    assert ((task / "view" / "view.npz").resolve() == given / "view.npz") is (start != "prepare")
    assert (task / "test" / "scan.npz").resolve() == given / "scan.npz"


@pytest.mark.parametrize("fail_on_arm_error", [False, True])
def test_a_failing_arm_costs_only_its_own_runs(nextflow, project, tmp_path, fail_on_arm_error):
    # 77 is tried a second time, then given up.
    (tmp_path / "fail.config").write_text("process { withName: TRAIN { beforeScript = 'exit 77' } }\n")
    flag = ["--fail_on_arm_error"] if fail_on_arm_error else []
    launch = nextflow(tmp_path, "run", project, "-stub-run", "--study", "lines", "-c", "fail.config", *flag)
    assert launch.states() == {NEURAL: "missing", ITERATIVE: "ok"}
    train = next(row for row in launch.trace() if row["process"] == "TRAIN")
    assert (train["attempt"], train["exit"], train["status"]) == ("2", "77", "FAILED")
    assert "RECONSTRUCT" not in launch.tasks()
    assert "exit 77, attempt 2" in launch.text
    assert launch.returncode == (1 if fail_on_arm_error else 0), launch.text


def test_what_a_stage_leaves_out_costs_no_more_than_what_needs_it(nextflow, project, tmp_path):
    # A failed inference leaves no reconstruction, a short one no snapshots.
    (tmp_path / "less.config").write_text(
        "process {\n  withName: RECONSTRUCT { afterScript = 'rm *.npz patch_metrics.json' }\n"
        "  withName: LSQML { afterScript = 'rm snapshots.npz' }\n}\n"
    )
    launch = nextflow(tmp_path, "run", project, "-stub-run", "--study", "lines", "-c", "less.config")
    assert launch.returncode == 0, launch.text
    assert launch.tasks("COMPLETED")["EVALUATE"] == [ITERATIVE]
    assert launch.tasks("COMPLETED")["COMPARE"] == ["stub"]
    assert launch.states() == {NEURAL: "missing", ITERATIVE: "ok"}


def test_bad_input_is_not_tried_twice_and_a_run_without_success_fails_with_its_table(nextflow, project, tmp_path):
    (tmp_path / "fail.config").write_text("process { withName: 'TRAIN|LSQML' { beforeScript = 'exit 65' } }\n")
    launch = nextflow(tmp_path, "run", project, "-stub-run", "--study", "lines", "-c", "fail.config")
    assert launch.returncode == 1
    assert "0 runs ended ok, --min_success asks for 1" in launch.text
    assert launch.states() == {NEURAL: "missing", ITERATIVE: "missing"}
    assert (launch.results / "summary" / "report.html").is_file()
    assert {row["attempt"] for row in launch.trace() if row["exit"] == "65"} == {"1"}
