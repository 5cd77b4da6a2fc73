"""One click repairs each teaching variant to within half a point of the float model."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.actions import RUN_SECONDS, expect_link, visit


@pytest.mark.parametrize(
    ("run", "remedy"),
    [
        ("mobilenet_unequal_channels int8_per_tensor", "cross_layer_equalization"),
        ("vit_outlier_channels int8_per_channel", "smooth_quant"),
    ],
)
def test_one_click_repairs_the_model(dashboard_url: str, page: Page, run: str, remedy: str) -> None:
    visit(page, f"{dashboard_url}/layer?run={run.replace(' ', '+')}")

    page.get_by_role("button", name="Repair this model").click()

    better = page.get_by_text("Better than before.")
    expect(better).to_be_visible(timeout=RUN_SECONDS * 1000)
    expect_link(page, "run", lambda linked: linked == f"{run} remedy:{remedy}")
    curve = page.locator(".st-key-figure_repair_curve .legendtext")
    expect(curve).to_have_text(re.compile("float accuracy"))
    right = page.locator(".st-key-compared_sides").get_by_text(re.compile("% .* right"))
    before, after = (percent(text) for text in right.all_text_contents())
    goal = percent(curve.text_content())
    assert before < goal - 10
    assert after >= goal - 0.5
    expect(page.get_by_role("button", name="Undo")).to_be_visible()


def percent(text: str | None) -> float:
    """The first number in percent of a text."""
    found = re.search(r"([\d.]+)\s%", text or "")
    assert found is not None, text
    return float(found[1])
