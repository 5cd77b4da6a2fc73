"""Visitors without a browser: they speak Streamlit's own protocol to a running dashboard.

A visitor opens a link, takes what the server draws, and asks again for the live parts of the page
on their clocks, as Streamlit's page does. Many of them cost less than one Chromium.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ClientState_pb2 import ClientState
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol


@dataclass
class Visit:
    """What one visitor saw.

    Attributes:
        first_figure: Seconds from opening the link to its first figure; None if there was none.
        finished: Seconds until figures stood and no part of the page asked for more; None if that
            never came.
        figures: Figures that stand on the page.
        polls: How often live parts were asked for again.
        texts: Words of the messages and captions that stand on the page.
        messages: Messages of the server by kind.
        bytes: Their length together, before compression.
    """

    first_figure: float | None = None
    finished: float | None = None
    figures: int = 0
    polls: int = 0
    texts: list[str] = field(default_factory=list)
    messages: Counter[str] = field(default_factory=Counter)
    bytes: int = 0


def visit(
    url: str, link: str, *, count: int, timeout: float, page: str = "", cookies: Sequence[str] = ()
) -> list[Visit]:
    """Open the same link as so many visitors at once, and wait until all have seen the figures.

    A page that is live for ever, as a lesson of a class is, is watched until the timeout.

    Args:
        url: Address of the server, such as "http://127.0.0.1:8501".
        link: The link's words, such as "run=mlp+int8_per_channel+seed:7".
        count: Visitors.
        timeout: Seconds after which a visitor gives up; what was seen until then is returned.
        page: Name of the page in the address, such as "learn"; the start page if not given.
        cookies: What the browser of each visitor remembers, such as "name=value"; none if empty.
    """
    remembered = cookies or [""] * count

    async def visit_all() -> list[Visit]:
        return await asyncio.gather(
            *(_visit(url, link, timeout, page, cookie) for cookie in remembered)
        )

    return asyncio.run(visit_all())


async def _visit(url: str, link: str, timeout: float, page: str, cookie: str) -> Visit:
    seen, began = Visit(), time.monotonic()
    clocks: dict[str, asyncio.Task[None]] = {}
    try:
        async with (
            asyncio.timeout(timeout),
            connect(
                f"{url.replace('http', 'ws', 1)}/_stcore/stream",
                origin=url,  # type: ignore[arg-type]
                subprotocols=[Subprotocol("streamlit")],
                additional_headers={"Cookie": cookie} if cookie else None,
                max_size=None,
                compression=None,
                open_timeout=timeout,
                ping_interval=None,
            ) as socket,
        ):
            await _ask(socket, ClientState(query_string=link, page_name=page))
            await _watch(socket, seen, clocks, link, began)
    except TimeoutError:
        pass
    finally:
        for clock in clocks.values():
            clock.cancel()
    return seen


async def _watch(
    socket: ClientConnection,
    seen: Visit,
    clocks: dict[str, asyncio.Task[None]],
    link: str,
    began: float,
) -> None:
    """Take the server's messages until figures stand and nothing ticks."""
    page = ""
    async for data in socket:
        message = ForwardMsg()
        message.ParseFromString(data)  # type: ignore[arg-type]
        kind = message.WhichOneof("type") or ""
        seen.messages[kind] += 1
        seen.bytes += len(data)
        if kind == "new_session" and not message.metadata.run.fragment_ids:
            page, seen.figures, seen.texts = message.new_session.page_script_hash, 0, []
            for clock in clocks.values():
                clock.cancel()
            clocks.clear()
        elif kind == "delta":
            _take(message, seen)
            if seen.figures and seen.first_figure is None:
                seen.first_figure = time.monotonic() - began
        elif kind == "auto_rerun":
            name = message.auto_rerun.fragment_id
            if (old := clocks.pop(name, None)) is not None:
                old.cancel()
            state = ClientState(
                query_string=link, page_script_hash=page, fragment_id=name, is_auto_rerun=True
            )
            clocks[name] = asyncio.create_task(
                _tick(socket, state, message.auto_rerun.interval, seen)
            )
        elif kind == "page_info_changed":
            link = message.page_info_changed.query_string
        elif (
            kind == "script_finished"
            and message.script_finished == ForwardMsg.FINISHED_SUCCESSFULLY
            and seen.figures
            and not clocks
        ):
            seen.finished = time.monotonic() - began
            return


def _take(message: ForwardMsg, seen: Visit) -> None:
    element = message.delta.new_element
    kind = element.WhichOneof("type")
    if kind == "plotly_chart":
        seen.figures += 1
    elif kind == "markdown":
        seen.texts.append(element.markdown.body)
    elif kind == "alert":
        seen.texts.append(element.alert.body)
    elif kind == "exception":
        seen.texts.append(f"exception: {element.exception.message}")


async def _tick(socket: ClientConnection, state: ClientState, seconds: float, seen: Visit) -> None:
    while True:
        await asyncio.sleep(seconds)
        seen.polls += 1
        await _ask(socket, state)


async def _ask(socket: ClientConnection, state: ClientState) -> None:
    await socket.send(BackMsg(rerun_script=state).SerializeToString())
