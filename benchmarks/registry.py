"""What can be measured: a topic is one module in `benchmarks/topics/` with one registered function.

A topic prints its own table while it measures, and returns plain values for the JSON file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Options:
    """What the command line asks for; a topic reads what it needs.

    Attributes:
        models: Sample models to measure.
        rounds: How often each task is timed.
        samples: Length of a long stream of samples.
        batch_size: Samples per batch.
        cold_rounds: Fresh processes a model.
    """

    models: tuple[str, ...] = ("resnet",)
    rounds: int = 5
    samples: int = 20_000
    batch_size: int = 256
    cold_rounds: int = 3


Topic: TypeAlias = Callable[[Options], Any]

_TOPICS: dict[str, Topic] = {}


def register_topic(name: str) -> Callable[[Topic], Topic]:
    """Make a function known by a name; the first line of its docstring says what it measures."""

    def register(topic: Topic) -> Topic:
        if name in _TOPICS:
            raise ValueError(f"Two topics are called {name!r}.")
        _TOPICS[name] = topic
        return topic

    return register


def list_topics() -> Mapping[str, Topic]:
    """Return every registered topic by name, sorted."""
    return dict(sorted(_TOPICS.items()))
