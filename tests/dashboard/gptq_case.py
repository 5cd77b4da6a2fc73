"""A prediction in which layers can be rounded by GPTQ, measured once for all tests."""

from __future__ import annotations

from functools import cache

from dashboard.data.prediction import Prediction, options_of
from dashboard.data.settings import Settings
from dashboard.work import service
from quant_engine import LogitResponse, pareto_frontier
from sample_models import load_model

GPTQ_MODEL = "mlp"


class Quiet:
    """A control that nobody watches."""

    def progress(self, done: int, total: int, text: str) -> None:
        """Do nothing."""

    def on_update(self, snapshot: object) -> None:
        """Do nothing."""


@cache
def predict_with_gptq() -> Prediction:
    """Measure the smallest sample as the page does, but checked and searched less: a second."""
    settings = Settings(GPTQ_MODEL)
    response = LogitResponse.measure(
        *(load_model(GPTQ_MODEL), service.calibration_batches(settings), settings.recipe),
        options=options_of(settings.recipe),
        evaluation_data=service.evaluation_batches(GPTQ_MODEL),
        agreement_configurations=2,
        agreement_samples=1,
    )
    return Prediction(response, pareto_frontier(response, points=2))
