"""What becomes of every model of `model_list.txt` and `model_draw.txt`: folded, quantized, lowered,
and compared.

    python -m benchmarks.models --results results.jsonl --table docs/models.md

Every model runs in a process of its own, with a limit of time and memory; what fails is a row with
a reason. Results are appended to a file, and models that stand in it are not run again. Needs timm
and transformers: `pip install -e .[models]`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import resource
import time
import warnings
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmarks.model_zoo import DRAWN, LIST, Entry, build, make_batch, read_list
from quant_engine import Recipe, convert_execution
from quant_engine.execution.convert import execution_notes
from quant_engine.execution.kernels.codes import Grid
from quant_engine.execution.lowering.lower import LoweredModel
from quant_engine.execution.lowering.steps import (
    ClampCodes,
    LoweredLayer,
    LoweredStep,
    MaxPoolCodes,
    RoundToCodes,
)
from quant_engine.graph.forms import take_apart
from quant_engine.layers import QuantizedLayer
from quant_engine.preparation.folding_check import prepare_for
from quant_engine.preparation.selection import list_layers
from quant_engine.progress import ProgressMeter
from quant_engine.quantization.calibration import calibrate_prepared
from quant_engine.quantization.quantize import quantize_prepared

SAMPLES = 2
SEED = 0
GIB = 1 << 30
_SMALLEST = 1e-30  # below, float32 has few digits left: outputs of random weights may fade so far


def measure(entry: Entry) -> dict[str, Any]:
    """Quantize and lower one model on noise, and compare what its forms compute."""
    started = time.process_time()
    torch.set_grad_enabled(False)
    found: dict[str, Any] = {"library": entry.library, "name": entry.name, "reason": ""}
    found["family"] = entry.family
    model = build(entry, seed=SEED)
    batch = make_batch(model, SAMPLES, seed=SEED)
    prepared, _, _ = prepare_for(model, [batch])
    found["batchnorms"] = sum(isinstance(module, _BatchNorm) for module in model.modules())
    found["folded"] = len(prepared.folded)
    found["kept"] = [note for note in prepared.notes if "BatchNorms" in note]
    meter = ProgressMeter(None, 0)
    calibration = calibrate_prepared(prepared, [batch], meter)
    quantized = quantize_prepared(prepared, Recipe.default(), calibration, None, meter).model
    names = [e.name for e in list_layers(prepared.model) if _has_matrix(e.module)]
    layers = dict(quantized.named_modules())
    found["layers"] = len(names)
    found["quantized"] = sum(isinstance(layers.get(name), QuantizedLayer) for name in names)
    begun = time.process_time()
    lowered = convert_execution(quantized, "simulated", lowered=True)
    found["lowering_s"] = time.process_time() - begun
    if not isinstance(lowered, LoweredModel):
        return {**found, "lowered": False, "reason": execution_notes(lowered)[0]}
    outputs = [_floats(_call(form, batch)) for form in (model, quantized, lowered)]
    if lowered.graph is None or execution_notes(lowered):
        return {**found, "lowered": False, "reason": execution_notes(lowered)[0]}
    found["lowered"] = True
    found["difference"] = _difference(*outputs)
    integer = convert_execution(lowered)
    assert isinstance(integer, LoweredModel)
    found |= compare_steps(lowered, integer, batch)
    found["reason"] = _check_list(integer, batch)
    found["seconds"] = time.process_time() - started
    return found


def _check_list(integer: LoweredModel, batch: Any) -> str:
    """Say whether the bare list of operations, which runs by itself, gives what its steps give."""
    listed = _floats(_call(integer, batch))
    integer.runs_steps = True
    stepwise = _floats(_call(integer, batch))
    integer.runs_steps = False
    differ = [
        not torch.allclose(
            a, b, rtol=0, atol=1e-6 * float(b.nan_to_num().abs().max()), equal_nan=True
        )
        for a, b in zip(listed, stepwise, strict=True)
    ]
    return "The list of operations gives other numbers than its steps." if any(differ) else ""


def _has_matrix(module: nn.Module) -> bool:
    """Whether a module has a weight that multiplies or is looked up, not one value a channel."""
    return any(p.dim() > 1 for p in module.parameters(recurse=False))


def _call(model: nn.Module, batch: Any) -> Any:
    torch.manual_seed(SEED)
    return model(**batch) if isinstance(batch, Mapping) else model(batch)


def _floats(output: Any) -> list[Tensor]:
    return [t for t in take_apart(output)[0] if isinstance(t, Tensor) and t.is_floating_point()]


def _difference(
    floats: Sequence[Tensor], simulated: Sequence[Tensor], lowered: Sequence[Tensor]
) -> float:
    """Return how far lowering moves the outputs, as a share of the quantization error."""

    def distance(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
        pairs = zip(one, other, strict=True)
        return float(sum((a - b).nan_to_num().double().square().sum() for a, b in pairs)) ** 0.5

    error = distance(simulated, floats)
    return distance(lowered, simulated) / error if error else 0.0


def compare_steps(simulated: LoweredModel, integer: LoweredModel, batch: Any) -> dict[str, Any]:
    """Give every step on integers what the simulated one got, and compare what they make.

    Returns:
        Layers that run in the graph, those of them that hand on codes; codes compared, codes that
        differ, the largest difference in steps; and of layers that give float values the largest
        difference, as a share of the largest value.
    """
    totals = {"steps": 0, "to_codes": 0, "codes": 0, "differing": 0, "largest": 0, "values": 0.0}
    assert simulated.graph is not None
    assert integer.graph is not None
    handles = []
    for name, step in simulated.graph.named_modules():
        if isinstance(step, LoweredStep) and not isinstance(step, MaxPoolCodes):
            other = integer.graph.get_submodule(name)

            def hook(
                step: Any, args: tuple[Any, ...], expected: Tensor, other: nn.Module = other
            ) -> None:
                _compare(step, other, args, expected, totals)

            handles.append(step.register_forward_hook(hook))
    _call(simulated, batch)
    for handle in handles:
        handle.remove()
    return totals


def _compare(
    step: Any, other: nn.Module, args: Sequence[Tensor], expected: Tensor, totals: dict[str, Any]
) -> None:
    output = None
    if isinstance(step, LoweredLayer):
        totals["steps"] += 1
        taken = [_codes(args[0], step._grid) if step.takes_codes else args[0]]
        taken += [skip if step._skip is None else _codes(skip, step._skip) for skip in args[1:]]
        if step.output_qparams is not None:
            output = Grid.of(step.output_qparams)
    else:
        assert isinstance(step, RoundToCodes | ClampCodes)
        output = Grid.of(step.qparams)
        taken = [_codes(args[0], output) if isinstance(step, ClampCodes) else args[0]]
    found = other(*taken)
    if output is None:
        largest = max(float(expected.abs().max()), _SMALLEST)
        totals["values"] = max(totals["values"], float((found - expected).abs().max()) / largest)
        return
    totals["to_codes"] += isinstance(step, LoweredLayer)
    difference = (found.int() - _codes(expected, output).int()).abs()
    totals["codes"] += difference.numel()
    totals["differing"] += int((difference > 0).sum())
    totals["largest"] = max(totals["largest"], int(difference.max()))


def _codes(values: Tensor, grid: Grid) -> Tensor:
    """Return the unsigned codes of values that lie on a grid."""
    return ((values / grid.scale).round() + grid.zero_point).to(torch.uint8)


def run_apart(entry: Entry, seconds: float, gibibytes: float) -> dict[str, Any]:
    """Measure a model in a process of its own."""
    row = {"library": entry.library, "name": entry.name, "family": entry.family, "lowered": False}
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["benchmarks.models", entry.library])
    receiver, sender = server.Pipe(duplex=False)
    process = server.Process(target=_measure_into, args=(sender, entry, gibibytes))
    process.start()
    sender.close()
    try:
        if receiver.poll(seconds):
            return {**row, **receiver.recv()}
        return {**row, "reason": f"It took more than {seconds:g} s."}
    except EOFError:
        process.join()
        return {**row, "reason": f"Its process ended with {process.exitcode}."}
    finally:
        process.kill()
        process.join()


def _measure_into(sender: Connection, entry: Entry, gibibytes: float) -> None:
    size = int(gibibytes * GIB)
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    try:
        sender.send(measure(entry))
    except Exception as error:  # whatever it is, it is the model's row
        text = " ".join(f"{type(error).__name__}: {error}".split())
        sender.send({"reason": text[:300]})


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as a Markdown page's tables, with a summary of each."""
    parts = []
    known = {(row["library"], row["name"]): row for row in rows}
    for library, path, heading in _TABLES:
        entries = [entry for entry in read_list(path) if entry.library == library]
        own = [row for e in entries if (row := known.get((library, e.name)))]
        missing = len(entries) - len(own)
        parts += [f"## {heading}", "", _summary(own), ""]
        if missing:
            parts += [f"{missing} of {len(entries)} models were not measured.", ""]
        parts += _HEAD
        for entry in sorted(entries, key=lambda entry: (entry.family, entry.name)):
            row = known.get((library, entry.name))
            title = f"{entry.family} {entry.name}".strip()
            parts.append(_row(row) if row else f"| {title} |{' – |' * 6} not measured |")
        parts.append("")
    return "\n".join(parts)


_TABLES = (
    ("timm", LIST, "timm"),
    ("transformers", LIST, "transformers"),
    ("timm", DRAWN, "timm, drawn by a seed"),
    ("transformers", DRAWN, "transformers, drawn by a seed"),
)
_HEAD = (
    "| model | BatchNorms folded | layers quantized | lowered | in the graph, giving codes "
    "| codes that differ | lowering moves the output | reason |",
    "|---|---|---|---|---|---|---|---|",
)


def _summary(rows: Sequence[Mapping[str, Any]]) -> str:
    lowered = sum(bool(row["lowered"]) for row in rows)
    codes, differing = (sum(row.get(key, 0) for row in rows) for key in ("codes", "differing"))
    norms, folded = (sum(row.get(key, 0) for row in rows) for key in ("batchnorms", "folded"))
    share = lowered / len(rows) if rows else 0.0
    return (
        f"{lowered} of {len(rows)} lower ({share:.0%}). {folded:,} of {norms:,} BatchNorms are "
        f"folded. Of {codes:,} codes, {differing:,} differ from the simulation's, by at most "
        f"{max((row.get('largest', 0) for row in rows), default=0)} step; float values by at most "
        f"{max((row.get('values', 0.0) for row in rows), default=0.0):.0e} of the largest."
    )


def _row(row: Mapping[str, Any]) -> str:
    cells = [f"{row['family']} {row['name']}".strip()]
    cells.append(f"{row['folded']} of {row['batchnorms']}" if row.get("batchnorms") else "–")
    cells.append(f"{row['quantized']} of {row['layers']}" if "layers" in row else "–")
    cells.append("yes" if row["lowered"] else "no")
    is_compared = "codes" in row
    cells.append(f"{row['steps']}, {row['to_codes']}" if is_compared else "–")
    share = row["differing"] / max(row["codes"], 1) if is_compared else 0.0
    cells.append(f"{share:.4%}" if is_compared else "–")
    cells.append(f"{row['difference']:.1%}" if is_compared else "–")
    kept = [re.sub(r":.*", "", text.removeprefix("BatchNorms ")) for text in row.get("kept", ())]
    reason = "; ".join(filter(None, [row.get("reason", ""), *kept]))
    return f"| {' | '.join([*cells, reason.replace('|', '/').replace(chr(10), ' ')])} |"


def main() -> None:
    """Run what is not in the results yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="a regular expression: models to run")
    parser.add_argument("--results", type=Path, default=Path("models.jsonl"))
    parser.add_argument("--table", type=Path, help="page whose tables to replace")
    parser.add_argument("--seconds", type=float, default=300.0, help="most time for a model")
    parser.add_argument("--gibibytes", type=float, default=12.0, help="most memory for a model")
    options = parser.parse_args()
    rows = {}
    if options.results.exists():
        lines = options.results.read_text(encoding="utf-8").splitlines()
        rows = {(row["library"], row["name"]): row for row in map(json.loads, lines)}
    for entry in (*read_list(LIST), *read_list(DRAWN)):
        is_wanted = re.search(options.only, f"{entry.library} {entry.name}")
        if is_wanted and (entry.library, entry.name) not in rows:
            row = run_apart(entry, options.seconds, options.gibibytes)
            rows[entry.library, entry.name] = row
            with options.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(_row(row), flush=True)
    if options.table:
        page = options.table.read_text(encoding="utf-8")
        kept = page[: page.index("## timm")] if "## timm" in page else page
        options.table.write_text(kept + table(list(rows.values())), encoding="utf-8")


if __name__ == "__main__":
    main()
