"""How many threads a model runs on, and that it is the instance's own thread that has them."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from service.runtime.cpu import CpuCall, apart, choose_threads, set_own_threads


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("alone_s", "together_s", "expected"),
    [(0.0001, 0.00001, 1), (0.01, 0.005, 2), (0.01, 0.0085, 1), (0.01, 0.03, 1)],
)
def test_a_team_must_pay(alone_s: float, together_s: float, expected: int) -> None:
    assert choose_threads(2, alone_s, together_s) == expected


def test_each_thread_has_its_own_number() -> None:
    found = {}

    def work(count: int) -> None:
        set_own_threads(count)
        barrier.wait()
        torch.ones(1_000_000).sum()
        found[count] = torch.get_num_threads()

    barrier = threading.Barrier(2)
    workers = [threading.Thread(target=work, args=(count,)) for count in (1, 2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == {1: 1, 2: 2}
    assert torch.get_num_threads() == 2


def test_a_small_model_runs_on_one_thread_whatever_thread_warmed_it_up() -> None:
    seen: list[int] = []

    def model(inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        seen.append(torch.get_num_threads())
        return (inputs[0] + 1,)

    call, inputs = CpuCall(model), (torch.zeros(2, 3),)
    assert call.prepare(inputs, 2) == ""
    assert call.threads == 1
    assert torch.get_num_threads() == 2
    instance = threading.Thread(target=call, args=(inputs, ()))
    instance.start()
    instance.join()
    assert seen[-1] == 1


def test_results_that_lie_in_the_inputs_memory_are_copied() -> None:
    laid = torch.arange(6.0).reshape(3, 2)
    kept, copied = torch.ones(2), laid[1:]
    first, second = apart((kept, copied), [laid])
    assert first is kept
    laid.zero_()
    assert second.tolist() == [[2, 3], [4, 5]]
