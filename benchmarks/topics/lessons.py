"""Milliseconds from moving a lesson's control to its new figures: the engine's and the page's."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.measure import Spread
from benchmarks.registry import Options, register_topic
from dashboard.views.learn.catalogue import default_values, find_lessons
from dashboard.views.learn.lesson import Control, Lesson
from tests.dashboard.app_harness import assert_alive, open_app, use_home

PAGE = "views/learn/learn.py"
AIM_MS = 150.0


@dataclass(frozen=True)
class Moves:
    """What moving the controls of a lesson takes, in milliseconds.

    Attributes:
        engine: Of the lesson's own function, for a value that nobody has asked for.
        page: Of the page's script, for a value that was computed before.
        worst: The slowest answer of the function.
    """

    engine: Spread
    page: Spread
    worst: float


@register_topic("lessons")
def measure(options: Options) -> dict[str, Any]:
    """Milliseconds from moving a lesson's control to the page that shows it."""
    print("\nMoving the control of a lesson, in milliseconds, medians; without the browser's part.")
    print(f"Aim for the engine: under {AIM_MS:g}.\n")
    print(f"{'lesson':<16}{'values':>7}{'engine':>9}{'slowest':>9}{'page':>8}")
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as home, pytest.MonkeyPatch.context() as patch:
        use_home(patch, Path(home))
        for lesson in find_lessons():
            if not lesson.controls:
                continue
            moves = measure_lesson(lesson, options.rounds)
            result[lesson.name] = asdict(moves)
            print(
                f"{lesson.name:<16}{len(lesson.controls[0].options):>7}"
                f"{moves.engine.median:>9.1f}{moves.worst:>9.1f}{moves.page.median:>8.1f}"
            )
    medians = [one["engine"]["median"] for one in result.values()]
    print(f"\nMedian of the lessons: {statistics.median(medians):.1f}")
    return result


def measure_lesson(lesson: Lesson, rounds: int) -> Moves:
    """Move the first control through all its values, some times."""
    control = lesson.controls[0]
    start = default_values(lesson)
    lesson.show(start)  # loads the model
    engine = [
        _milliseconds(lambda value=value: lesson.show({**start, control.name: value}))
        for _ in range(rounds)
        for value in control.options
    ]
    return Moves(Spread.of(engine), Spread.of(_page_times(lesson, control, rounds)), max(engine))


def _page_times(lesson: Lesson, control: Control, rounds: int) -> list[float]:
    app = open_app({"lesson": lesson.name}, page=PAGE)
    app.button(key=f"learn_answer_{lesson.name}_0").click().run()
    times = []
    for turn in range(rounds + 1):
        for value in control.options:
            app.session_state[control.name] = value
            taken = _milliseconds(app.run)
            assert_alive(app)
            times += [taken] if turn else []  # the first turn computes
    return times


def _milliseconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - began)
