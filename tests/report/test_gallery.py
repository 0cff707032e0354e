"""The gallery in a real browser, opened as a file and worked by keyboard alone."""

import os
import shutil

import pytest

from medkd.report.build import draw
from medkd.report.pdf import BROWSERS, QUIETLY

BROWSER = next((path for name in BROWSERS if (path := shutil.which(name))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on the PATH"),
]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        opened = started.chromium.launch(executable_path=BROWSER, args=[*QUIETLY[1:], *sandbox])
        yield opened
        opened.close()


@pytest.fixture
def page(browser, segmentation, study_folder, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(draw(segmentation, study_folder=study_folder), encoding="utf-8")
    tab = browser.new_page()
    tab.asked, tab.errors = [], []
    tab.on("request", lambda request: tab.asked.append(request.url))
    tab.on("pageerror", lambda error: tab.errors.append(str(error)))
    tab.on("console", lambda message: tab.errors.append(message.text))
    tab.goto(path.as_uri())
    yield tab
    tab.close()


def test_it_runs_from_a_file_asks_for_nothing_and_complains_of_nothing(page):
    assert page.errors == []
    assert all(url.startswith(("file:", "data:")) for url in page.asked)
    assert page.locator(".viewer").is_visible()
    assert not page.locator(".viewer").evaluate("v => v.previousElementSibling.checkVisibility()")


def test_slices_are_leafed_through_by_keyboard(page):
    slider, said = page.locator("input[type=range]"), page.locator(".viewer output")
    assert said.inner_text() == "5 of 9", "begins where the reference is largest"
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert said.inner_text() == "7 of 9"
    assert slider.get_attribute("aria-valuetext") == "slice 7 of 9"
    shift = page.locator(".stage img").first.evaluate("i => i.style.transform")
    assert shift.startswith("translateY(-66.6")
    page.keyboard.press("Home")
    assert said.inner_text() == "3 of 9"


def test_layers_are_switched_by_keyboard(page):
    student = page.locator("img[data-layer=student]")
    assert student.is_visible()
    page.locator("input[value=student]").focus()
    page.keyboard.press("Space")
    assert not student.is_visible()
    assert page.locator("img[data-layer=image]").is_visible()


def test_on_paper_the_still_picture_stands_for_the_slices(page):
    page.emulate_media(media="print")
    assert not page.locator(".viewer").is_visible()
    assert page.locator(".viewer").evaluate("v => v.previousElementSibling.checkVisibility()")


def test_every_control_has_a_name(page):
    names = page.locator("input").evaluate_all("all => all.map(i => i.labels[0]?.innerText ?? '')")
    assert all(names)


def test_hostile_words_run_nothing(browser, segmentation, study_folder, tmp_path):
    evil = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    overlays = tuple(
        o.model_copy(update={"case": evil, "rank": evil}) for o in segmentation.overlays
    )
    report = segmentation.model_copy(update={"overlays": overlays, "notes": (evil,), "study": evil})
    path = tmp_path / "report.html"
    path.write_text(draw(report, study_folder=study_folder), encoding="utf-8")
    tab = browser.new_page()
    tab.goto(path.as_uri())
    assert tab.title() != "owned"
    assert tab.locator("img[src=x]").count() == 0
    tab.close()
