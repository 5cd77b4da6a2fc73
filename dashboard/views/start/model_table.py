"""The sample models as one table with a picture of the task, and the runs computed here."""

from __future__ import annotations

import streamlit as st

from dashboard.data.runs import Run, RunSummary
from dashboard.data.settings import Settings
from dashboard.facts.accuracy import share_text
from dashboard.session import run_state
from dashboard.session.comparison import compare_with
from dashboard.session.jobs import store
from dashboard.widgets.guard import contain
from dashboard.widgets.pair_section import enlarged
from dashboard.words.formatting import MISSING, format_accuracy, format_bytes, format_count, plural
from dashboard.words.markdown import escape_markdown
from dashboard.words.recipes import describe_age, describe_recipe, describe_seconds
from dashboard.work import service

MOST_RECENT = 6
COLUMNS = (0.4, 2.7, 1.1, 1.9, 2.6, 1.0, 2.2)
HEADS = ("", "Model", "Parameters", "Size as given → int8", "Right, float → int8", "To analyse", "")


def show_model_table(shown: Run | None) -> None:
    """Draw one row per model; its button shows the stored result, or analyses the model."""
    names = service.model_names()
    with st.container(gap=None, key="model_table"):
        columns = st.columns(COLUMNS, gap="small", vertical_alignment="center")
        for column, head in zip(columns, HEADS, strict=True):
            if head:
                column.markdown(f":small[**{head}**]")
        for name in names:
            _show_model(service.model_card(name), shown)
    examples = [e for name in names if (e := service.model_card(name).example) is not None]
    machines = {e.environment.cpu for e in examples}
    if machines:
        threads = {e.environment.threads for e in examples}
        counts = sorted({service.model_info(name).test_samples for name in names})
        st.caption(
            "All of them read handwritten digits of 8 × 8 pixels. Float sizes are those of the "
            "models as given, before BatchNorms are folded. Right: of "
            f"{'/'.join(format_count(count) for count in counts)} test samples never used in "
            f"training or calibration. To analyse: on {' / '.join(sorted(machines))}, "
            f"{'/'.join(str(n) for n in sorted(threads))} threads."
        )


def _show_model(card: service.ModelCard, shown: Run | None) -> None:
    info, example = card.info, card.example
    settings = example.settings if example is not None else Settings(info.name)
    is_shown = shown is not None and shown.id == settings.run_id
    size, right, seconds = format_bytes(info.float_bytes), format_accuracy(info.accuracy), MISSING
    if example is not None:
        seconds = describe_seconds(example.seconds)
        if example.quantized_bytes:
            size += f" → {format_bytes(example.quantized_bytes)}"
        if example.accuracy_quantized is not None:
            right += f" → {share_text(example.accuracy_quantized, info.test_samples)}"
    cells = [f"**{info.title}**", format_count(info.parameters), size, right, seconds]
    columns = st.columns(COLUMNS, gap="small", vertical_alignment="center")
    sample = enlarged(service.sample_images(info.name)[0], 4)
    columns[0].image(sample, width=24, alt=f"A sample that {info.title} reads")
    for column, text in zip(columns[1:-1], cells, strict=True):
        kind = " (teaching variant)" if info.is_teaching_variant else ""
        about = f"{info.family}{kind}. {info.description} {info.teaches}"
        column.markdown(text, help=about if column is columns[1] else None)
    with columns[-1].container(horizontal=True, gap="xsmall", vertical_alignment="center"):
        st.button(
            "Shown now" if is_shown else "Show",
            key=f"card_{info.name}",
            type="tertiary",
            disabled=is_shown,
            icon=":material/check:" if is_shown else ":material/visibility:",
            on_click=run_state.start_settings,
            args=(settings,),
        )
        if shown is not None and not is_shown and example is not None:
            st.button(
                "Compare",
                key=f"card_compare_{info.name}",
                type="tertiary",
                icon=":material/compare_arrows:",
                help="With the run shown: A is the run shown, B is this one.",
                on_click=compare_with,
                args=(shown.settings, settings),
            )


def show_recent_runs(shown: Run | None) -> None:
    """Draw the newest runs computed here, each with a button that shows it."""
    runs, broken = store().recent()
    if broken:
        names = escape_markdown(", ".join(broken[:3]))
        st.warning(
            f"{plural(len(broken), 'saved run')} cannot be read, and left as found: {names}"
            + (" …" if len(broken) > 3 else ""),
            icon=":material/broken_image:",
        )
    models = service.model_names()
    known = [run for run in runs if run.settings.model_name in models][:MOST_RECENT]
    if not known:
        st.caption("None yet. Runs you compute are kept here, also after a restart.")
        return
    for run in known:
        with st.container(
            horizontal=True, wrap=False, vertical_alignment="center", key=f"recent_{run.id}"
        ):
            st.button(
                "Show",
                key=f"show_{run.id}",
                icon=":material/visibility:",
                disabled=shown is not None and shown.id == run.id,
                on_click=run_state.start_settings,
                args=(run.settings,),
                kwargs={"is_kept": True},
            )
            if shown is not None:
                st.button(
                    "Compare",
                    key=f"compare_{run.id}",
                    icon=":material/compare_arrows:",
                    disabled=shown.id == run.id,
                    help="With the run shown: A is the run shown, B is this one.",
                    on_click=compare_with,
                    args=(shown.settings, run.settings),
                )
            with contain(f"The run {run.id}"):
                st.markdown(_run_line(run))


def _run_line(run: RunSummary) -> str:
    parts = [
        f"**{service.model_info(run.settings.model_name).title}**",
        escape_markdown(describe_recipe(run.settings.recipe)),
    ]
    if run.accuracy_quantized is not None:
        samples = service.model_info(run.settings.model_name).test_samples
        parts.append(
            f"{format_accuracy(run.accuracy_quantized)} right of those it came to"
            if run.is_partial
            else f"{share_text(run.accuracy_quantized, samples)} right"
        )
    if run.quantized_bytes is not None:
        parts.append(format_bytes(run.quantized_bytes))
    if run.is_partial:
        parts.append("partial")
    parts.append(describe_age(run.created))
    return " · ".join(parts)
