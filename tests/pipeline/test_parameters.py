"""What a user meets before any task: help, refusals, and the same code revision in Groovy and in Python."""

import json
import re

import pytest

from ptychoflow.provenance import code_revision

pytestmark = pytest.mark.pipeline


def schema_parameters(project):
    groups = json.loads((project / "nextflow_schema.json").read_text())["$defs"].values()
    return {name: spec for group in groups for name, spec in group["properties"].items()}


def test_config_and_schema_name_the_same_parameters(project):
    config = (project / "nextflow.config").read_text()
    block = config[config.index("params {") : config.index("profiles {")]
    assert set(re.findall(r"^\s+(\w+)\s+=", block, re.MULTILINE)) == set(schema_parameters(project))


def test_help_lists_every_visible_parameter_and_starts_nothing(nextflow, project, tmp_path):
    launch = nextflow(tmp_path, "run", project, "--help")
    assert launch.returncode == 0, launch.text
    for name, spec in schema_parameters(project).items():
        assert (f"--{name} " in launch.text) is not spec.get("hidden", False), name
    assert launch.trace() == []
    assert not launch.results.exists()
    assert not list((tmp_path / "work").rglob(".command.run"))


def test_everything_wrong_is_said_at_once_before_any_task(nextflow, project, tmp_path):
    launch = nextflow(
        tmp_path, "run", project, "--modles", "lsqml", "--epochs", "many", "--publish_mode", "sopy",
        "--min_success", "-1", "--seeds", "--resume",
    )  # fmt: skip
    assert launch.returncode == 1
    assert "unknown parameter --modles (did you mean '--models'?)" in launch.text
    assert "--epochs must be integer, got 'many'" in launch.text
    assert "--publish_mode must be one of copy, link, got 'sopy' (did you mean 'copy'?)" in launch.text
    assert "--min_success must be at least 0, got -1" in launch.text
    assert "--seeds needs a value (string)" in launch.text
    assert "write -resume, with one dash" in launch.text
    assert launch.trace() == []
    assert not list((tmp_path / "work").rglob(".command.run"))


def test_unknown_study_is_refused_with_the_nearest_name(nextflow, project, tmp_path):
    launch = nextflow(tmp_path, "run", project, "--study", "line")
    assert launch.returncode == 1
    assert "unknown study 'line' (did you mean 'lines'?)" in launch.text
    assert launch.trace() == []


@pytest.fixture(scope="module")
def functions(nextflow, project, tmp_path_factory):
    """Return what functions of modules/functions.nf print: of the code revision, of containers, of given files."""
    folder = tmp_path_factory.mktemp("functions")
    # '-' < '.' < '/' < letters: the order of whole paths differs from a walk folder by folder.
    tree = folder / "tree"
    for name in ("b.py", "b-c.py", "b/a.py", "b/__pycache__/a.pyc", "B.py", "notes.txt", "é.py"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(f"# {name}\n")
    package = project / "python" / "ptychoflow"
    (folder / "trace.tsv").write_text(
        "process\tcontainer\nFLOW:A\treg/one:1\nFLOW:B\treg/two:1\nFLOW:C\treg/x@sha256:ff\nFLOW:SUB:D\t-\n"
    )
    (folder / "lock.json").write_text(
        '{"images": {"a": {"image": "reg/one:1", "digest": "sha256:ab"}, "b": {"image": "reg/two:1", "digest": null}}}'
    )
    script = folder / "rev.nf"
    script.write_text(
        f"""include {{
            codeRevision ; containersOf ; givenFiles ; jsonText ; located ; missingFiles
        }} from '{project}/modules/functions'
        workflow {{
            println('tree ' + codeRevision(file('{tree}')))
            println('package ' + codeRevision(file('{package}')))
            def trace = file('{folder}/trace.tsv')
            println('engine ' + jsonText(containersOf(trace, 'docker', file('{folder}/lock.json'))))
            println('none ' + jsonText(containersOf(trace, null, file('{folder}/absent.json'))))
            def ready = [id: 'r', kind: 'ready', file: file('/data/old/it\\'s.npz')]
            def plan = [
                datasets: [ready, [id: 'i', kind: 'ingest', file: file('/raw.npz')]],
                views: [[id: 'v', file: file('/data/new/results/v.npz')], [id: 'w', file: null]],
            ]
            println('given ' + jsonText(givenFiles(plan, file('/data/new/results/sheets'))))
            def runs = [[run_id: 'there', model: 'launch'], [run_id: 'lost', model: '../m/gone'], [run_id: 'none']]
            def recon = located([datasets: [], views: [], runs: runs], file('{folder}'), null)
            println('missing ' + jsonText(missingFiles(recon)))
        }}
        """
    )
    return {"tree": tree, "package": package, "launch": nextflow(folder / "launch", "run", script)}


def printed(functions, word):
    (line,) = (line for line in functions["launch"].text.splitlines() if line.startswith(f"{word} "))
    return line.removeprefix(f"{word} ")


def test_groovy_and_python_compute_the_same_code_revision(functions):
    for name in ("tree", "package"):
        assert printed(functions, name) == code_revision(functions[name])


def test_a_container_is_named_with_its_digest_where_that_is_known(functions):
    assert json.loads(printed(functions, "engine")) == {
        "A": "reg/one:1, digest sha256:ab",
        "B": "reg/two:1, digest not recorded: built on this machine",
        "C": "reg/x@sha256:ff",
        "D": "no container",
    }
    assert set(json.loads(printed(functions, "none")).values()) == {"no container"}


def test_given_files_are_named_as_seen_from_the_sheets_of_the_run(functions):
    """Oracle: the relative paths, written out. What is ingested is made anew, and is not given."""
    assert json.loads(printed(functions, "given")) == {
        "datasets": {"r": "../../../old/it's.npz"},
        "views": {"v": "../v.npz"},
    }


def test_a_model_that_is_not_there_is_named_by_its_run(functions):
    gone = functions["tree"].parent.parent / "m" / "gone"
    assert json.loads(printed(functions, "missing")) == f"1 input file(s) not found:\n  - lost: {gone}"


def test_plan_only_prints_the_table_of_runs_and_stops(nextflow, project, tmp_path):
    launch = nextflow(
        tmp_path, "run", project, "--study", "lines", "--models", "pinn_torch,lsqml", "--seeds", "0,1", "--plan_only",
    )  # fmt: skip
    assert launch.returncode == 0, launch.text
    assert set(launch.tasks()) <= {
        "PLAN"
    }  # the trace is written behind, and may lack the only task of a run that stopped
    plan = json.loads((launch.results / "pipeline_info" / "plan.json").read_text())
    assert len(plan["runs"]) == 3
    for run in plan["runs"]:
        assert run["run_id"] in launch.text


def test_all_missing_files_of_a_samplesheet_are_named_at_once(nextflow, project, tmp_path):
    sheet = tmp_path / "sheets" / "scans.csv"
    sheet.parent.mkdir()
    sheet.write_text("id,scan,role\nfirst,one.npz,both\nsecond,two.npz,both\n")
    launch = nextflow(tmp_path, "run", project, "--input", "sheets/scans.csv", "--models", "lsqml")
    assert launch.returncode == 1
    assert f"first: {sheet.parent / 'one.npz'}" in launch.text
    assert f"second: {sheet.parent / 'two.npz'}" in launch.text
    assert set(launch.tasks()) <= {
        "PLAN"
    }  # the trace is written behind, and may lack the only task of a run that stopped


def test_all_missing_files_of_a_sheet_of_reconstructions_are_named_at_once(nextflow, project, tmp_path):
    sheet = tmp_path / "sheets" / "recons.csv"
    sheet.parent.mkdir()
    sheet.write_text("recon,scan,label,view,object\none.npz,../scan.npz,mine,v.npz,o\n")
    launch = nextflow(tmp_path, "run", project, "--from", "evaluate", "--input", "sheets/recons.csv")
    assert launch.returncode == 1
    for owner, path in (("o__mine__n64__s0", "sheets/one.npz"), ("o__view1", "sheets/v.npz"), ("o", "scan.npz")):
        assert f"{owner}: {tmp_path / path}\n" in launch.text
    assert set(launch.tasks()) <= {
        "PLAN"
    }  # the trace is written behind, and may lack the only task of a run that stopped
