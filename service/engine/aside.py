"""Lets work of long breath, as loading a model is, stand back for the batches that run beside it in the same process.

Knows nothing of what the work is. `opening.py` has models opened and warmed up so.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

BEHIND = 10  # niceness: on a contended core it gets a tenth of what serving gets, and all of an idle one

T = TypeVar("T")


def stand_back(work: Callable[[], T]) -> T:
    """What `work` returns or raises, on a thread of its own that waits for it.

    Linux gives each thread a niceness, which those inherit that it starts, the team that computes for it among them. A
    process without privileges cannot take it back, so the thread is not used for anything else.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        thread_id = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread_id, max(BEHIND, os.getpriority(os.PRIO_PROCESS, thread_id)))
        try:
            outcome.set_result(work())
        except BaseException as error:  # noqa: BLE001 - whoever waits for it raises it
            outcome.set_exception(error)

    thread = threading.Thread(target=run, name=f"{threading.current_thread().name}, aside")
    thread.start()
    thread.join()
    return outcome.result()
