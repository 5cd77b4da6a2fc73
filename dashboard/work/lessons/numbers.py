"""Numbers of lessons that take too long to compute while a page waits: stored once, read here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

STORED = Path(__file__).parents[2] / "examples" / "lessons"
MAX_LESSONS = 32


@dataclass(frozen=True, slots=True)
class LessonNumbers:
    """What the engine said for one lesson.

    Attributes:
        created: When, ISO 8601 in UTC.
        cpu: On which processor.
        values: The numbers, as JSON has them.
    """

    created: str
    cpu: str
    values: Mapping[str, Any]

    @property
    def origin(self) -> str:
        """When and where they were computed, in words.

        Example:
            >>> LessonNumbers("2026-11-29T05:00:00+00:00", "CPU", {}).origin
            'computed on 29 November 2026 by python -m dashboard.build_lessons on CPU'
        """
        day = datetime.fromisoformat(self.created)
        when = f"{day.day} {day:%B %Y}"
        return f"computed on {when} by python -m dashboard.build_lessons on {self.cpu}"


def numbers_path(name: str) -> Path:
    """Return where the numbers of a lesson lie."""
    return STORED / f"{name}.json"


@lru_cache(maxsize=MAX_LESSONS)
def read_numbers(name: str) -> LessonNumbers:
    """Return the stored numbers of a lesson."""
    return LessonNumbers(**json.loads(numbers_path(name).read_text(encoding="utf-8")))


def write_numbers(name: str, numbers: LessonNumbers) -> Path:
    """Store the numbers of a lesson and return where."""
    path = numbers_path(name)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(asdict(numbers), indent=1) + "\n", encoding="utf-8")
    return path
