"""Predictions for the run shown: finding, measuring and checking them in the background."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import streamlit as st

from dashboard.data.prediction import Configuration, MeasuredSearch, Prediction, prediction_id
from dashboard.data.runs import Run
from dashboard.data.settings import Settings
from dashboard.data.store import PredictionStore, default_home
from dashboard.session.jobs import jobs, prediction_key, search_key, submit_job, verification_key
from dashboard.session.link_widgets import rerun_outside_callback
from dashboard.session.notices import add_notice, drop_notices
from dashboard.session.state import session
from dashboard.words.formatting import format_number, plural
from dashboard.work import prediction_service, service
from dashboard.work.jobs import DONE, JobControl, JobStatus
from quant_engine.errors import BudgetError, QuantizationError, SchemeError
from quant_engine.report import ConfigurationPoint

_BUDGET = "budget"  # topic of what is said about the last search


@st.cache_resource(max_entries=4, show_spinner=False)
def _store_in(home: str) -> PredictionStore:
    return PredictionStore(Path(home))


def predictions() -> PredictionStore:
    """Return the stored predictions."""
    return _store_in(str(default_home()))


def find_prediction(settings: Settings) -> Prediction | None:
    """Return the prediction for these settings, measured here or stored, or None."""
    found = predictions().get(prediction_id(settings))
    return found or prediction_service.find_example(settings)


def prediction_status(settings: Settings) -> JobStatus | None:
    """Return the job that measures the prediction for these settings, or None."""
    return jobs().status(prediction_key(settings))


def verification_status(settings: Settings) -> JobStatus | None:
    """Return the job that runs configurations of these settings' model, or None."""
    return jobs().status(verification_key(settings))


def start_prediction(run: Run) -> None:
    """Measure what predicts the model of `run`, in the background, and keep it."""
    settings = run.settings
    kept = predictions()

    def finish(prediction: Any, _: float) -> Prediction:
        known = kept.get(prediction_id(settings))
        result: Prediction = prediction.with_measured(known.measured if known else ())
        kept.put(prediction_id(settings), result)
        return result

    def work(control: JobControl) -> Prediction:
        return prediction_service.measure_prediction(settings, control)

    title = f"Learning to predict {service.model_info(settings.model_name).title}"
    submit_job(prediction_key(settings), title, work, finish)
    rerun_outside_callback()


def start_verification(run: Run, configurations: Sequence[Configuration]) -> None:
    """Run configurations for real, in the background, and keep what that gives."""
    settings = run.settings
    prediction = find_prediction(settings)
    if prediction is None:
        return
    kept, known = predictions(), prediction

    def finish(points: Any, _: float) -> Prediction:
        result = (kept.get(prediction_id(settings)) or known).with_measured(points)
        kept.put(prediction_id(settings), result)
        return result

    def work(control: JobControl) -> tuple[ConfigurationPoint, ...]:
        return prediction_service.verify(settings, known, configurations, control)

    model = service.model_info(settings.model_name).title
    title = f"Verifying {plural(len(configurations), 'choice')} of bits by running {model}"
    submit_job(verification_key(settings), title, work, finish)
    rerun_outside_callback()


def start_search(run: Run, by: str, budget: float, words: str) -> None:
    """Search within a budget and run the best few, in the background; keep what that gives.

    Args:
        run: Whose model is searched for.
        by: As in `prediction_service.find_best`.
        budget: The most of it.
        words: The budget for people, such as "60 kB".
    """
    settings = run.settings
    prediction = find_prediction(settings)
    if prediction is None:
        return
    kept, known = predictions(), prediction

    def work(control: JobControl) -> MeasuredSearch:
        try:
            points = prediction_service.search_measured(settings, known, by, budget, control)
        except BudgetError as error:
            raise SchemeError(budget_words(error)) from error
        return MeasuredSearch(words, points)

    def finish(search: Any, _: float) -> MeasuredSearch:
        result = (kept.get(prediction_id(settings)) or known).with_measured(search.points)
        kept.put(prediction_id(settings), result)
        found: MeasuredSearch = search
        return found

    key, here = search_key(settings, by, budget), session()
    model = service.model_info(settings.model_name).title
    submit_job(key, f"Running the best choices of bits for {model} within {words}", work, finish)
    here.what_if_search, here.is_search_awaited = key, True
    drop_notices(_BUDGET)
    rerun_outside_callback()


def search_status(settings: Settings) -> JobStatus | None:
    """Return this session's job that runs what a search found for this model, or None."""
    key = session().what_if_search
    return jobs().status(key) if key.endswith(f":{prediction_id(settings)}") else None


def last_search(settings: Settings) -> MeasuredSearch | None:
    """Return what this session's last such search ran, while the server remembers it."""
    status = search_status(settings)
    return status.result if status is not None and status.state == DONE else None


def take_found(settings: Settings) -> dict[str, str] | None:
    """Return the best measured configuration once, when the search that found it has ended."""
    here, search = session(), last_search(settings)
    if search is None or not here.is_search_awaited:
        return None
    here.is_search_awaited = False
    return search.points[0].as_dict()


def find_best(run: Run, by: str, budget: float) -> dict[str, str] | None:
    """Return the best configuration within a budget; where there is none, say why.

    What was said about an earlier budget goes away.
    """
    prediction = find_prediction(run.settings)
    if prediction is None:
        return None
    try:
        found = prediction_service.find_best(prediction, by, budget)
    except QuantizationError as error:
        text = budget_words(error) if isinstance(error, BudgetError) else str(error)
        add_notice(text, topic=_BUDGET)
        return None
    drop_notices(_BUDGET)
    return found


def budget_words(error: BudgetError) -> str:
    """Say that a budget is too small, and what the smallest one is, in the page's own units.

    The smallest is rounded up, to what can be typed: as a budget, it can be kept to.

    Example:
        >>> budget_words(BudgetError("bytes", 10000, 74114))
        'No choice of bits fits into 10 kB: the smallest model takes 74.2 kB.'
        >>> budget_words(BudgetError("bits per weight", 0.5, 2.251))
        'No choice has 0.5 bits per weight or fewer: the least is 2.26.'
    """
    if error.what == "bytes":
        most, least = format_number(error.most / 1000), math.ceil(error.least / 100) / 10
        return f"No choice of bits fits into {most} kB: the smallest model takes {least:g} kB."
    if error.what == "bits per weight":
        most, least = format_number(error.most), math.ceil(error.least * 100) / 100
        return f"No choice has {most} bits per weight or fewer: the least is {least:g}."
    return (
        f"No choice of bits leaves at most {plural(round(error.most), 'layer')} in float: the "
        f"least is {round(error.least)}."
    )
