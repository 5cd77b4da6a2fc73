"""Compare: any two runs side by side, what differs first."""

from __future__ import annotations

import streamlit as st

from dashboard.data.runs import Run
from dashboard.figures.compare.pair import pair, with_differing_samples
from dashboard.figures.layers.four_errors import A_MARK, B_MARK
from dashboard.session import run_state
from dashboard.views.compare.choice import SIDES, choose_pair, find_pair
from dashboard.views.compare.downloads import show_downloads
from dashboard.views.compare.layers import show_layer, show_layers
from dashboard.views.compare.outcome import show_outcome, show_settings
from dashboard.widgets.guard import contained
from dashboard.widgets.pair_section import show_pair


@contained("The comparison")
def _show_runs(a: Run, b: Run) -> None:
    effects = (run_state.effects_of(a), run_state.effects_of(b))
    show_outcome(a, b)
    predicted = (run_state.predicted_effects(a), run_state.predicted_effects(b))
    found = pair(a, b, SIDES, predicted=predicted, marks=(A_MARK, B_MARK))
    found = with_differing_samples(found, a, b)
    show_pair(found, a, b, key="compare", is_whole=True)
    show_layers(a, b, effects)
    show_layer(a, b)
    show_downloads(a, b, found, effects)


st.title("Compare", anchor=False)
shown = run_state.shown_run()
chosen = choose_pair(shown)
runs = find_pair(chosen)
show_settings(*chosen)
if runs is not None:
    if shown is None or shown.id not in [run.id for run in runs]:
        run_state.show_settings(runs[0].settings)  # its layer picker then fits
    _show_runs(*runs)
