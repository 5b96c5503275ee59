"""docs/data.md is the page that the schema gives."""

from pathlib import Path

from ptychoflow.data import docs
from ptychoflow.data.schema import FILES


def test_the_page_in_the_repository_is_current(tmp_path):
    docs.main(tmp_path / "data.md")
    written = (tmp_path / "data.md").read_text()
    page = (Path(__file__).parents[2] / docs.PAGE).read_text()
    assert page == written, "run: PYTHONPATH=python python -m ptychoflow.data.docs"


def test_every_declared_array_is_on_the_page():
    for name, fields in FILES.items():
        section = docs.page().split(f"## {name}\n")[1].split("\n## ")[0]
        assert all(f"| `{field.name}`" in section for field in fields)
