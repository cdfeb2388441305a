"""When the requests of an open loop begin: a Poisson process, the same for the same seed.

Pure: times are numbers, nothing waits here. `pacers.py` sends at these times.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

NANOSECONDS = 1_000_000_000


def poisson_times_ns(rate_per_s: float, seed: int, begin_ns: int) -> Iterator[int]:
    """Endless moments after `begin_ns`, `rate_per_s` of them a second on average. Several such processes with seeds of
    their own together are again one, of the sum of the rates."""
    draw = random.Random(seed).expovariate
    at = float(begin_ns)
    while True:
        at += draw(rate_per_s) * NANOSECONDS
        yield int(at)
