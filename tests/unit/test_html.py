"""The report as a browser's parser sees it: complete, self-contained, accessible, the same bytes each time."""

import json
import struct
import zlib
from html.parser import HTMLParser

import pytest

import report_sample as sample
from ptychoflow.report.html import ReportInput, png_size, png_title, render
from ptychoflow.report.summary import summary_markdown
from ptychoflow.report.tables import outcomes

VOID = {"meta", "img", "link", "br", "hr", "input"}


def tiny_png(title=None):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    text = chunk(b"tEXt", b"Title\0" + title.encode()) if title else b""
    header = struct.pack(">IIBBBBB", 3, 2, 8, 0, 0, 0, 0)
    body = zlib.compress(b"\0\1\2\3" * 2)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + text + chunk(b"IDAT", body) + chunk(b"IEND", b"")


class Page(HTMLParser):
    """Collects elements, and refuses tags that are closed in another order than they were opened."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.open = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture(scope="module")
def given():
    return ReportInput(
        plan=sample.PLAN,
        found=outcomes(sample.PLAN, sample.STATUSES, sample.METRICS),
        pictures={run["run_id"]: tiny_png() for run in sample.PINN[:3]},
        curves={sample.PINN[0]["run_id"]: tiny_png()},
        compares={"lines_d1e9": tiny_png()},
        references={
            "lines_d1e9": {
                "condition": "lines_d1e9",
                "name": "reference",
                "consistency": {"heldout": {"contrast": sample.score(0.99, direction="higher")}},
            }
        },
        versions={"ptychoflow": "0.1.0", "code_rev": "0123456789abcdef"},
        notes=["<b>stray.png</b> is left out"],
        min_success=1,
    )


@pytest.fixture(scope="module")
def page(given):
    return Page(render(given))


def test_nothing_is_loaded_from_elsewhere(page):
    for tag, attrs in page.elements:
        for name in ("src", "href", "action", "data"):
            assert attrs.get(name, "#").startswith(("#", "data:image/png;base64,")), (tag, attrs)
    assert page.all("link") == []
    style = "".join(page.texts)
    assert "@import" not in style
    assert "url(" not in style


def test_every_planned_run_and_reason_is_shown(page):
    text = " ".join(page.texts)
    for run in (*sample.PLAN["runs"], *sample.PLAN["skipped"]):
        assert run["run_id"] in text
    assert "needs a truth; <star> has only a reference" in text
    assert "3 frames are too few" in text
    assert "collapsed: amp contrast 0.05 of the truth's" in text


def test_text_from_files_is_escaped(given):
    assert "<b>stray.png</b>" not in render(given)


def test_language_title_and_alternative_texts(page):
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("title")) == 1
    pictures = page.all("img")
    assert len(pictures) == 5
    for attrs in pictures:
        assert len(attrs["alt"]) > 20
        assert (attrs["width"], attrs["height"]) == ("3", "2")
    alternatives = [attrs["alt"] for attrs in pictures]
    assert len(set(alternatives)) == len(alternatives)


def test_tables_have_captions_and_scoped_headings(page):
    assert len(page.all("caption")) == len(page.all("table"))
    assert page.all("th")
    assert all(attrs["scope"] in ("col", "row") for attrs in page.all("th"))


def test_ids_are_unique_and_links_lead_somewhere(page):
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(set(ids)) == len(ids)
    assert {attrs["href"][1:] for attrs in page.all("a")} <= set(ids)


def test_medians_of_arms_and_the_files_own_object_are_in_the_summary(given):
    text = summary_markdown(given)
    row = next(line for line in text.splitlines() if line.startswith("| pinn_torch_gs1"))
    assert row == "| pinn_torch_gs1 | 2 of 4 | 0.2 | 0.8 | 0.7 | 10.5 | 10.5 |"
    assert "| file's own object | – | – | – | 0.99 | – | – |" in text
    assert "- `star__lsqml__n64__s0` skipped: 3 frames are too few" in text
    assert "8 planned runs: 3 ok, 1 failed, 2 missing, 2 skipped." in text


def test_too_few_ok_runs_are_said_in_the_first_lines(given):
    short = ReportInput(plan=given.plan, found=given.found, min_success=4)
    assert "fewer than the 4 asked for" in render(short)
    assert "**Fewer than the 4 ok runs" in summary_markdown(short)


def test_a_study_where_nothing_arrived_still_gives_a_page():
    page = Page(render(ReportInput(plan=sample.PLAN, found=outcomes(sample.PLAN, [], []))))
    assert page.all("img") == []
    assert "No reconstruction of this condition arrived." in " ".join(page.texts)


def test_the_page_repeats_byte_for_byte(given):
    again = json.loads(json.dumps({"plan": sample.PLAN, "statuses": sample.STATUSES, "metrics": sample.METRICS}))
    found = outcomes(again["plan"], again["statuses"][::-1], again["metrics"][::-1])
    other = ReportInput(**{**given.__dict__, "plan": again["plan"], "found": found})
    assert render(other) == render(given)


def test_png_header_is_read():
    assert png_size(tiny_png()) == (3, 2)
    assert png_title(tiny_png("run: truth")) == "run: truth"
    assert png_title(tiny_png()) is None
    assert png_title(b"not a picture") is None
