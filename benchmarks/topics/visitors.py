"""Seconds until many visitors of one link that nobody has computed see its figures."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import Spread
from benchmarks.registry import Options, register_topic
from tests.browser.harness import run_server
from tests.visitors import visit

VISITORS = (1, 10, 30)
TIMEOUT_SECONDS = 280.0


@dataclass(frozen=True)
class Crowd:
    """What so many visitors saw, in seconds from opening the link.

    Attributes:
        first_figure: Until the first figure stood; None if nobody saw one.
        finished: Until all figures stood and nothing was asked for again; None if for nobody.
        seen: Visitors who came that far.
        polls: How often all of them together asked again.
    """

    first_figure: Spread | None
    finished: Spread | None
    seen: int
    polls: int


@register_topic("visitors")
def measure(options: Options) -> dict[str, Any]:
    """Seconds until 1, 10 and 30 visitors of one new link see its figures."""
    print("\nVisitors who open one link at once that nobody has computed.")
    print("Seconds, median to third quartile.")
    print(f"They are given up on after {TIMEOUT_SECONDS:g} s.\n")
    print(
        f"{'model':<28}{'visitors':>9}{'first figure':>14}{'finished':>16}{'seen':>6}{'polls':>7}"
    )
    result: dict[str, Any] = {}
    for name in options.models:
        for count in VISITORS:
            crowd = measure_crowd(name, count)
            result[f"{name}, {count} visitors"] = asdict(crowd)
            print(
                f"{name:<28}{count:>9}{_text(crowd.first_figure):>14}{_text(crowd.finished):>16}"
                f"{crowd.seen:>6}{crowd.polls:>7}"
            )
    return result


def measure_crowd(model: str, count: int) -> Crowd:
    """Open a link as so many visitors of a server that has just started and drawn one page."""
    with tempfile.TemporaryDirectory() as folder, run_server(Path(folder) / "log") as url:
        visit(url, "", count=1, timeout=TIMEOUT_SECONDS)  # loads the stored example, for everybody
        seen = visit(url, f"model={model}&seed=7", count=count, timeout=TIMEOUT_SECONDS)
    first = [one.first_figure for one in seen if one.first_figure is not None]
    finished = [one.finished for one in seen if one.finished is not None]
    return Crowd(
        first_figure=Spread.of(first) if first else None,
        finished=Spread.of(finished) if finished else None,
        seen=len(finished),
        polls=sum(one.polls for one in seen),
    )


def _text(seconds: Spread | None) -> str:
    return "-" if seconds is None else f"{seconds.median:.1f} to {seconds.q3:.1f}"
