"""The report as a browser's parser sees it: complete, self-contained, accessible, the same bytes each time."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

import report_dose_overlap
import report_sample as sample
import report_study
from ptychoflow.report.html import enlarged, leaders, render
from ptychoflow.report.ranking import verdicts
from ptychoflow.report.sections import ReportInput, sections
from ptychoflow.report.study_curves import all_curves
from ptychoflow.report.study_tables import study_of
from ptychoflow.report.tables import outcomes

VOID = {"meta", "img", "link", "br", "hr", "input"}


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

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def pictures_of(name):
    named = sample.COMPARISONS[name]["pictures"]
    return {file: report_study.png(2, 3, seed=i) for i, (file, *_) in enumerate(report_study.files(named))}


@pytest.fixture(scope="module")
def given():
    return ReportInput(
        plan=sample.PLAN,
        found=outcomes(sample.PLAN, sample.STATUSES, sample.METRICS),
        comparisons=sample.COMPARISONS,
        pictures={"lines_d1e9": pictures_of("lines_d1e9")},
        curves={sample.PINN[0]["run_id"]: report_study.png(2, 3, seed=99)},
        versions={"ptychoflow": "0.1.0", "code_rev": "0123456789abcdef"},
        notes=["<b>stray.png</b> is left out"],
        min_success=1,
    )


@pytest.fixture(scope="module")
def page(given):
    return Page(render(given))


def with_metrics(given, change):
    """Return the input with every metrics.json passed through `change`."""
    documents = json.loads(json.dumps(sample.METRICS))
    for document in documents:
        change(document)
    return replace(given, found=outcomes(sample.PLAN, sample.STATUSES, documents))


def row_of(text, start):
    """Return the first table row whose heading is `start`, as text without tags."""
    rows = re.findall(r"<tr.*?</tr>", text, re.DOTALL)
    return next(
        " ".join(re.sub(r"<[^>]+>", " ", row).replace("&nbsp;", " ").split())
        for row in rows
        if re.search(rf'<th scope="row">{re.escape(start)}\b', row)
    )


def test_nothing_is_loaded_from_elsewhere(page):
    for tag, attrs in page.elements:
        for name in ("src", "action", "data", "srcset"):
            assert attrs.get(name, "data:image/png;base64,").startswith("data:image/png;base64,"), (tag, attrs)
        assert attrs.get("href", "#").startswith(("#", "../conditions/")), attrs
    assert page.all("link") == []
    text = "".join(page.texts)
    assert "@import" not in text
    assert "url(" not in text
    assert "http" not in text


def test_every_planned_run_and_reason_is_shown(page):
    for run in (*sample.PLAN["runs"], *sample.PLAN["skipped"]):
        assert run["run_id"] in page.text
    assert "needs a truth; <star> has only a reference" in page.text
    assert "3 frames are too few" in page.text
    assert "collapsed: amp contrast 0.05 of the truth's" in page.text


def test_text_from_files_is_escaped_wherever_it_goes(given):
    evil = '"><script>alert(1)</script>'
    text = json.dumps([sample.PLAN, sample.STATUSES, sample.METRICS, sample.COMPARISONS])
    safe = json.dumps(evil)[1:-1]
    for name in ("lines_d1e9", "pinn_torch_gs1", "an interpolation was made", "fitted to the test frames themselves"):
        text = text.replace(name, safe)
    plan, statuses, metrics, comparisons = json.loads(text)
    pictures = {evil: {file.replace("pinn_torch_gs1", evil): png for file, png in pictures_of("lines_d1e9").items()}}
    evil_input = ReportInput(plan, outcomes(plan, statuses, metrics), comparisons, pictures, notes=[evil])
    html = render(evil_input)
    assert html.count("<script>") == 1
    assert len(Page(html).all("img")) == 1 + 2 + 3 + 3 + 8
    assert "<b>stray.png</b>" not in render(given)


def test_language_title_and_alternative_texts(page):
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("title")) == 1
    pictures = page.all("img")
    assert len(pictures) == 1 + 2 + 3 + 3 + 8 + 1  # compare, quality and FRC, arms, errors, panels, a loss curve
    for attrs in pictures:
        assert len(attrs["alt"]) > 15
        assert (attrs["width"], attrs["height"]) == ("3", "2")
        assert attrs.get("loading") == ("lazy" if "data-panel" not in attrs else None)
    alternatives = [attrs["alt"] for attrs in pictures]
    assert len(set(alternatives)) == len(alternatives)


def test_tables_have_captions_and_scoped_headings(page):
    assert page.all("table")
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(attrs["scope"] in ("col", "row") for attrs in page.all("th"))


def test_ids_are_unique_and_links_within_the_page_lead_somewhere(page):
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(set(ids)) == len(ids)
    inner = {attrs["href"][1:] for attrs in page.all("a") if attrs["href"].startswith("#")}
    assert inner
    assert inner <= set(ids)


def test_scored_runs_link_their_own_picture_where_a_workflow_puts_it(given, page):
    links = {attrs["href"] for attrs in page.all("a") if "visuals" in attrs["href"]}
    scored = {document["run_id"] for document in sample.METRICS}
    assert links == {
        f"../conditions/{run['condition']}/visuals/amp_phase_{run['label']}_s{run['seed']}.png"
        for run in sample.PLAN["runs"]
        if run["run_id"] in scored
    }
    beside = Page(render(replace(given, visuals_beside=True)))
    assert not any("visuals" in attrs["href"] for attrs in beside.all("a"))


def test_summary_comes_before_the_conditions_with_verdicts_then_costs_then_arms(given):
    text = render(given)
    (section, *_), places = sections(given), []
    for words in (*(v.text for v in section.verdicts), *(c.text for c in section.costs), "Arms of lines_d1e9"):
        tail = words.partition(": ")[2] or words  # of a verdict, the title before the colon is in bold
        places.append(text.index(tail))
    assert section.verdicts
    assert section.costs
    assert places == sorted(places)
    assert places[-1] < text.index("Condition lines_d1e9")


def test_arms_have_mean_interval_and_n_and_the_files_own_object_stands_last(given):
    text = render(given)
    row = row_of(text, "pinn_torch_gs1")
    assert "2 of 4" in row
    assert "0.9025 [0.8707, 0.9343] n = 2" in row
    assert "0.975 n = 1" in row_of(text, "lsqml")
    labels = [arm.label for arm in sections(given)[0].arms]
    assert labels == ["pinn_torch_gs1", "pinn_tf_gs1", "lsqml", "baseline_torch_gs1", "truth"]


@pytest.mark.parametrize(
    ("status", "value", "said"),
    [
        ("never", 1.0, "1 (never below)"),
        ("starts_below", 0.0, "0 (starts below)"),
        ("mixed", 0.5, "0.5 (objects differ)"),
    ],
)
def test_a_curve_that_does_not_cross_is_said(given, status, value, said):
    def change(document):
        if document["label"] == "lsqml":
            document["stitched"]["complex"]["frc50"] |= {"value": value, "status": status}

    assert said in row_of(render(with_metrics(given, change)), "lsqml")


def test_of_several_seeds_the_ones_that_do_not_cross_are_counted(given):
    def change(document):
        if document["label"] == "pinn_tf_gs1" and document["seed"] > 0:
            document["stitched"]["complex"]["frc50"] |= {"value": 1.0, "status": "never"}

    assert "(never below in 2 of 3)" in row_of(render(with_metrics(given, change)), "pinn_tf_gs1")


def test_resolution_is_in_pixels_with_nanometres_where_the_pixel_is_known(given):
    def change(document):
        document["stitched"]["complex"]["resolution_px"] = sample.score(3.2, unit="px", status="crossed")
        document["pixel_size_m"] = None if document["label"] == "lsqml" else 1.25e-8

    text = render(with_metrics(given, change))
    assert "3.2 (40 nm)" in row_of(text, "pinn_tf_gs1")
    assert "nm" not in row_of(text, "lsqml")


def test_a_flat_arm_is_called_collapsed_beside_its_contrast(given):
    def change(document):
        document["stitched"]["amp"]["contrast_ratio"]["value"] = 0.31 if document["label"] == "lsqml" else 0.29

    text = render(with_metrics(given, change))
    assert "0.29 collapsed [0.29, 0.29] n = 2" in row_of(text, "pinn_torch_gs1")
    assert "collapsed" not in row_of(text, "lsqml")


def test_fairness_says_who_had_what(given):
    text = render(given)
    table = text[text.index("<caption><span>Advantages") :]
    assert row_of(table, "pinn_tf_gs1").startswith(
        "pinn_tf_gs1 40 frames of lines-train no no separate scans 40 50 11 2.9 cpu"
    )
    assert row_of(table, "lsqml").startswith(
        "lsqml nothing yes no no training 40 40 0 10 cpu fitted to the test frames"
    )
    assert '<td class="advantage">yes</td>' in table


def test_what_was_not_corrected_is_marked(given):
    text = render(given)
    assert '<span class="open">a phase ramp, if there is one, remains</span>' in text
    assert row_of(text[text.index("NOT corrected") :], sample.LSQML["run_id"]).startswith(
        f"{sample.LSQML['run_id']} truth rows 2 to 12, columns 3 to 18 100 one complex factor was applied"
    )


def test_legacy_scores_stand_apart_and_closed(given):
    text = render(given)
    place = text.index("Scores in the way of published tables, never ranked")
    assert text.rfind("<details>", 0, place) > text.rfind("<details open>", 0, place)
    assert "0.1" in row_of(text[place:], "amplitude MAE")
    assert "legacy" not in text.lower()
    found = sections(given)[0]
    assert not any(column.key[2].startswith("legacy") for column in (*found.columns, *found.everything))


def test_a_leader_is_marked_in_its_cell_and_in_the_table_of_leaders():
    given = report_study.study(n_conditions=2, n_seeds=6, scale=0.05)
    text = render(given)
    found = [verdict for verdict in verdicts(given.found, given.comparisons) if verdict.leader]
    assert {verdict.leader for verdict in found} == {"lsqml"}
    assert len(found) == 10
    assert " leads n = 1" in row_of(text[text.index("Arms of lines_d1e4") :], "lsqml")
    assert " leads" not in row_of(text[text.index("Arms of lines_d1e4") :], "pinn_tf_gs2")
    assert text.count('<td class="leads">lsqml</td>') == len(found)


@pytest.mark.parametrize(
    ("leader", "judged", "said"),
    [
        ("lsqml", "first", "lsqml"),
        (None, "no difference shown", "no arm ahead of all"),
        (None, "one run each", "one run each"),
    ],
)
def test_a_score_without_a_leader_says_why(given, leader, judged, said):
    (verdict, *_) = verdicts(given.found, given.comparisons)
    comparison = replace(verdict.comparisons[0], paired=replace(verdict.comparisons[0].paired, verdict=judged))
    section = sections(given)[0]
    found = [replace(section, verdicts=[replace(verdict, leader=leader, comparisons=[comparison])])]
    assert leaders(found) == {("lines_d1e9", verdict.title): said}
    alone = [replace(section, verdicts=[replace(verdict, leader=None, comparisons=[])])]
    assert leaders(alone) == {("lines_d1e9", verdict.title): "one arm only"}


@pytest.fixture(scope="module")
def dose_overlap():
    """A study over dose and view, with a stand-in for each of its curves."""
    given = report_dose_overlap.study(specified=True)
    files = [curves.file for curves in all_curves(study_of(given))]
    return replace(given, study_pictures={file: report_study.png(7, 5, seed=200 + i) for i, file in enumerate(files)})


def test_a_study_over_dose_and_view_comes_first_with_words_for_what_is_missing(dose_overlap):
    text = render(dose_overlap)
    table = text[text.index("phase MS-SSIM by dose and view") : text.index("amplitude MS-SSIM by dose and view")]
    assert (
        row_of(table, "1e4, dense") == "1e4, dense 0.73 [0.6954, 0.7713] n = 3 0.74 † [0.7054, 0.7813] n = 3 0.63 n = 1"
    )
    assert row_of(table, "1e5, sparse") == "1e5, sparse skipped [2] 0.82 † [0.7854, 0.8613] n = 3 skipped [2]"
    assert row_of(table, "1e3, all").startswith("1e3, all not planned 0.67")
    assert "† trained on and reconstructed from the view" in table
    assert row_of(text, "fly64_d1e5_sparse") == (
        "fly64_d1e5_sparse 0 0 4 phase MS-SSIM (median): pinn_gs2 skipped [2], pinn_gs1 0.82 †, lsqml skipped [2]"
    )
    places = [
        text.index(words) for words in ('id="study"', report_dose_overlap.INFEASIBLE, "guard band", 'id="summary"')
    ]
    assert places == sorted(places)


def test_a_study_is_as_accessible_as_the_rest(dose_overlap):
    page = Page(render(dose_overlap))
    assert len(page.all("caption")) == len(page.all("table"))
    alternatives = [attrs["alt"] for attrs in page.all("img")]
    assert len(alternatives) == len(set(alternatives)) == 12
    assert alternatives[0].startswith("phase MS-SSIM of fly64 over dose, photons per frame; a panel each for view all,")
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(set(ids)) == len(ids)
    assert {"href": "#study"} in page.all("a")


@pytest.mark.parametrize("n_fit", [0, 1, 5])
def test_curves_that_do_not_fit_are_linked_and_the_primary_score_fits_first(dose_overlap, n_fit):
    sizes = [len(png) for png in dose_overlap.study_pictures.values()]
    text = render(dose_overlap, budget=sum(sizes[:n_fit]))
    page = Page(text)
    assert len(page.all("img")) == n_fit
    links = [attrs["href"] for attrs in page.all("a") if attrs["href"].startswith("study/")]
    assert links == [f"study/{name}" for name in list(dose_overlap.study_pictures)[n_fit:]]
    bare = Page(render(replace(dose_overlap, study_pictures={})))
    assert (bare.all("img"), [a for a in bare.all("a") if a["href"].startswith("study/")]) == ([], [])


def test_the_other_pictures_share_what_the_curves_of_a_study_leave(dose_overlap):
    run_id = dose_overlap.found[0].run_id
    loss = report_study.png(3, 4, seed=300)
    given = replace(dose_overlap, curves={run_id: loss})
    used = sum(len(png) for png in given.study_pictures.values())
    for budget, n_pictures in ((used + len(loss) - 1, 12), (used + len(loss), 13)):
        assert len(Page(render(given, budget=budget)).all("img")) == n_pictures


def test_text_of_a_study_is_escaped(dose_overlap):
    evil = "<i>loss</i> is nan"
    found = [
        replace(outcome, reason=evil) if outcome.reason == report_dose_overlap.DIVERGED else outcome
        for outcome in dose_overlap.found
    ]
    assert "<i>loss" not in render(replace(dose_overlap, found=found))


def test_other_plans_say_nothing_about_dose_and_overlap(page):
    assert "study" not in {attrs.get("id") for _, attrs in page.elements}
    assert "Dose and overlap" not in page.text


def test_too_few_ok_runs_are_said_in_the_first_lines(given):
    short = render(ReportInput(plan=given.plan, found=given.found, min_success=7))
    assert "fewer than the 7 asked for" in short[: short.index("<main>")]


def test_a_study_where_nothing_arrived_still_gives_a_page():
    page = Page(render(ReportInput(plan=sample.PLAN, found=outcomes(sample.PLAN, [], []))))
    assert page.all("img") == []
    assert "No comparison of this condition arrived." in page.text
    assert "Nothing to rank" in page.text


def test_the_page_repeats_byte_for_byte(given):
    again = json.loads(json.dumps([sample.PLAN, sample.STATUSES, sample.METRICS, sample.COMPARISONS]))
    found = outcomes(again[0], again[1][::-1], again[2][::-1])
    other = replace(given, plan=again[0], found=found, comparisons=again[3])
    assert render(other) == render(given)


@pytest.mark.parametrize(("size", "width"), [((223, 171), 669), ((1000, 40), 1000), ((5, 400), 5), ((3, 2), 900)])
def test_panels_are_enlarged_by_whole_pixels(size, width):
    assert enlarged(size) == width
