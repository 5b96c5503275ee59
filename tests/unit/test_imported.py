"""Reconstructions from elsewhere (`--from evaluate`): what becomes of a sheet's rows, and what is refused."""

import json

import pytest

from plan_cases import REGISTRY, ROOT, lines, only, sheet_of, siemens, study, usage_error
from ptychoflow.commands import plan as command
from ptychoflow.study.plan import make_plan, table
from ptychoflow.study.resheet import RECON_COLUMNS, Arrived, sheets
from ptychoflow.study.samplesheet import read_sheet


def recon_plan(*rows, **given):
    return make_plan({"from": "evaluate", **given}, sheet_of(*rows), None, REGISTRY)


def row(**cells):
    return {"recon": "a/recon.npz", "scan": "scans/star.npz", "label": "mine", **cells}


# --- the plan ---


def test_a_row_without_a_view_is_ingested_and_prepared():
    cells = {"N": "128", "heldout": "0.1", "domain": "intensity", "pixel_size_m": "2e-8", "photons_per_intensity": "3"}
    plan = recon_plan(row(**cells), score_box_px=40, data_seed=7)
    dataset, view, run = only(plan.datasets), only(plan.views), only(plan.runs)
    assert (dataset["id"], dataset["kind"], dataset["file"], dataset["n"]) == ("star", "ingest", "scans/star.npz", 128)
    wanted = {"domain": "intensity", "pixel_size_m": 2e-8, "photons_per_intensity": 3.0, "expect_n": 128}
    assert dataset["config"].items() >= wanted.items()
    assert (view["id"], view["file"]) == ("star__gs1", None)
    wanted = {"split": "none", "heldout": 0.1, "score_box_px": 40, "data_seed": 7, "gridsize": 1}
    assert view["config"].items() >= wanted.items()
    assert run["run_id"] == "star__mine__n128__s0"
    assert [run[name] for name in ("arm", "kind", "supervised", "gridsize", "config")] == ["imported"] * 2 + [
        False,
        1,
        {},
    ]
    assert (run["train"], run["test"], run["view"], run["recon"]) == ("star", "star", "star__gs1", "a/recon.npz")


def test_a_row_with_a_view_takes_the_scan_as_it_is():
    plan = recon_plan(row(view="v.npz", object="o", dose="1E4", seed="2"))
    dataset, view = only(plan.datasets), only(plan.views)
    assert dataset == {
        "id": "o",
        "kind": "ready",
        "file": "scans/star.npz",
        "config": {},
        "dose": "1e4",
        "n": 64,
        "truth": False,
    }
    assert (view["id"], view["file"], view["config"]) == ("o__view1", "v.npz", {})
    assert only(plan.conditions) == {
        "id": "o",
        "object": "o",
        "train": "o",
        "test": "o",
        "dose": "1e4",
        "view": "all",
        "sides": [64],
    }
    assert only(plan.runs)["run_id"] == "o__mine__n64__s2"


def test_views_of_one_scan_may_differ_and_every_run_names_its_own():
    plan = recon_plan(
        row(label="a", view="gs1.npz"), row(label="b", view="gs2.npz"), row(label="c", view="gs1.npz"),
        row(label="a", view="gs1.npz", object="other", scan="x.npz"),
    )  # fmt: skip
    files = {view["id"]: view["file"] for view in plan.views}
    assert files == {"star__view1": "gs1.npz", "star__view2": "gs2.npz", "other__view1": "gs1.npz"}
    assert [files[run["view"]] for run in plan.runs] == ["gs1.npz", "gs2.npz", "gs1.npz", "gs1.npz"]
    assert [run["view"] for run in plan.runs if run["condition"] == "other"] == ["other__view1"]


def test_options_of_the_scoring_reach_every_run():
    plan = recon_plan(row(), row(label="b"), align="register", canonical_grid=256, legacy_metrics=True)
    for run in plan.runs:
        assert run["evaluate"].items() >= {"align": "register", "canonical_grid": 256, "legacy_metrics": True}.items()
    assert plan.parameters["from"] == "evaluate"


def test_a_study_may_bring_options_but_no_scans():
    preset = {"description": "register", "params": {"align": "register", "epochs": 3}}
    sheet = sheet_of(row())
    assert only(make_plan({"from": "evaluate"}, sheet, preset, REGISTRY).runs)["evaluate"]["align"] == "register"
    message = usage_error(make_plan, {"from": "evaluate"}, sheet, study("lines"), REGISTRY)
    assert "--study brings scans to simulate" in message


def test_the_table_shows_reconstructions():
    text = table(recon_plan(row(), row(seed=1)))
    assert "star__mine__n64__s1  imported  64  -   -     1     star\n" in text
    assert text.endswith("2 runs, 0 skipped, 1 conditions, 1 datasets\n")


# --- refusals ---


def test_all_problems_of_a_sheet_are_reported_with_row_and_column():
    message = usage_error(
        recon_plan,
        {"recon": "a.npz", "scan": "s.npz", "labl": "a"},
        row(label="bad label"),
        row(label="lsqml_s0"),
        row(label="truth"),
        row(seed="-1", N="x"),
        row(scan="my scan.npz"),
        epochs=3,
    )
    assert message.startswith("9 problems\n")
    for expected in (
        "--epochs has no effect with --from evaluate: nothing is made, only scored",
        "unknown column 'labl' (did you mean 'label'?)",
        "row 2, column 'label': missing; required are the columns recon, scan, label",
        "row 3, column 'label'",
        "row 4, column 'label': Value error, ends like a seed; the seed has a column of its own, 'seed', got 'lsqml_s0'",
        "row 5, column 'label': Value error, is kept for the truth",
        "row 6, column 'seed'",
        "row 6, column 'N'",
        "row 7, column 'object': missing, and the scan's file name 'my scan' is no name",
    ):
        assert expected in message


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ({"scan": "b/star.npz"}, "row 3, column 'scan': 'b/star.npz', but row 2 of object 'star' has 'scans/star.npz'"),
        ({"scan": "b/star.npz"}, "scored on one grid, so name one scan, or give them different objects"),
        ({"view": "v.npz"}, "row 3, column 'view': give it in all rows of object 'star', or in none (row 2 differs)"),
        ({"heldout": "0.2"}, "row 3, column 'heldout': 0.2, but row 2 of object 'star' has None"),
        ({"N": "128"}, "row 3, column 'N': 128, but row 2 of object 'star' has None"),
        ({"label": "mine"}, "row 3, columns 'label' and 'seed': mine, 0 of 'star' is already row 2"),
    ],
)
def test_rows_of_one_object_have_one_scan_and_are_told_apart(others, expected):
    assert expected in usage_error(recon_plan, row(), row(**{"label": "other", **others}))


def test_run_ids_differ_even_where_names_hold_the_separator():
    assert "is already row 2" in usage_error(recon_plan, row(object="a", label="b__c"), row(object="a__b", label="c"))


def test_what_says_nothing_beside_a_view_is_refused():
    message = usage_error(recon_plan, row(view="v.npz", heldout="0.1", layout="HWN"), heldout="0.2")
    assert "row 2, column 'heldout': has no effect beside 'view'" in message
    assert "row 2, column 'layout': has no effect beside 'view'" in message
    assert "--heldout has no effect: every row brings a view" in message


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"models": "lsqml"}, "--models has no effect with --from evaluate"),
        ({"seeds": "0,1"}, "--seeds has no effect with --from evaluate"),
        ({"split": "region"}, "--split has no effect with --from evaluate"),
        ({"snapshots": "1"}, "--snapshots has no effect with --from evaluate"),
        ({"base": "b.npz"}, "--base is for scans to simulate"),
        (
            {"from": "evaluat"},
            "--from: unknown 'evaluat' (did you mean 'evaluate'?); known are start, prepare, train, recon, evaluate",
        ),
        ({"alin": "none"}, "unknown option 'alin' (did you mean 'align'?)"),
    ],
)
def test_a_wrong_parameter_is_refused(given, expected):
    assert expected in usage_error(recon_plan, row(), **given)


def test_a_sheet_is_needed_and_start_is_the_default():
    assert "needs --input SHEET" in usage_error(make_plan, {"from": "evaluate"}, None, None, REGISTRY)
    given = {"from": "start"}
    assert make_plan(given, None, study("lines"), REGISTRY).runs == lines().runs


# --- the re-entry sheet ---


def recon_sheet(plan, finished):
    return sheets(plan, Arrived(recons=finished), {})["recons.csv"]


@pytest.mark.parametrize("plan", [lines(seeds="0,1", doses="1e3,1e4"), siemens()], ids=["lines", "siemens"])
def test_the_re_entry_sheet_plans_the_same_conditions_and_labels(tmp_path, plan):
    path = tmp_path / "recons.csv"
    path.write_text(recon_sheet(json.loads(json.dumps(plan.as_json())), [run["run_id"] for run in plan.runs]))
    again = make_plan({"from": "evaluate"}, read_sheet(path), None, REGISTRY)
    assert [run["run_id"] for run in again.runs] == [run["run_id"] for run in plan.runs]
    assert [(c["id"], c["dose"]) for c in again.conditions] == [(c["id"], c["dose"]) for c in plan.conditions]
    assert {dataset["kind"] for dataset in again.datasets} == {"ready"}
    first = again.runs[0]
    name, condition = plan.runs[0]["label"], plan.runs[0]["condition"]
    assert first["recon"] == f"../conditions/{condition}/recons/{name}/s0/recon.npz"
    assert again.datasets[0]["file"] == f"../datasets/{plan.runs[0]['test']}/scan.npz"
    assert again.views[0]["file"] == f"../conditions/{condition}/views/gs1/view.npz"


def test_the_re_entry_sheet_has_what_is_finished_and_was_made_here():
    plan = lines().as_json()
    finished = [plan["runs"][1]["run_id"], "stranger"]
    plan["views"][0]["folder"] = "gs2"
    header, line = recon_sheet(plan, finished).splitlines()
    assert header == ",".join(RECON_COLUMNS)
    assert line.split(",")[2] == "../conditions/lines/views/gs2/view.npz"
    assert line.split(",")[3:] == ["baseline_torch_gs1", "lines", "0", "64", "1e9"]
    imported = recon_plan(row()).as_json()
    # The sheet that such a run came from may lie in the same folder.
    assert sheets(imported, Arrived(recons=[imported["runs"][0]["run_id"]]), {}) == {}


def test_the_command_plans_a_sheet_of_reconstructions(tmp_path):
    sheet = tmp_path / "recons.csv"
    sheet.write_text("recon,scan,label,seed\nr0.npz,s.npz,mine,0\nr1.npz,s.npz,mine,1\n")
    command.run('{"from": "evaluate"}', sheet, None, ROOT / "conf" / "arms.json", tmp_path)
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert [run["recon"] for run in plan["runs"]] == ["r0.npz", "r1.npz"]
