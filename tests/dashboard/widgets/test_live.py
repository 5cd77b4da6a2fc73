"""Parts that draw themselves again, and what the browser gets when a tick meets a fresh page."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.runtime.forward_msg_queue import ForwardMsgQueue
from streamlit.testing.v1 import AppTest, local_script_runner

from dashboard.session.jobs import store
from dashboard.work import service
from tests.dashboard.app_harness import open_app, use_home


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> list[ForwardMsg]:
    """Everything the last script run sent to the browser."""
    sent: list[ForwardMsg] = []
    parse = local_script_runner.parse_tree_from_messages

    def keep(messages: list[ForwardMsg]) -> Any:
        sent[:] = messages
        return parse(messages)

    monkeypatch.setattr(local_script_runner, "parse_tree_from_messages", keep)
    return sent


@pytest.fixture
def endless_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Analyses and measurements that run until the test ends."""
    use_home(monkeypatch, tmp_path)
    is_over = threading.Event()

    def wait(*arguments: Any) -> Any:
        control = arguments[-1]
        while not is_over.wait(0.01):
            control.progress(1, 10, "calibrate")
        raise RuntimeError("the test is over")

    monkeypatch.setattr(service, "analyze_settings", wait)
    monkeypatch.setattr(service, "measure_settings", wait)
    yield
    is_over.set()


def assert_browser_accepts(messages: list[ForwardMsg]) -> None:
    """Put the messages in place as the browser does: into a block, and without a gap."""
    children: dict[tuple[int, ...], int] = {(root,): 0 for root in range(4)}
    for message in messages:
        if not message.HasField("delta"):
            continue
        path = tuple(message.metadata.delta_path)
        block, index = path[:-1], path[-1]
        assert block in children, f"{path} lies in no block"
        assert index <= children[block], f"{path} leaves a gap after {children[block]} elements"
        children[block] = max(children[block], index + 1)
        if message.delta.HasField("add_block"):
            children.setdefault(path, 0)


def ticking(messages: list[ForwardMsg]) -> list[str]:
    """The parts of a page that draw themselves again."""
    return [m.auto_rerun.fragment_id for m in messages if m.HasField("auto_rerun")]


def assert_survives_ticks(messages: list[ForwardMsg]) -> None:
    """A part's tick drops what was not sent of the part; the rest must still find its place."""
    assert_browser_accepts(messages)
    for fragment in ticking(messages):
        queue = ForwardMsgQueue()
        for message in messages:
            queue.enqueue(message)
        before = len(queue)
        queue.clear(retain_lifecycle_msgs=True, fragment_ids_this_run=[fragment])
        assert len(queue) < before, "nothing was dropped: Streamlit works differently now"
        assert_browser_accepts(queue.flush())


@pytest.mark.parametrize("page", ["start", "experiment", "sensitivity", "layer", "size_time"])
@pytest.mark.usefixtures("endless_work")
def test_a_tick_that_meets_a_fresh_page_leaves_no_gap(
    page: str, messages: list[ForwardMsg]
) -> None:
    open_app({"run": "mlp int8_mse"}, page=f"views/{page}/{page}.py")

    assert len(ticking(messages)) == (2 if page == "experiment" else 1)
    assert_survives_ticks(messages)


@pytest.mark.usefixtures("endless_work")
def test_a_tick_of_the_growing_ranking_leaves_no_gap(messages: list[ForwardMsg]) -> None:
    app = open_app({"run": "mlp int8_per_channel"}, page="views/sensitivity/sensitivity.py")
    store().put(replace(service.example_run("mlp"), sensitivities=()))
    app.run()
    next(b for b in app.button if b.label == "Measure sensitivity").click().run()

    assert len(ticking(messages)) == 2
    assert_survives_ticks(messages)


def test_a_bare_part_would_leave_a_gap(messages: list[ForwardMsg]) -> None:
    def page() -> None:
        import streamlit as st

        st.text("before")
        st.fragment(run_every=1)(lambda: st.text("live"))()
        st.text("after")

    AppTest.from_function(page).run()

    with pytest.raises(AssertionError, match="leaves a gap"):
        assert_survives_ticks(messages)
