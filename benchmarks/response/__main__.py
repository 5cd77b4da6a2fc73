"""`python -m benchmarks.response`: is the logit response right, fast, and a good adviser?

With `--write docs/sensitivity.md` the tables go between the markers of that page.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.response.agreement import AGREEMENT_HEAD, agreement_rows
from benchmarks.response.candidates import CANDIDATES_HEAD, candidates_rows
from benchmarks.response.choices import BUDGET_HEAD, budget_rows
from benchmarks.response.cost import COST_HEAD, cost_rows
from sample_models import list_models


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list_models(), help="default: all")
    parser.add_argument("--write", type=Path, help="page whose tables are replaced")
    names = ["agreement", "cost", "budgets", "candidates"]
    parser.add_argument("--only", nargs="*", default=names, choices=names, help="tables to make")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    makers = {
        "agreement": (agreement_rows, AGREEMENT_HEAD),
        "cost": (cost_rows, COST_HEAD),
        "budgets": (budget_rows, BUDGET_HEAD),
        "candidates": (candidates_rows, CANDIDATES_HEAD),
    }
    tables = {
        name: _table(*makers[name], options.models) for name in makers if name in options.only
    }
    if options.write:
        page = options.write.read_text(encoding="utf-8")
        for name, table in tables.items():
            marker = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
            page = re.sub(marker, lambda m, t=table: f"{m[1]}{t}\n{m[2]}", page, flags=re.DOTALL)
        options.write.write_text(page, encoding="utf-8")


def _table(
    rows: Callable[[str], list[list[str]]], head: Sequence[str], models: Sequence[str]
) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    print("\n".join(lines))
    for model in models:
        for row in rows(model):
            lines.append(f"| {' | '.join(row)} |")
            print(lines[-1], flush=True)
    print()
    return "\n".join(lines)


if __name__ == "__main__":
    main()
