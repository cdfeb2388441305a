"""Times the verified candidates against each other, round by round, so that a noisy moment touches all of them alike.

Measures only: `choose.py` decides, `timing.py` has the clock.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from compiler.timing import time_call

WARM_UP_CALLS = 3  # TorchScript specialises itself in the first two calls of a shape
WARM_UP_BUDGET_S = 2.0  # for one candidate: a model of seconds per call has one warm-up call per bucket
MIN_ROUNDS, MAX_ROUNDS = 3, 40
BUDGET_S = 2.0  # for one candidate over all buckets; a model of seconds per call takes MIN_ROUNDS regardless
HOPELESS_ROUNDS, HOPELESS = 2, 3.0  # after two rounds a candidate three times as slow as the best has shown enough

Call = Callable[[], object]
Size = TypeVar("Size", int, tuple[int, tuple[int, ...]])  # of a batch; with the sizes that its inputs are padded to


def warm_up(calls: Iterable[Call], device: str) -> None:
    """Call each a few times, so that nothing is compiled, allocated or looked up for the first time in the race."""
    started = time.perf_counter()
    for call in calls:
        for done in range(WARM_UP_CALLS):
            if done and time.perf_counter() - started > WARM_UP_BUDGET_S:
                break
            time_call(call, device)


def race(lanes: Mapping[str, Mapping[Size, Call]], device: str) -> dict[str, dict[Size, float]]:
    """Median milliseconds of one call: candidate -> batch size -> ms. `lanes`: candidate -> batch size -> what to call.

    A round is one call of every candidate at every batch size; rounds go on until the budget is spent. A candidate that
    has no chance leaves early, with the times it has shown.
    """
    samples: dict[str, dict[Size, list[float]]] = {
        name: {batch: [] for batch in calls} for name, calls in lanes.items()
    }
    batches = sorted({batch for calls in lanes.values() for batch in calls})
    running = list(lanes)
    started = time.perf_counter()
    for done in range(MAX_ROUNDS):
        if done >= MIN_ROUNDS and time.perf_counter() - started > BUDGET_S * len(running):
            break
        if done == HOPELESS_ROUNDS:
            gone = find_hopeless({name: _total(samples[name]) for name in running})
            running = [name for name in running if name not in gone]
        for batch in batches:
            for name in running:
                samples[name][batch].append(time_call(lanes[name][batch], device))
    return {
        name: {batch: statistics.median(taken) for batch, taken in by_batch.items()}
        for name, by_batch in samples.items()
    }


def find_hopeless(totals: Mapping[str, float]) -> set[str]:
    """The candidates whose time over all batch sizes is HOPELESS times the best one's or more."""
    best = min(totals.values(), default=0.0)
    return {name for name, total in totals.items() if total >= HOPELESS * best and total > best}


def _total(by_batch: Mapping[Size, list[float]]) -> float:
    """The fastest call at each batch size, summed: one slow moment does not end a candidate's race."""
    return sum(min(taken) for taken in by_batch.values())
