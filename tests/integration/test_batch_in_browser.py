"""The page of a batch in a browser: sorted, filtered, searched and enlarged, with a mouse and with a keyboard."""

import numpy as np
import pytest
from PIL import Image

from metrad.data.decoding import Reading
from metrad.reports.verdicts.images import Images
from metrad.reports.verdicts.page import Page
from metrad.reports.verdicts.rows import Row
from tests.helpers.runs import EVIL

pytestmark = pytest.mark.browser
COUNT = 3000
ODD = f"b/{EVIL.replace('/', '|')}\n\x1b[31m\u202e.png"


def image(number):
    """Return the row of an image: the first is an error, the second has an odd name, every tenth is anomalous."""
    if number == 0:
        return Row("a/0.png", np.nan, np.nan, "error", error=f"no image {EVIL}")
    verdict = "anomalous" if number % 10 == 1 else "normal"
    name = ODD if number == 1 else f"{'ab'[number % 2]}/{number}.png"
    return Row(name, number / COUNT, 0.5, verdict, "good/1.png" if number % 2 else "gone.png", number % 100 == 1)


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    """Return the page of a batch of 3,000 images, which are one file."""
    folder = tmp_path_factory.mktemp("batch")
    (folder / "good").mkdir()
    one = folder / "good/1.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)).save(one)
    rows = [image(number) for number in range(COUNT)]
    page = Page(folder / "a batch.html", Images(Reading(), folder), {row.image: str(one) for row in rows})
    page.add(rows)
    page.finish(f"The batch {EVIL}", ["3,000 images"], [EVIL])
    page.close()
    return page.path


@pytest.fixture
def opened(browser, batch):
    """Open the page; nothing but its pictures may be requested, and nothing be said on the console."""
    contexts, said, requested = [], [], []

    def call(width=1280, **settings):
        context = browser.new_context(viewport={"width": width, "height": 900}, **settings)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.on("request", lambda request: requested.append(request.url))
        page.goto(batch.as_uri())
        return page

    yield call
    for context in contexts:
        context.close()
    assert said == []
    assert [url for url in requested if not url.startswith((batch.parent.as_uri(), "data:"))] == []


def names(page):
    return page.locator(".tile .words span:last-child").all_text_contents()


def test_only_the_tiles_in_view_are_there_and_all_can_be_reached(opened):
    page = opened()
    assert page.get_by_role("status").text_content() == "3000 of 3000 images"
    assert page.locator(".tile").count() < 100
    assert names(page)[0] == "2999.png"
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.wait_for_function("document.querySelector('#tiles').textContent.includes('cannot be scored')")
    assert page.locator(".tile").count() < 100


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_is_wider_than_the_window(opened, width):
    page = opened(width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator(".tile").first.click()
    assert page.evaluate("document.querySelector('dialog').getBoundingClientRect().width") <= width


def test_images_are_sorted_filtered_and_found_by_name(opened):
    page = opened()
    status = page.get_by_role("status")
    for kind, count in (("anomalous", 300), ("error", 1), ("fitted", 30), ("normal", 2699), ("all", 3000)):
        page.get_by_label("Show").select_option(kind)
        assert status.text_content() == f"{count} of 3000 images"
    page.get_by_label("Order").select_option("low")
    assert names(page)[1] == "2.png"
    page.get_by_label("Order").select_option("name")
    assert names(page)[:3] == ["0.png", "2.png", "4.png"]
    page.get_by_label("Folder").select_option(label="b/ (1500)")
    assert status.text_content() == "1500 of 3000 images"
    page.get_by_role("searchbox").fill("299")
    assert status.text_content() == "8 of 3000 images"
    page.get_by_role("searchbox").fill("no such name")
    assert page.get_by_text("No image is like that.").is_visible()
    assert page.locator(".tile").count() == 0


def test_a_click_enlarges_an_image_beside_its_nearest_good_one(opened):
    page = opened()
    page.locator(".tile").first.click()
    dialog = page.get_by_role("dialog")
    assert "normal score 0.99967, p-value 0.5" in dialog.text_content()
    assert "Nearest good image: good/1.png" in dialog.text_content()
    page.wait_for_function(
        "[...document.querySelectorAll('dialog img')].every(i => i.complete && i.naturalWidth === 90)"
    )
    page.get_by_role("button", name="Next image").click()
    assert "Nearest good image: gone.png; its file is not on this disk" in dialog.text_content()
    assert page.locator("#good").is_hidden()
    page.get_by_role("button", name="Close").click()
    assert dialog.is_hidden()


def test_the_keyboard_alone_goes_everywhere(opened):
    page = opened()
    focused = "document.activeElement.title"
    page.locator("#name").focus()
    page.keyboard.press("Tab")
    assert page.evaluate(focused) == "b/2999.png"
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == "a/2998.png"
    page.keyboard.press("End")
    assert page.evaluate(focused) == "a/0.png"
    page.keyboard.press("Enter")
    assert page.locator("#verdict").text_content() == f"error no image {EVIL}"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Escape")  # the dialog says that it is closed a moment later
    page.wait_for_function("document.activeElement.title.startsWith('b/')")
    assert page.evaluate(focused).startswith("b/<script>alert(1)<|script>\\u000a\\u001b[31m\\u202e")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    columns = page.evaluate("columns")
    assert page.evaluate(focused).endswith(f"/{2999 - columns}.png")
    assert page.evaluate("[...document.querySelectorAll('.tile')].filter(each => each.tabIndex === 0).length") == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_their_ground(opened, scheme):
    page = opened(color_scheme=scheme)
    page.locator(".tile").first.click()
    contrast = """selector => {
      const light = colour => {
        const parts = colour.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255);
        const linear = parts.map(v => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
      };
      const node = document.querySelector(selector);
      let ground = node;
      while (getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)") ground = ground.parentElement;
      const both = [light(getComputedStyle(node).color), light(getComputedStyle(ground).backgroundColor)];
      return (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
    }"""
    for selector in ("h1", "summary", ".controls label", "#status", ".anomalous .said", ".normal .said", "#verdict b"):
        assert page.evaluate(contrast, selector) >= 4.5, selector


def test_what_was_given_is_shown_as_it_is(opened):
    page = opened()
    assert page.get_by_role("heading", name=EVIL).count() == 1
    assert page.evaluate("document.scripts.length") == 2
