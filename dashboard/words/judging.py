"""What a report was judged by, as a sentence."""

from __future__ import annotations

from dashboard.words.formatting import plural
from quant_engine.report import ModelReport, ResponseReport, SensitivityReport


def judged_text(report: ModelReport | SensitivityReport | ResponseReport) -> str:
    """Return which outputs were judged, as what, by which metric, and on how many samples.

    Example: "Judged on 450 samples: the output as logits by KL."
    """
    judged = report.judged.removeprefix("judged: ") or "not known, as the report does not say"
    if not isinstance(report, ModelReport):
        return _sentence(judged, report.samples, "sample")
    kind = "calibration sample" if report.evaluated_on_calibration_data else "sample"
    return _sentence(judged, report.evaluation_samples, kind)


def _sentence(judged: str, samples: int, kind: str) -> str:
    return f"Judged on {plural(samples, kind)}: {judged}."
