"""Every page that shows a run or a prediction says what its figures were judged by."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dashboard.words.judging import judged_text
from tests.dashboard.app_harness import assert_alive, open_app, texts
from tests.dashboard.factories import make_report

LINE = "Judged on 400 samples: the output as logits by KL."
PAGES = (
    "start/start",
    "experiment/experiment",
    "layer/layer",
    "sensitivity/sensitivity",
    "what_if/what_if",
    "compare/compare",
)


@pytest.mark.parametrize("page", PAGES)
def test_the_page_says_once_what_was_judged(page: str) -> None:
    app = open_app({"run": "mobilenet_unequal_channels int8_per_tensor"}, page=f"views/{page}.py")

    assert_alive(app)
    assert texts(app).count(LINE) == 1


def test_the_line_names_calibration_samples_and_what_a_report_does_not_say() -> None:
    report = replace(make_report(), evaluated_on_calibration_data=True, judged="judged: it by X")

    assert judged_text(report).endswith("calibration samples: it by X.")
    assert "not known" in judged_text(replace(report, judged=""))
