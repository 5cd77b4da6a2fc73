"""Where sensitivity sweeps run: in this process, or on the cluster that the environment names.

Dask is an optional extra, so its import stands in the one function that needs it.
"""

from __future__ import annotations

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
        WorkerError: If a cluster is named and Dask is not installed, or does not answer.
    """
    address = os.environ.get(SCHEDULER_VARIABLE, "").strip()
    if not address:
        yield None
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise WorkerError(
            f"{SCHEDULER_VARIABLE} names the cluster {address!r}, but Dask is not installed. "
            "Install the extra: pip install -e '.[cluster]'; or unset the variable."
        ) from error
    try:
        client = Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise WorkerError(
            f"The cluster {address!r} that {SCHEDULER_VARIABLE} names does not answer: {error}. "
            "Start it, correct the address, or unset the variable to compute here."
        ) from error
    with client:
        if not client.scheduler_info()["workers"]:
            raise WorkerError(
                f"The cluster {address!r} that {SCHEDULER_VARIABLE} names has no workers. "
                "Start some, or unset the variable to compute here."
            )
        yield client.get_executor()
