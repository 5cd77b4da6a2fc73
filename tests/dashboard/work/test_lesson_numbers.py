"""Stored numbers of lessons: they are what the engine says."""

from __future__ import annotations

import pytest
import torch

import quant_engine
import sample_models
from dashboard import build_lessons
from dashboard.work import lesson_numbers, ruler, service


def test_every_lesson_that_is_measured_is_stored() -> None:
    for name in build_lessons.MEASUREMENTS:
        stored = lesson_numbers.read_numbers(name)
        assert stored.cpu in stored.origin
        assert stored.values


def test_an_unknown_lesson_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_lessons.main(["alchemy"])

    assert "alchemy" in capsys.readouterr().err


def test_the_stored_accuracy_of_equalization_is_what_the_engine_computes() -> None:
    settings = ruler.SETTINGS[ruler.EQUALIZE]
    model = quant_engine.quantize_model(
        sample_models.load_model(ruler.MODEL),
        service.calibration_batches(settings),
        settings.recipe,
    )
    with torch.inference_mode():
        right = sum(
            int((model(images).argmax(1) == labels).sum())
            for images, labels in service.evaluation_batches(ruler.MODEL)
        )

    stored = lesson_numbers.read_numbers("ruler").values
    assert right / stored["test_images"] == pytest.approx(
        stored["treatments"][ruler.EQUALIZE]["accuracy"],
        abs=0.0051,  # two digits: sums of another processor may tip one that is close
    )
