"""Where sensitivity sweeps run: in this process, or on the cluster that the environment names.

Dask is an optional extra, so its import stands in the one function that needs it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

from quant_engine.errors import WorkerError

SCHEDULER_VARIABLE = "QUANT_DASHBOARD_SCHEDULER"
"""Address of a Dask scheduler, such as tcp://127.0.0.1:8786; unset or empty for this process."""

_CONNECT_SECONDS = 10


@contextmanager
def sweep_executor() -> Iterator[Executor | None]:
    """Yield the cluster's executor while the context lasts, or None where none is named.

    Raises:
        WorkerError: If a cluster is named and Dask is not installed, or its scheduler does not
            answer or dies.
    """
    address = os.environ.get(SCHEDULER_VARIABLE, "").strip()
    if not address:
        yield None
        return
    try:
        from distributed import Client
        from distributed.comm.core import connect
    except ImportError as error:
        raise WorkerError(
            f"{SCHEDULER_VARIABLE} names the cluster {address!r}, but Dask is not installed. "
            "Install the extra: pip install -e '.[cluster]'; or unset the variable."
        ) from error

    async def try_to_connect() -> None:
        # The client itself waits for ever where somebody accepts and then says nothing.
        connection = await asyncio.wait_for(connect(address), _CONNECT_SECONDS)
        connection.abort()

    try:
        asyncio.run(try_to_connect())
        client = Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:  # TimeoutError is an OSError
        reason = str(error) or f"it said nothing for {_CONNECT_SECONDS} s"
        raise WorkerError(
            f"The cluster {address!r} that {SCHEDULER_VARIABLE} names does not answer: {reason}. "
            "Start it, correct the address, or unset the variable to compute here."
        ) from error
    with client:
        if not client.scheduler_info()["workers"]:
            raise WorkerError(
                f"The cluster {address!r} that {SCHEDULER_VARIABLE} names has no workers. "
                "Start some, or unset the variable to compute here."
            )
        try:
            yield client.get_executor()
        except WorkerError as error:
            if client.status == "running":
                raise
            raise WorkerError(
                f"The scheduler {address!r} that {SCHEDULER_VARIABLE} names died, or its network "
                "did. Start it and measure again, or unset the variable to compute here."
            ) from error
