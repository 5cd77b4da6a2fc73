"""Configurations worth choosing, predicted and measured side by side."""

from __future__ import annotations

from dataclasses import dataclass

from quant_engine.report.response import ConfigurationScore
from quant_engine.report.serialization import SCHEMA_VERSION, Report


@dataclass(frozen=True, slots=True)
class ConfigurationPoint:
    """A configuration and what it does.

    Attributes:
        configuration: Pairs (layer, option); layers left out are float.
        predicted: What the response predicts.
        measured: What running the model gave; None where it was not run.
        candidates: Configurations that were run, of which this one was measured best; 0 where it
            was chosen by prediction.
    """

    configuration: tuple[tuple[str, str], ...]
    predicted: ConfigurationScore
    measured: ConfigurationScore | None = None
    candidates: int = 0

    def as_dict(self) -> dict[str, str]:
        """Return the configuration as layer name -> option name."""
        return dict(self.configuration)


@dataclass(frozen=True, slots=True)
class FrontierReport(Report):
    """Configurations none of which is both larger and predicted worse than another.

    Attributes:
        points: From the smallest to the float model.
        verdict: How far the predictions can be trusted on this model.
        schema_version: Version of this layout.
    """

    points: tuple[ConfigurationPoint, ...]
    verdict: str
    schema_version: int = SCHEMA_VERSION
