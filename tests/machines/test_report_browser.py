"""The report in a real browser: Chromium, headless, from a file, without network."""

import shutil
from dataclasses import replace

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

import report_sample as sample
import report_study
from ptychoflow.report.html import render
from ptychoflow.report.sections import ReportInput
from ptychoflow.report.tables import outcomes

pytestmark = pytest.mark.browser

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
ARMS = report_study.LABELS
VIEWER = ".viewer >> nth=0"


@pytest.fixture(scope="module")
def browser():
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("no chromium on PATH: install Debian's package, or run make test-machines as root")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Two conditions with every kind of section, and a budget that leaves out the loss curves."""
    given = report_study.study(scale=0.4)
    documents = [outcome.metrics for outcome in given.found]
    documents[3]["stitched"]["complex"]["frc50"] |= {"value": 1.0, "status": "never"}
    notes = ["a file that nobody knows is left out"]
    lost = replace(given.found[5], state="missing", reason="no status arrived", metrics=None)
    found = [*given.found[:5], lost, *given.found[6:]]
    pictures = sum(len(png) for files in given.pictures.values() for png in files.values())
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render(replace(given, found=found, notes=notes), budget=pictures))
    return path


@pytest.fixture
def page(browser, report):
    """The report at desktop width; a message on the console or a failed request fails the test."""
    page = browser.new_page(viewport=WIDE)
    faults = []
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("requestfailed", lambda request: faults.append(request.url[:200]))
    page.on(
        "request", lambda request: None if request.url.startswith(("file:", "data:")) else faults.append(request.url)
    )
    page.goto(report.as_uri())
    yield page
    page.close()
    assert faults == []


def unfolded(page):
    """Open every folded part, as a reader would before looking into it."""
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    return page


def sort_key(text, value):
    """Return what a cell should be sorted by: missing last, numbers as numbers."""
    try:
        return float(text if value is None else value)
    except ValueError:
        return text if value is None else value


CELLS = """([table, column]) => [...document.querySelectorAll("table.sortable")[table].tBodies[0].rows]
  .map(row => [row.cells[column].textContent.trim(), row.cells[column].dataset.value ?? null])"""


def shown(page, table, column):
    cells = page.evaluate(CELLS, [table, column])
    keys = [sort_key(*cell) for cell in cells]
    known = [key for key in keys if key not in ("", "–")]
    assert keys[: len(known)] == known, "missing values must be last"
    return known


def test_every_table_sorts_by_every_column_and_says_so(page):
    unfolded(page)
    tables = page.locator("table.sortable")
    assert tables.count() > 8
    for table in range(tables.count()):
        heads = tables.nth(table).locator("thead th")
        for column in range(heads.count()):
            button = heads.nth(column).locator("button")
            button.evaluate("node => node.click()")
            assert heads.nth(column).get_attribute("aria-sort") == "ascending"
            up = shown(page, table, column)
            button.evaluate("node => node.click()")
            assert heads.nth(column).get_attribute("aria-sort") == "descending"
            down = shown(page, table, column)
            if all(isinstance(key, float) for key in up):
                assert (up, down) == (sorted(up), sorted(up, reverse=True))
            assert sorted(map(str, up)) == sorted(map(str, down))
        sorts = [heads.nth(column).get_attribute("aria-sort") for column in range(heads.count())]
        assert sorts == ["none"] * (heads.count() - 1) + ["descending"]


def test_a_table_sorts_by_mouse_and_by_keyboard(page):
    table = page.locator("table.sortable", has_text="Means over the seeds that ended ok, with").first
    head = table.locator("thead th", has_text="phase MAE")
    order = lambda: table.locator("tbody th").all_inner_texts()  # noqa: E731
    planned = [*ARMS, "truth"]
    assert order() == planned
    head.locator("button").click()
    assert order() == [*ARMS[::-1], "truth"]  # the last arm has the smallest error; the truth has none, and stays last
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert order() == planned
    assert head.get_attribute("aria-sort") == "descending"
    page.keyboard.press("Space")
    assert head.get_attribute("aria-sort") == "ascending"


def test_numbers_are_not_sorted_as_text(page):
    table = unfolded(page).locator("#runs table")
    head = table.locator("thead th", has_text="work")
    head.locator("button").click()
    work = shown(page, page.locator("table.sortable").count() - 2, 3)
    assert work == sorted(work)
    assert {10.0, 22.0} <= set(work)


def test_every_picture_has_pixels(page):
    unfolded(page)
    n_pictures = page.locator("img").count()
    assert n_pictures == 2 * (1 + 2 + 4 + 4 + 10)
    page.evaluate("[...document.images].forEach(image => image.loading = 'eager')")
    page.wait_for_function("[...document.images].every(image => image.complete)")
    assert page.evaluate("[...document.images].filter(image => !image.naturalWidth).map(image => image.alt)") == []


def visible(page):
    """Return (alternative text, clip) of the pictures that the first viewer shows, the lower one first."""
    return page.evaluate(
        """() => [...document.querySelector(".viewer").querySelectorAll("img")].filter(image => !image.hidden)
        .sort((a, b) => a.style.zIndex - b.style.zIndex).map(image => [image.alt, getComputedStyle(image).clipPath])"""
    )


def test_the_viewer_shows_what_is_chosen(page):
    viewer = page.locator(VIEWER)
    of = lambda part, name: f"{part} of {name}, lines_d1e3"  # noqa: E731
    assert visible(page) == [[of("Phase", "truth"), "none"], [of("Phase", ARMS[0]), "inset(0px 0px 0px 50%)"]]
    viewer.get_by_label("left").select_option("lsqml")
    viewer.get_by_label("right").select_option("truth")
    assert [alt for alt, _ in visible(page)] == [of("Phase", "lsqml"), of("Phase", "truth")]
    viewer.get_by_label("amplitude").check()
    assert [alt for alt, _ in visible(page)] == [of("Amplitude", "lsqml"), of("Amplitude", "truth")]
    assert viewer.locator(".now").inner_text() == "Amplitude, lsqml on the left, truth on the right."
    viewer.get_by_label("right").select_option("lsqml")
    assert visible(page) == [[of("Amplitude", "lsqml"), "none"]]


def test_the_wipe_moves_by_keyboard_and_by_dragging(page):
    slider = page.locator(VIEWER).get_by_label("wipe")
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert visible(page)[1][1] == "inset(0px 0px 0px 51%)"
    page.keyboard.press("Home")
    assert visible(page)[1][1] in ("inset(0px)", "inset(0px 0px 0px 0%)")
    stage = page.locator(VIEWER).locator(".stage")
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    page.mouse.move(box["x"] + 0.1 * box["width"], box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 20)
    page.mouse.up()
    assert visible(page)[1][1] == "inset(0px 0px 0px 80%)"
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 20)
    assert slider.input_value() == "80"


def test_blinking_shows_one_and_the_other_until_it_is_stopped(page):
    page.evaluate(
        """() => {
          const [start, stop] = [setInterval, clearInterval];
          window.running = new Set();
          window.setInterval = (...given) => { const id = start(...given); window.running.add(id); return id; };
          window.clearInterval = id => { stop(id); window.running.delete(id); };
        }"""
    )
    button = page.locator(VIEWER).get_by_role("button", name="Blink")
    button.focus()
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-pressed") == "true"
    clip = "getComputedStyle(document.querySelector('.viewer img[data-panel=\"1\"][data-part=phase]')).clipPath"
    for _ in range(2):
        page.wait_for_function(f"{clip} === 'inset(0px 0px 0px 100%)'", timeout=5000)
        page.wait_for_function(f"['inset(0px)', 'inset(0px 0px 0px 0%)'].includes({clip})", timeout=5000)
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert visible(page)[1][1] == "inset(0px 0px 0px 50%)"
    assert page.evaluate("window.running.size") == 0


def test_enlarged_pictures_keep_their_pixels(page):
    stage = page.locator(VIEWER).locator("img:visible").first
    assert stage.evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"
    width, own = stage.evaluate("image => [image.getBoundingClientRect().width, image.naturalWidth]")
    assert width > own
    assert width % own == 0


def test_a_phone_needs_no_sideways_scrolling(page):
    page.set_viewport_size(PHONE)
    unfolded(page)
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    wide = page.evaluate(
        "[...document.querySelectorAll('.scroll')].filter(box => box.scrollWidth > box.clientWidth).length"
    )
    assert wide > 0  # tables scroll in boxes of their own


@pytest.mark.parametrize("viewport", [WIDE, PHONE], ids=["wide", "phone"])
def test_axe_finds_no_violation(page, viewport):
    page.set_viewport_size(viewport)
    unfolded(page)
    found = Axe().run(page).response
    assert [(rule["id"], rule["nodes"][0]["html"][:300]) for rule in found["violations"]] == []
    assert any(rule["id"] == "color-contrast" for rule in found["passes"])


def test_print_shows_the_comparison_and_not_the_viewer(page):
    assert page.locator(VIEWER).is_visible()
    page.emulate_media(media="print")
    assert not page.locator(VIEWER).is_visible()
    picture = page.locator("figure.compare img").first
    assert picture.is_visible()
    assert not page.locator("nav").is_visible()
    drawn = page.pdf(format="A4").count(b"/Subtype /Image")
    assert (
        drawn == 1 + 2 + 4
    )  # comparison, quality, FRC and errors, those far down too; both conditions have the same ones


def test_without_script_the_pictures_are_still_there(browser, report):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert not page.locator(VIEWER).is_visible()
    assert page.locator("figure.compare").first.is_visible()
    context.close()


def test_a_link_into_a_folded_condition_unfolds_it(browser, tmp_path):
    many = report_study.study(n_conditions=8, n_seeds=1, labels=ARMS[2:], scale=0.05)
    (tmp_path / "report.html").write_text(render(many))
    page = browser.new_page(viewport=WIDE)
    page.goto((tmp_path / "report.html").as_uri())
    part = page.locator("#c5 details.condition")
    assert part.get_attribute("open") is None
    page.locator('nav a[href="#c5"]').click()
    page.wait_for_function("document.querySelector('#c5 details.condition').open")
    assert page.locator("#c4 details.condition").get_attribute("open") is None
    page.locator('#summary a[href="#s6"]').click()
    page.wait_for_function("document.querySelector('#s6 details').open")
    assert page.locator("#s7 details").get_attribute("open") is None
    page.close()


def test_the_small_sample_is_sound_too(browser, tmp_path):
    """A condition of which nothing arrived, skipped runs, no picture."""
    given = ReportInput(plan=sample.PLAN, found=outcomes(sample.PLAN, sample.STATUSES, sample.METRICS), comparisons={})
    (tmp_path / "report.html").write_text(render(given))
    page = browser.new_page(viewport=PHONE)
    page.goto((tmp_path / "report.html").as_uri())
    unfolded(page)
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    found = Axe().run(page).response["violations"]
    assert [(rule["id"], [node["html"][:200] for node in rule["nodes"]]) for rule in found] == []
    page.close()
