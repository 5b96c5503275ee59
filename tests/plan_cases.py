"""What the tests of the plan share: plans of the built-in studies and of sheets, and the text of a refusal."""

from pathlib import Path

import pytest
import yaml

from ptychoflow.arms.registry import load_registry
from ptychoflow.errors import UsageError
from ptychoflow.study.plan import make_plan
from ptychoflow.study.samplesheet import Sheet

ROOT = Path(__file__).parents[1]
REGISTRY = load_registry(ROOT / "conf" / "arms.json")


def study(name):
    return yaml.safe_load((ROOT / "conf" / "studies" / f"{name}.yml").read_text())


def lines(**given):
    return make_plan(given, None, study("lines"), REGISTRY)


def siemens(**given):
    return make_plan(given, None, study("siemens"), REGISTRY)


def sheet_plan(*rows, **given):
    return make_plan(given, sheet_of(*rows), None, REGISTRY)


def sheet_of(*rows):
    return Sheet("scans.csv", tuple((f"row {number}", row) for number, row in enumerate(rows, start=2)))


def usage_error(call, *args, **kwargs):
    with pytest.raises(UsageError) as caught:
        call(*args, **kwargs)
    assert caught.value.exit_code == 64
    return str(caught.value)


def only(entries):
    (entry,) = entries
    return entry
