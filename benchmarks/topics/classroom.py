"""What a class of thirty asks of the dashboard, and how large its pages are."""

from __future__ import annotations

import resource
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import Spread
from benchmarks.registry import Options, register_topic
from dashboard.views.learn.catalogue import find_lessons
from tests.browser.harness import run_server
from tests.visitors import Visit, visit

LEARNERS = 30
SHORT, LONG = 20.0, 50.0
"""Seconds that a class watches its lesson; what it costs to watch is the difference."""
LESSON = "range"
PAGES = ("", "experiment", "sensitivity", "what_if", "layer", "compare", "size-time")
TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class Watching:
    """A class whose learners have all answered, and watch the bars of their class.

    Attributes:
        first_figure: Seconds from opening the link to the first figure.
        polls_per_second: How often all of them together ask for the bars again.
        cpu: Processor seconds of the server in a second of watching.
    """

    first_figure: Spread
    polls_per_second: float
    cpu: float


@register_topic("classroom")
def measure(options: Options) -> dict[str, Any]:
    """What thirty learners of a class cost the server, and how large the pages are."""
    short, long = (_watch(seconds) for seconds in (SHORT, LONG))
    first = [seen.first_figure for seen in long[0] if seen.first_figure is not None]
    watching = Watching(
        Spread.of(first),
        (_polls(long[0]) - _polls(short[0])) / (LONG - SHORT),
        (long[1] - short[1]) / (LONG - SHORT),
    )
    print(f"\n{LEARNERS} learners of a class, all of whom have answered, {len(first)} saw figures.")
    print(f"First figure after {watching.first_figure.median:.1f} s (median).")
    print(
        f"Then {watching.polls_per_second:.1f} looks a second, which take the server "
        f"{100 * watching.cpu:.0f} % of one processor.\n"
    )
    sizes = _page_sizes()
    print(f"{'page':<22}{'kB':>8}{'figures':>9}")
    for name, (size, figures) in sizes.items():
        print(f"{name:<22}{size / 1000:>8.0f}{figures:>9}")
    return {"watching": asdict(watching), "page_bytes": {name: s for name, (s, _) in sizes.items()}}


def _watch(seconds: float) -> tuple[list[Visit], float]:
    """Let a class watch its lesson; return what was seen, and the server's processor seconds."""
    before = _children_seconds()
    with tempfile.TemporaryDirectory() as folder, run_server(Path(folder) / "log") as url:
        seen = visit(
            url,
            f"lesson={LESSON}&show=all&class=benchmark1",
            count=LEARNERS,
            timeout=seconds,
            page="learn",
            cookies=[_answered(LESSON, learner) for learner in range(LEARNERS)],
        )
    return seen, _children_seconds() - before


def _page_sizes() -> dict[str, tuple[int, int]]:
    """Return what the server sends for each page and each answered lesson, in bytes, and figures.

    The page's own program, a few MB that a browser keeps, is not in it.
    """
    found = {}
    with tempfile.TemporaryDirectory() as folder, run_server(Path(folder) / "log") as url:
        for page in PAGES:
            (seen,) = visit(url, "", count=1, timeout=TIMEOUT_SECONDS, page=page)
            found[page or "start"] = seen.bytes, seen.figures
        for lesson in find_lessons():
            (seen,) = visit(
                url,
                f"lesson={lesson.name}",
                count=1,
                timeout=TIMEOUT_SECONDS,
                page="learn",
                cookies=[_answered(lesson.name, 0)],
            )
            found[f"learn, {lesson.name}"] = seen.bytes, seen.figures
    return found


def _answered(lesson: str, learner: int) -> str:
    """What the browser of a learner remembers who has answered a lesson."""
    return f"lessons={learner:016x}.{lesson}-0"


def _polls(seen: list[Visit]) -> int:
    return sum(one.polls for one in seen)


def _children_seconds() -> float:
    """Processor seconds of the processes that have ended, among them the server."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
