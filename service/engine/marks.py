"""What served models tell of traced requests: a part of one as a `Step`, with the model that ran it and its batch.

`traced.py` has the values. Models with parts (`ensemble.py`, `stepped.py`, `generating.py`) and `dividing.py` call it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from service.engine.messages import Result
from service.repository.catalog import Entry
from service.traced import MOST_STEPS, Ran, Step


def step_of(entry: Entry, began: float, result: Result) -> Step:
    """A model has answered just now what it was asked at `began`."""
    return Step(
        entry.name,
        entry.version,
        int(began * 1e9),
        time.monotonic_ns(),
        result.phases,
        result.batch,
        result.bucket,
        result.ran,
    )


def step_between(name: str, began: float, ended: float) -> Step:
    """Something that is no model, as a Python file, with its wait for a process."""
    return Step(name, "", int(began * 1e9), int(ended * 1e9))


def ran_in_parts(results: Sequence[Result]) -> Ran | None:
    """Of a request that was cut into parts: each has a batch of its own."""
    steps = []
    for result in results[:MOST_STEPS]:
        if result.ran is not None:
            began = result.ran.began_ns
            at = began - result.phases[0], began + sum(result.phases[1:])
            steps.append(Step("part", "", *at, result.phases, result.batch, result.bucket, result.ran))
    return Ran(steps=tuple(steps)) if steps else None
