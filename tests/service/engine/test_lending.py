"""Large tensors between a frontend and an engine, over a real socket: what is lent comes back, whatever happens."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from service.engine.arena import Guest
from service.engine.client import EngineClients
from service.engine.lending import HEAD, INLINE, LENT_BYTES, PLACE, Hello, Lender
from service.engine.listener import DataConnection, Listener
from service.engine.messages import Cancel, EngineAddress, Infer, Result, Took
from service.engine.rerun import EngineGone
from service.engine.transport import frame, lent_frame, split

BYTES = 1 << 22
PART = 1 << 18
TIMEOUT_S = 20.0


class Engine:
    """Holds requests until it is told to answer: with what came, in which each byte is one more."""

    def __init__(self) -> None:
        self.asked: list[tuple[Infer, list[memoryview], DataConnection]] = []
        self.cancelled: list[int] = []
        self.forgotten = 0
        self._changed = threading.Condition()

    def beat(self) -> None:
        """It is alive."""

    def handle(
        self, message: Infer | Cancel | Took, body: memoryview, connection: DataConnection, is_alone: bool
    ) -> None:
        with self._changed:
            if isinstance(message, Infer):
                self.asked.append((message, split(body, message.sizes), connection))
            else:
                self.cancelled.append(message.id)
            self._changed.notify_all()

    def shares(self, guest: Guest) -> None:
        """Nothing copies by itself from there."""

    def count(self) -> None:
        """Nothing is put off."""

    def forget(self, connection: DataConnection) -> None:
        with self._changed:
            self.forgotten += 1
            self._changed.notify_all()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait without holding up the frontend."""

        def wait() -> None:
            with self._changed:
                assert self._changed.wait_for(condition, TIMEOUT_S)

        await asyncio.to_thread(wait)

    def answer(self) -> None:
        """All that were asked, in one go."""
        for message, tensors, connection in self.asked:
            outputs = [memoryview(bytes((tensor[0] + 1,)) * len(tensor)) for tensor in tensors]
            result = Result(message.id, message.shapes, message.sizes, (0, 0, 0, 0, 0), 1, 1)
            connection.send([(result, outputs)])
        self.asked.clear()

    def drop(self) -> None:
        """Let go of what was cancelled, unanswered."""
        with self._changed:
            self.asked = [each for each in self.asked if each[0].id not in self.cancelled]

    def lent(self, connection: DataConnection) -> int:
        """What its answers have in use."""
        assert connection.memory is not None
        return connection.memory.lent_bytes


class Scene:
    """One frontend, two engines, of which it knows the first."""

    def __init__(self, folder: Path, byte_size: int) -> None:
        self.engines = [Engine(), Engine()]
        self.addresses = []
        for number, engine in enumerate(self.engines):
            path = str(folder / str(number))
            Listener(path, engine).start()
            self.addresses.append(EngineAddress("cpu", path, number))
        self.engine = self.engines[0]
        self.clients = EngineClients()
        self.clients.lender = Lender(byte_size)
        self.arena = self.clients.lender.arena
        self._number = 0

    def ask(self, *sizes: int) -> asyncio.Task[tuple[Result, list[memoryview]]]:
        """A request whose tensors are full of its number."""
        self._number += 1
        message = Infer(self._number, "m", "1", 1, tuple((1, size) for size in sizes), sizes)
        blobs = [bytes((self._number,)) * size for size in sizes]
        return asyncio.get_running_loop().create_task(self.clients.infer(message, blobs))

    async def settled(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while not condition():
                await asyncio.to_thread(lambda: None)


def playing(scenario: Callable[[Scene], Awaitable[None]], folder: Path, byte_size: int = BYTES) -> None:
    async def play() -> None:
        scene = Scene(folder, byte_size)
        await scene.clients.follow(scene.addresses[:1])
        await scenario(scene)
        await scene.clients.follow([])
        for engine in scene.engines:
            engine.asked.clear()

    asyncio.run(play())


@pytest.mark.parametrize(
    "sizes",
    [(PART,), (LENT_BYTES,), (LENT_BYTES - 1,), (8,), (PART, 8, LENT_BYTES), (8, 0, PART), (PART, PART)],
    ids=str,
)
def test_tensors_of_any_size_go_there_and_back(sizes: tuple[int, ...], tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        sizes_kept = tuple(size for size in sizes if size)
        asked = scene.ask(*sizes_kept)
        await scene.engine.until(lambda: len(scene.engine.asked) == 1)
        _, tensors, connection = scene.engine.asked[0]
        assert [bytes(tensor) for tensor in tensors] == [b"\1" * size for size in sizes_kept]
        assert (scene.arena.taken_bytes > 0) == (max(sizes) >= LENT_BYTES)
        del tensors
        scene.engine.answer()
        _, outputs = await asked
        assert [bytes(output) for output in outputs] == [b"\2" * size for size in sizes_kept]
        assert scene.arena.taken_bytes == 0
        assert (scene.engine.lent(connection) > 0) == (max(sizes) >= LENT_BYTES)
        del outputs, asked
        await scene.settled(lambda: scene.engine.lent(connection) == 0)

    playing(scenario, tmp_path)


def test_what_finds_no_room_goes_through_the_socket(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        asked = [scene.ask(PART) for _ in range(20)]
        await scene.engine.until(lambda: len(scene.engine.asked) == 20)
        assert scene.arena.taken_bytes == 4 * PART
        scene.engine.answer()
        answers = await asyncio.gather(*asked)
        assert [bytes(outputs[0]) for _, outputs in answers] == [bytes((2 + n,)) * PART for n in range(20)]
        assert scene.arena.taken_bytes == 0

    playing(scenario, tmp_path, byte_size=4 * PART)


def test_what_was_cancelled_stays_until_the_engine_has_let_go_of_it(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        asked = scene.ask(PART)
        await scene.engine.until(lambda: len(scene.engine.asked) == 1)
        asked.cancel()
        await scene.engine.until(lambda: scene.engine.cancelled == [1])
        await asyncio.gather(asked, return_exceptions=True)
        assert scene.arena.taken_bytes == PART, "it may still be read"
        other = scene.ask(PART)
        await scene.engine.until(lambda: len(scene.engine.asked) == 2)
        assert bytes(scene.engine.asked[0][1][0]) == b"\1" * PART
        scene.engine.drop()
        scene.ask(8).add_done_callback(lambda task: task.cancelled() or task.exception())
        await scene.settled(lambda: scene.arena.taken_bytes == PART)
        scene.engine.answer()
        assert bytes((await other)[1][0]) == b"\3" * PART

    playing(scenario, tmp_path)


def test_what_was_cancelled_but_ran_is_free_with_its_answer(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        asked = scene.ask(PART)
        await scene.engine.until(lambda: len(scene.engine.asked) == 1)
        asked.cancel()
        await scene.engine.until(lambda: scene.engine.cancelled == [1])
        connection = scene.engine.asked[0][2]
        scene.engine.answer()
        await scene.settled(lambda: scene.arena.taken_bytes == 0 and scene.engine.lent(connection) == 0)

    playing(scenario, tmp_path)


def test_an_engine_that_dies_gives_all_back_and_the_next_reads_the_same(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        lent = scene.arena.put(b"\7" * PART)
        assert lent is not None
        message = Infer(99, "m", "1", 1, ((1, PART),), (PART,))
        client = next(iter(scene.clients._clients.values()))
        asked = asyncio.get_running_loop().create_task(client.infer(message, [lent]))
        await scene.engine.until(lambda: len(scene.engine.asked) == 1)
        scene.engine.asked[0][2].sock.shutdown(socket.SHUT_RDWR)
        with pytest.raises(EngineGone):
            await asked
        await scene.clients.follow(scene.addresses[1:])
        again = asyncio.get_running_loop().create_task(scene.clients.infer(message, [lent]))
        await scene.engines[1].until(lambda: len(scene.engines[1].asked) == 1)
        assert bytes(scene.engines[1].asked[0][1][0]) == b"\7" * PART
        assert scene.arena.taken_bytes == PART, "it was not copied"
        scene.engines[1].answer()
        assert bytes((await again)[1][0]) == b"\10" * PART
        del lent, asked, again
        await scene.settled(lambda: scene.arena.taken_bytes == 0)

    playing(scenario, tmp_path)


def test_a_frontend_that_dies_takes_nothing_from_a_batch_that_runs(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        asked = scene.ask(PART)
        await scene.engine.until(lambda: len(scene.engine.asked) == 1)
        asked.cancel()
        await scene.clients.follow([])
        await scene.engine.until(lambda: scene.engine.forgotten == 1)
        assert bytes(scene.engine.asked[0][1][0]) == b"\1" * PART
        scene.engine.answer()  # to nobody
        await scene.settled(lambda: scene.arena.taken_bytes == 0)

    playing(scenario, tmp_path)


@pytest.mark.parametrize(
    "body",
    [
        HEAD.pack(1, 1) + PLACE.pack(BYTES - 1, 2),
        HEAD.pack(1, 1) + PLACE.pack(2**63, 2**63),
        HEAD.pack(1, 1) + PLACE.pack(0, 99),  # the message says two
        HEAD.pack(1, 9) + PLACE.pack(0, 2),
        HEAD.pack(1, 1) + PLACE.pack(INLINE, 2),  # which do not follow
        HEAD.pack(1, 1)[:7],
        b"",
    ],
    ids=["beyond", "far beyond", "other size", "too few", "not there", "no head", "empty"],
)
def test_an_engine_lets_go_of_who_speaks_of_what_is_not_there(body: bytes, tmp_path: Path) -> None:
    engine, path = Engine(), str(tmp_path / "engine")
    Listener(path, engine).start()
    lender = Lender(BYTES)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(TIMEOUT_S)
        sock.connect(path)
        loop = asyncio.new_event_loop()
        loop.run_until_complete(greet(lender, sock))
        loop.close()
        sock.sendall(b"".join(lent_frame(Infer(1, "m", "1", 1, ((1, 2),), (2,)), [body])))
        assert sock.recv(1) == b"", "the connection is closed"


async def greet(lender: Lender, sock: socket.socket) -> None:
    lender.greet(sock, lambda _: None)


def test_an_engine_lets_go_of_who_shares_nothing_or_something_else(tmp_path: Path) -> None:
    engine, path = Engine(), str(tmp_path / "engine")
    Listener(path, engine).start()
    reader, writer = os.pipe()
    hello = b"".join(frame(Hello(BYTES, BYTES)))
    lent = b"".join(lent_frame(Infer(1, "m", "1", 1, ((1, 2),), (2,)), [HEAD.pack(1, 0)]))
    for words, files in ((hello, []), (hello, [reader]), (hello, [reader, writer]), (lent, [])):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(TIMEOUT_S)
            sock.connect(path)
            socket.send_fds(sock, [words], files)
            assert sock.recv(1) == b""
    os.close(reader)
    os.close(writer)
