"""A torchere that can stop counting and begin again, to be compared with itself: put this folder on PYTHONPATH.

Python imports it at the start of every process: one that gets SIGUSR1 counts nothing from then on, with SIGUSR2 it
counts again. Only `counting_cost.py` does so.
"""

import signal
from typing import Any

from service.observe import batch_recorder
from service.observe.batch_recorder import BatchRecorder
from service.observe.recorders import RequestRecorder
from service.observe.tally import Tally

NAMES = ("finished", "encoded", "traced", "dispatched", "settled", "batch", "depth", "add")
COUNTING = [
    (each, name, getattr(each, name))
    for each in (RequestRecorder, BatchRecorder, Tally)
    for name in NAMES
    if hasattr(each, name)
]


def nothing(_1: Any = 0, _2: Any = 0, _3: Any = 0, _4: Any = 0, _5: Any = 0, _6: Any = 0, _7: Any = 0) -> None:
    """Count nothing, with as little as a call can cost."""


class Biased(BatchRecorder):
    """What runs when counting stops is taken off when it has resumed: as if much ran always."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._running.set(1 << 32)


def stop(*_: object) -> None:
    """From now on."""
    for recorder, name, _method in COUNTING:
        setattr(recorder, name, nothing)


def resume(*_: object) -> None:
    """As it was."""
    for recorder, name, method in COUNTING:
        setattr(recorder, name, method)


batch_recorder.BatchRecorder = Biased  # type: ignore[assignment,misc]
signal.signal(signal.SIGUSR1, stop)
signal.signal(signal.SIGUSR2, resume)
