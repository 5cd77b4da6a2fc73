"""Pages that open from disk without a network: a filled template with styles and figures inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

ASSETS = Path(__file__).parents[1] / "assets"

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
"""Everything that is put into a page is escaped, unless the template says it is safe."""


def render(page: str, *, has_figures: bool = True, **values: Any) -> bytes:
    """Return a page.

    Args:
        page: Name of its template and of its styles, such as "report".
        has_figures: Whether plotly.js is needed, which is large.
        values: What the template asks for besides.
    """
    text = TEMPLATES.get_template(f"{page}.html.j2").render(
        style=(ASSETS / f"{page}.css").read_text(encoding="utf-8"),
        library=get_plotlyjs() if has_figures else "",
        **values,
    )
    return text.encode()
