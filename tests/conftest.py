"""Settings every test shares: threads, seeds and hypothesis profiles."""

from __future__ import annotations

import gc
import os

# Read by BLAS and OpenMP when torch and numpy load, so this stands before their imports. Under
# xdist the workers fill the cores; a second layer of threads only makes them wait for each other.
IS_XDIST_WORKER = "PYTEST_XDIST_WORKER" in os.environ
if IS_XDIST_WORKER:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import random

import hypothesis
import numpy as np
import pytest
import torch

SEED = 20_260

hypothesis.settings.register_profile(
    "default",
    deadline=None,  # the first call into torch is slow, and so is a shared machine
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile(
    "ci",
    hypothesis.settings.get_profile("default"),
    derandomize=True,
    print_blob=True,
)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")

if IS_XDIST_WORKER:
    torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """Spare the garbage collector what all tests import: torch's objects, which never go away.

    Each full collection would visit all of them; a graph's capture makes enough objects for many.
    """
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Give each test the same global random state: weights drawn by torch repeat in any order."""
    random.seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002 - for code under test that draws from the global state
    # Not torch.manual_seed, which is not safe beside a capture in a thread of another test.
    torch.default_generator.manual_seed(SEED)


@pytest.fixture
def generator() -> torch.Generator:
    """A freshly seeded torch generator."""
    return torch.Generator().manual_seed(SEED)


@pytest.fixture
def rng() -> np.random.Generator:
    """A freshly seeded numpy generator."""
    return np.random.default_rng(SEED)
