"""Samplesheets: what becomes of rows alone and of pairs, and every problem reported with row and column."""

import json

import pytest
import yaml

from plan_cases import REGISTRY, ROOT, only, sheet_plan, usage_error
from ptychoflow.study.plan import make_plan
from ptychoflow.study.samplesheet import read_sheet


def test_a_sheet_row_alone_and_a_pair():
    plan = make_plan({}, read_sheet(ROOT / "assets" / "samplesheet.csv"), None, REGISTRY)
    assert [(c["id"], c["train"], c["test"]) for c in plan.conditions] == [
        ("star64", "star64", "star64"),
        ("star128", "star128", "star128"),
        ("grain", "grain-a", "grain-b"),
    ]
    assert [(v["config"]["split"], v["config"]["heldout"]) for v in plan.views] == [
        ("none", "heldout"),
        ("region", 0.1),
        ("scans", 0.05),
    ]
    assert {(d["kind"], d["file"], d["n"]) for d in plan.datasets} >= {("ingest", "star_N128.npz", 128)}
    assert [d["config"]["expect_n"] for d in plan.datasets] == [64, 128, 64, 64]
    assert plan.conditions[0]["dose"] is None


def test_cells_of_a_sheet_reach_the_ingest_configuration():
    row = {
        "id": "a",
        "scan": "a.npz",
        "dose": "1E6",
        "layout": "HWN",
        "domain": "intensity",
        "photons_per_intensity": "2",
    }
    dataset = only(sheet_plan(row, N=128).datasets)
    assert (dataset["dose"], dataset["n"]) == ("1e6", 128)
    expected = {
        "expect_dose": "1e6",
        "expect_n": 128,
        "layout": "HWN",
        "domain": "intensity",
        "photons_per_intensity": 2.0,
    }
    assert dataset["config"].items() >= expected.items()


def test_region_split_of_a_single_scan():
    plan = sheet_plan({"id": "a", "scan": "a.npz"}, split="region", split_at="median", guard_px=16, score_box_px=120)
    config = only(plan.views)["config"]
    assert [config[name] for name in ("split", "split_at", "guard_px", "score_box_px")] == [
        "region",
        "median",
        16.0,
        120,
    ]


def test_csv_json_and_yaml_sheets_are_read_alike(tmp_path):
    rows = [{"id": "a", "scan": "x/a.npz", "N": 64, "heldout": 0.1}]
    (tmp_path / "s.csv").write_text("\ufeffid, scan ,N,heldout\r\na,x/a.npz,64,0.1\r\n\r\n")
    (tmp_path / "s.json").write_text(json.dumps(rows))
    (tmp_path / "s.yml").write_text(yaml.safe_dump(rows))
    plans = [make_plan({}, read_sheet(tmp_path / f"s.{kind}"), None, REGISTRY) for kind in ("csv", "json", "yml")]
    assert plans[0] == plans[1] == plans[2]


def test_all_problems_of_a_sheet_are_reported_with_row_and_column():
    message = usage_error(
        sheet_plan,
        {"id": "bad id", "scan": "a.npz", "helout": "x"},
        {"id": "b", "role": "tset", "N": "sixty"},
        {"id": "c", "scan": "c.npz", "heldout": "1.5", "split": "scans", "dose": "many"},
        {"id": "d", "scan": "d.npz", "split": "scans"},
        {"id": "d", "scan": "e.npz"},
        epochs=0,
    )
    for expected in (
        "unknown column 'helout' (did you mean 'heldout'?)",
        "row 2, column 'id'",
        "row 3, column 'scan': missing",
        "row 3, column 'role'",
        "row 3, column 'N'",
        "row 4, column 'heldout': Value error, a fraction lies between 0 and 1",
        "row 4, column 'dose'",
        "row 5, column 'split': a scan that stands alone takes 'none' or 'region', got 'scans'",
        "row 6, column 'id': 'd' is already the id of row 5",
        "option 'epochs'",
    ):
        assert expected in message


def test_incomplete_and_contradicting_pairs_are_refused():
    train = {"id": "a", "scan": "a.npz", "role": "train", "object": "o", "N": 64}
    test = {"id": "b", "scan": "b.npz", "role": "test", "object": "o", "N": 128}
    assert "object 'o' needs one train and one test scan, has row 2 (train)" in usage_error(sheet_plan, train)
    assert "row 3, column 'N': 128, but row 2 has 64" in usage_error(sheet_plan, train, test)
    same = test | {"N": 64}
    assert "held-out frames belong to the test row" in usage_error(sheet_plan, train | {"heldout": "0.1"}, same)
    assert "a train and a test scan are split by 'scans'" in usage_error(sheet_plan, train, same, split="region")
    alone = {"id": "o", "scan": "o.npz"}
    assert "o names a pair and a scan that stands alone" in usage_error(sheet_plan, train, same, alone)


def test_a_sheet_of_reconstructions_is_told_apart():
    message = usage_error(sheet_plan, {"recon": "a.npz", "scan": "s.npz", "label": "mine"})
    assert message == "--input scans.csv has a column 'recon': such a sheet is for --from evaluate"


def test_credentials_in_a_uri_are_refused_and_not_repeated():
    message = usage_error(sheet_plan, {"id": "a", "scan": "s3://alice:hunter2@bucket/a.npz", "N": 64})
    assert "row 2, column 'scan': Value error, holds a user name or password" in message
    assert "hunter2" not in message
    assert "alice" not in message
    assert sheet_plan({"id": "a", "scan": "s3://bucket/a@2x.npz", "N": 64}).datasets


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("s.csv", "", "no rows"),
        ("s.csv", "id,scan\n", "no rows"),
        ("s.csv", "id,id,scan\na,b,c\n", "columns occur twice: 'id'"),
        ("s.csv", "id,scan\na,b,c\n", "more cells than the 2 columns of the header in row 2"),
        ("s.json", "{", "not JSON"),
        ("s.yml", "id: a\n", "expected a list of rows"),
        ("s.txt", "id,scan\n", "expected a .csv, .json, .yml or .yaml file"),
    ],
)
def test_a_file_that_is_no_sheet_is_refused(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text)
    assert expected in usage_error(read_sheet, tmp_path / name)
