"""What moving a lesson's control costs until its new figures are there: the engine and the page.

In milliseconds of the processor, which other work on the machine lengthens less than those of a
clock. On a machine without other work, and with one thread, both are the same.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.measure import Spread, cpu_milliseconds
from benchmarks.registry import Options, register_topic
from dashboard.views.learn.catalogue import default_values, find_lessons
from dashboard.views.learn.lesson import Lesson
from tests.dashboard.app_harness import assert_alive, open_app, use_home

PAGE = "views/learn/learn.py"
AIM_MS = 150.0


@dataclass(frozen=True)
class Moves:
    """What moving the controls of a lesson takes, in milliseconds of the processor.

    Attributes:
        first: Of the lesson's own function on a new server: what it loads is loaded. The page
            computes it while the question is read.
        engine: Of the same for every value of a control that nobody has asked for yet.
        page: Of the page's script, for a value that was computed before.
        worst: The slowest of these.
    """

    first: float
    engine: Spread
    page: Spread
    worst: float


@register_topic("lessons")
def measure(options: Options) -> dict[str, Any]:
    """Processor milliseconds from moving a lesson's control to the page that shows it."""
    print("\nMoving the control of a lesson, in processor milliseconds, without the browser.")
    print(f"Aim for the engine: under {AIM_MS:g}.\n")
    print(f"{'lesson':<16}{'values':>7}{'first':>9}{'engine':>9}{'slowest':>9}{'page':>8}")
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as home, pytest.MonkeyPatch.context() as patch:
        use_home(patch, Path(home))
        for lesson in find_lessons():
            if not lesson.controls:
                continue
            moves = measure_lesson(lesson, options.rounds)
            result[lesson.name] = asdict(moves)
            values = sum(len(control.options) for control in lesson.controls)
            print(
                f"{lesson.name:<16}{values:>7}{moves.first:>9.0f}"
                f"{moves.engine.median:>9.1f}{moves.worst:>9.1f}{moves.page.median:>8.1f}"
            )
    medians = [one["engine"]["median"] for one in result.values()]
    print(f"\nMedian of the lessons: {statistics.median(medians):.1f}")
    return result


def measure_lesson(lesson: Lesson, rounds: int) -> Moves:
    """Move each control through its values, once; then the first one on the page, some times."""
    start = default_values(lesson)
    first = cpu_milliseconds(lambda: lesson.show(start))
    engine = [
        cpu_milliseconds(lambda name=control.name, value=value: lesson.show({**start, name: value}))
        for control in lesson.controls
        for value in control.options
        if value != control.default  # the first answer, so computed before
    ]
    return Moves(first, Spread.of(engine), Spread.of(_page_times(lesson, rounds)), max(engine))


def _page_times(lesson: Lesson, rounds: int) -> list[float]:
    control = lesson.controls[0]
    app = open_app({"lesson": lesson.name}, page=PAGE)
    app.button(key=f"learn_answer_{lesson.name}_0").click().run()
    times = []
    for turn in range(rounds + 1):
        for value in control.options:
            app.session_state[control.name] = value
            taken = cpu_milliseconds(app.run)
            assert_alive(app)
            times += [taken] if turn else []  # the first turn computes
    return times
