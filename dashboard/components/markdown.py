"""Text from reports, links and files inside Markdown."""

from __future__ import annotations

_SPECIAL = "\\`*_{}[]<>$#|~:&!"


def escape_markdown(text: str) -> str:
    r"""Return text so that Markdown shows it as it is, such as `layer1__conv` or `$x`.

    Example:
        >>> escape_markdown("a_b")
        'a\\_b'
    """
    return "".join(f"\\{char}" if char in _SPECIAL else char for char in text)
