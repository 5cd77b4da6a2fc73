"""A sweep on a real cluster: a scheduler and two worker processes, one of which is killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from distributed import Client

from quant_engine import Recipe, measure_sensitivity
from quant_engine.variants.options import bit_options
from tests.cluster.local_cluster import HOST, local_cluster
from tests.quant_engine.sweep_models import make_batches, make_model, slow_change

pytestmark = pytest.mark.slow
BATCHES = 8


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of a cluster with one worker, for tests that leave both alive."""
    folder = tmp_path_factory.mktemp("cluster")
    with local_cluster(folder, workers=1) as cluster, Client(cluster.address) as client:
        client.wait_for_workers(1, timeout=60)
        yield client


def test_a_sweep_survives_the_loss_of_a_worker(tmp_path: Path) -> None:
    model, batches = make_model(), make_batches(BATCHES)
    settings = {
        "metric": slow_change,
        "options": bit_options(Recipe.default(), (8, 4)),
        "with_cumulative": False,
    }
    expected = measure_sensitivity(model, batches, **settings)
    killed: list[str] = []

    with local_cluster(tmp_path) as cluster, Client(cluster.address) as client:
        client.wait_for_workers(2, timeout=60)
        names = {
            address: worker["name"]
            for address, worker in client.scheduler_info()["workers"].items()
        }

        def kill_a_busy_worker(done: int, total: int, text: str) -> None:
            if killed or "one by one: batch 2" not in text:
                return
            busy = [address for address, tasks in client.processing().items() if tasks]
            if not busy:
                return  # caught between two tasks; there is another chance soon
            cluster.workers[names[busy[0]]].kill()
            killed.append(names[busy[0]])

        found = measure_sensitivity(
            model, batches, executor=client.get_executor(), progress=kill_a_busy_worker, **settings
        )

        assert len(killed) == 1
        assert cluster.workers[killed[0]].wait() != 0
        left = [worker["name"] for worker in client.scheduler_info()["workers"].values()]
        assert set(left) == set(names.values()) - set(killed)
    assert found == expected
    assert found.samples == BATCHES * 8


def test_the_cluster_listens_on_the_loopback_interface_only(client: Client) -> None:
    processes = [psutil.Process(), *psutil.Process().children()]
    listening = {
        connection.laddr.ip
        for process in processes
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }

    assert len(client.scheduler_info()["workers"]) == 1
    assert listening == {HOST}


def test_a_cancelled_sweep_leaves_no_work_on_the_cluster(client: Client) -> None:
    def cancel(done: int, total: int, text: str) -> None:
        if "one by one: batch 2" in text:
            raise KeyboardInterrupt

    executor = client.get_executor()
    with pytest.raises(KeyboardInterrupt):
        measure_sensitivity(
            make_model(),
            make_batches(BATCHES),
            metric=slow_change,
            executor=executor,
            progress=cancel,
        )
    # The one that was running may end; those that waited are gone.
    executor.submit(torch.get_num_threads).result(timeout=30)
    assert sum(len(tasks) for tasks in client.processing().values()) <= 1
