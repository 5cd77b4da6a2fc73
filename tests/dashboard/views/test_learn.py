"""The Learn page: asks first, answers with the engine, and holds its state in the link."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import plotly.graph_objects as go
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from dashboard.figures.kit.picture import Picture
from dashboard.views.learn import answers, catalogue
from dashboard.views.learn.answers import answers_from_text, answers_to_text
from dashboard.views.learn.catalogue import find_outcome
from dashboard.views.learn.class_votes import (
    MOST_CLASSES,
    MOST_LESSONS,
    MOST_VOTERS,
    ClassVotes,
    class_votes,
    is_key,
)
from dashboard.views.learn.lesson import Control, Lesson, Outcome, Values
from dashboard.views.learn.teacher import link_words
from tests.dashboard.app_harness import (
    assert_alive,
    button,
    figure,
    figures,
    link_of,
    open_app,
    texts,
)

PAGE = "views/learn/learn.py"
LEARNER = "0123456789abcdef"


def show_bits(values: Values) -> Outcome:
    bits = int(values["bits"])
    figure = go.Figure(go.Bar(x=["codes"], y=[2**bits]), layout={"title": {"text": "Codes"}})
    return Outcome(
        right=1,
        truth="Eight bits count 256 codes.",
        pictures=(
            Picture(
                figure,
                f"{bits} bits make {2**bits} codes.",
                ("Every bar is a width.",),
                lambda: [{"bits": bits}],
                "codes",
            ),
        ),
        insight=f"One bit more than {bits} doubles the codes.",
        computed="Computed now, by counting.",
    )


def a_lesson(name: str, show: Callable[[Values], Outcome] = show_bits) -> Lesson:
    return Lesson(
        name=name,
        title=f"How many codes are in {name}?",
        text="A code is a whole number.",
        question="How many codes do 8 bits have?",
        answers=("255", "256", "Eight"),
        controls=(Control("bits", "Bits", ("2", "4", "8"), "8", "Bits of a code."),),
        show=show,
        page="views/layer/layer.py",
        link={"run": "mlp int8_per_channel", "layer": "network.3"},
        terms=("code",),
    )


@pytest.fixture(autouse=True)
def lessons(monkeypatch: pytest.MonkeyPatch) -> tuple[Lesson, ...]:
    found = (a_lesson("first"), a_lesson("second"))
    monkeypatch.setattr(catalogue, "find_lessons", lambda: found)
    return found


def answer(app: AppTest, name: str, index: int) -> AppTest:
    return app.button(key=f"learn_answer_{name}_{index}").click().run()


def test_before_an_answer_nothing_tells_it() -> None:
    app = open_app({"lesson": "second", "bits": "4"}, page=PAGE)

    assert_alive(app)
    assert "How many codes do 8 bits have?" in texts(app)
    assert not figures(app)
    assert [download.key for download in app.get("download_button")] == ["learn_print_all"]
    for told in ("Eight bits count", "16 codes", "doubles", "by counting", "right"):
        assert told not in texts(app).replace("right: 0", ""), told


def test_the_answer_is_computed_while_the_question_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Values] = []

    def show(values: Values) -> Outcome:
        asked.append(values)
        return show_bits(values)

    monkeypatch.setattr(catalogue, "find_lessons", lambda: (a_lesson("ahead", show),))
    app = open_app(page=PAGE)
    assert asked == [{"bits": "8"}]
    assert not figures(app)

    answer(app, "ahead", 1)

    assert len(asked) == 1


def test_a_wrong_answer_stands_beside_the_truth() -> None:
    app = answer(open_app(page=PAGE), "first", 0)

    assert_alive(app)
    said = texts(app)
    for words in ("You said", "wrong", "255", "It is", "**256**", "Eight bits count 256 codes."):
        assert words in said, words
    assert "One bit more than 8 doubles the codes." in said
    assert "Computed now, by counting." in said
    assert len(figures(app)) == 1
    assert "Answered: 1 of 2; right: 0." in said
    assert "(wrong)" in app.button(key="learn_open_first").label


def test_a_right_answer_is_called_right() -> None:
    app = answer(open_app(page=PAGE), "first", 1)

    assert "You said, and that is right" in texts(app)
    assert "(right)" in app.button(key="learn_open_first").label


def test_a_link_opens_a_lesson_with_its_control() -> None:
    app = answer(open_app({"lesson": "second", "bits": "4"}, page=PAGE), "second", 1)

    assert "4 bits make 16 codes." in texts(app)
    assert "One bit more than 4" in texts(app)
    assert "Eight bits count 256 codes." in texts(app)  # the question was about 8
    assert link_of(app) == {"lesson": "second", "bits": "4"}  # and no answer


def test_next_asks_the_next_question_with_its_own_control() -> None:
    app = answer(open_app({"bits": "4"}, page=PAGE), "first", 1)

    app.button(key="learn_next").click().run()

    assert_alive(app)
    assert link_of(app)["lesson"] == "second"
    assert not figures(app)
    assert "8 bits make 256 codes." in texts(answer(app, "second", 0))
    assert app.button(key="learn_next").disabled


def test_an_unknown_lesson_falls_back_to_the_first() -> None:
    app = open_app({"lesson": "<b>none"}, page=PAGE)

    assert_alive(app)
    assert "The link's lesson is" in texts(app)
    assert "Allowed: first, second." in texts(app)
    assert "How many codes are in first?" in texts(app)


def test_a_value_that_a_control_does_not_have_falls_back_to_its_default() -> None:
    app = open_app({"lesson": "first", "bits": "99"}, page=PAGE)

    assert "The link's bits is “99”. Allowed: 2, 4, 8." in texts(app)
    assert "8 bits make 256 codes." in texts(answer(app, "first", 1))


def test_start_again_forgets_all_answers() -> None:
    app = answer(open_app(page=PAGE), "first", 1)

    button(app, "Start again").click().run()

    assert "Answered: 0 of 2; right: 0." in texts(app)
    assert not figures(app)


def test_one_answer_can_be_given_again() -> None:
    app = answer(open_app(page=PAGE), "first", 0)

    button(app, "Answer again").click().run()
    answer(app, "first", 1)

    assert "You said, and that is right" in texts(app)


def test_the_dashboard_opens_on_what_the_lesson_is_about() -> None:
    app = answer(open_app(page=PAGE), "first", 1)

    button(app, "Open this in the dashboard").click().run()

    assert_alive(app)
    assert app.title[0].value == "Layer"
    assert app.selectbox(key="layer").value == "network.3"
    assert app.text_input(key="run").value == "mlp int8_per_channel"


def test_a_handed_out_link_shows_the_lesson_and_nothing_else() -> None:
    app = answer(open_app({"lesson": "first", "bits": "4", "show": "none"}, page=PAGE), "first", 1)

    assert_alive(app)
    assert app.title[0].value == "1. How many codes are in first?"
    assert not app.sidebar.children
    assert "Answered:" not in texts(app)
    assert not app.code
    assert not app.get("select_slider")
    assert "4 bits make 16 codes." in texts(app)  # as the link says, though nobody can move it


@pytest.mark.parametrize(("link", "position"), [({"show": "none"}, "hidden"), ({}, "sidebar")])
def test_a_handed_out_link_leads_to_no_other_page(
    link: dict[str, str], position: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    navigation = st.navigation

    def note(pages: Any, **options: Any) -> Any:
        asked.append(options["position"])
        return navigation(pages, **options)

    monkeypatch.setattr(st, "navigation", note)
    assert_alive(open_app({"lesson": "first", **link}, page=PAGE))

    assert set(asked) == {position}


def test_a_handed_out_link_has_the_controls_that_it_names() -> None:
    app = answer(open_app({"lesson": "first", "show": "bits"}, page=PAGE), "first", 1)

    app.select_slider(key="bits").set_value("2").run()

    assert "2 bits make 4 codes." in texts(app)
    assert not app.sidebar.children


def test_a_control_that_no_lesson_has_is_told() -> None:
    app = open_app({"lesson": "first", "show": "colour"}, page=PAGE)

    assert "The link's show is “colour”. Allowed: all, none, bits." in texts(app)
    assert answer(app, "first", 1).select_slider(key="bits").options == ["2", "4", "8"]


def test_the_way_to_the_dashboard_leaves_the_handed_out_page() -> None:
    app = answer(open_app({"lesson": "first", "show": "none"}, page=PAGE), "first", 1)

    button(app, "Open this in the dashboard").click().run()

    assert app.title[0].value == "Layer"
    assert app.sidebar.children
    assert "show" not in link_of(app)


def test_the_word_show_means_nothing_elsewhere() -> None:
    app = open_app({"show": "none"})

    assert_alive(app)
    assert app.sidebar.children
    assert "show" not in link_of(app)


def test_a_teachers_link_opens_what_the_teacher_sees(lessons: tuple[Lesson, ...]) -> None:
    app = open_app({"lesson": "second", "bits": "4"}, page=PAGE)

    address = str(app.code[0].value)
    words = dict(parse_qsl(urlsplit(address).query))

    key = words.pop("class")
    assert is_key(key)
    assert words == {"lesson": "second", "bits": "4", "show": "all"}
    assert link_words(lessons[0], {"bits": "8"}, (), "") == [("lesson", "first"), ("show", "none")]
    app.run()
    assert key in str(app.code[0].value)


def test_a_class_counts_each_learner_once_and_shows_the_bars_after_the_answer() -> None:
    key = "abcdefgh1234"
    class_votes().vote(key, "first", "another", 1)
    app = open_app({"lesson": "first", "show": "none", "class": key}, page=PAGE)
    assert "Class: 1 answer so far." in texts(app)
    assert not figures(app)

    answer(app, "first", 0)
    assert "In the class, 1 of 2 said “256”, which is right." in texts(app)
    assert figure(app, "What the class answered")["data"][0]["x"] == [1, 1, 0]
    button(app, "Answer again").click().run()
    answer(app, "first", 1)

    assert "In the class, 2 of 2 said “256”, which is right." in texts(app)


def test_a_class_that_is_none_is_told_and_counts_nothing() -> None:
    app = open_app({"lesson": "first", "class": "<b>"}, page=PAGE)

    assert "which is no key of a class" in texts(app)
    assert "class" not in link_of(app)
    assert "Class:" not in texts(app)


def test_votes_are_bounded_and_the_class_unused_longest_goes_first() -> None:
    votes = ClassVotes()
    for number in range(MOST_CLASSES + 1):
        votes.vote(f"class{number:04}", "first", "one", 0)
    for number in range(MOST_VOTERS + 5):
        votes.vote("class0002", "first", f"voter{number}", 1)
    for number in range(MOST_LESSONS + 5):
        votes.vote("class0003", f"lesson{number}", "one", 1)

    assert votes.counts("class0000", "first", 2) == (0, 0)
    assert votes.counts("class0001", "first", 2) == (1, 0)
    assert sum(votes.counts("class0002", "first", 2)) == MOST_VOTERS
    assert votes.vote("class0002", "first", "voter7", 0)  # may still change
    assert votes.counts("class0002", "first", 2) == (2, MOST_VOTERS - 2)
    assert votes.counts("class0003", f"lesson{MOST_LESSONS}", 2) == (0, 0)


def test_votes_of_many_threads_are_all_counted() -> None:
    votes = ClassVotes()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: votes.vote("class0000", "first", f"v{n % 100}", n % 2), range(400)))

    assert votes.counts("class0000", "first", 2) == (50, 50)


def test_slides_show_the_question_the_truth_the_figure_and_what_to_take_home() -> None:
    app = open_app({"lesson": "first", "bits": "4", "present": "1"}, page=PAGE)
    seen = []
    for _ in range(5):
        assert_alive(app)
        seen.append((texts(app), len(figures(app))))
        app.button(key="slide_next").click().run()
    question, truth, drawn, insight, after = seen

    assert "How many codes do 8 bits have?" in question[0]
    assert "256 codes" not in question[0]
    assert "Answer 2: 256" in truth[0]
    assert "Answer 2" not in question[0]
    assert [number for _, number in seen] == [0, 0, 1, 0, 0]
    assert "4 bits make 16 codes." in drawn[0]
    assert "One bit more than 4" in insight[0]
    assert "2. How many codes are in second?" in after[0]
    assert "Answer 2" not in after[0]


def test_the_browser_keeps_answers_over_a_reload(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "remembered", lambda _: f"{LEARNER}.second-0.first-7.gone-1")

    app = open_app({"lesson": "second"}, page=PAGE)

    assert "You said, but that is wrong" in texts(app)
    assert "Your answer to “How many codes are in first?”" in texts(app)
    assert "belongs to a lesson that is gone" in texts(app)


def test_answers_are_read_as_they_are_written(lessons: tuple[Lesson, ...]) -> None:
    given = {"second": 2, "first": 0}

    assert answers_from_text(answers_to_text(LEARNER, given), lessons) == (LEARNER, given, [])


@pytest.mark.parametrize("text", ["", "x", "first-1", f"{LEARNER}0.first-1", "<script>.first-1"])
def test_a_memory_that_nobody_wrote_is_none(text: str, lessons: tuple[Lesson, ...]) -> None:
    assert answers_from_text(text, lessons) == (None, {}, [])


def test_thirty_visitors_at_once_share_one_computation() -> None:
    calls: list[str] = []
    together = threading.Barrier(30)
    begun = threading.Event()

    def show(values: Values) -> Outcome:
        calls.append(values["bits"])
        begun.wait(0.05)  # long enough for the others to come
        return show_bits(values)

    lesson = a_lesson("shared", show)

    def visit(bits: str) -> Outcome:
        together.wait()
        return find_outcome(lesson, {"bits": bits})

    with ThreadPoolExecutor(30) as pool:
        outcomes = list(pool.map(visit, ["2", "4"] * 15))

    assert sorted(calls) == ["2", "4"]
    assert len({id(outcome) for outcome in outcomes}) == 2


def test_a_lesson_that_fails_takes_down_only_itself(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(values: Values) -> Outcome:
        raise RuntimeError("no")

    found = (a_lesson("first", fail), a_lesson("second"))
    monkeypatch.setattr(catalogue, "find_lessons", lambda: found)

    app = answer(open_app(page=PAGE), "first", 0)

    assert_alive(app)
    assert "could not be drawn" in texts(app)
    app.button(key="learn_next").click().run()
    assert "How many codes are in second?" in texts(app)
    caplog.clear()
