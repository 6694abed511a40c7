"""The report in a browser: what a reader sees on a desk, a phone and paper, with a mouse, a keyboard or a reader."""

import itertools

import pytest

from metrad.reports.report import write_report, write_run_report
from tests.helpers.runs import EVIL, finished_run, sweep

pytestmark = pytest.mark.browser
TOO_SMALL = "[...document.querySelectorAll('svg, img')].filter(e => e.getBoundingClientRect().width < 100).length"


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Return the reports of a sweep and of a run."""
    folder = tmp_path_factory.mktemp("sweep")
    write_report(sweep(folder), folder / "report.html")
    run = finished_run(tmp_path_factory.mktemp("run") / EVIL.replace("/", "-"))
    return {"sweep": folder / "report.html", "run": write_run_report(run.path)}


@pytest.fixture
def opened(browser, reports):
    """Open a report and return the page; nothing may be requested beside it, and nothing be said on the console."""
    contexts, said, requested = [], [], []

    def call(name="sweep", width=1280, **settings):
        context = browser.new_context(viewport={"width": width, "height": 900}, **settings)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.on("request", lambda request: requested.append(request.url))
        page.goto(reports[name].as_uri())
        return page

    yield call
    for context in contexts:
        context.close()
    assert said == []
    assert [url for url in requested if not url.startswith(("data:", "file:"))] == []
    assert sum(url.startswith("file:") for url in requested) == len(contexts)


@pytest.mark.parametrize("name", ["sweep", "run"])
def test_every_picture_is_there_and_has_words(opened, name):
    page = opened(name)
    assert page.evaluate("[...document.images].filter(i => !i.complete || i.naturalWidth < 50).length") == 0
    assert page.evaluate(TOO_SMALL) == 0
    assert page.evaluate("[...document.images].filter(i => i.alt.length < 20).length") == 0
    labels = page.eval_on_selector_all("[role=img]", "all => all.map(each => each.getAttribute('aria-label'))")
    assert len(labels) == page.locator("svg").count() > 5
    assert all(len(label) > 20 for label in labels)


@pytest.mark.parametrize("name", ["sweep", "run"])
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_is_wider_than_the_window(opened, name, width):
    page = opened(name, width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def column(table, number):
    return table.evaluate(f"table => [...table.tBodies[0].rows].map(row => row.cells[{number}].textContent)")


def test_tables_sort_by_value_up_and_down_with_what_is_missing_last(opened):
    page = opened()
    table = page.locator("table", has_text="AUROC over runs").first
    before = column(table, 2)
    button = table.get_by_role("button", name="Mean", exact=True)
    heading = table.locator("thead th").nth(2)
    assert heading.get_attribute("aria-sort") is None
    button.click()
    assert column(table, 2) == sorted(before, key=float)
    assert heading.get_attribute("aria-sort") == "ascending"
    assert page.get_by_role("status").text_content() == "Sorted by Mean, ascending"
    button.click()
    assert column(table, 2) == sorted(before, key=float, reverse=True)
    table.get_by_role("button", name="Head").click()
    assert column(table, 0) == [EVIL, EVIL, "AdaCos", "AdaCos"]
    assert heading.get_attribute("aria-sort") is None


def test_the_keyboard_reaches_everything(opened):
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    page.keyboard.press("Tab")  # the first table's container, which scrolls by the arrow keys
    assert page.evaluate("document.activeElement.getAttribute('role')") == "region"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator("th[aria-sort=ascending]").count() == 1
    page.locator("summary").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("details[open]").count() == 1


def test_a_screen_reader_finds_its_way(opened):
    page = opened()
    assert page.locator("h1").count() == 1
    levels = page.eval_on_selector_all("h1, h2, h3", "all => all.map(each => Number(each.tagName[1]))")
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    for link in page.locator("nav a").all():
        assert page.locator(link.get_attribute("href")).count() == 1
    assert page.evaluate("[...document.querySelectorAll('table')].filter(t => !t.caption).length") == 0
    assert page.evaluate("[...document.querySelectorAll('th')].filter(t => !t.scope).length") == 0
    for landmark in ("banner", "navigation", "main", "contentinfo"):
        assert page.get_by_role(landmark).count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_background(opened, scheme):
    page = opened(color_scheme=scheme)
    contrast = """selector => {
      const parts = (text) => text.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255)
        .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
      const light = (text) => { const [r, g, b] = parts(text); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
      const element = document.querySelector(selector);
      const card = element.closest("figure") ?? document.body;
      const style = getComputedStyle(element);
      const colour = element.closest("svg") ? style.fill : style.color;
      const both = [light(colour), light(getComputedStyle(card).backgroundColor)];
      return (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
    }"""
    for selector in ("h1", "td", "nav a", "section > p", "figcaption", "svg text"):
        assert page.evaluate(contrast, selector) >= 4.5, selector


def test_on_paper_what_was_folded_is_open_and_colours_are_light(opened):
    page = opened(color_scheme="dark")
    closed = "document.querySelectorAll('details:not([open])').length"
    page.evaluate(f"addEventListener('beforeprint', () => {{ window.folded = {closed}; }})")
    assert page.pdf().startswith(b"%PDF")
    assert page.evaluate("window.folded") == 0
    assert page.locator("details[open]").count() == 0
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator("nav").is_hidden()


def test_what_was_given_is_shown_as_it_is(opened):
    page = opened()
    assert page.get_by_role("cell", name=EVIL, exact=True).count() > 0
    assert page.evaluate("document.scripts.length") == 1
