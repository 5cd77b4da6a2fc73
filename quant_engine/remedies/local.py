"""Remedies that treat one layer alone, for layers in several quantized forms."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from quant_engine.model.batches import Batch
from quant_engine.preparation.prepared_model import PreparedModel
from quant_engine.progress import ProgressMeter
from quant_engine.remedies.adaround import round_layer_alone
from quant_engine.remedies.bias_correction import correct_layer
from quant_engine.remedies.codes import OutputRows, Step, TreatRows, treat_forms
from quant_engine.remedies.gptq import round_layer
from quant_engine.remedies.output_ranges import narrow_layer
from quant_engine.report import Treatment
from quant_engine.scheme import AdaRound, BiasCorrection, Gptq, OutputMse, Remedy

_TREAT: Mapping[type[Remedy], TreatRows] = {
    OutputMse: narrow_layer,
    Gptq: round_layer,
    BiasCorrection: correct_layer,
}


def treat_locally(
    prepared: PreparedModel,
    steps: Mapping[str, Sequence[Step]],
    shared: Collection[str],
    batches: Sequence[Batch],
    meter: ProgressMeter,
) -> dict[str, list[Treatment]]:
    """Treat quantized layers in several forms, in place; see `treat_forms`.

    Args:
        prepared: The float model.
        steps: Layer name -> what to do to its forms, in this order; at least one step.
        shared: Layers that share their weight with another one, which are left alone.
        batches: Calibration data.
        meter: Told after every step.

    Returns:
        Layer name -> what each step did.
    """

    def treat(name: str, rows: OutputRows, remedy: Any) -> Treatment:
        text = f"{type(remedy).__name__} of {name}"
        if isinstance(remedy, AdaRound):
            return round_layer_alone(name, rows, remedy, lambda _: meter.say(text))
        done = _TREAT[type(remedy)](name, rows, remedy)
        meter.say(text)
        return done

    return treat_forms(prepared, steps, shared, batches, treat)
