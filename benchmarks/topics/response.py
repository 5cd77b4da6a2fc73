"""What the logit response costs beside an exact sweep over the same options."""

from __future__ import annotations

from benchmarks.registry import Options, register_topic
from benchmarks.response.cost import COST_HEAD, cost_rows


@register_topic("response")
def measure(options: Options) -> list[dict[str, str]]:
    """The response against the exact sweep over five candidates per layer: time, memory, search."""
    print("\nLogit response against the exact sweep with replay, 400 samples in batches of 100.")
    print("Whether it is right, and how well it chooses: python -m benchmarks.response\n")
    rows = [dict(zip(COST_HEAD, row, strict=True)) for m in options.models for row in cost_rows(m)]
    for row in rows:
        print("; ".join(f"{name}: {value}" for name, value in row.items()))
    return rows
