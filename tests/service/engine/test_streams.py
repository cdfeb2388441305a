"""Responses over the socket between engine and frontend: as they come, only so far ahead, an end from either side."""

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest

from service.engine.client import EngineClient
from service.engine.link import FrameProtocol
from service.engine.messages import Cancel, EngineAddress, Failure, Infer, Result, Took
from service.engine.responses import TELL_EVERY
from service.engine.steps.messages import WINDOW
from service.errors import ExecutionFailed, Unavailable

ASK = Infer(7, "story", "1", 1, ((1,),), (1,))


class Engine:
    """The other end of the socket: `heard` is what came, `give` sends a response."""

    def __init__(self) -> None:
        self.heard: list[Infer | Cancel | Took] = []
        self.changed = asyncio.Event()
        self._link: FrameProtocol[Infer | Cancel | Took] | None = None

    async def listen(self, path: Path) -> None:
        self._server = await asyncio.get_running_loop().create_unix_server(self._open, str(path))

    def _open(self) -> FrameProtocol[Infer | Cancel | Took]:
        self._link = FrameProtocol(Infer | Cancel | Took, self._hear, lambda: None)  # type: ignore[arg-type]
        return self._link

    def _hear(self, message: Infer | Cancel | Took, _: memoryview) -> None:
        self.heard.append(message)
        self.changed.set()

    def give(self, text: bytes, *, is_final: bool = False) -> None:
        assert self._link is not None, "a client is connected"
        shapes, sizes = (((1,),), (len(text),)) if text else ((), ())
        self._link.send(Result(7, shapes, sizes, (0, 0, 0, 0, 0), 1, 1, is_final), [text] if text else [])

    def fail(self) -> None:
        assert self._link is not None, "a client is connected"
        self._link.send(Failure(7, "failed", "it broke"))

    async def wait_for(self, message: Infer | Cancel | Took) -> None:
        async with asyncio.timeout(10):
            while message not in self.heard:
                self.changed.clear()
                await self.changed.wait()

    def leave(self) -> None:
        assert self._link is not None, "a client is connected"
        self._link.close()
        self._server.close()


async def meet(folder: Path) -> tuple[Engine, EngineClient]:
    engine, client = Engine(), EngineClient(EngineAddress("cpu", str(folder / "socket"), 1))
    await engine.listen(folder / "socket")
    await client.connect()
    return engine, client


def test_responses_come_one_by_one_until_the_final_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        engine, client = await meet(tmp_path)
        async with aclosing(client.stream(ASK, [b"x"])) as answers:
            first = asyncio.ensure_future(anext(answers))
            await engine.wait_for(ASK)
            assert client.outstanding == 1
            engine.give(b"one")
            assert bytes((await first)[1][0]) == b"one"
            engine.give(b"two")
            engine.give(b"", is_final=True)
            rest = [(result.is_final, [bytes(blob) for blob in blobs]) async for result, blobs in answers]
        assert rest == [(False, [b"two"]), (True, [])]
        assert (client.outstanding, engine.heard) == (0, [ASK])
        client.close()
        engine.leave()

    asyncio.run(scenario())


def test_the_engine_is_told_what_was_taken_and_only_that(tmp_path: Path) -> None:
    assert 2 * TELL_EVERY <= WINDOW, "an engine that waits for word gets it"

    async def scenario() -> None:
        engine, client = await meet(tmp_path)
        async with aclosing(client.stream(ASK, [b"x"])) as answers:
            first = asyncio.ensure_future(anext(answers))
            await engine.wait_for(ASK)
            for _ in range(WINDOW):
                engine.give(b"word")
            await first
            for _ in range(TELL_EVERY - 1):
                await anext(answers)
            assert engine.heard == [ASK], "the last of them is being worked on"
            await anext(answers)
            await engine.wait_for(Took(7, TELL_EVERY))
        await engine.wait_for(Cancel(7))
        client.close()
        engine.leave()

    asyncio.run(scenario())


def test_a_failure_ends_it_and_so_does_the_death_of_the_engine(tmp_path: Path) -> None:
    async def scenario() -> None:
        engine, client = await meet(tmp_path)
        answers = client.stream(ASK, [b"x"])
        first = asyncio.ensure_future(anext(answers))
        await engine.wait_for(ASK)
        engine.fail()
        with pytest.raises(ExecutionFailed, match="it broke"):
            await first
        second = asyncio.ensure_future(anext(client.stream(ASK, [b"x"])))
        await asyncio.sleep(0)
        await engine.wait_for(ASK)
        engine.leave()
        with pytest.raises(Unavailable, match="died while it had this request"):
            await second
        with pytest.raises(Unavailable):
            await anext(client.stream(ASK, [b"x"]))
        assert Cancel(7) not in engine.heard

    asyncio.run(scenario())
