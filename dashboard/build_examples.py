"""Compute the stored examples again: `python -m dashboard.build_examples [model ...]`.

A stored example is an analysis of a sample model under the usual settings or under those of a
story, with both sensitivities, and what predicts the model under any choice of bits. It gives the
pages figures without any computing, and names the machine its times belong to.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Sequence

from dashboard.data.prediction import Prediction
from dashboard.data.runs import Run, now, write_example
from dashboard.data.settings import Settings
from dashboard.data.stories import example_stem, story_settings
from dashboard.data.sweeps import Sweep
from dashboard.work import prediction_service, service
from quant_engine.sensitivity import DIRECTIONS

_LOG = logging.getLogger("build_examples")


class _NoControl:
    """A control that nobody watches."""

    def progress(self, done: int, total: int, text: str) -> None:
        """Ignore it."""

    def on_update(self, snapshot: Callable[[], object]) -> None:
        """Ignore it."""


def settings_of(model_name: str) -> tuple[Settings, ...]:
    """Return the settings that a model is stored under: the usual ones, and those of stories."""
    usual = Settings(model_name)
    told = (s for s in story_settings() if s.model_name == model_name and s.run_id != usual.run_id)
    return (usual, *told)


def build_example(settings: Settings) -> Run:
    """Analyse a model and measure its sensitivities.

    The faster of two analyses is kept, so that other work on the machine shows less.
    """
    control = _NoControl()
    analyses = []
    for _ in range(2):
        began = time.perf_counter()
        report = service.analyze_settings(settings, control)
        analyses.append((round(time.perf_counter() - began, 2), report))
    seconds, report = min(analyses, key=lambda timed: timed[0])
    measured = tuple(service.measure_settings(settings, Sweep(d), control) for d in DIRECTIONS)
    return Run(settings, report, measured, created=now(), seconds=seconds, is_example=True)


def build_prediction(settings: Settings) -> Prediction:
    """Measure what predicts a model under these settings, and run its frontier."""
    control = _NoControl()
    prediction = prediction_service.measure_prediction(settings, control)
    frontier = [point.as_dict() for point in prediction.frontier.points]
    points = prediction_service.verify(settings, prediction, frontier, control)
    return prediction.with_measured(points)


def main(arguments: Sequence[str] | None = None) -> None:
    """Build the examples of the named models, or of all of them."""
    names = service.model_names()
    parser = argparse.ArgumentParser(prog="python -m dashboard.build_examples", description=__doc__)
    parser.add_argument("models", nargs="*", metavar="model", help=f"of {', '.join(names)}")
    parser.add_argument("--only-predictions", action="store_true", help="keep the analyses")
    options = parser.parse_args(arguments)
    chosen = options.models or names
    unknown = sorted(set(chosen) - set(names))
    if unknown:
        parser.error(f"no model is called {unknown[0]!r}; there are {', '.join(names)}")
    for settings in (settings for name in chosen for settings in settings_of(name)):
        name = example_stem(settings)
        if not options.only_predictions:
            run = build_example(settings)
            path = service.example_path(name)
            write_example(run, path)
            _LOG.info("%s: %.1f s, %.0f kB", path.name, run.seconds, path.stat().st_size / 1000)
        path = prediction_service.write_example(build_prediction(settings), name)
        _LOG.info("%s: %.0f kB", path.name, path.stat().st_size / 1000)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
