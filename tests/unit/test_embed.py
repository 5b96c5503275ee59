"""Which pictures a report holds: the most telling ones first, never more than the budget, nothing lost without a word."""

import re
import time
from dataclasses import replace

import pytest

import report_study
from ptychoflow.report.embed import Layout, galleries, png_size
from ptychoflow.report.html import render


@pytest.fixture(scope="module")
def given():
    return report_study.study(n_conditions=2, n_seeds=2, scale=0.1)


def chosen(given, budget):
    runs = [outcome.run for outcome in given.found]
    return galleries(runs, given.comparisons, given.pictures, given.curves, layout=Layout(), budget=budget)


def embedded(gallery):
    panels = [part for panel in gallery.panels for part in (panel.amp, panel.phase)]
    every = [gallery.compare, gallery.quality, gallery.frc, *panels, *gallery.errors, *gallery.arms, *gallery.curves]
    return [picture for picture in every if picture is not None and picture.png is not None]


def test_png_header_is_read():
    assert png_size(report_study.png(2, 3)) == (3, 2)


def test_everything_goes_in_when_it_fits(given):
    found = chosen(given, 10**9)
    n_pictures = sum(len(files) for files in given.pictures.values()) + len(given.curves)
    assert sum(len(embedded(gallery)) for gallery in found.values()) == n_pictures
    assert {id(picture.png) for gallery in found.values() for picture in embedded(gallery)} == {
        id(png) for files in (*given.pictures.values(), given.curves) for png in files.values()
    }


def test_comparisons_of_all_conditions_come_before_anything_else(given):
    need = sum(len(files["compare_amp_phase.png"]) for files in given.pictures.values())
    for gallery in chosen(given, need).values():
        assert embedded(gallery) == [gallery.compare]
    first, second = chosen(given, need - 1).values()
    assert first.compare.png is not None
    assert second.compare.png is None


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9, 0.99])
def test_the_budget_holds_and_every_other_picture_is_linked(given, share):
    total = sum(len(png) for files in (*given.pictures.values(), given.curves) for png in files.values())
    budget = int(share * total)
    found = chosen(given, budget)
    assert sum(len(picture.png) for gallery in found.values() for picture in embedded(gallery)) <= budget
    text = render(given, budget=budget)
    assert text.count("<img ") == sum(len(embedded(gallery)) for gallery in found.values())
    n_pictures = sum(len(files) for files in given.pictures.values()) + len(given.curves)
    linked = re.findall(r'<p class="linked">.*?</p>', text, re.DOTALL)
    assert sum(paragraph.count("<a ") for paragraph in linked) == n_pictures - text.count("<img ")
    assert all("to keep this file small" in paragraph for paragraph in linked)


def test_a_viewer_is_whole_or_not_there(given):
    for budget in range(0, 120_000, 6_000):
        for gallery in chosen(given, budget).values():
            assert {len(gallery.panels), len(gallery.linked_panels)} == {0, 5}


def test_links_lead_into_the_output_folder_with_ids_as_they_are():
    run = {"condition": "a b#1", "label": "net", "seed": 2, "kind": "train"}
    assert Layout().visual("a b#1", "frc curves.png") == "../conditions/a%20b%231/visuals/frc%20curves.png"
    assert Layout().curve(run) == "../conditions/a%20b%231/runs/net/s2/train/model/loss.png"
    assert Layout().curve({**run, "kind": "iterative"}).endswith("/net/s2/reconstruct/history.csv")
    assert Layout(beside=True).visual("a b#1", "frc.png") == "visuals/frc.png"
    assert Layout(beside=True).run(run) is None


def test_a_picture_that_did_not_arrive_is_not_promised(given):
    name = next(iter(given.pictures))
    files = {file: png for file, png in given.pictures[name].items() if file != "quality_time.png"}
    other = replace(given, pictures={**given.pictures, name: files})
    assert chosen(other, 10**9)[name].quality is None
    files = {file: png for file, png in files.items() if file != "blink_lsqml_phase.png"}
    other = replace(given, pictures={**given.pictures, name: files})
    gallery = chosen(other, 10**9)[name]
    assert [panel.name for panel in gallery.panels] == ["truth", *report_study.LABELS[:3]]


@pytest.mark.parametrize(("n_conditions", "n_seeds"), [(2, 3), (20, 3), (1, 66)])
def test_size_and_time_stay_bounded(n_conditions, n_seeds):
    given = report_study.study(n_conditions=n_conditions, n_seeds=n_seeds)
    start = time.perf_counter()
    text = render(given)
    assert time.perf_counter() - start < 20
    assert len(given.found) in (20, 200, 199)
    assert len(text.encode()) < 15_000_000
