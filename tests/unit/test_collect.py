"""COLLECT: tables and report from files under arbitrary names."""

import base64
import csv
import json

import numpy as np
import pytest

import report_sample as sample
from ptychoflow.commands import collect
from ptychoflow.report.figures import compare_amp_phase

PICTURE = np.exp(1j * np.linspace(0, 1, 35)).reshape(5, 7).astype(np.complex64)
CONDITION = "lines_d1e9"


@pytest.fixture
def files(tmp_path):
    """Everything that arrived, called as a workflow calls it: numbered folders, names that tell nothing."""
    given = {name: [] for name in ("statuses", "metrics", "comparisons", "histories")}

    def add(kind, name, text=None):
        path = tmp_path / kind / str(len(given[kind])) / name
        path.parent.mkdir(parents=True)
        if text is not None:
            path.write_text(text)
        given[kind].append(path)
        return path

    for document in sample.STATUSES:
        add("statuses", "status.json", json.dumps(document))
    for document in sample.METRICS:
        add("metrics", "metrics.json", json.dumps(document))
    visuals = tmp_path / "comparisons" / "0" / "visuals"
    compare_amp_phase([], PICTURE, visuals / "compare_amp_phase.png", title=f"{CONDITION}: arms")
    (visuals / "comparison.json").write_text(json.dumps(sample.COMPARISONS[CONDITION]))
    given["comparisons"].append(visuals)
    add("histories", f"{sample.LSQML['run_id']}.history.csv", "epoch,loss,seconds\n0,2.0,0.1\n1,,0.1\n2,1.0,0.1\n")
    (tmp_path / "plan.json").write_text(json.dumps(sample.PLAN))
    return {"plan": tmp_path / "plan.json", **given}


def read_status(folder):
    with (folder / "run_status.tsv").open(newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def test_every_planned_run_is_in_the_table_and_the_ok_ones_are_counted(files, tmp_path):
    n_ok = collect.run(**files, min_success=1, out_dir=tmp_path / "out")
    rows = read_status(tmp_path / "out")
    assert [row["run_id"] for row in rows] == [run["run_id"] for run in (*sample.PLAN["runs"], *sample.PLAN["skipped"])]
    assert n_ok == sum(row["state"] == "ok" for row in rows) == 6
    assert {row["state"] for row in rows} == {"ok", "failed", "missing", "skipped"}
    assert all(row["reason"] for row in rows if row["state"] != "ok")


def test_files_are_known_by_what_is_in_them(files, tmp_path):
    collect.run(**files, min_success=1, out_dir=tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    embedded = base64.b64encode((files["comparisons"][0] / "compare_amp_phase.png").read_bytes()).decode()
    assert embedded in page
    assert "is left out" not in page
    with (tmp_path / "out" / "metrics.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["run_id"] for row in rows} == {"", *(document["run_id"] for document in sample.METRICS)}
    own = next(row for row in rows if row["run_id"] == "")
    assert (own["condition"], own["model"], own["value"]) == (CONDITION, "truth", "0.99")


def test_order_of_arrival_changes_no_byte(files, tmp_path):
    collect.run(**files, min_success=1, out_dir=tmp_path / "a")
    turned = {name: value[::-1] if isinstance(value, list) else value for name, value in files.items()}
    collect.run(**turned, min_success=1, out_dir=tmp_path / "b")
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_nothing_arrived(files, tmp_path):
    empty = {name: [] if isinstance(value, list) else value for name, value in files.items()}
    assert collect.run(**empty, min_success=1, out_dir=tmp_path / "out") == 0
    states = [row["state"] for row in read_status(tmp_path / "out")]
    assert states == ["missing"] * len(sample.PLAN["runs"]) + ["skipped"]
    assert "fewer than the 1 asked for" in (tmp_path / "out" / "report.html").read_text()


def test_what_cannot_be_assigned_is_said(files, tmp_path):
    history = tmp_path / "history.csv"
    history.write_text("epoch,loss\n")
    files["histories"].append(history)
    other = tmp_path / "visuals"
    other.mkdir()
    (other / "comparison.json").write_text(json.dumps({**sample.COMPARISONS[CONDITION], "condition": "elsewhere"}))
    files["comparisons"].append(other)
    stranger = tmp_path / "strange.json"
    stranger.write_text(json.dumps(sample.status(sample.planned("other", "lsqml", 0), "lsqml")))
    files["statuses"].append(stranger)
    collect.run(**files, min_success=1, out_dir=tmp_path / "out")
    text = (tmp_path / "out" / "summary.md").read_text()
    assert "- history.csv is left out: expected" in text
    assert "- the pictures of 'elsewhere' are left out" in text
    assert "- other__lsqml__n64__s0 reported, but the plan does not know it" in text


def test_statistics_and_comparisons_are_tables_too(files, tmp_path):
    collect.run(**files, min_success=1, out_dir=tmp_path / "out")
    rows = {}
    for name in ("statistics", "comparisons"):
        with (tmp_path / "out" / f"{name}.csv").open(newline="") as stream:
            rows[name] = list(csv.DictReader(stream))
    wanted = ("pinn_tf_gs1", "phase", "pearson")
    one = next(row for row in rows["statistics"] if (row["model"], row["part"], row["metric"]) == wanted)
    assert (one["n"], one["method"]) == ("3", "student")
    assert float(one["low"]) < float(one["mean"]) < float(one["high"])
    assert {row["verdict"] for row in rows["comparisons"]} >= {"no difference shown"}


def test_the_sheet_for_reentry_lists_what_was_scored(files, tmp_path):
    collect.run(**files, min_success=1, out_dir=tmp_path / "out")
    with (tmp_path / "out" / "recons.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {(row["label"], row["seed"]) for row in rows} == {(d["label"], str(d["seed"])) for d in sample.METRICS}


def test_histories_go_to_the_longest_matching_id(tmp_path):
    path = tmp_path / "run.a.1.history.csv"
    path.write_text("epoch,loss\n0,1\n1,0.5\n")
    notes = []
    assert list(collect._curves([path], ["run", "run.a", "run.a.1"], notes)) == ["run.a.1"]
    assert notes == []
