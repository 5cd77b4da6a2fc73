"""Tiny sensitivity reports with hand-picked numbers, for tests that need to know every value."""

from __future__ import annotations

from collections.abc import Sequence

from quant_engine.report import CumulativePoint, LayerSensitivity, SensitivityReport
from quant_engine.scheme import Recipe


def make_layer(
    name: str,
    kl: float | None = 0.1,
    interval: tuple[float, float] | None = None,
    *,
    sqnr_db: float = 30.0,
    nmse: float = 1e-3,
    top1: float | None = 1.0,
    drop: float | None = 0.0,
    float_bytes: int = 4000,
    quantized_bytes: int = 1000,
) -> LayerSensitivity:
    centre = nmse if kl is None else kl
    return LayerSensitivity(
        name=name,
        option="int8 weights + int8 input",
        kl_divergence=kl,
        interval=interval or (centre, centre),
        sqnr_db=sqnr_db,
        nmse=nmse,
        top1_agreement=top1,
        accuracy_drop=drop,
        float_bytes=float_bytes,
        quantized_bytes=quantized_bytes,
        parameters=float_bytes // 4,
        value=centre,
    )


def make_report(
    layers: Sequence[LayerSensitivity],
    *,
    direction: str = "one_at_a_time",
    reference: LayerSensitivity | None = None,
    cumulative: Sequence[CumulativePoint] = (),
    samples: int = 100,
    accuracy_float: float | None = 0.9,
    is_partial: bool = False,
) -> SensitivityReport:
    return SensitivityReport(
        model_name="tiny",
        recipe=Recipe.default(),
        direction=direction,
        layers=tuple(layers),
        reference=reference,
        cumulative=tuple(cumulative),
        samples=samples,
        accuracy_float=accuracy_float,
        seed=0,
        is_partial=is_partial,
        notes=(),
        metric="kl_divergence",
        parts="both",
        references=(),
        rankings=(),
        judged="judged: the output as logits by KL divergence",
        schemes=(),
    )
