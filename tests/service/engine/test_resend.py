"""Requests that no engine can take wait for one; those whose engine died are run again, within their time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from msgspec import structs

from service.engine.blackbox import Running, Sight
from service.engine.messages import Infer, Result
from service.engine.rerun import FIRST, RAN, WAITED, EngineGone, look_back
from service.engine.resend import Resender
from service.errors import DeadlineExceeded, ExecutionFailed, NotLoaded, QueueFull, Unavailable
from service.repository.catalog import Catalog, State
from service.repository.model_config import Batching
from service.tensors import SequencePoint
from tests.fakes import entry

ASK = Infer(7, "double", "1", 1, ((1, 3),), (12,))
RESULT = Result(7, (), (), (0, 0, 0, 0, 0), 1, 1)
READY = Catalog((entry(),))
RESUMING = Catalog((entry(state=State.LOADING, reason="the engine is being restarted", is_resuming=True),))


def gone(*ids: int) -> EngineGone:
    return EngineGone(look_back("cpu", Sight(1, 0, 0, (Running(8, 1, 0, ids),) if ids else ())))


class Service:
    """Engines that fail a few times, as told, and then answer."""

    def __init__(self, *failures: NotLoaded) -> None:
        self.sent: list[Infer] = []
        self._failures = list(failures)
        self.resender = Resender(self._send)
        self.resender.follow(RESUMING)

    async def _send(self, message: Infer, blobs: Any) -> Any:
        self.sent.append(message)
        if self._failures:
            raise self._failures.pop(0)
        return RESULT, []

    async def ask(self, error: NotLoaded, message: Infer = ASK) -> asyncio.Task[Any]:
        """It goes as far as it can until something changes."""
        task = asyncio.ensure_future(self.resender.infer(message, [b"x"], error))
        await turns()
        return task


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def play(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(scenario())  # type: ignore[arg-type]


def test_it_waits_for_the_successor_and_is_sent_again() -> None:
    async def scenario() -> None:
        service = Service()
        waited, ran = await service.ask(gone()), await service.ask(gone(7))
        assert service.sent == []
        service.resender.follow(READY)
        await waited
        await ran
        assert [message.retry for message in service.sent] == [WAITED, RAN]

    play(scenario)


def test_another_engine_that_is_there_takes_it_at_once() -> None:
    async def scenario() -> None:
        service = Service()
        service.resender.follow(READY)
        assert (await (await service.ask(gone(7))))[0] is RESULT

    play(scenario)


def test_it_goes_on_over_several_deaths_while_it_only_waits() -> None:
    async def scenario() -> None:
        service = Service(gone(), NotLoaded("it is loading"), gone())
        task = await service.ask(gone())
        for _ in range(4):
            service.resender.follow(READY)
            await turns()
        await task
        assert {message.retry for message in service.sent} == {WAITED}

    play(scenario)


def test_after_its_second_run_it_fails() -> None:
    async def scenario() -> None:
        service = Service(gone(7))
        service.resender.follow(READY)
        with pytest.raises(ExecutionFailed, match="two engines died"):
            await (await service.ask(gone(7)))
        assert len(service.sent) == 1

    play(scenario)


def test_what_comes_meanwhile_waits_too_but_no_more_than_fit_the_queue() -> None:
    async def scenario() -> None:
        service = Service()
        batching = Batching(max_queue_size=2)
        service.resender.follow(Catalog((structs.replace(RESUMING.entry("double"), batching=batching),)))
        held = [await service.ask(NotLoaded("no engine")) for _ in range(2)]
        again = await service.ask(gone())  # was accepted before: it is not refused
        with pytest.raises(QueueFull, match="2 requests wait for it already"):
            await (await service.ask(NotLoaded("no engine is running")))
        service.resender.follow(READY)
        await asyncio.gather(*held, again)
        assert [message.retry for message in service.sent].count(FIRST) == 2
        await (await service.ask(gone()))

    play(scenario)


def test_one_that_has_no_time_left_is_told_before_its_deadline() -> None:
    async def scenario() -> None:
        service = Service()
        deadline = time.monotonic() + 0.1
        with pytest.raises(Unavailable, match="no engine in time") as refused:
            await (await service.ask(gone(), structs.replace(ASK, deadline=deadline)))
        assert time.monotonic() < deadline
        assert refused.value.retry_after_s
        service.resender.timeout_s = 0.0
        with pytest.raises(Unavailable, match="no engine in time"):
            await (await service.ask(gone()))

    play(scenario)


def test_one_that_is_run_again_too_slowly_is_told_too() -> None:
    async def scenario() -> None:
        async def never(message: Infer, blobs: Any) -> Any:
            await asyncio.Event().wait()

        resender = Resender(never)
        resender.follow(READY)
        with pytest.raises(DeadlineExceeded):
            await resender.infer(structs.replace(ASK, deadline=time.monotonic() + 0.1), [b"x"], gone())

    play(scenario)


def test_a_sequence_is_not_run_again_for_its_state_is_lost() -> None:
    async def scenario() -> None:
        service = Service()
        service.resender.follow(READY)
        with pytest.raises(Unavailable, match=r"state of sequence '5'.*start the sequence again"):
            await (await service.ask(gone(), structs.replace(ASK, sequence=SequencePoint(5))))
        assert service.sent == []

    play(scenario)


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (Catalog((entry(state=State.UNAVAILABLE, reason="the engine could not load it"),)), "could not load it"),
        (Catalog((entry(contract=9),)), "has changed"),
        (Catalog(), "was unloaded meanwhile"),
    ],
)
def test_what_will_not_come_back_is_not_waited_for(after: Catalog, reason: str) -> None:
    async def scenario() -> None:
        service = Service()
        task = await service.ask(gone())
        service.resender.follow(after)
        with pytest.raises(Unavailable, match=reason):
            await task

    play(scenario)
