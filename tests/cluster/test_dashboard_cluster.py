"""The dashboard computes on the cluster that the environment names."""

from __future__ import annotations

import builtins
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import Client

from dashboard.data.settings import Settings
from dashboard.data.sweeps import Sweep
from dashboard.work import service
from dashboard.work.cluster import SCHEDULER_VARIABLE, sweep_executor
from quant_engine.errors import WorkerError
from tests.cluster.local_cluster import HOST, local_cluster


class Quiet:
    def progress(self, done: int, total: int, text: str) -> None: ...

    def on_update(self, snapshot: Callable[[], object]) -> None: ...


@pytest.mark.parametrize("address", [None, "", "  "])
def test_without_a_name_it_computes_here(
    address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SCHEDULER_VARIABLE, raising=False)
    if address is not None:
        monkeypatch.setenv(SCHEDULER_VARIABLE, address)
    with sweep_executor() as executor:
        assert executor is None


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    plain_import = builtins.__import__

    def without_dask(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name.partition(".")[0] == "distributed":
            raise ImportError(name)
        return plain_import(name, *arguments, **keywords)

    monkeypatch.setenv(SCHEDULER_VARIABLE, f"tcp://{HOST}:1")
    monkeypatch.setattr(builtins, "__import__", without_dask)
    with pytest.raises(WorkerError, match=r"pip install -e '\.\[cluster\]'"), sweep_executor():
        pass


@pytest.mark.parametrize("address", [f"tcp://{HOST}:1", "no address"])
def test_a_cluster_that_does_not_answer_is_named(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SCHEDULER_VARIABLE, address)
    monkeypatch.setattr("dashboard.work.cluster._CONNECT_SECONDS", 1)
    with pytest.raises(WorkerError, match=f"{address}.*does not answer"), sweep_executor():
        pass


def test_an_address_that_accepts_and_says_nothing_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server((HOST, 0)) as silent:  # the system accepts for it
        address = f"tcp://{HOST}:{silent.getsockname()[1]}"
        monkeypatch.setenv(SCHEDULER_VARIABLE, address)
        monkeypatch.setattr("dashboard.work.cluster._CONNECT_SECONDS", 1)
        with pytest.raises(WorkerError, match=r"does not answer: it said nothing for 1 s"):  # noqa: SIM117
            with sweep_executor():
                pass


@pytest.mark.slow
def test_a_scheduler_that_dies_is_called_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with local_cluster(tmp_path, workers=1) as cluster:
        with Client(cluster.address) as client:
            client.wait_for_workers(1, timeout=60)
        children = psutil.Process().children()
        (scheduler,) = (
            one for one in children if "distributed.cli.dask_scheduler" in one.cmdline()
        )

        class Killing(Quiet):
            def progress(self, done: int, total: int, text: str) -> None:
                if done:
                    scheduler.kill()

        monkeypatch.setenv(SCHEDULER_VARIABLE, cluster.address)
        with pytest.raises(WorkerError, match=f"The scheduler '{cluster.address}' .* died"):
            service.measure_settings(Settings("mlp"), Sweep(), Killing())


@pytest.mark.slow
def test_a_measurement_runs_on_the_cluster_and_finds_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings("mlp")
    monkeypatch.delenv(SCHEDULER_VARIABLE, raising=False)
    here = service.measure_settings(settings, Sweep(), Quiet())

    with local_cluster(tmp_path, workers=1) as cluster, Client(cluster.address) as client:
        client.wait_for_workers(1, timeout=60)
        monkeypatch.setenv(SCHEDULER_VARIABLE, cluster.address)
        there = service.measure_settings(settings, Sweep(), Quiet())
        loaded = client.run(lambda: "quant_engine.variants.executors" in __import__("sys").modules)

    assert there == here
    assert list(loaded.values()) == [True]
