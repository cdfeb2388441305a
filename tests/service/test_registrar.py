"""What one frontend's client changes is answered when every frontend goes by it, and not before."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from service.engine.messages import (
    Answer,
    Ask,
    Change,
    ChangeLog,
    ChangeTrace,
    LoadModel,
    RegisterRegion,
    Shared,
    UnloadModel,
    UnregisterRegions,
)
from service.errors import Code, InvalidInput, Unavailable
from service.parent import ParentLink
from service.registrar import Registrar
from service.shared_memory import Region
from tests.fakes import FakeModels


class Desk:
    """A registrar with two frontends that follow when they are told to."""

    def __init__(self, follow_timeout_s: float) -> None:
        self.published: list[Shared] = []
        self.replies: list[tuple[int, Answer]] = []
        self.replied = asyncio.Event()
        self.models = FakeModels()
        self.registrar = Registrar(
            Shared(),
            models=lambda: self.models,
            has_shared_memory=False,
            publish=lambda: self.published.append(self.registrar.shared),
            reply=self._replied,
            follow_timeout_s=follow_timeout_s,
        )
        self.registrar.began(0)
        self.registrar.began(1)

    def _replied(self, frontend: int, answer: Answer) -> None:
        self.replies.append((frontend, answer))
        self.replied.set()

    async def ask(self, change: Change, number: int = 7) -> None:
        self.registrar.ask(1, Ask(number, change))
        await turns()

    async def follow(self, *frontends: int) -> None:
        for frontend in frontends:
            self.registrar.followed(frontend, self.registrar.shared.number)
        await turns()


async def turns() -> None:
    """Let everything run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


def run(scenario: Callable[[Desk], Awaitable[None]], follow_timeout_s: float = 60.0) -> None:
    async def main() -> None:
        await scenario(Desk(follow_timeout_s))

    asyncio.run(main())


QUIET = ChangeLog({"log_info": False})


def test_the_answer_waits_for_every_frontend() -> None:
    async def scenario(desk: Desk) -> None:
        await desk.ask(QUIET)
        assert [shared.log.log_info for shared in desk.published] == [False]
        await desk.follow(1)
        assert desk.replies == []
        await desk.follow(0)
        assert desk.replies == [(1, Answer(7))]

    run(scenario)


def test_nobody_waits_for_a_frontend_that_died_and_its_successor_counts_from_its_start() -> None:
    async def scenario(desk: Desk) -> None:
        await desk.ask(QUIET)
        await desk.follow(1)
        desk.registrar.died(0)
        await turns()
        assert len(desk.replies) == 1
        desk.registrar.began(0)
        await desk.ask(ChangeLog({"log_info": True}), number=8)
        await desk.follow(1)
        assert len(desk.replies) == 1
        await desk.follow(0)
        assert desk.replies[-1] == (1, Answer(8))

    run(scenario)


def test_a_frontend_that_is_stuck_does_not_hold_the_answer_for_ever() -> None:
    async def scenario(desk: Desk) -> None:
        await desk.ask(QUIET)
        await asyncio.wait_for(desk.replied.wait(), 10)
        assert desk.replies == [(1, Answer(7))]

    run(scenario, follow_timeout_s=0.0)


def test_a_refusal_is_answered_at_once_and_changes_nothing() -> None:
    async def scenario(desk: Desk) -> None:
        await desk.ask(RegisterRegion(Region("r", "k", 0, 8)))
        ((frontend, answer),) = desk.replies
        assert (frontend, answer.id, answer.code) == (1, 7, Code.UNSUPPORTED)
        assert "--shared-memory system" in answer.message
        assert desk.published == []

    run(scenario)


def test_changes_add_up(tmp_path: Path) -> None:
    async def scenario(desk: Desk) -> None:
        for change in (
            QUIET,
            ChangeTrace("", {"trace_rate": ("5",)}),
            ChangeTrace("double", {"trace_rate": ("7",)}),
            ChangeLog({"log_verbose_level": 2}),
            UnregisterRegions(""),
        ):
            await desk.ask(change)
        shared = desk.registrar.shared
        assert shared.number == 5
        assert (shared.log.log_info, shared.log.log_verbose_level) == (False, 2)
        assert shared.trace == {"": {"trace_rate": ("5",)}, "double": {"trace_rate": ("7",)}}

    run(scenario)


def test_a_model_is_loaded_before_every_frontend_is_told() -> None:
    async def scenario(desk: Desk) -> None:
        await desk.ask(LoadModel("double"))
        assert desk.models.asked == [LoadModel("double")]
        assert desk.replies == []
        await desk.follow(0, 1)
        assert desk.replies == [(1, Answer(7))]
        await desk.ask(UnloadModel("double"), number=8)
        await desk.follow(0, 1)
        assert desk.models.asked[1:] == [UnloadModel("double")]
        assert desk.replies[1:] == [(1, Answer(8))]

    run(scenario)


def test_a_fault_of_ours_is_told_in_neutral_words() -> None:
    async def scenario(desk: Desk) -> None:
        desk.models.error = RuntimeError("/srv/secret")
        await desk.ask(LoadModel("double"))
        ((_, answer),) = desk.replies
        assert (answer.code, "secret" in answer.message) == (Code.FAILED, False)

    run(scenario)


def test_a_link_brings_each_answer_to_whoever_asked() -> None:
    async def scenario() -> None:
        asked: list[Ask] = []
        link = ParentLink(asked.append)
        first, second, third = (asyncio.ensure_future(link.ask(QUIET)) for _ in range(3))
        await turns()
        link.answered(Answer(asked[1].id, Code.INVALID, "not so"))
        link.answered(Answer(asked[0].id))
        link.answered(Answer(99))
        await first
        with pytest.raises(InvalidInput, match="not so"):
            await second
        link.lost()
        with pytest.raises(Unavailable, match="shutting down"):
            await third

    asyncio.run(scenario())
