"""A part of a page that fails takes down only itself."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec

import streamlit as st

_LOG = logging.getLogger(__name__)

ICON = ":material/broken_image:"

P = ParamSpec("P")


def contained(what: str) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Decorate a function that draws a part of a page, as `contain` does for a block.

    Args:
        what: The part, as a sentence begins with it: "The ranking".
    """

    def decorate(draw: Callable[P, None]) -> Callable[P, None]:
        @functools.wraps(draw)
        def draw_contained(*args: P.args, **kwargs: P.kwargs) -> None:
            with contain(what):
                draw(*args, **kwargs)

        return draw_contained

    return decorate


@contextmanager
def contain(what: str) -> Iterator[None]:
    """Where drawing a part fails, write the traceback to the log and one sentence to the page.

    What a damaged run or an unusual model holds must not blank the parts that can be drawn.
    Streamlit ends and repeats scripts with exceptions of its own, which pass.
    """
    try:
        yield
    except Exception:
        _LOG.exception("%s could not be drawn", what)
        st.error(f"{what} could not be drawn: the server's log says why.", icon=ICON)
