"""One truth for parameters: nextflow_schema.json, nextflow.config, the Python configurations and the examples agree."""

import json
import re
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter

from ptychoflow.config import SimulateConfig
from ptychoflow.study.parameters import CONFIG_FIELDS, ROLE_FIELDS, SUPPLIED, Parameters, read_parameters
from ptychoflow.study.plan import STARTS

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "nextflow_schema.json").read_text())
GROUPS = {group: entry["properties"] for group, entry in SCHEMA["$defs"].items()}
PROPERTIES = {name: spec for group in GROUPS.values() for name, spec in group.items()}
SOURCES = {"input", "study", "from"}  # where scans or reconstructions come from: read beside Parameters
PYTHON = {field.name: field for field in fields(Parameters)}
KEYWORDS = ("type", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
# Written as comma-separated text on the command line, or as key or fraction: their own readers check them.
TEXTS = {"models", "model_n", "gridsizes", "doses", "views", "seeds", "heldout", "snapshots"}


def config_defaults():
    """Return parameter name -> default of the configuration field that it becomes."""
    tables = [(cls, CONFIG_FIELDS[cls]) for cls in CONFIG_FIELDS]
    tables += [(SimulateConfig, table) for table in ROLE_FIELDS.values()]
    found = {}
    for cls, names in tables:
        defaults = {field.name: field.default for field in fields(cls)}
        found |= {name: defaults[field] for name, field in names.items()}
    return found


def config_params():
    """Return the `params` block of nextflow.config as name -> text of the value."""
    block = re.search(r"^params \{\n(.*?)^\}", (ROOT / "nextflow.config").read_text(), re.M | re.S).group(1)
    lines = [line.split("//")[0].strip() for line in block.splitlines()]
    return {name.strip(): value.strip() for name, value in (line.split("=", 1) for line in lines if line)}


def literal(value):
    if value is None:
        return "null"
    return f"'{value}'" if isinstance(value, str) else json.dumps(value)


def test_every_group_is_part_of_the_schema_and_no_name_occurs_twice():
    assert [entry["$ref"] for entry in SCHEMA["allOf"]] == [f"#/$defs/{group}" for group in GROUPS]
    assert sum(map(len, GROUPS.values())) == len(PROPERTIES)


@pytest.mark.parametrize("name", PROPERTIES)
def test_every_parameter_is_typed_and_described(name):
    spec = PROPERTIES[name]
    assert spec["type"] in ("string", "integer", "number", "boolean")
    assert spec["description"].endswith((".", ")"))
    assert set(spec) <= {*KEYWORDS, "pattern", "format", "default", "hidden", "description", "help_text"}


def test_the_schema_names_exactly_the_parameters_that_the_plan_reads():
    scientific = {name for group, names in GROUPS.items() if group != "operation" for name in names}
    assert scientific - SOURCES == set(PYTHON)


def test_the_starts_are_those_of_the_schema():
    assert PROPERTIES["from"]["enum"] == STARTS
    assert PROPERTIES["from"]["default"] == STARTS[0]


def test_the_schema_names_exactly_the_parameters_of_nextflow_config():
    assert set(config_params()) == set(PROPERTIES)


def test_nextflow_config_leaves_studies_open_and_sets_the_operation():
    values = config_params()
    for group, names in GROUPS.items():
        for name, spec in names.items():
            expected = spec.get("default") if group == "operation" else None
            assert values[name] == literal(expected), name


def test_schema_defaults_are_those_of_the_configurations():
    for name, default in config_defaults().items():
        text = ",".join(map(str, default)) if isinstance(default, tuple) else default
        assert PROPERTIES[name].get("default") == text, name
    assert PROPERTIES["doses"]["default"] == SimulateConfig.dose
    assert PROPERTIES["model_n"]["default"] == ",".join(f"{arm}={n}" for arm, n in PYTHON["model_n"].default)
    for name in ("gridsizes", "views", "seeds"):
        assert PROPERTIES[name]["default"] == ",".join(map(str, PYTHON[name].default))


def test_no_parameter_hides_a_default_of_its_own():
    own = {name for name, field in PYTHON.items() if field.default not in (None, MISSING)}
    assert own == {"gridsizes", "views", "seeds", "model_n"}
    depends_on_the_input = {"models", "base", "preset", "set_phi", "split", "heldout"} | SUPPLIED
    undocumented = {name for name in PYTHON if "default" not in PROPERTIES[name]}
    assert (
        undocumented - {name for name, default in config_defaults().items() if default is None} == depends_on_the_input
    )


@pytest.mark.parametrize("name", [name for name in PYTHON if name not in TEXTS])
def test_schema_and_python_have_the_same_types_and_ranges(name):
    described = TypeAdapter(Parameters).json_schema()["properties"][name]
    (python,) = [option for option in described["anyOf"] if option["type"] != "null"]
    schema = PROPERTIES[name]
    assert {k: v for k, v in python.items() if k in KEYWORDS} == {k: v for k, v in schema.items() if k in KEYWORDS}


@pytest.mark.parametrize("name", sorted(PYTHON))
def test_python_accepts_every_documented_default(name):
    _, problems = read_parameters({name: PROPERTIES[name].get("default")}, {})
    assert problems == []


def test_patterns_take_the_spellings_of_the_documentation():
    for name, texts in {
        "seeds": ("0", "0,1,2", "0, 1"),
        "doses": ("1e4", "10000,1.0E+4"),
        "models": ("all", "a,b_2"),
    }.items():
        assert all(re.fullmatch(PROPERTIES[name]["pattern"], text) for text in texts)
        assert not re.fullmatch(PROPERTIES[name]["pattern"], "1,,2")


def test_the_example_names_every_parameter_with_its_default():
    text = (ROOT / "assets" / "params.example.yml").read_text()
    shown = dict(re.findall(r"^(?:# )?([A-Za-z]\w*):(?: (.*))?$", text, re.M))
    assert set(shown) == set(PROPERTIES) - {"help", "help_full", "version"}
    active = yaml.safe_load(text)
    for name, value in shown.items():
        if name not in active:
            assert yaml.safe_load(value or "null") == PROPERTIES[name].get("default"), name
