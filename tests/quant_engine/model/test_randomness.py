"""Passes draw the same random numbers, whoever else draws at the same time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quant_engine import SensitivityReport, calibrate, measure_sensitivity
from quant_engine.model.randomness import RandomNumbers


@contextmanager
def another_thread_draws() -> Iterator[None]:
    stop, started = threading.Event(), threading.Event()

    def draw() -> None:
        while not stop.is_set():
            torch.rand(10)
            started.set()

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        started.wait()
        yield
    finally:
        stop.set()
        thread.join()


class Noisy(nn.Module):
    """Draws often in every pass, so that other threads come in between."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(20):
            x = x + 0.1 * torch.randn_like(x)
        result: Tensor = self.second(torch.relu(self.first(x)))
        return result


x = torch.ones(2, 2, 4, 4)
DRAWING = {
    "factory": lambda: torch.rand(3),
    "like": lambda: torch.randn_like(x),
    "dropout": lambda: F.dropout(x, 0.5, training=True),
    "attention": lambda: F.scaled_dot_product_attention(x, x, x, dropout_p=0.5),
    "bernoulli": lambda: torch.bernoulli(x * 0.5),
    "permutation": lambda: torch.randperm(20),
    "in place": lambda: torch.empty(3).uniform_(),
    "multinomial": lambda: torch.multinomial(torch.ones(20), 5),
    "initialization": lambda: nn.Linear(2, 2).weight.detach(),
}
NOT_DRAWING = {
    "arithmetic": lambda: x + 1,
    "dropout that is off": lambda: F.dropout(x, 0.5, training=False),
    "attention without dropout": lambda: F.scaled_dot_product_attention(x, x, x),
    "lstm": lambda: nn.LSTM.forward(LSTM, x[0])[0],
    "own generator": lambda: torch.rand(3, generator=torch.Generator().manual_seed(1)),
}
LSTM = nn.LSTM(4, 4).eval()


@pytest.mark.parametrize("draw", DRAWING.values(), ids=DRAWING)
def test_what_draws_is_noticed_and_draws_what_comes_next(draw) -> None:  # type: ignore[no-untyped-def]
    before = torch.random.get_rng_state()
    with torch.random.fork_rng(devices=[]):
        expected = draw()
    numbers = RandomNumbers()

    first, second = numbers.run(draw), numbers.run(draw)

    assert numbers.are_drawn
    assert torch.equal(first, expected)
    assert torch.equal(second, expected)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("run", NOT_DRAWING.values(), ids=NOT_DRAWING)
def test_what_does_not_draw_is_told_apart(run) -> None:  # type: ignore[no-untyped-def]
    numbers = RandomNumbers()

    with another_thread_draws():
        numbers.run(run)
        numbers.run(run, is_watched=False)

    assert not numbers.are_drawn


def test_again_draws_the_same_numbers_where_any_were_drawn() -> None:
    quiet, numbers = RandomNumbers(), RandomNumbers()
    quiet.run(lambda: None)
    expected = numbers.run(lambda: torch.rand(3))

    before = torch.random.get_rng_state()
    with numbers.again():
        assert torch.equal(torch.rand(3), expected)
    assert torch.equal(torch.random.get_rng_state(), before)
    with quiet.again(), torch.random.fork_rng(devices=[]):
        torch.rand(3)
        assert not torch.equal(torch.random.get_rng_state(), before)


def test_a_pass_that_was_not_watched_is_repeated_if_it_drew() -> None:
    numbers = RandomNumbers()
    expected = RandomNumbers().run(lambda: torch.rand(3))

    assert torch.equal(numbers.run(lambda: torch.rand(3), is_watched=False), expected)
    assert numbers.are_drawn


def test_a_pass_that_seeds_itself_draws_from_its_own_seed() -> None:
    def seeded() -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            return torch.rand(3)

    before = torch.random.get_rng_state()

    assert torch.equal(RandomNumbers().run(seeded), seeded())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_passes_that_draw_do_not_disturb_each_other() -> None:
    def draw() -> Tensor:
        return torch.stack([torch.rand(()) for _ in range(300)])

    def run(numbers: RandomNumbers) -> Tensor:
        return numbers.run(draw)

    numbers = [RandomNumbers() for _ in range(4)]
    with ThreadPoolExecutor(4) as executor:
        found = list(executor.map(run, numbers * 5))

    assert all(torch.equal(other, found[0]) for other in found)


def test_passes_that_do_not_draw_run_side_by_side() -> None:
    meeting = threading.Barrier(2)

    def forward() -> int:
        return meeting.wait(timeout=60)

    with ThreadPoolExecutor(2) as executor:
        tasks = [executor.submit(RandomNumbers().run, forward) for _ in range(2)]
        assert {task.result() for task in tasks} == {0, 1}


def test_a_model_is_measured_the_same_beside_a_thread_that_draws() -> None:
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(4))).eval()
    data = list(torch.randn(32, 4, generator=torch.Generator().manual_seed(0)).split(8))
    alone = measure_sensitivity(model, data)

    with another_thread_draws():
        beside = measure_sensitivity(model, data)

    assert beside == alone
    assert beside.notes == ()


def test_models_that_draw_are_measured_the_same_at_once() -> None:
    model = Noisy().eval()
    data = list(torch.randn(32, 4, generator=torch.Generator().manual_seed(0)).split(8))
    calibration = calibrate(model, data)  # draws numbers of its own
    alone = measure_sensitivity(model, calibration, evaluation_data=data)

    def measure(_: int) -> SensitivityReport:
        return measure_sensitivity(model, calibration, evaluation_data=data)

    with ThreadPoolExecutor(3) as executor:
        found = list(executor.map(measure, range(3)))

    assert alone.notes[-1] == "Every run was a full forward pass: the model draws random numbers."
    assert all(report.layers == alone.layers for report in found)
