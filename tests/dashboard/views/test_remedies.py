"""A finding's button runs its remedy and shows before beside after."""

from __future__ import annotations

from functools import partial

import pytest

import quant_engine
from dashboard.data.settings import Settings, settings_to_text
from dashboard.session import run_state
from dashboard.work import service
from quant_engine.scheme import (
    PRESETS,
    AdaRound,
    CrossLayerEqualization,
    Recipe,
    SmoothQuant,
)
from tests.dashboard.app_harness import assert_alive, figures, open_app, texts, wait_for_jobs

PAGE = "views/layer/layer.py"
UNEQUAL = Settings("mobilenet_unequal_channels", PRESETS["int8_per_tensor"])
OUTLIERS = Settings("vit_outlier_channels", PRESETS["int8_per_channel"])


def test_the_neighbour_is_named_and_the_pair_is_treated(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Recipe] = []
    monkeypatch.setattr(run_state, "rerun_with", asked.append)
    link = {"run": settings_to_text(UNEQUAL), "layer": "blocks.1.depthwise"}

    app = open_app(link, page=PAGE)
    assert_alive(app)
    app.button("remedy_coarse_scale_equalize_blocks.1.expand").click().run()
    app.button("remedy_coarse_scale_per_channel").click().run()

    assert "Equalize with `blocks.1.expand` and compare" in [b.label for b in app.button]
    pair = ("blocks.1.expand", "blocks.1.depthwise")
    assert asked[0].remedies == (CrossLayerEqualization(layers=pair),)
    scheme = asked[1].layer_scheme("blocks.1.depthwise")
    assert scheme is not None
    assert scheme.weight.granularity == "per_channel"


@pytest.mark.parametrize(
    ("settings", "layer", "kind"),
    [
        (UNEQUAL, "blocks.1.depthwise", CrossLayerEqualization),
        (OUTLIERS, "blocks.1.fc1", SmoothQuant),
    ],
)
def test_both_teaching_variants_are_repaired_by_one_click(
    settings: Settings, layer: str, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Times are more than half of the work, and nothing here is said of them.
    monkeypatch.setattr(quant_engine, "analyze", partial(quant_engine.analyze, measure_time=False))
    app = open_app({"run": settings_to_text(settings), "layer": layer}, page=PAGE)

    app.button("repair_model").click().run()
    app = wait_for_jobs(app)

    assert_alive(app)
    after = app.session_state["session"].remedied[1]
    assert kind() in after.recipe.remedies
    shown = run_state.find_run(after)
    assert shown is not None
    output = shown.report.output
    assert output is not None
    assert output.accuracy_quantized >= output.accuracy_float - 0.005
    page = texts(app)
    assert "Before | after" in page
    assert "Better than before." in page
    assert "degradation" in page
    assert any(found.is_applied and layer in found.layers for found in shown.report.treatments)

    assert "Degradation and accuracy after each remedy" in str(figures(app))
    assert "kept" in page

    assert "offer_compare" in [button.key for button in app.button]

    app.button("undo_remedy").click().run()
    assert_alive(app)
    assert "Before | after" not in texts(app)
    assert "offer_compare" not in [button.key for button in app.button]


def test_what_takes_long_says_how_long_before_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    four_bits = Settings("mobilenet", PRESETS["int4_weights"])

    def estimated(settings: Settings) -> float:
        return {0: 0.0, 1: 7.0}.get(layers_of(settings.recipe), 185.0)

    monkeypatch.setattr(service, "adaround_seconds", estimated)

    page = texts(open_app({"run": settings_to_text(four_bits), "layer": "stem"}, page=PAGE))

    assert "AdaRound takes about 7 s here, about 3 min 5 s in all layers" in page
    assert "Round by AdaRound (about 3 min 5 s)" in page
    assert "Round by GPTQ," in page


def layers_of(recipe: Recipe) -> int:
    """Layers that AdaRound rounds; -1 for all of them."""
    remedy = recipe.remedy(AdaRound)
    if remedy is None:
        return 0
    return -1 if remedy.layers == ("*",) else len(remedy.layers)
