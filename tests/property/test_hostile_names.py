"""Names from anywhere, with blanks, quotes, `$()`, line breaks, `../` and the like: each works or is refused in words.

Ids become parts of paths, of task names and of messages; the rule that they must keep is written out here. What Nextflow's
shell makes of the files themselves is looked at in tests/pipeline/test_hostile_files.py.
"""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from plan_cases import REGISTRY, ROOT, lines, sheet_of, study
from ptychoflow import cli
from ptychoflow.data.storage import read_json
from ptychoflow.errors import UsageError, check_file_name
from ptychoflow.study.plan import make_plan
from scan_files import scan_arrays, write

HOSTILE = [
    "$(touch pwned)", "`touch pwned`", "'; touch pwned; '", '" && touch pwned "', "a\ntouch pwned", "../../escaped", "/etc/passwd",
    "-rf", "--help", "~root", "$HOME", "a b", "*", "{a,b}", "x\x00y", "\x1b[2Jx", "\u202egpj", "ünï", ".", "..", "",
    "x" * 300, "%s%n",
]  # fmt: skip
PIECES = st.sampled_from([*" '\"`$(){}[]<>|&;*?!#~\\/.-_:=%\n\t\x00\x1b\u202e", "é", "a", "0", "../", "$(touch pwned)"])
NAMES = st.one_of(st.sampled_from(HOSTILE), st.lists(PIECES, max_size=8).map("".join), st.text(max_size=12))
PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
QUICK = settings(max_examples=150, deadline=None)
FIXED = [HealthCheck.function_scoped_fixture]


def planned(given, rows=(), content=None):
    """Return the plan, or None when it is refused; any other exception is a failure of the test."""
    try:
        return make_plan(given, sheet_of(*rows) if rows else None, content, REGISTRY)
    except UsageError:
        return None


def ids(plan):
    return [
        *(one["id"] for one in (*plan.datasets, *plan.conditions, *plan.views)),
        *(run[name] for run in (*plan.runs, *plan.skipped) for name in ("run_id", "condition", "label", "arm")),
        *(str(run["view"]) for run in plan.runs),
    ]


def assert_plain(plan):
    for name in ids(plan):
        assert PLAIN.fullmatch(name), name
        assert Path(name).name == name


@QUICK
@given(
    cells=st.dictionaries(
        st.sampled_from(["id", "object", "dose", "role", "heldout", "layout", "N", "split"]), NAMES, max_size=3
    )
)
@example(cells={"id": "a\n"})
@example(cells={"object": "x" * 300})
def test_cells_of_a_sheet_give_plain_ids_or_a_refusal(cells):
    plan = planned({"models": "lsqml", "N": 64}, [{"id": "one", "scan": "one.npz", **cells}])
    if plan is not None:
        assert_plain(plan)
        assert [dataset["file"] for dataset in plan.datasets] == ["one.npz"]


@QUICK
@given(cells=st.dictionaries(st.sampled_from(["label", "object", "seed", "heldout"]), NAMES, max_size=3), scan=NAMES)
def test_cells_of_a_sheet_of_reconstructions_give_plain_ids_or_a_refusal(cells, scan):
    row = {"recon": "r.npz", "scan": scan or "s.npz", "label": "mine", "N": "64", **cells}
    plan = planned({"from": "evaluate"}, [row])
    if plan is not None:
        assert_plain(plan)


@QUICK
@given(
    name=st.sampled_from(["models", "views", "preset", "matrix", "heldout", "doses", "seeds", "gridsizes", "snapshots", "from"]),
    value=NAMES,
)  # fmt: skip
def test_parameters_give_plain_ids_or_a_refusal(name, value):
    plan = planned({name: value}, content=study("lines"))
    if plan is not None:
        assert_plain(plan)


@QUICK
@given(name=NAMES, where=st.sampled_from(["id", "object", "view", "preset"]))
def test_names_in_a_study_file_give_plain_ids_or_a_refusal(name, where):
    content = study("lines")
    if where in ("view", "preset"):
        content[f"{where}s"] = {name: {}}
    else:
        content["datasets"][0][where] = name
    plan = planned({where + "s": name} if where == "view" else {}, content=content)
    if plan is not None:
        assert_plain(plan)


@QUICK
@given(name=NAMES)
def test_a_name_that_becomes_part_of_a_file_name_stays_in_its_folder(name):
    """Oracle: the path's own normal form."""
    try:
        check_file_name(name, what="--name")
    except UsageError:
        return
    path = Path("/out") / f"{name}_train.npz"
    assert path.resolve() == path
    assert path.parent == Path("/out")
    assert not path.name.startswith(("-", "."))


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    return write(tmp_path_factory.mktemp("scan"), scan_arrays())


def call(monkeypatch, capsys, *arguments):
    """Return exit code and output of a call of the command line in this process."""
    monkeypatch.setattr(sys, "argv", ["ptychoflow", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0), capsys.readouterr()
    return 0, capsys.readouterr()


def is_file_name(name):
    return (
        name not in ("", ".", "..")
        and "/" not in name
        and "\0" not in name
        and 0 < len(name.encode(errors="ignore")) < 200
    )


@settings(max_examples=5, deadline=None, suppress_health_check=FIXED)
@given(
    name=NAMES.filter(is_file_name).filter(
        lambda name: name.isascii() or name.encode("utf-8", "ignore").decode() == name
    )
)
@example(name="-rf")
@example(name="it's $(touch pwned)")
@example(name="a\nb")
def test_commands_read_and_write_files_of_any_name_and_nothing_else(tmp_path_factory, monkeypatch, capsys, scan, name):
    """The command line gets whole names, as a program does that starts it without a shell."""
    folder = tmp_path_factory.mktemp("any")
    source, arms, out = folder / "in" / name, folder / "arms" / name, folder / "out" / name
    for original, copy in ((scan, source), (ROOT / "conf" / "arms.json", arms)):
        copy.parent.mkdir()
        shutil.copy(original, copy)
    monkeypatch.chdir(folder)
    code, told = call(monkeypatch, capsys, "validate", source)
    assert code == 0, told.err
    code, told = call(
        monkeypatch, capsys, "plan", "--params", '{"base": "star.npz", "N": 64}', "--arms", arms, "--out", out
    )
    assert code == 0, told.err
    assert read_json(out / "manifest.json")["command"] == "plan"
    assert sorted(path.name for path in folder.iterdir()) == ["arms", "in", "out"]
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "plan.json", "plan.txt", "planned"]


@settings(max_examples=30, deadline=None, suppress_health_check=FIXED)
@given(name=NAMES.filter(is_file_name))
def test_a_message_never_moves_the_cursor_of_a_terminal(tmp_path_factory, monkeypatch, capsys, name):
    code, told = call(
        monkeypatch,
        capsys,
        "export-view",
        "--name",
        name,
        "--view",
        "no such file",
        "--train-scan",
        name,
        "--test-scan",
        name,
    )
    assert code == 64
    assert "Traceback" not in told.err
    plan = tmp_path_factory.mktemp("broken") / "arms.json"
    plan.write_text(json.dumps({"schema_version": 1, "arms": [{"id": name}]}))
    code, told = call(monkeypatch, capsys, "plan", "--params", "{}", "--arms", plan, "--out", plan.parent)
    assert code == 64
    assert told.err.replace("\n", "").isprintable(), told.err


def test_built_in_studies_pass_the_same_rule():
    assert_plain(lines(models="all", doses="1e4,1e9", gridsizes="1,2", seeds="0,1"))
