"""All neural arms through the flow: both frameworks, with and without physics, single frames and groups of four."""

import json
import math

import pytest

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]

MODELS = ("pinn", "baseline", "pinn_torch", "baseline_torch")
PATCH_SCORES = {"mae_amp", "mse_amp", "mae_phase", "mse_phase"}


def test_eight_neural_runs_end_ok_with_stitched_and_patch_scores(nextflow, project, tmp_path):
    # Quality over time is another test's (test_real_run.py): a sixth of the work here.
    options = ["--study", "lines", "--models", ",".join(MODELS), "--gridsizes", "1,2", "--snapshots", "none"]
    launch = nextflow(tmp_path, "run", project, "-profile", "test", *options)
    assert launch.returncode == 0, launch.text
    runs = {f"lines__{arm}_gs{gridsize}__n64__s0": "ok" for arm in MODELS for gridsize in (1, 2)}
    assert launch.states() == runs, launch.text  # ok means a picture with contrast: a flat one would be `failed`

    for path in (launch.results / "conditions" / "lines" / "runs").glob("*/s0/evaluate/metrics.json"):
        metrics = json.loads(path.read_text())
        assert metrics["stitched"]["amp"]["pearson"]["value"] > 0.4, path
        assert metrics["patch"].keys() >= PATCH_SCORES, path
        assert all(math.isfinite(metrics["patch"][name]["value"]) for name in PATCH_SCORES), path
        card = json.loads((path.parents[1] / "train" / "model" / "card.json").read_text())
        status = json.loads((path.parents[1] / "train" / "status.json").read_text())
        assert card["arm"] == metrics["arm"]
        assert status["seconds"].keys() >= {"import", "compile", "train"}
        del runs[metrics["run_id"]]
    assert not runs
