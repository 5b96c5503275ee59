"""Beginning behind a stage (`--from prepare|train|recon`): the sheets that a run writes, what they plan, and what is refused.

Oracle of the round trips: the plan of the run that wrote the sheets, which must come out again but for where files come from.
"""

import csv
import io

import pytest

from plan_cases import REGISTRY, lines, only, sheet_of, siemens, study, usage_error
from ptychoflow.study.manifests import TRAINING, documents
from ptychoflow.study.parameters import read_heldout
from ptychoflow.study.plan import make_plan
from ptychoflow.study.resheet import Arrived, sheets
from ptychoflow.study.samplesheet import read_sheet

MANY = {
    "doses": "1e3,1e4",
    "gridsizes": "2,1",
    "seeds": "0,3",
    "models": "pinn_torch,baseline_torch,lsqml",
    "heldout": "0.125",
}
TUNED = {"epochs": 7, "mae_weight": 1.0, "lsqml_epochs": 9, "infer_batch_size": 5, "align": "register"}


def everything(plan):
    runs = plan["runs"]
    return Arrived(
        scans=[dataset["id"] for dataset in plan["datasets"]],
        views=[view["id"] for view in plan["views"]],
        models=[run["run_id"] for run in runs if run["kind"] == "train"],
        recons=[run["run_id"] for run in runs],
    )


def sheets_of(plan, given=None, arrived=None):
    content = plan.as_json()
    return sheets(content, arrived or everything(content), given or {})


@pytest.fixture
def again(tmp_path):
    """Return `plan(first, start, **given)`: the plan that a run's own sheet gives."""
    names = {"prepare": "scans.csv", "train": "views.csv", "recon": "models.csv", "evaluate": "recons.csv"}

    def plan(first, start, content=None, given=None, **parameters):
        path = tmp_path / names[start]
        path.write_text(sheets_of(first, given)[names[start]])
        return make_plan({"from": start, **parameters}, read_sheet(path), content, REGISTRY)

    return plan


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def view_row(**cells):
    names = {"condition": "c", "view": "v.npz", "gridsize": "1", "train": "a", "train_scan": "a.npz", "test": "b"}
    return {**names, "test_scan": "b.npz", "N": "64", **cells}


def train_plan(*rows, **given):
    return make_plan({"from": "train", **given}, sheet_of(*rows), None, REGISTRY)


def recon_plan(*rows, **given):
    return make_plan({"from": "recon", **given}, sheet_of(*rows), None, REGISTRY)


def model_row(**cells):
    return {**view_row(), "arm": "pinn_torch", "model": "m", **cells}


# --- the same runs again ---


def test_ready_scans_plan_the_same_views_and_runs(again):
    first = lines(**MANY, **TUNED)
    options = {name: MANY[name] for name in ("gridsizes", "seeds", "models")}
    second = again(first, "prepare", study("lines"), **options, **TUNED)
    assert {dataset["kind"] for dataset in second.datasets} == {"ready"}
    assert second.datasets[0]["file"] == "../datasets/lines-train_d1e3/scan.npz"
    # Held-out frames and split come with the sheet.
    assert (second.views, second.runs, second.conditions) == (first.views, first.runs, first.conditions)


@pytest.mark.parametrize("name", ["fly64_dose_overlap", "lines"])
def test_ready_scans_meet_the_views_of_a_study(again, name):
    """One study has one scan at each dose, the other a pair of them."""
    content = {**study("lines"), "views": {"half": {"s_img": 0.5}}} if name == "lines" else study(name)
    given = {"views": "half,all"} if name == "lines" else {"preset": "tiny", "views": "dense,all"}
    first = make_plan(given, None, content, REGISTRY)
    second = again(first, "prepare", content, **given)
    assert len(first.views) == 2 if name == "lines" else len(first.views) > 2
    assert (second.views, second.runs, second.conditions) == (first.views, first.runs, first.conditions)


def test_one_scan_that_is_cut_in_two_comes_with_its_split(again):
    first = siemens(split="region", guard_px=70.5, models="baseline_torch,lsqml")
    row = only(rows_of(sheets_of(first)["scans.csv"]))
    assert (row["role"], row["split"], row["truth"]) == ("both", "region", "true")
    second = again(first, "prepare", study("siemens"), guard_px=70.5, models="baseline_torch,lsqml")
    assert (second.views, second.runs) == (first.views, first.runs)


@pytest.mark.parametrize("first", [lines(**MANY, **TUNED), siemens(split="region", **TUNED)], ids=["lines", "siemens"])
def test_given_views_plan_the_same_runs(again, first):
    asked = {name: first.parameters[name] for name in ("seeds", "models") if name in first.parameters}
    content = study("siemens" if "siemens" in first.conditions[0]["id"] else "lines")
    second = again(first, "train", content, **asked, **TUNED)
    assert second.runs == first.runs
    assert second.skipped == first.skipped
    for old, new in zip(first.views, second.views, strict=True):
        assert new["file"] == f"../conditions/{old['condition']}/views/gs{old['gridsize']}/view.npz"
        assert {**new, "file": None, "config": old["config"]} == old


def test_a_guard_band_narrower_than_a_frame_still_refuses_a_supervised_arm(again):
    first = siemens(split="region", guard_px=10, models="baseline_torch,lsqml")
    second = again(first, "train", study("siemens"), models="baseline_torch,lsqml")
    assert [row["reason"] for row in second.skipped] == [row["reason"] for row in first.skipped] != []


def test_given_models_plan_the_same_runs_without_a_training(again):
    first = lines(**MANY, **TUNED)
    asked = {name: TUNED[name] for name in ("lsqml_epochs", "infer_batch_size", "align")}
    second = again(first, "recon", study("lines"), **asked)
    assert [run["run_id"] for run in second.runs] == [run["run_id"] for run in first.runs]
    for old, new in zip(first.runs, second.runs, strict=True):
        if old["kind"] == "train":
            assert new["model"] == f"../conditions/{old['condition']}/runs/{old['label']}/s{old['seed']}/train/model"
            assert new["config"] == {"train": {"precision": "auto"}, "reconstruct": old["config"]["reconstruct"]}
            assert {**new, "config": old["config"]} == {**old, "model": new["model"]}
        else:
            assert new == old
    jobs = {
        name: documents(plan.as_json(), versions={})[TRAINING]["jobs"]
        for name, plan in (("old", first), ("new", second))
    }
    assert (len(jobs["old"]), len(jobs["new"])) == (16, 0)


def test_a_run_writes_the_sheets_behind_the_stage_that_it_began_with(again):
    first = lines(models="pinn_torch")
    found = {start: [*sheets_of(again(first, start))] for start in ("prepare", "train", "recon", "evaluate")}
    names = ["scans.csv", "views.csv", "models.csv", "recons.csv"]
    assert [*sheets_of(first)] == names
    assert found == {"prepare": names[1:], "train": names[2:], "recon": names[3:], "evaluate": []}


def test_a_second_re_entry_finds_what_the_first_was_given(again):
    """The first run lies elsewhere: its files are named as seen from the sheets of the second."""
    first = lines(models="pinn_torch,lsqml", split="scans")
    given = {
        "datasets": {"lines-train": "../../old/a.npz", "lines-test": "s3://bucket/b.npz"},
        "views": {"lines__gs1": "../../old/view.npz"},
    }
    train = again(first, "train", models="pinn_torch,lsqml")
    third = again(train, "recon", given=given)
    assert {dataset["id"]: dataset["file"] for dataset in third.datasets} == given["datasets"]
    assert only(third.views)["file"] == "../../old/view.npz"
    assert only(third.views)["config"] == {"split": "scans", "guard_px": None}
    assert [run.get("model") for run in third.runs] == ["../conditions/lines/runs/pinn_torch_gs1/s0/train/model", None]


def test_only_what_is_there_is_listed():
    plan = lines(models="pinn_torch,lsqml", doses="1e3,1e4", seeds="0,1")
    arrived = Arrived(scans=["lines-train_d1e3", "lines-test_d1e3", "lines-test_d1e4"], views=["lines_d1e3__gs1"],
                      models=["lines_d1e3__pinn_torch_gs1__n64__s1"])  # fmt: skip
    found = {name: rows_of(text) for name, text in sheets_of(plan, arrived=arrived).items()}
    # A train scan without its test scan makes no condition.
    assert [row["id"] for row in found["scans.csv"]] == ["lines-train_d1e3", "lines-test_d1e3"]
    assert [row["condition"] for row in found["views.csv"]] == ["lines_d1e3"]
    # An arm without training needs the view alone.
    assert [(row["arm"], row["seed"], bool(row["model"])) for row in found["models.csv"]] == [
        ("pinn_torch", "1", True),
        ("lsqml", "0", False),
    ]
    assert found["recons.csv"] == []


def test_a_list_of_held_out_frames_comes_back_from_a_cell():
    assert read_heldout("[3, 11,4]") == [3, 11, 4]


# --- refusals ---


def test_all_problems_of_a_sheet_of_views_are_reported_with_row_and_column():
    message = usage_error(
        train_plan,
        view_row(),
        view_row(gridsize="4", N="x"),
        view_row(gridsize="2", N="128"),
        view_row(view="w.npz", truth="true"),
        {"condition": "d", "view": "v.npz", "viev": "v"},
        view_row(condition="e", train_scan="other.npz"),
        epochs=3, gridsizes="1", n_groups=5,
    )  # fmt: skip
    for expected in (
        "--gridsizes has no effect with --from train: scans and views are given",
        "--n_groups has no effect with --from train: scans and views are given",
        "row 3, column 'gridsize'",
        "row 3, column 'N'",
        "row 4, column 'N': 128, but scan 'a' has 64 in row 2",
        "row 5, column 'truth': True, but row 2 of condition 'c' has False",
        "row 5, column 'view': 'w.npz', but gridsize 1 of condition 'c' has 'v.npz' in row 2",
        "unknown column 'viev' (did you mean 'view'?)",
        "row 6, column 'gridsize': missing; required are the columns condition, view, gridsize, train, train_scan, test, test_sca",
        "row 7, column 'train_scan': 'other.npz', but scan 'a' is 'a.npz' in row 2",
    ):
        assert expected in message


def test_all_problems_of_a_sheet_of_models_are_reported_with_row_and_column():
    message = usage_error(
        recon_plan,
        model_row(),
        model_row(arm="pin_torch"),
        model_row(model=""),
        model_row(arm="lsqml"),
        model_row(seed="-1"),
        model_row(view="w.npz", seed="2"),
        model_row(),
        models="lsqml", epochs=3,
    )  # fmt: skip
    for expected in (
        "--models has no effect with --from recon: scans, views and models are given",
        "--epochs has no effect with --from recon",
        "row 3, column 'arm': unknown 'pin_torch' (did you mean 'pinn_torch'?)",
        "row 4, column 'model'",
        "row 5, column 'model': lsqml is of kind 'iterative', leave it empty: nothing is trained",
        "row 6, column 'seed'",
        "row 7, column 'view': 'w.npz', but gridsize 1 of condition 'c' has 'v.npz' in row 2",
        "row 8, columns 'arm', 'gridsize' and 'seed': 'c' already has this run in row 2",
    ):
        assert expected in message


def test_a_trained_arm_without_its_model_is_refused():
    row = {name: value for name, value in model_row().items() if name != "model"}
    message = usage_error(recon_plan, row)
    assert message == (
        "samplesheet row 2, column 'model': pinn_torch is of kind 'train', give the folder of its trained model"
    )


def test_what_an_arm_cannot_take_is_skipped_with_its_reason():
    plan = recon_plan(model_row(), model_row(arm="baseline_torch", model="n"))
    assert only(plan.runs)["arm"] == "pinn_torch"
    assert "learns from the true object" in only(plan.skipped)["reason"]


@pytest.mark.parametrize(
    ("start", "given", "expected"),
    [
        ("prepare", {}, "--from prepare needs --input SHEET, a sheet with the columns id and scan"),
        ("train", {}, "--from train needs --input SHEET, a sheet of views"),
        ("recon", {}, "--from recon needs --input SHEET, a sheet of models"),
    ],
)
def test_a_sheet_is_needed(start, given, expected):
    assert expected in usage_error(make_plan, {"from": start, **given}, None, study("lines"), REGISTRY)


def test_what_makes_scans_has_no_effect_on_ready_ones():
    sheet = sheet_of({"id": "a", "scan": "a.npz", "truth": "true"})
    message = usage_error(
        make_plan, {"from": "prepare", "doses": "1e4", "base": "b.npz"}, sheet, study("lines"), REGISTRY
    )
    assert "--base has no effect with --from prepare: scans are given" in message
    assert "--doses is for scans to simulate, but --input scans.csv names scans that are there (a)" in message


@pytest.mark.parametrize("start", ["prepare", "train", "recon", "evaluate"])
def test_a_sheet_of_a_later_stage_is_told_from_measured_scans(start):
    first = lines(models="pinn_torch")
    names = {"prepare": "scans.csv", "train": "views.csv", "recon": "models.csv", "evaluate": "recons.csv"}
    sheet = sheet_of(*rows_of(sheets_of(first)[names[start]]))
    assert f"such a sheet is for --from {start}" in usage_error(make_plan, {}, sheet, None, REGISTRY)
