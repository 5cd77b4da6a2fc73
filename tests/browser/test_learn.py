"""A teacher hands out a lesson on the local network; a learner takes it and goes on from there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from dashboard.views.learn.catalogue import find_lessons
from tests.browser.actions import expect_link, layer_picker, linked, visit
from tests.browser.harness import run_server, wait_until_idle

LESSONS = {lesson.name: lesson for lesson in find_lessons()}
ADDRESS = "127.0.0.2"  # loopback too, but not the address that the dashboard has by itself


@pytest.fixture(scope="module")
def class_url(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a dashboard served to a class, as `make run ADDRESS=...` does."""
    log = tmp_path_factory.mktemp("class") / "server.log"
    with run_server(log, address=ADDRESS) as url:
        yield url


def answer(page: Page, number: int) -> None:
    page.keyboard.press(str(number))
    expect(page.get_by_text(re.compile("You said"))).to_be_visible(timeout=30_000)
    wait_until_idle(page)


def test_from_the_teachers_link_to_the_dashboard(
    class_url: str, open_page: Callable[..., Page], assert_accessible: Callable[..., None]
) -> None:
    teacher = visit(open_page(color_scheme="dark"), f"{class_url}/learn?lesson=steps&bits=3")
    teacher.get_by_role("button", name="For teachers").click()
    teacher.get_by_text("Link for the class").wait_for()
    assert_accessible(teacher)
    address = teacher.locator("[data-testid=stCode] code").inner_text()
    assert address.startswith(f"{class_url}/learn?")
    slides = teacher.get_by_role("link", name="Present this lesson").get_attribute("href")

    learner = visit(open_page(), address)
    title = learner.locator("h1").inner_text()
    expect(learner.get_by_test_id("stSidebar")).to_have_count(0)
    expect(learner.locator(".stPlotlyChart")).to_have_count(0)
    answer(learner, 1)
    verdict = learner.locator(".st-key-learn_verdict")
    expect(verdict).to_contain_text("You said, but that is wrong")
    expect(verdict).to_contain_text(LESSONS["steps"].answers[0])
    expect(verdict).to_contain_text(f"It is{LESSONS['steps'].answers[1]}")
    expect(learner.get_by_text("of 8 marks").first).to_be_visible()  # the teacher's 3 bits
    expect(learner.get_by_text(re.compile("^In the class, [01] of 1 said"))).to_be_visible()
    expect(learner.locator(".stPlotlyChart .main-svg").first).to_be_visible()
    assert_accessible(learner)

    learner.reload()
    expect(learner.get_by_text(re.compile("You said"))).to_be_visible()
    assert not re.search("answer|-0", learner.url)  # the browser keeps it, not the link

    assert slides is not None
    teacher.set_viewport_size({"width": 1920, "height": 1080})
    visit(teacher, slides)
    expect(teacher.get_by_text("Class: 1 answer so far.")).to_be_visible()
    assert_large_and_on_one_screen(teacher)

    wait_until_idle(learner)
    learner.keyboard.press("ArrowRight")
    expect(learner.locator("h1")).not_to_have_text(title)
    name = expect_link(learner, "lesson", lambda name: name in LESSONS and name != "steps")
    assert name is not None
    assert linked(learner, "class")
    wait_until_idle(learner)
    answer(learner, 2)
    learner.get_by_role("button", name="Open this in the dashboard").click()
    expect(learner.get_by_test_id("stSidebarNav")).to_be_visible()
    expect(learner.locator("h1")).not_to_have_text(re.compile(r"^\d"))
    wait_until_idle(learner)
    assert linked(learner, "show") is None
    for key, word in LESSONS[name].link.items():
        if key == "layer":  # the link drops it where it is the one that a run shows first
            expect(layer_picker(learner)).to_have_value(word)
        else:
            expect_link(learner, key, lambda said, word=word: said == word)


def test_one_step_back_leads_to_the_lesson_before(dashboard_url: str, page: Page) -> None:
    visit(page, f"{dashboard_url}/learn?lesson=steps&bits=3")
    answer(page, 1)
    expect_link(page, "bits", lambda bits: bits == "3")
    title = page.locator(".st-key-learn_head h3")
    before = title.inner_text()
    page.get_by_role("button", name="Next").click()
    expect(title).not_to_have_text(before)
    expect_link(page, "bits", lambda bits: bits is None)
    wait_until_idle(page)

    page.go_back()
    expect(title).to_have_text(before)
    wait_until_idle(page)

    page.go_back()
    expect_link(page, "bits", lambda bits: bits == "3")
    expect(title).to_have_text(before)


def test_the_handout_prints_one_sheet_a_lesson(
    dashboard_url: str, page: Page, tmp_path: Path
) -> None:
    visit(page, f"{dashboard_url}/learn")
    lessons = page.locator(".st-key-learn_path button").count()
    page.get_by_role("button", name="For teachers").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="All lessons for print").click()
    file = tmp_path / "lessons.html"
    download.value.save_as(file)

    page.goto(file.as_uri())
    expect(page.locator("section")).to_have_count(lessons)
    drawn, asked = page.locator("figure svg.main-svg:first-child"), page.locator("figure")
    expect(drawn).to_have_count(asked.count())
    printed = page.pdf(prefer_css_page_size=True)
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) == lessons
    widest = "all => Math.max(...all.map(e => e.getBoundingClientRect().right))"
    assert page.eval_on_selector_all("svg", widest) <= page.locator("body").evaluate(
        "e => e.getBoundingClientRect().right + 1"
    )


def assert_large_and_on_one_screen(page: Page) -> None:
    """Go through the slides of one lesson: text of at least 22 pixels, nothing to scroll to."""
    for _ in range(4):
        sizes = page.eval_on_selector_all(
            ".stMain .main-svg text, .stMain p, .stMain h2, .stMain h3",
            "all => all.filter(e => e.checkVisibility() && e.textContent && !e.closest('button'))"
            ".map(e => parseFloat(getComputedStyle(e).fontSize))",
        )
        assert min(sizes) >= 22
        assert page.evaluate("document.querySelector('.stMain').scrollHeight") <= 1080
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(300)
        wait_until_idle(page)
