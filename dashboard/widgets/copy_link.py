"""A button that copies the page's address: model, scheme, layer and page."""

from __future__ import annotations

import streamlit as st

_HTML = """
<button type="button" id="copy">Copy link</button>
<div id="by-hand" hidden>
  <label for="address">Copying is blocked here. Copy this by hand:</label>
  <input id="address" type="text" readonly>
</div>
<span id="said" role="status"></span>
"""

_CSS = """
button {
  width: 100%;
  padding: 0.375rem 0.75rem;
  font: inherit;
  color: var(--st-text-color);
  background: var(--st-background-color);
  border: 1px solid var(--st-border-color);
  border-radius: var(--st-button-radius, 0.5rem);
  cursor: pointer;
}
button:hover { border-color: var(--st-primary-color); }
button:focus-visible { outline: 2px solid var(--st-primary-color); outline-offset: 2px; }
label { display: block; margin-top: 0.5rem; font-size: 0.875rem; }
input { width: 100%; box-sizing: border-box; font: inherit; }
#said { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
"""

_JS = """
export default function ({ parentElement, data }) {
  const find = (id) => parentElement.querySelector("#" + id)
  const button = find("copy")
  let timer
  const say = (text) => {
    button.textContent = text
    find("said").textContent = text
    clearTimeout(timer)
    timer = setTimeout(() => { button.textContent = "Copy link" }, 2000)
  }
  button.onclick = async () => {
    const address = new URL(window.location.href)
    if (!address.searchParams.get("run") && data.run) address.searchParams.set("run", data.run)
    try {
      await navigator.clipboard.writeText(address.href)
      find("by-hand").hidden = true
      say("Link copied")
    } catch {
      find("by-hand").hidden = false
      find("address").value = address.href
      find("address").select()
    }
  }
  return () => clearTimeout(timer)
}
"""

_copy_link = st.components.v2.component("quant_dashboard_copy_link", html=_HTML, css=_CSS, js=_JS)


def show_copy_link(run: str) -> None:
    """Draw the button; it works without a network, on this machine's own address.

    Args:
        run: The run shown, in the words of the link: an address that names none gets these, for
            what is shown without being asked for may be another run tomorrow.
    """
    _copy_link(key="copy_link", data={"run": run}, height="content")
