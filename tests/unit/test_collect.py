"""COLLECT: tables and report from files under arbitrary names."""

import csv
import json

import numpy as np
import pytest

import report_sample as sample
from ptychoflow.commands import collect
from ptychoflow.report.figures import amp_phase, compare_amp_phase

PICTURE = np.exp(1j * np.linspace(0, 1, 35)).reshape(5, 7).astype(np.complex64)


@pytest.fixture
def files(tmp_path):
    """Everything that arrived, called as a workflow calls it: numbered folders, names that tell nothing."""
    given = {name: [] for name in ("statuses", "metrics", "pictures", "compares", "reference_metrics", "histories")}

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
        amp_phase(PICTURE, PICTURE, title=f"{document['run_id']}: truth", path=add("pictures", "amp_phase.png"))
    compare_amp_phase([], PICTURE, add("compares", "compare_amp_phase.png"), title="lines_d1e9: arms")
    own = {"condition": "lines_d1e9", "name": "truth", "consistency": {"heldout": {"contrast": sample.score(0.99)}}}
    add("reference_metrics", "reference_metrics.json", json.dumps(own))
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
    assert n_ok == sum(row["state"] == "ok" for row in rows) == 3
    assert {row["state"] for row in rows} == {"ok", "failed", "missing", "skipped"}
    assert all(row["reason"] for row in rows if row["state"] != "ok")


def test_files_are_known_by_what_is_in_them(files, tmp_path):
    collect.run(**files, min_success=1, out_dir=tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<img ") == len(sample.METRICS) + 2  # one comparison, one loss curve
    for document in sample.METRICS:
        assert f'alt="Amplitude and phase of run {document["run_id"]},' in page
    assert "is left out" not in page
    with (tmp_path / "out" / "metrics.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["run_id"] for row in rows} == {"", *(document["run_id"] for document in sample.METRICS)}
    own = next(row for row in rows if row["run_id"] == "")
    assert (own["condition"], own["label"], own["value"]) == ("lines_d1e9", "truth", "0.99")


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
    assert states == ["missing"] * 7 + ["skipped"]
    assert "fewer than the 1 asked for" in (tmp_path / "out" / "report.html").read_text()


def test_what_cannot_be_assigned_is_said(files, tmp_path):
    for kind, name, content in (
        ("pictures", "stranger.png", b"\x89PNG\r\n\x1a\n"),
        ("compares", "metrics_by_model.json", b"{}"),
        ("histories", "history.csv", b"epoch,loss\n"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        files[kind].append(path)
    stranger = tmp_path / "strange.json"
    stranger.write_text(json.dumps(sample.status(sample.planned("other", "lsqml", 0), "lsqml")))
    files["statuses"].append(stranger)
    collect.run(**files, min_success=1, out_dir=tmp_path / "out")
    text = (tmp_path / "out" / "summary.md").read_text()
    for name in ("stranger.png", "metrics_by_model.json", "history.csv"):
        assert f"- {name} is left out: expected" in text
    assert "- other__lsqml__n64__s0 reported, but the plan does not know it" in text


def test_histories_go_to_the_longest_matching_id(tmp_path):
    path = tmp_path / "run.a.1.history.csv"
    path.write_text("epoch,loss\n0,1\n1,0.5\n")
    notes = []
    assert list(collect._curves([path], ["run", "run.a", "run.a.1"], notes)) == ["run.a.1"]
    assert notes == []
