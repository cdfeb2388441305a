"""Work that stands back for what runs beside it."""

from __future__ import annotations

import os
import threading

import pytest

from service.engine.aside import BEHIND, stand_back


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_it_stands_back_and_so_do_the_threads_it_starts() -> None:
    mine, theirs = niceness(), []

    def work() -> int:
        inner = threading.Thread(target=lambda: theirs.append(niceness()))
        inner.start()
        inner.join()
        return niceness()

    assert stand_back(work) == theirs[0] == max(mine, BEHIND)
    assert niceness() == mine


def test_what_it_raises_is_raised() -> None:
    def work() -> None:
        raise ValueError("no such file")

    with pytest.raises(ValueError, match="no such file"):
        stand_back(work)
