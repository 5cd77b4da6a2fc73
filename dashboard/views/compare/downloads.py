"""The comparison as files: one HTML report of both runs, and every layer as CSV."""

from __future__ import annotations

import streamlit as st

from dashboard.data.runs import Run
from dashboard.export.files import pair_to_html
from dashboard.export.sections import KeyNumber, Section
from dashboard.export.tables import table, to_csv
from dashboard.facts.compare.compared_layers import (
    Effects,
    available_metrics,
    common_layers,
    layer_changes,
    value_text,
)
from dashboard.facts.compare.differences import outcomes, setting_differences
from dashboard.figures.compare.layers import dumbbells_picture, scatter_picture
from dashboard.figures.compare.pair import Pair
from dashboard.widgets.chart import file_stem
from dashboard.widgets.download import offer_file
from dashboard.words.recipes import describe_recipe
from dashboard.work import service


def show_downloads(a: Run, b: Run, found: Pair, effects: Effects) -> None:
    """Draw the downloads; each file is built when it is asked for."""
    stem = file_stem(f"compare-{a.model_name}-{a.id[:6]}-{b.model_name}-{b.id[:6]}")
    with st.container(horizontal=True, gap="small", key="compare_downloads"):
        offer_file(
            "Report of both (HTML)",
            f"{stem}.html",
            lambda: report_of(a, b, found, effects),
            "What differs, with figures, in one file that opens without a network.",
        )
        offer_file(
            "Layers of both (CSV)",
            f"{stem}.csv",
            lambda: layers_csv(a, b, effects),
            "One row per layer that both have, with every number of both runs.",
        )


def layers_csv(a: Run, b: Run, effects: Effects) -> bytes:
    """Return one row for each layer that both runs have, every metric as A, B and B - A."""
    rows: dict[str, dict[str, object]] = {n: {"layer": n} for n in common_layers(a, b)}
    for metric in available_metrics(a, b, effects):
        for one in layer_changes(a, b, metric, effects):
            rows[one.name] |= {
                f"a_{metric.key}": one.a,
                f"b_{metric.key}": one.b,
                f"change_{metric.key}": one.change,
            }
    return to_csv(table(rows.values()))


def report_of(a: Run, b: Run, found: Pair, effects: Effects) -> bytes:
    """Return the comparison as one HTML file."""
    metrics = available_metrics(a, b, effects)
    sections = [Section("Four errors of every layer", found.errors)]
    if found.cause is not None:
        sections.insert(0, Section("Why A breaks", found.cause))
    layers: list[dict[str, str]] = []
    if metrics:
        metric = metrics[0]
        changes = layer_changes(a, b, metric, effects)
        sections += [
            Section("What changed in every layer", dumbbells_picture(changes, metric)),
            Section("A against B", scatter_picture(changes, metric)),
        ]
        layers = [
            {
                "Layer": one.name,
                f"A: {metric.title}": value_text(one.a, metric),
                f"B: {metric.title}": value_text(one.b, metric),
            }
            for one in changes
        ]
    titles = [service.model_info(run.model_name).title for run in (a, b)]
    lead = [
        f"{side}: {title}, {describe_recipe(run.recipe)}."
        for side, title, run in zip("AB", titles, (a, b), strict=True)
    ]
    differing = [
        f"{x.name}: A {x.a}; B {x.b}." for x in setting_differences(a.settings, b.settings)
    ]
    return pair_to_html(
        [KeyNumber(one.name, f"{one.a} → {one.b}", one.change) for one in outcomes(a, b)],
        sections,
        layers,
        name=" and ".join(dict.fromkeys(titles)) + ": A and B",
        lead=[*lead, *differing],
        runs=(a.report, b.report),
    )
