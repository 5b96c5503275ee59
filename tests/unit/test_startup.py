"""What a command loads before it works: start-up is counted in modules, since seconds depend on what else the machine does.

The figures behind the limits are in benchmarks/README.md.
"""

import json
import os
import subprocess
import sys

import pytest

from plan_cases import ROOT

HEAVY = {"torch", "tensorflow", "keras", "ptychi", "matplotlib", "pandas", "scipy", "skimage", "h5py"}
NUMERICAL = {*HEAVY, "numpy", "jaxtyping", "yaml"}
CALL = """
import runpy, sys
sys.argv = {arguments!r}
try:
    runpy.run_module("ptychoflow.cli", run_name="__main__")
except SystemExit:
    pass
"""
COUNT = "\nimport json, sys; print(json.dumps(sorted(sys.modules)), file=sys.stderr)"


def loaded(*arguments):
    """Return the names of all modules that a call of the command line has loaded when it ends."""
    return modules_after(CALL.format(arguments=["ptychoflow", *arguments]))


def modules_after(code):
    """Return the names of all modules that a Python of its own has loaded after some code."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "python")}
    command = [sys.executable, "-c", code + COUNT]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stderr.splitlines()[-1])


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["validate", "--help"]])
def test_a_call_that_does_nothing_loads_the_command_line_alone(arguments):
    """157 modules without a command and 270 with one when this was written: typer reads types with pydantic. NumPy adds 150."""
    names = loaded(*arguments)
    assert NUMERICAL.isdisjoint(name.partition(".")[0] for name in names)
    assert {name for name in names if name.startswith("ptychoflow")} <= {"ptychoflow", "ptychoflow.errors"}
    assert len(names) < 340


def test_planning_loads_no_numerical_library_but_numpy(tmp_path):
    parameters = '{"base": "star.npz", "N": 64}'
    names = loaded("plan", "--params", parameters, "--arms", str(ROOT / "conf" / "arms.json"), "--out", str(tmp_path))
    assert (tmp_path / "plan.json").exists()
    assert HEAVY.isdisjoint(name.partition(".")[0] for name in names)


@pytest.mark.parametrize("command", ["evaluate", "compare_condition", "collect"])
def test_the_scoring_commands_load_neither_signal_processing_nor_distributions(command):
    """Half a second each, for one window and one quantile; a study starts these commands once or more a run."""
    names = modules_after(f"import ptychoflow.commands.{command}")
    assert {"scipy.signal", "scipy.stats", "pandas"}.isdisjoint(names)
