"""The PtychoViT runbook: linked only beside the tests that stand behind it, and every option in it exists."""

import ast
import json
import re
from pathlib import Path

import pytest
from typer.main import get_command

from ptychoflow.cli import app

ROOT = Path(__file__).parents[2]
RUNBOOK = ROOT / "docs" / "ptychovit.md"
BEHIND = {
    "adapter": "tests/unit/test_ptychovit_export.py",
    "validator": "tests/unit/test_ptychovit_validate.py",
    "subprocess": "tests/unit/test_ptychovit_bridge.py",
    "end to end": "tests/pipeline/test_ptychovit.py",
}


def test_the_readme_links_the_runbook_only_with_its_smoke_tests():
    assert "docs/ptychovit.md" in (ROOT / "README.md").read_text()
    for what, name in BEHIND.items():
        tree = ast.parse((ROOT / name).read_text())
        tests = [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
        assert tests, f"no test of the {what} in {name}"


def commands(program):
    """Return the runbook's commands that start with these words, as lists of words."""
    lines = [line.strip() for line in RUNBOOK.read_text().splitlines() if line.startswith("    ")]
    found = [line.split("#")[0].split() for line in lines if line.startswith(program + " ")]
    assert found
    return found


@pytest.mark.parametrize("words", commands("bin/ptychoflow ptychovit"), ids=" ".join)
def test_options_of_commands_exist(words):
    command = get_command(app)
    for name in words[1:3]:
        command = command.commands[name]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


def test_parameters_of_the_workflow_exist():
    schema = json.loads((ROOT / "nextflow_schema.json").read_text())
    known = {name for group in schema["$defs"].values() for name in group["properties"]}
    asked = {word for words in commands("nextflow run") for word in words if word.startswith("--")}
    told = set(re.findall(r"`(--[a-z][a-z_]+)", RUNBOOK.read_text()))
    own = {"--force", "--reuse"}  # of `fresh`, cut at their hyphen
    assert {option.removeprefix("--") for option in asked | told} - {
        option.removeprefix("--") for option in own
    } <= known
