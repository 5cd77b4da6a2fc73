"""Linear layers with 4-bit weights in groups of 32; `python -m benchmarks.groups` prints the table.

Processor time of one thread and bytes of one layer, its input in float: simulated, on integers
(codes two to a byte), and by `torch._weight_int4pack_mm_for_cpu`, each over the float layer. The
ways take turns, and the ratio is the median of those within one turn.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from quant_engine import Recipe, TensorScheme, convert_execution, quantize_model
from quant_engine.layers import QuantizedLinear

GROUP = 32
SHAPES = ((64, 64), (384, 1536), (1024, 1024))
ROWS = (1, 64)
ROUNDS = 9
SHORTEST = 0.01
"""Seconds that one measurement takes at least."""


def main() -> None:
    """Print a row for each shape and number of input rows."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| inputs × outputs | rows | float, µs | simulated | integers | torch's int4 |", end="")
    print(" bytes: float | simulated | integers | largest difference |")
    print(f"|{'---|' * 10}")
    for inputs, outputs in SHAPES:
        layer = nn.Linear(inputs, outputs)
        scheme = TensorScheme(4, granularity="per_group", group_size=GROUP)
        simulated = quantize_model(layer, None, Recipe(scheme))
        integer = convert_execution(simulated, "integer")
        for rows in ROWS:
            x = torch.randn(rows, inputs)
            ways = [lambda x=x, f=f: f(x) for f in (layer, simulated, integer, _torch(simulated))]
            with torch.no_grad():
                difference = (integer(x) - simulated(x)).abs().max() / simulated(x).abs().max()
                seconds, *ratios = _compare(ways)
            cells = [f"{inputs} × {outputs}", str(rows), f"{seconds * 1e6:.0f}"]
            cells += [f"{ratio:.1f} ×" for ratio in ratios]
            cells += [f"{_held(model):,}" for model in (layer, simulated, integer)]
            print(f"| {' | '.join(cells)} | {difference.item():.0e} |", flush=True)


def _compare(ways: Sequence[Callable[[], object]]) -> list[float]:
    """Return the first way's seconds, and the others' ratio to it."""
    turns = [[_seconds(way) for way in ways] for _ in range(ROUNDS)]
    ratios = [[time / turn[0] for time in turn[1:]] for turn in turns]
    return [min(turn[0] for turn in turns), *map(statistics.median, zip(*ratios, strict=True))]


def _seconds(way: Callable[[], object]) -> float:
    way()
    start, runs = time.process_time(), 0
    while time.process_time() - start < SHORTEST:
        way()
        runs += 1
    return (time.process_time() - start) / runs


def _torch(simulated: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return torch's product of float inputs with packed 4-bit weights."""
    assert isinstance(simulated, QuantizedLinear)
    codes, scale = simulated.quantized_weight, simulated.weight_qparams.scale
    bias = simulated.bias
    assert codes is not None
    assert bias is not None
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.int() + 8, 1)
    grid = torch.stack([scale.T, torch.zeros_like(scale.T)], dim=-1).contiguous()

    def run(x: Tensor) -> Tensor:
        y: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x, packed, GROUP, grid)
        return y + bias

    torch.testing.assert_close(
        run(torch.ones(1, codes.shape[1])), simulated(torch.ones(1, codes.shape[1]))
    )
    return run


def _held(model: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))


if __name__ == "__main__":
    main()
