"""A child is kept alive whatever keeps it from starting, and is told to leave whenever that comes."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from service.engine.children import Child, Program
from service.engine.messages import ChildMessage, ParentMessage, Started

PROGRAM = Program("obedient", "tests.service.engine.obedient")
PATIENCE_S = 60.0


class Nursery:
    """One child, what it says, and how often it died."""

    def __init__(self, first_words: Callable[[], list[ParentMessage]] = lambda: []) -> None:
        self.heard: list[ChildMessage] = []
        self.deaths: list[int] = []
        self.has_spoken = asyncio.Event()
        self.has_died = asyncio.Event()
        self.child = Child(PROGRAM, first_words, self._hear, self._died)
        self.child.start()

    def _hear(self, message: ChildMessage) -> None:
        self.heard.append(message)
        self.has_spoken.set()

    def _died(self, pid: int) -> None:
        self.deaths.append(pid)
        self.has_died.set()

    async def is_up(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self.has_spoken.wait()


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def test_one_that_is_just_being_started_is_told_to_leave() -> None:
    async def leave_at_once() -> None:
        nursery = Nursery()
        await asyncio.sleep(0)  # it has begun to start the process
        assert not nursery.child.pid
        assert await nursery.child.leave(PATIENCE_S), "it finished, and was not killed"

    run(leave_at_once())


def test_where_no_process_can_be_had_another_try_is_made(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spawn, failures = asyncio.create_subprocess_exec, [OSError(errno.ENOMEM, "Cannot allocate memory")]

    async def start(*words: str, **how: Any) -> asyncio.subprocess.Process:
        if failures:
            raise failures.pop()
        return await spawn(*words, **how)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start)

    async def wait() -> None:
        nursery = Nursery()
        await nursery.is_up()
        assert isinstance(nursery.heard[0], Started)
        assert (nursery.child.restarts, nursery.deaths) == (1, []), "what never lived has not died"
        assert await nursery.child.leave(PATIENCE_S)

    run(wait())
    assert "obedient died (it could not be started: Cannot allocate memory): starting it again in 0.1 s" in caplog.text


def test_one_that_cannot_be_told_what_to_do_is_ended_and_started_again(caplog: pytest.LogCaptureFixture) -> None:
    failures = [OSError(errno.ENOSPC, "No space left on device")]

    def first_words() -> list[ParentMessage]:
        if failures:
            raise failures.pop()
        return []

    async def wait() -> None:
        nursery = Nursery(first_words)
        async with asyncio.timeout(PATIENCE_S):
            await nursery.has_died.wait()
            while len(nursery.heard) < 1 or nursery.heard[-1].pid != nursery.child.pid:  # type: ignore[union-attr]
                nursery.has_spoken.clear()
                await nursery.has_spoken.wait()
        assert await nursery.child.leave(PATIENCE_S)
        assert len(nursery.deaths) == 2

    run(wait())
    assert "obedient cannot be told what to do: [Errno 28] No space left on device" in caplog.text
