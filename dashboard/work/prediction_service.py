"""Calls into the engine about predictions: measuring one, checking it, searching with it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import quant_engine
import sample_models
from dashboard.data.prediction import Configuration, Prediction, bare_settings, options_of
from dashboard.data.prediction_files import pack_prediction, unpack_prediction
from dashboard.data.settings import Settings
from dashboard.data.stories import example_stem, story_settings
from dashboard.work import service
from dashboard.work.service import Control
from quant_engine import LogitResponse
from quant_engine.progress import in_part
from quant_engine.report import ConfigurationPoint
from quant_engine.response import as_pairs

EXAMPLE_SUFFIX = ".prediction.npz"
MAX_IN_MEMORY = 4
FRONTIER_POINTS = 20
CANDIDATES = 4  # configurations that are run to take the best measured
MEASURED_SHARE = 0.85  # of the time that a prediction takes; the frontier takes the rest


def measure_prediction(settings: Settings, control: Control) -> Prediction:
    """Measure what predicts the model of these settings; takes seconds, reports to `control`."""
    settings = bare_settings(settings)
    recipe = settings.recipe
    response = LogitResponse.measure(
        sample_models.load_model(settings.model_name),
        service.calibration_batches(settings),
        recipe,
        options=options_of(recipe),
        evaluation_data=service.evaluation_batches(settings.model_name),
        seed=settings.seed,
        progress=in_part(control.progress, 0.0, MEASURED_SHARE),
    )
    progress = in_part(control.progress, MEASURED_SHARE, 1.0)
    frontier = quant_engine.pareto_frontier(response, points=FRONTIER_POINTS, progress=progress)
    return Prediction(response, frontier)


def verify(
    settings: Settings,
    prediction: Prediction,
    configurations: Sequence[Configuration],
    control: Control,
) -> tuple[ConfigurationPoint, ...]:
    """Run the model under configurations; takes seconds and reports to `control`."""
    settings = bare_settings(settings)
    scores = quant_engine.verify_configurations(
        sample_models.load_model(settings.model_name),
        service.calibration_batches(settings),
        prediction.response,
        configurations,
        evaluation_data=service.evaluation_batches(settings.model_name),
        progress=control.progress,
    )
    return tuple(
        ConfigurationPoint(as_pairs(chosen), prediction.score(chosen), measured)
        for chosen, measured in zip(configurations, scores, strict=True)
    )


def find_best(prediction: Prediction, by: str, budget: float) -> dict[str, str]:
    """Return the configuration with the least predicted degradation within a budget.

    Args:
        prediction: What predicts.
        by: "bytes", "bits" (bits per weight, codes alone) or "float_layers".
        budget: The most of it.

    Raises:
        SchemeError: If no configuration keeps to the budget; the message says what the least is.
    """
    return quant_engine.search_configuration(prediction.response, **_budget(by, budget)).as_dict()


def search_measured(
    settings: Settings, prediction: Prediction, by: str, budget: float, control: Control
) -> tuple[ConfigurationPoint, ...]:
    """Run the few configurations predicted best within a budget; the best measured comes first.

    Takes seconds and reports to `control`. Arguments and errors as in `find_best`.
    """
    settings = bare_settings(settings)
    return quant_engine.search_measured(
        sample_models.load_model(settings.model_name),
        service.calibration_batches(settings),
        prediction.response,
        **_budget(by, budget),
        candidates=CANDIDATES,
        evaluation_data=service.evaluation_batches(settings.model_name),
        progress=control.progress,
    )


def _budget(by: str, budget: float) -> dict[str, Any]:
    """Return a budget as the engine's searches take it."""
    if by == "bytes":
        return {"model_bytes": round(budget)}
    return {"weight_bits": float(budget)} if by == "bits" else {"float_layers": int(budget)}


def example_path(name: str) -> Path:
    """Return where a stored prediction lies; `name` as for `service.example_run`."""
    return service.EXAMPLES / f"{name}{EXAMPLE_SUFFIX}"


def write_example(prediction: Prediction, name: str) -> Path:
    """Write a prediction to come with the dashboard; return where it lies."""
    path = example_path(name)
    path.write_bytes(pack_prediction(prediction, is_small=True))
    return path


def find_example(settings: Settings) -> Prediction | None:
    """Return the stored prediction for these settings, or None."""
    bare = bare_settings(settings)
    for told in story_settings():
        if bare == bare_settings(told):
            return example_prediction(example_stem(told))
    card = service.model_card(settings.model_name).example
    if card is None or bare_settings(card.settings) != bare:
        return None
    return example_prediction(settings.model_name)


@lru_cache(maxsize=MAX_IN_MEMORY)
def example_prediction(name: str) -> Prediction | None:
    """Return a stored prediction, or None if there is none that can be read."""
    return service.read_stored(
        example_path(name), lambda path: unpack_prediction(path.read_bytes())
    )
