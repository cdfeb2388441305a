"""Large bodies over real connections, received in shared memory: however they come, answers and memory are right."""

from __future__ import annotations

import asyncio
import gc
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
import uvloop
from uvicorn.server import ServerState

from service.engine.client import EngineClients
from service.engine.lending import Lender
from service.engine.listener import Listener
from service.engine.messages import EngineAddress
from service.errors import Code
from service.limits import Limits
from service.plane import Plane
from service.rest.infer import InferLane
from service.rest.protocol import LaneProtocol, lane_protocol
from service.rest.routes import find_route
from tests.fakes import FakeCounter, catalog
from tests.service.certificates import make_certificates
from tests.service.rest.receiving import WIDE, WIDTH, Engine, Scene, cut, request

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=["asyncio", "uvloop", "uvloop, TLS"])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., None]:
    loop, _, tls = request.param.partition(", ")

    async def scene(scenario: Callable[[Scene], Awaitable[None]], byte_size: int) -> None:
        engine, clients = Engine(), EngineClients()
        Listener(str(tmp_path / "engine"), engine).start()
        clients.lender = Lender(byte_size)
        await clients.follow([EngineAddress("cpu", str(tmp_path / "engine"), 1)])
        plane = Plane(clients, FakeCounter())
        plane.follow(catalog(WIDE))
        lane = InferLane(plane, Limits())
        lane.arena = clients.lender.arena
        server_tls = client_tls = None
        if tls:
            files = make_certificates(tmp_path)
            server_tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            server_tls.load_cert_chain(files.certificate, files.key)
            client_tls = ssl.create_default_context(cafile=str(files.authority))
        http = lane_protocol(lane)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            route = find_route(scope["raw_path"])
            assert route is not None
            await lane(scope, receive, send, route)

        config = uvicorn.Config(app, http=http, loop="none", lifespan="off", log_config=None)
        config.load()
        state = ServerState()
        running = asyncio.get_running_loop()
        make: Callable[[], LaneProtocol] = lambda: http(config, state, {})  # noqa: E731
        server = await running.create_server(make, "127.0.0.1", 0, ssl=server_tls)
        url = server.sockets[0].getsockname()[:2]
        await scenario(Scene(plane, lane, engine, url, client_tls))
        engine.go.set()
        server.close()
        await server.wait_closed()
        await clients.follow([])

    def run(scenario: Callable[[Scene], Awaitable[None]], byte_size: int = 1 << 24) -> None:
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(scene(scenario, byte_size))

    return run


def test_bodies_that_come_in_any_pieces(play: Callable[..., None]) -> None:
    async def scenario(scene: Scene) -> None:
        client = await scene.connect()
        for value, places in enumerate(((), (50,), (50, 170), (250, 60_000), (300, 301, 302), (60_000, 90_000), ())):
            await client.send(*cut(request(value), *places))
            assert await client.doubled() == 2 * value
        assert scene.lane.familiar.find(*head_of(request(1))) is not None, "its like came before"
        await scene.freed()
        await client.close()

    play(scenario)


def test_raw_bytes_without_names(play: Callable[..., None]) -> None:
    data = np.full(WIDTH, 7, np.float32).tobytes()
    kinds = b"Content-Type: application/octet-stream\r\nAccept: application/octet-stream\r\nTensor-Shape: 1,%d" % WIDTH
    head = b"POST /v1/models/wide/infer HTTP/1.1\r\nHost: x\r\n%s\r\nContent-Length: %d\r\n\r\n" % (kinds, len(data))

    async def scenario(scene: Scene) -> None:
        client = await scene.connect()
        for _ in range(3):
            await client.send(*cut(head + data, 60_000))
            status, body = await client.answer()
            assert status == 200
            assert body == np.full(WIDTH, 14, np.float32).tobytes()
        await scene.freed()
        await client.close()

    play(scenario)


def head_of(data: bytes) -> tuple[bytes, int]:
    return data, data.index(b"\r\n\r\n") + 4


def test_small_and_large_take_turns_and_what_is_sent_ahead_waits(play: Callable[..., None]) -> None:
    async def scenario(scene: Scene) -> None:
        client = await scene.connect()
        sizes = (WIDTH, 4, 20_000, 4, 5000, WIDTH, 4, 4)
        await client.send(b"".join(request(value, size) for value, size in enumerate(sizes)))
        assert [await client.doubled() for _ in sizes] == [2 * value for value in range(len(sizes))]
        await client.send(*(request(value, size) for value, size in enumerate(sizes)))
        assert [await client.doubled() for _ in sizes] == [2 * value for value in range(len(sizes))]
        await scene.freed()
        await client.close()

    play(scenario)


def test_bodies_in_chunks_go_another_way(play: Callable[..., None]) -> None:
    async def scenario(scene: Scene) -> None:
        client = await scene.connect()
        for value in range(1, 4):
            await client.send(request(value), request(value + 10, is_chunked=True))
            assert [await client.doubled(), await client.doubled()] == [2 * value, 2 * value + 20]
        await scene.freed()
        await client.close()

    play(scenario)


def test_who_is_slow_or_leaves_in_the_middle_holds_up_nobody(play: Callable[..., None]) -> None:
    async def scenario(scene: Scene) -> None:
        slow, gone, client = await scene.connect(), await scene.connect(), await scene.connect()
        for value in range(3):
            halves = list(cut(request(value), 70_000))
            await slow.send(halves[0])
            await gone.send(halves[0])
            await client.send(request(value + 10))
            assert await client.doubled() == 2 * value + 20
            assert scene.arena.taken_bytes > 0
            await slow.send(halves[1])
            assert await slow.doubled() == 2 * value
            await gone.close()
            gone = await scene.connect()
            await scene.freed()
        for each in (slow, gone, client):
            await each.close()

    play(scenario)


def test_what_serves_may_be_swapped_while_a_body_comes(play: Callable[..., None]) -> None:
    async def scenario(scene: Scene) -> None:
        client = await scene.connect()
        for value in range(3):
            await client.send(*cut(request(value), 40_000))
            assert await client.doubled() == 2 * value
        first, rest = cut(request(3), 40_000)
        await client.send(first)
        while not scene.arena.taken_bytes:
            await asyncio.to_thread(lambda: None)
        scene.plane.follow(catalog(WIDE))
        await client.send(rest)
        assert await client.doubled() == 6
        first, rest = cut(request(4), 40_000)
        await client.send(first)
        while not scene.arena.taken_bytes:
            await asyncio.to_thread(lambda: None)
        scene.plane.is_draining = True
        await client.send(rest)
        assert (await client.answer())[0] == 503
        await scene.freed()
        await client.close()

    play(scenario)


def test_where_there_is_no_room_bodies_come_as_before(play: Callable[..., None]) -> None:
    async def scenario(scene: Scene) -> None:
        scene.engine.go.clear()
        clients = [await scene.connect() for _ in range(7)]
        for _ in range(2):
            for value, client in enumerate(clients):
                await client.send(*cut(request(value), 40_000))
            scene.engine.go.set()
            assert [await client.doubled() for client in clients] == [2 * value for value in range(7)]
        await scene.freed()
        for client in clients:
            await client.close()

    play(scenario, byte_size=4 << 17)


def test_what_is_wrong_or_refused_is_answered_and_lets_go_at_once(play: Callable[..., None]) -> None:
    async def scenario(scene: Scene) -> None:
        client = await scene.connect()
        gc.disable()
        try:
            for value in range(3):
                await client.send(*cut(request(value, says=WIDTH), 40_000))
                assert (await client.answer())[0] == 400
                scene.engine.error = Code.QUEUE_FULL
                await client.send(*cut(request(value), 40_000))
                assert (await client.answer())[0] == 503
                scene.engine.error = None
                await scene.freed()
                await client.send(*cut(request(value), 40_000))
                assert await client.doubled() == 2 * value
        finally:
            gc.enable()
        await client.close()

    play(scenario)


def test_a_client_that_leaves_has_its_request_taken_back(play: Callable[..., None]) -> None:
    async def scenario(scene: Scene) -> None:
        client = await scene.connect()
        for value in range(2):
            await client.send(*cut(request(value), 40_000))
            assert await client.doubled() == 2 * value
        scene.engine.go.clear()
        await client.send(*cut(request(3), 40_000))
        while not scene.plane.in_flight:
            await asyncio.to_thread(lambda: None)
        await client.close()
        while scene.plane.in_flight:
            await asyncio.to_thread(lambda: None)
        assert scene.arena.taken_bytes > 0, "the engine may read it"
        scene.engine.go.set()
        await scene.freed()

    play(scenario)
