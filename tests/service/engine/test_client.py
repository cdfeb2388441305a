"""A sequence goes to one engine, whichever frontend asks, and is looked for where else it may live."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from service.engine.client import EngineClients
from service.engine.counting import Count, Counted
from service.engine.link import FrameProtocol
from service.engine.messages import Cancel, EngineAddress, Failure, Infer, Result
from service.errors import Code, UnknownSequence
from service.tensors import SequencePoint

DEVICES = ("cuda:0", "cuda:1", "cuda:2")


class Engine:
    """Knows the sequences that were started on it."""

    def __init__(self, device: str, folder: Path) -> None:
        self.address = EngineAddress(device, str(folder / device), 1)
        self.living: list[int | str] = []
        self.asked = 0
        self._links: list[FrameProtocol[Infer | Cancel]] = []

    async def listen(self) -> None:
        self._server = await asyncio.get_running_loop().create_unix_server(self._open, self.address.path)

    def _open(self) -> FrameProtocol[Infer | Cancel]:
        link: FrameProtocol[Infer | Cancel]

        def answer(message: Infer | Cancel, _: memoryview) -> None:
            assert isinstance(message, Infer)
            assert message.sequence is not None
            self.asked += 1
            if message.sequence.is_start:
                self.living.append(message.sequence.id)
            if message.sequence.id in self.living:
                link.send(Result(message.id, ((1,),), (1,), (0, 0, 0, 0, 0), 1, 1), [b"x"])
            else:
                link.send(Failure(message.id, Code.UNKNOWN_SEQUENCE, f"{self.address.device} knows it not"))

        link = FrameProtocol(Infer | Cancel, answer, lambda: None)  # type: ignore[arg-type]
        self._links.append(link)
        return link

    def leave(self) -> None:
        for link in self._links:
            link.close()
        self._server.close()


class Service:
    """Three engines, and frontends that know of some of them."""

    def __init__(self, engines: list[Engine]) -> None:
        self.engines = engines
        self.frontends: list[EngineClients] = []
        self._number = 0

    async def frontend(self, *engines: Engine) -> EngineClients:
        clients = EngineClients()
        await clients.follow([engine.address for engine in engines or self.engines])
        self.frontends.append(clients)
        return clients

    async def ask(self, clients: EngineClients, identity: int | str, *, start: bool = False) -> None:
        self._number += 1
        point = SequencePoint(identity, start)
        await clients.infer(Infer(self._number, "m", "1", 1, ((1,),), (1,), sequence=point), [b"x"])


def playing(scenario: Callable[[Service], Awaitable[None]], folder: Path) -> None:
    async def play() -> None:
        engines = [Engine(device, folder) for device in DEVICES]
        for engine in engines:
            await engine.listen()
        service = Service(engines)
        await scenario(service)
        for clients in service.frontends:
            await clients.follow([])
        for engine in engines:
            engine.leave()

    asyncio.run(play())


def test_all_frontends_agree_where_a_sequence_lives_and_sequences_are_spread(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        one, other = await service.frontend(), await service.frontend(*reversed(service.engines))
        for identity in range(1, 61):
            await service.ask(one, identity, start=True)
        for identity in range(1, 61):
            await service.ask(other, identity)
        assert sum(engine.asked for engine in service.engines) == 120, "nobody was asked in vain"
        assert min(len(engine.living) for engine in service.engines) > 5

    playing(scenario, tmp_path)


def test_a_sequence_that_began_while_its_engine_was_away_is_found(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        everyone = await service.frontend()
        await service.ask(everyone, "a", start=True)
        (own,) = (engine for engine in service.engines if engine.living)
        own.living.clear()
        without = await service.frontend(*(engine for engine in service.engines if engine is not own))
        await service.ask(without, "a", start=True)
        await service.ask(everyone, "a")

    playing(scenario, tmp_path)


def test_a_sequence_that_no_engine_knows_is_refused_in_the_words_of_its_own(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        everyone = await service.frontend()
        with pytest.raises(UnknownSequence, match="knows it not"):
            await service.ask(everyone, 9)
        assert [engine.asked for engine in service.engines] == [1, 1, 1]

    playing(scenario, tmp_path)


def test_who_counts_is_told_after_each_read(tmp_path: Path) -> None:
    told: list[None] = []

    async def scenario(service: Service) -> None:
        clients = EngineClients(lambda: told.append(None))
        await clients.follow([service.engines[0].address])
        service.frontends.append(clients)
        await asyncio.gather(*(service.ask(clients, identity, start=True) for identity in "abc"))
        assert 1 <= len(told) <= 3

    playing(scenario, tmp_path)


class Counter:
    """An engine that counts, keeps silent, or leaves when it is told to count."""

    def __init__(self, folder: Path, manner: str) -> None:
        self.address = EngineAddress("cpu", str(folder / manner), 1)
        self._manner = manner
        self.counted = 0

    async def listen(self) -> asyncio.Server:
        return await asyncio.get_running_loop().create_unix_server(self._open, self.address.path)

    def _open(self) -> FrameProtocol[Count]:
        def hear(word: Count, _: memoryview) -> None:
            self.counted += 1
            if self._manner == "counts":
                link.send(Counted(word.id))
            elif self._manner == "leaves":
                link.close()

        link = FrameProtocol(Count, hear, lambda: None)
        return link


@pytest.mark.parametrize(
    ("manners", "limit_s"),
    [(("counts",), 60), (("counts", "leaves"), 60), (("silent", "counts"), 0.001), ((), 60)],
    ids=["counts", "leaves", "silent", "none"],
)
def test_all_engines_are_asked_to_count_and_who_is_gone_or_silent_is_not_waited_for(
    manners: tuple[str, ...], limit_s: float, tmp_path: Path
) -> None:
    async def act() -> None:
        counters = [Counter(tmp_path, manner) for manner in manners]
        servers = [await counter.listen() for counter in counters]
        clients = EngineClients()
        await clients.follow([counter.address for counter in counters])
        await asyncio.wait_for(clients.count(limit_s), 30)
        if limit_s > 1:
            assert [counter.counted for counter in counters] == [1] * len(manners)
            await asyncio.wait_for(clients.count(limit_s), 30)
        await clients.follow([])
        for server in servers:
            server.close()

    asyncio.run(act())
