"""Text from reports, links and files inside Markdown."""

from __future__ import annotations

import re

_SPECIAL = "\\`*_{}[]<>$#|~:&!"


_LINK_BEGINS = re.compile(r"(https?(?=:)|www(?=\.)|@)", re.IGNORECASE)
"""What Streamlit makes a link of, marked as one or not; an invisible character keeps it apart."""


def escape_markdown(text: str) -> str:
    r"""Return text so that Markdown shows it as it is, such as `layer1__conv` or `$x`.

    Example:
        >>> escape_markdown("a_b")
        'a\\_b'
    """
    text = _LINK_BEGINS.sub("\\1\u2060", text)
    return "".join(f"\\{char}" if char in _SPECIAL else char for char in text)


def escape_sentence(text: str) -> str:
    r"""Return text as `escape_markdown` does, with no line break between a number and its %.

    Example:
        >>> escape_sentence("a_b is 5 %")
        'a\\_b is 5\xa0%'
    """
    return escape_markdown(re.sub(r"(?<=\d) %", "\u00a0%", text))
