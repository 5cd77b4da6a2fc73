"""Compute the stored numbers of lessons again: `python -m dashboard.build_lessons [lesson ...]`.

Only lessons that run whole models need them; all others compute while the page is drawn.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Mapping, Sequence

from dashboard.work.lessons import loud, ruler, sums
from dashboard.work.lessons.numbers import LessonNumbers, write_numbers

MEASUREMENTS: Mapping[str, Callable[[], LessonNumbers]] = {
    "loud": loud.measure,
    "ruler": ruler.measure,
    "sum": sums.measure,
}
"""What a lesson needs to have measured, by its name."""

_LOG = logging.getLogger("build_lessons")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the named lessons, or all of them."""
    parser = argparse.ArgumentParser(prog="python -m dashboard.build_lessons", description=__doc__)
    parser.add_argument(
        "lessons", nargs="*", metavar="lesson", help=f"of {', '.join(MEASUREMENTS)}"
    )
    chosen = parser.parse_args(arguments).lessons or list(MEASUREMENTS)
    unknown = sorted(set(chosen) - set(MEASUREMENTS))
    if unknown:
        parser.error(f"no lesson {unknown[0]!r} is stored; there are {', '.join(MEASUREMENTS)}")
    for name in chosen:
        path = write_numbers(name, MEASUREMENTS[name]())
        _LOG.info("%s: %.1f kB", path.name, path.stat().st_size / 1000)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
