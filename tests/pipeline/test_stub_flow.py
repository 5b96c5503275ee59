"""The shape of the flow, without science: every process is reached, cached, isolated, and accounted for."""

import json

import pytest

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
    "conditions/stub/views/gs1/view.npz",
    "conditions/stub/recons/lsqml/s0/recon.npz",
    "conditions/stub/recons/pinn_torch_gs1/s0/recon.npz",
    "conditions/stub/runs/pinn_torch_gs1/s0/train/model/card.json",
    "conditions/stub/runs/pinn_torch_gs1/s0/train/status.json",
    "conditions/stub/runs/pinn_torch_gs1/s0/reconstruct/status.json",
    "conditions/stub/runs/pinn_torch_gs1/s0/evaluate/metrics.json",
    "conditions/stub/visuals/amp_phase_lsqml_s0.png",
    "conditions/stub/visuals/compare_amp_phase.png",
    "summary/metrics.csv",
    "summary/run_status.tsv",
    "summary/summary.md",
    "summary/report.html",
    *(f"pipeline_info/{name}" for name in ("plan.json", "plan.txt", "trace.tsv", "report.html", "timeline.html")),
    *(f"pipeline_info/{name}" for name in ("dag.mmd", "params.json")),
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


def test_the_completion_table_is_printed(stub_launch):
    for run_id in (NEURAL, ITERATIVE):
        assert any(line.split() == [run_id, "ok"] for line in stub_launch.text.splitlines())


def test_a_second_run_does_no_work(nextflow, project, stub_launch):
    again = nextflow(stub_launch.folder, "run", project, "-stub-run", "--study", "lines", "-resume")
    assert again.returncode == 0, again.text
    assert counts(again, "CACHED") == FLOW
    assert counts(again) == FLOW


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


def test_bad_input_is_not_tried_twice_and_a_run_without_success_fails_with_its_table(nextflow, project, tmp_path):
    (tmp_path / "fail.config").write_text("process { withName: 'TRAIN|LSQML' { beforeScript = 'exit 65' } }\n")
    launch = nextflow(tmp_path, "run", project, "-stub-run", "--study", "lines", "-c", "fail.config")
    assert launch.returncode == 1
    assert "0 runs ended ok, --min_success asks for 1" in launch.text
    assert launch.states() == {NEURAL: "missing", ITERATIVE: "missing"}
    assert (launch.results / "summary" / "report.html").is_file()
    assert {row["attempt"] for row in launch.trace() if row["exit"] == "65"} == {"1"}
