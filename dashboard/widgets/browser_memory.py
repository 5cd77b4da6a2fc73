"""Something small that the visitor's browser remembers over a reload: a cookie of the session.

It stands in no link, so a link that is handed on carries none of it, and the server keeps nothing.
The browser forgets it when it is closed.
"""

from __future__ import annotations

import streamlit as st

_JS = """
export default function ({ data }) {
  document.cookie = `${data.name}=${data.value}; path=/; SameSite=Strict`
}
"""

_write = st.components.v2.component("quant_dashboard_browser_memory", js=_JS)


def remember(name: str, value: str) -> None:
    """Let the browser keep a text; draws nothing to look at, so hide the place where it stands.

    Args:
        name: What to find it by again.
        value: Letters, digits, "_", "-" and "." only.
    """
    _write(key=f"remember_{name}", data={"name": name, "value": value}, height="content")


def remembered(name: str) -> str:
    """Return what the browser kept when this session began; "" if nothing."""
    return str(st.context.cookies.get(name, ""))
