"""The run that every page shows, the layer that is selected, and what can be started.

Pages read `require_run()` and `selected_layer()`, and change things with `select_layer()`,
`start_sensitivity()`, `rerun_with()` and `go_to()`; all of these may be called in a callback or in
the page itself.

The link holds what was asked for in its key `run` and the layer in its key `layer`. Both belong to
widgets that every page draws, so they survive every change of page, and going back in the browser
restores them. What was asked for and what is shown differ only while an analysis is on its way, or
after it failed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NoReturn

import streamlit as st

from dashboard.data.link_words import shorten
from dashboard.data.runs import Run, now
from dashboard.data.settings import Settings, settings_to_text
from dashboard.facts.diagnosis.culprit import (
    Culprit,
    OutputEffects,
    effects_under,
    find_culprit,
    output_effects,
)
from dashboard.session.jobs import (
    analysis_key,
    analysis_status,
    attach_jobs,
    forget,
    job_status,
    store,
    submit_analysis,
)
from dashboard.session.link_check import linked_settings
from dashboard.session.link_widgets import (
    apply_pending,
    rerun_outside_callback,
    set_later,
    set_widget,
)
from dashboard.session.notices import add_notice, add_toast
from dashboard.session.pages import show_page_link
from dashboard.session.predictions import find_prediction
from dashboard.session.state import LAYER_KEY, RUN_KEY, session
from dashboard.words.recipes import describe_recipe
from dashboard.work import service
from dashboard.work.jobs import is_active
from quant_engine.report import ModelReport
from quant_engine.scheme import Recipe

# --- What is asked for, and what is shown ---------------------------------------------------------


def read_link() -> None:
    """Draw the hidden field that binds the run to the link, and follow it where it changed.

    Called once at the top of every script run, before anything else is drawn.
    """
    apply_pending()
    with st.container(key="link_state"):
        text = st.text_input("Run in the link", key=RUN_KEY, bind="query-params")
    here = session()
    if here.link_seen is None:
        here.layer_of_link = st.query_params.get(LAYER_KEY)
    elif text == here.link_seen:
        # A correction made while a session begins does not reach the address line by itself.
        if text and st.query_params.get(RUN_KEY) != text:
            set_later(RUN_KEY, text)
        return
    here.link_seen = text
    settings = linked_settings(text)
    _adopt(settings)
    if settings is not None and settings_to_text(settings) != text:
        here.link_seen = settings_to_text(settings)
        set_widget(RUN_KEY, here.link_seen)


def wanted_settings() -> Settings:
    """Return what was asked for last."""
    return session().wanted or service.first_settings()


def _adopt(settings: Settings | None) -> None:
    """Ask for these settings: show their run if it is known, else begin to analyse them."""
    session().wanted = settings
    wanted = settings or service.first_settings()
    if find_run(wanted) is None:
        if settings is not None:
            submit_analysis(wanted)
    else:
        session().shown_id = wanted.run_id
    attach_jobs(wanted)


def find_run(settings: Settings) -> Run | None:
    """Return the finished run of these settings, computed here or stored, or None."""
    return store().get(settings.run_id) or service.find_example(settings)


def shown_run() -> Run | None:
    """Return the run that the pages show, or None while there is none.

    It is the run that was asked for; while that one is being computed, the one shown before;
    where nothing was shown before, what is known of it so far; and where it came to nothing, the
    stored example.
    """
    wanted = wanted_settings()
    run = find_run(wanted)
    if run is not None:
        session().shown_id = run.id
        return run
    if (shown := _run_before_that()) is not None:
        return shown
    status = analysis_status(wanted)
    if status is not None and isinstance(status.partial, ModelReport):
        return Run(wanted, replace(status.partial, is_partial=True), created=now())
    if not is_active(status):
        return service.example_run(wanted.model_name) or find_run(service.first_settings())
    return None


def _run_before_that() -> Run | None:
    """Return the run shown last, while what was asked for after it is not there."""
    shown_id = session().shown_id
    return None if shown_id is None else store().get(shown_id) or service.find_stored(shown_id)


def require_run() -> Run:
    """Return the run to show; where there is none, say why and end the page's script here."""
    run = shown_run()
    if run is None:
        _say_why_empty()
    return run


def _say_why_empty() -> NoReturn:
    if is_active(job_status()):
        text = "The first figures appear here as soon as the analysis has some."
        st.info(text, icon=":material/hourglass_top:")
    else:
        text = "There is no run to show yet. Choose a model and a scheme, then press Run."
        st.info(text, icon=":material/science:")
        show_page_link("experiment", "Set up a run")
    st.stop()


# --- The selected layer ---------------------------------------------------------------------------


def effects_of(run: Run) -> OutputEffects | None:
    """Return what each layer of a run alone costs the output: measured, else predicted, or None."""
    return output_effects(run.report, run.sensitivities, predicted_effects(run))


def culprit_of(run: Run) -> Culprit | None:
    """Return the layer of a run to look at first; every page names this one."""
    return find_culprit(run.report, run.sensitivities, predicted_effects(run))


def predicted_effects(run: Run) -> OutputEffects | None:
    """Return what the stored prediction of these settings says of each layer; None without one."""
    prediction = find_prediction(run.settings)
    return None if prediction is None else effects_under(prediction, run.recipe)


def selected_layer(report: ModelReport) -> str:
    """Return the selected layer, always one that `report` has."""
    names = [layer.name for layer in report.layers]
    for chosen in (st.session_state.get(LAYER_KEY), session().default_layer):
        if chosen in names:
            return str(chosen)
    return names[0] if names else ""


def select_layer(name: str) -> None:
    """Make `name` the selected layer on every page; it stays so from run to run."""
    session().chosen_layer = name
    if st.session_state.get(LAYER_KEY) != name:
        set_widget(LAYER_KEY, name)


def settle_layer(run: Run) -> str:
    """Give the picker its value before it is drawn: the link's layer, or the default one.

    By default it is the culprit, or else the first. A layer that nobody chose follows the default
    from run to run, and as a run grows.

    Returns:
        The default layer.
    """
    here, report = session(), run.report
    names = [layer.name for layer in report.layers]
    culprit, before = culprit_of(run), here.default_layer
    default = culprit.name if culprit and culprit.name in names else next(iter(names), "")
    nobody_chose = before != here.chosen_layer
    if nobody_chose and before is not None and st.session_state.get(LAYER_KEY) == before != default:
        st.session_state[LAYER_KEY] = default
    here.default_layer = default
    name = here.layer_of_link
    if name in names:
        st.session_state[LAYER_KEY] = name
    elif name is not None and not (report.is_partial and job_status() is not None):
        add_notice(
            f"The link names the layer “{shorten(name)}”, which this run does not have. "
            f"Showing {default}."
        )
    else:
        return default
    here.layer_of_link = None
    return default


# --- Starting work --------------------------------------------------------------------------------


def start_settings(settings: Settings, *, is_forced: bool = False, is_kept: bool = False) -> None:
    """Show the run of these settings, and analyse where it is not known in full.

    Args:
        settings: What to show.
        is_forced: Analyse again, even where the run is known.
        is_kept: Show what is known, even a part.
    """
    run, shown = find_run(settings), shown_run()
    if shown is not None and shown.id != settings.run_id:
        session().shown_before = shown.settings
    is_known = run is not None and (is_kept or not run.report.is_partial)
    if is_forced or not is_known:
        if shown is not None and shown.model_name == settings.model_name:
            session().rerun = (shown.settings, settings)
        submit_analysis(settings)
    else:
        title = service.model_info(settings.model_name).title
        add_toast(f"Now shown: {title}, {describe_recipe(settings.recipe)}.")
    text = settings_to_text(settings)
    if st.session_state.get(RUN_KEY) == text:
        rerun_outside_callback()
    else:
        set_widget(RUN_KEY, text)


def show_settings(settings: Settings) -> None:
    """Show the run of these settings on every page, without a word; draws the page again."""
    set_widget(RUN_KEY, settings_to_text(settings))


def rerun_with(recipe: Recipe) -> None:
    """Analyse the shown run's model again with another recipe."""
    run = shown_run()
    settings = run.settings if run is not None else wanted_settings()
    start_settings(replace(settings, recipe=recipe))


def rerun_and_compare(recipe: Recipe) -> None:
    """Analyse the shown run's model again with another recipe, to stand beside the run shown."""
    run = shown_run()
    if run is not None:
        session().remedied = (run.settings, replace(run.settings, recipe=recipe))
    rerun_with(recipe)


def run_before_remedy(run: Run) -> Run | None:
    """Return what a run was before its remedy; None where that is not known.

    It is the run from which the remedy was started; else that with the same schemes and without
    remedies.
    """
    pair = session().remedied
    if pair is not None and pair[1].run_id == run.id:
        return find_run(pair[0])
    if not run.recipe.remedies:
        return None
    return find_run(replace(run.settings, recipe=replace(run.recipe, remedies=())))


def dismiss_job(key: str) -> None:
    """Forget a job that ended without a result, and what was asked for with it."""
    forget(key)
    if key == analysis_key(wanted_settings()):
        shown = _run_before_that()
        set_widget(RUN_KEY, settings_to_text(shown.settings) if shown is not None else "")
