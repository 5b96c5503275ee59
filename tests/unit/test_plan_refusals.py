"""What the plan refuses: wrong parameters, options that exclude each other or change nothing, wrong study files."""

import pytest

from plan_cases import REGISTRY, lines, only, sheet_of, sheet_plan, siemens, study, usage_error
from ptychoflow.study.plan import make_plan


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"epoch": 3}, "unknown option 'epoch' (did you mean 'epochs'?)"),
        ({"models": "pinn_torhc"}, "did you mean 'pinn_torch'?"),
        ({"doses": "-5"}, "between 1 and 1e14"),
        ({"doses": "nan"}, "between 1 and 1e14"),
        ({"doses": "lots"}, "such as 1e4"),
        ({"doses": "10000,1e4"}, "listed twice: 1e4"),
        ({"seeds": "1,,2"}, "empty items"),
        ({"seeds": "1,1"}, "listed twice: 1"),
        ({"seeds": True}, "expected a comma-separated list"),
        ({"epochs": True}, "option 'epochs' needs a value"),
        ({"gridsizes": "4"}, "less than or equal to 3"),
        ({"views": "dense"}, "unknown 'dense'"),
        ({"split": "region"}, "a train and a test scan are split by 'scans'"),
        ({"guard_px": 3}, "--guard_px has no effect without --split region"),
        ({"heldout": "key"}, "a simulated scan has no such key"),
        ({"n_frames": 10, "step_train_px": 2}, "--n_frames asks for a random scan"),
        ({"size": 32}, "smaller than a frame"),
        ({"probe": "base"}, "needs a file: give --base"),
        ({"mae_weight": 0}, "both 0"),
        (
            {"base": "x.npz"},
            "exactly one of --input SHEET, --base FILE or a --study with datasets; got --base x.npz and --study",
        ),
    ],
)
def test_a_wrong_parameter_of_the_lines_study_is_refused(given, expected):
    assert expected in usage_error(lines, **given)


def test_parameters_without_effect_on_a_single_scan_are_refused():
    assert "--step_test_px has no effect" in usage_error(siemens, step_test_px=3)
    assert "only lines objects take a phase" in usage_error(siemens, set_phi=True)
    message = usage_error(make_plan, {"base": "x.npz", "size": 100, "set_phi": False}, None, None, REGISTRY)
    assert "--size has no effect with --base" in message
    assert "--set_phi has no effect with --base" in message


def test_doses_of_measured_scans_are_refused_naming_both():
    message = usage_error(sheet_plan, {"id": "star", "scan": "star.npz"}, doses="1e4")
    assert "--doses is for scans to simulate, but --input scans.csv names scans that are there (star)" in message
    assert "column 'dose'" in message


def test_a_study_without_datasets_is_a_preset_for_a_sheet():
    preset = {"description": "mae", "params": {"mae_weight": 1, "nll_weight": 0, "models": "pinn_torch"}}
    plan = make_plan({}, sheet_of({"id": "a", "scan": "a.npz"}), preset, REGISTRY)
    assert only(plan.runs)["config"]["train"]["mae_weight"] == 1.0
    assert "got none of them" in usage_error(make_plan, {}, None, preset, REGISTRY)
    assert "got none of them" in usage_error(make_plan, {}, None, None, REGISTRY)
    both = usage_error(make_plan, {}, sheet_of({"id": "a", "scan": "a.npz"}), study("siemens"), REGISTRY)
    assert "got --input scans.csv and --study" in both


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"parms": {}}, "study file: parms"),
        ({"params": {"outdir": "x"}}, "study file: unknown option 'outdir'"),
        ({"datasets": [{"id": "a", "simulate": {"knd": "lines"}}]}, "unknown option 'knd' (did you mean 'kind'?)"),
        ({"datasets": [{"id": "a", "simulate": {"dose": "1e3"}}]}, "the dose is a parameter"),
        ({"datasets": [{"id": "a", "role": "test"}]}, "object 'a' needs one train and one test scan"),
        ({"datasets": [{"id": "a"}, {"id": "a"}]}, "dataset ids must differ"),
        (
            {"datasets": [{"id": "a", "role": "train", "object": "o"}, {"id": "b", "role": "test", "object": "o"}]},
            "draw the same objects",
        ),
    ],
)
def test_a_wrong_study_file_is_refused(change, expected):
    content = {"description": "test", "datasets": [{"id": "a"}]} | change
    assert expected in usage_error(make_plan, {}, None, content, REGISTRY)


def test_all_problems_come_together():
    message = usage_error(lines, epochs=0, seeds="x", modles="all", models="nothing")
    assert message.startswith("4 problems\n")
