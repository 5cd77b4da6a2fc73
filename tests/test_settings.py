"""Settings of the project: pinned requirements, make, the server's options and its theme."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import streamlit.config

from tests.browser.harness import address_flags

ROOT = Path(__file__).resolve().parents[1]
PIN = re.compile(r"^([\w-]+)==([\w.]+)$")
VERBS = ["run", "test", "check", "bench", "train"]
AA_TEXT = 4.5
AA_GRAPHICS = 3.0


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*arguments: str) -> str:
    """What make prints, with nothing inherited from a make that runs the tests."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    ).stdout


def lines_of(requirements: str) -> list[str]:
    lines = (ROOT / requirements).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def settings() -> dict[str, Any]:
    return tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text())


def flatten(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in table.items():
        key = f"{prefix}{name}"
        flat |= flatten(value, f"{key}.") if isinstance(value, dict) else {key: value}
    return flat


def contrast(one: str, other: str) -> float:
    """WCAG's contrast ratio of two colours written #rrggbb."""

    def luminance(color: str) -> float:
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def blend(color: str, background: str, share: float) -> str:
    """The colour seen where a share of one lies over a background."""
    pairs = ((int(color[i : i + 2], 16), int(background[i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(f"{round(below + (above - below) * share):02x}" for above, below in pairs)


def test_contrast_matches_known_values() -> None:
    assert contrast("#000000", "#FFFFFF") == pytest.approx(21.0)
    assert contrast("#777777", "#FFFFFF") == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_requirements_are_exact_and_installed(name: str) -> None:
    extra = {"requirements.txt": "-e .", "requirements-dev.txt": "-r requirements.txt"}[name]
    lines = lines_of(name)
    assert extra in lines

    for line in set(lines) - {extra}:
        pin = PIN.match(line)
        assert pin, f"{name}: {line!r} pins no version"
        installed = importlib.metadata.version(pin[1]).partition("+")[0]
        assert installed == pin[2]


def test_torch_is_the_tested_one() -> None:
    assert "torch==2.13.0" in lines_of("requirements.txt")


def test_project_needs_nothing_that_is_not_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {re.split(r"[=<>~!]", line)[0] for line in project["dependencies"]}

    assert needed <= {line.partition("==")[0] for line in lines_of("requirements.txt")}


@needs_make
def test_make_alone_lists_its_verbs() -> None:
    assert re.findall(r"^make (\w+)", make(), re.MULTILINE) == VERBS


@needs_make
@pytest.mark.parametrize("verb", ["test", "bench", "train"])
def test_verbs_run_modules_that_exist(verb: str) -> None:
    named = re.findall(r"python -m (\S+)", make("-n", verb))[-1]

    assert importlib.util.find_spec(named), f"`make {verb}` runs {named}, which does not exist"


@needs_make
def test_a_class_is_served_on_the_address_that_is_named_and_no_other() -> None:
    alone, served = make("-n", "run"), make("-n", "run", "ADDRESS=127.0.0.2", "PORT=8612")

    assert "server.address" not in alone
    assert "Hand out" not in alone
    assert "Hand out: http://127.0.0.2:8612/learn" in served
    assert "Who reaches 127.0.0.2" in served
    assert " ".join(address_flags("127.0.0.2")) in served
    for everywhere in ("0.0.0.0", "::"):
        with pytest.raises(subprocess.CalledProcessError):
            make("-n", "run", f"ADDRESS={everywhere}")


def test_server_serves_this_machine_only_and_calls_nobody() -> None:
    flat = flatten(settings())

    assert flat["server.address"] == "127.0.0.1"
    assert set(flat["server.allowedHosts"]) == {"127.0.0.1", "localhost"}
    assert flat["server.enableXsrfProtection"] is True
    assert flat["server.enableCORS"] is True
    assert flat["server.maxUploadSize"] == 20
    assert flat["browser.gatherUsageStats"] is False
    assert flat["client.toolbarMode"] == "viewer"
    assert flat["client.showErrorDetails"] == "none"
    assert flat["runner.magicEnabled"] is False
    assert flat["runner.postScriptGC"] is False
    assert flat["server.fileWatcherType"] == "none"


def test_every_option_is_one_that_streamlit_knows() -> None:
    known = streamlit.config.get_config_options().keys()

    assert flatten(settings()).keys() <= known


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_theme_is_readable(mode: str) -> None:
    theme = settings()["theme"][mode]

    for background in (theme["backgroundColor"], theme["secondaryBackgroundColor"]):
        assert contrast(theme["textColor"], background) >= AA_TEXT
        assert contrast(theme["linkColor"], background) >= AA_TEXT
        caption = blend(theme["textColor"], background, 0.6)
        assert contrast(caption, background) >= AA_TEXT
        assert contrast(theme["primaryColor"], background) >= AA_GRAPHICS
    # Streamlit writes white on its primary buttons.
    assert contrast("#FFFFFF", theme["primaryColor"]) >= AA_TEXT


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_chart_colours_are_complete(mode: str) -> None:
    theme = settings()["theme"][mode]

    assert len(theme["chartSequentialColors"]) == 10
    assert len(theme["chartDivergingColors"]) == 10
    assert len(set(theme["chartCategoricalColors"])) == 7


def test_fonts_come_with_the_page() -> None:
    fonts = {key: value for key, value in flatten(settings()).items() if "font" in key.lower()}

    assert fonts
    assert not [value for value in fonts.values() if "http" in str(value)]
