"""Hits and misses of the diagnosis; `python -m benchmarks.diagnosis` prints the tables of the docs.

Every sample model is diagnosed at several settings. Then each remedy is run for all layers, whether
a finding points to it or not, and is counted as a help if the KL divergence falls by more than
twice half of its 95 % interval.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence

from benchmarks.remedies import CALIBRATION_SAMPLES, CHAINS
from dashboard.facts.diagnosis.findings import find_findings
from dashboard.facts.diagnosis.repair import proposals
from dashboard.facts.diagnosis.thresholds import MATTERS
from dashboard.facts.output_change import effect
from quant_engine import analyze
from quant_engine.remedies import find_targets
from quant_engine.report import ModelReport
from quant_engine.scheme import Recipe, Remedy, TensorScheme
from sample_models import get_model_info, list_models

POINTED_TO = ("equalization", "smoothing", "GPTQ", "bias correction", "AdaRound")
"""Remedies that findings may point to; the last one takes minutes."""

HIT, UNCLEAR, ALARM, MISS, SILENT = "hit", "unclear", "false alarm", "miss", "rightly silent"
"""Unclear: the KL divergence falls by half or more, but not by more than its interval."""


def main() -> None:
    """Print a row for each model and setting, and the sums for each remedy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=list_models())
    parser.add_argument("--bits", nargs="*", type=int, default=[8, 4])
    parser.add_argument("--remedies", nargs="*", choices=POINTED_TO, default=POINTED_TO[:-1])
    options = parser.parse_args()
    print(f"| model, weights | KL, nats | findings (layers) | {' | '.join(options.remedies)} |")
    print(f"|---|---|---|{'---|' * len(options.remedies)}")
    sums: dict[str, Counter[str]] = {name: Counter() for name in options.remedies}
    for name in options.models:
        for bits in options.bits:
            for granularity in ("per_tensor", "per_channel"):
                scheme = TensorScheme(bits=bits, granularity=granularity)
                report = analyse(name, scheme)
                found = outcomes(name, report, options.remedies)
                for remedy, outcome in found.items():
                    sums[remedy][outcome] += 1
                kl = report.output.kl_divergence if report.output else None
                rules = Counter(
                    finding.rule
                    for layer in report.quantized_layers
                    for finding in find_findings(layer, report)
                )
                listed = ", ".join(f"{rule} ({count})" for rule, count in rules.items()) or "none"
                where = f"{name}, {bits} bits {granularity.replace('_', ' ')}"
                print(
                    f"| {where} | {kl:.1e} | {listed} | {' | '.join(found.values())} |", flush=True
                )
    for remedy, counted in sums.items():
        print(f"{remedy}: {', '.join(f'{n} {outcome}' for outcome, n in counted.items())}")


def analyse(name: str, weight: TensorScheme, remedies: tuple[Remedy, ...] = ()) -> ModelReport:
    """Analyse a sample model, its inputs with 8 bits, asymmetric."""
    info = get_model_info(name)
    return analyze(
        info.load(),
        info.load_inputs("calibration")[0][:CALIBRATION_SAMPLES],
        Recipe(weight, TensorScheme(symmetric=False), remedies=remedies),
        evaluation_data=[info.load_inputs("test")],
        measure_time=False,
    )


def outcomes(name: str, report: ModelReport, remedies: Sequence[str]) -> dict[str, str]:
    """Return for each remedy whether it was proposed and whether it helps.

    What helps a model whose answers barely change (below `MATTERS`) is no miss.
    """
    info = get_model_info(name)
    targets = find_targets(info.load(), info.load_inputs("test")[0][:4])
    proposed = {r.kind for p in proposals(report, targets) for r in p.recipe.remedies}
    before = report.output
    kl = None if before is None else before.kl_divergence
    found = {}
    for title in remedies:
        (remedy,) = CHAINS[title]
        treated = analyse(name, report.recipe.weight, (remedy,)).output
        helps = effect(before, treated) == "better"
        after = None if treated is None else treated.kl_divergence
        halves = kl is not None and after is not None and 2 * after <= kl
        if remedy.kind in proposed:
            found[title] = HIT if helps else UNCLEAR if halves else ALARM
        else:
            found[title] = MISS if helps and kl is not None and kl >= MATTERS else SILENT
    return found


if __name__ == "__main__":
    main()
