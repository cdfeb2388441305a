"""Decides which verified candidate is served, and says of each other one why it is not.

Pure: milliseconds in, a name and sentences out; knows nothing of torch, so that the decision can be made anywhere.
`race.py` measures, `pipeline.py` asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Objective = Literal["latency", "throughput"]

# A more complex backend must win by this much: below it lie noise and nothing that a user would feel.
MARGIN = 1.05


def score(milliseconds: Mapping[int, float], objective: Objective) -> float:
    """Rows per second.

    For latency at the smallest batch alone. For throughput when every bucket comes equally often, the sum of rows over
    the sum of times: with buckets of powers of two half the rows are in the largest, yet none is without weight.
    """
    if objective == "latency":
        smallest = min(milliseconds)
        return 1e3 * smallest / milliseconds[smallest]
    return 1e3 * sum(milliseconds) / sum(milliseconds.values())


def choose(times: Mapping[str, Mapping[int, float]], objective: Objective) -> tuple[str, dict[str, str]]:
    """The winner, and for each other candidate why it lost. `times` in order, simplest backend first; not empty.

    >>> choose({"eager": {1: 2.0}, "inductor": {1: 1.0}}, "latency")
    ('inductor', {'eager': '2.00 times slower than inductor'})
    """
    assert times, "the race needs a candidate that passed"
    scores = {name: score(milliseconds, objective) for name, milliseconds in times.items()}
    winner, *challengers = scores
    for name in challengers:
        if scores[name] >= MARGIN * scores[winner]:
            winner = name
    return winner, {name: _why(name, winner, scores) for name in scores if name != winner}


def _why(name: str, winner: str, scores: Mapping[str, float]) -> str:
    ratio = scores[name] / scores[winner]
    if ratio > 1:
        return f"{ratio:.2f} times as fast as {winner}, but a more complex backend must be {MARGIN} times as fast"
    return f"{1 / ratio:.2f} times slower than {winner}" if ratio < 0.995 else f"no faster than {winner}"
