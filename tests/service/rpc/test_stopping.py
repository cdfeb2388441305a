"""The end of a gRPC server, and its beginning: what was accepted is answered, ports are taken or shared."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from service.rpc.server import RpcOptions, start_rpc
from tests.service.rpc.fakes import FakePlane, control_of, serving
from tests.service.rpc.test_server import request, status_of


def test_stopping_answers_what_was_accepted_and_refuses_what_is_new() -> None:
    async def scenario() -> None:
        plane = FakePlane()
        plane.gate = asyncio.Event()
        async with serving(plane) as (server, stub, _):
            accepted = asyncio.ensure_future(stub.ModelInfer(request()))
            await asyncio.wait_for(plane.arrived.wait(), 10)
            stopping = asyncio.create_task(server.stop(30))
            code, _ = await status_of(refused_while(stopping, stub.ModelInfer))
            assert code in ("UNAVAILABLE", "CANCELLED"), "gRPC itself answers what comes after it was told to stop"
            plane.gate.set()
            assert (await accepted).id == "one"
            await asyncio.wait_for(stopping, 10)
            assert len(plane.asked) == 1

    asyncio.run(scenario())


async def refused_while(stopping: asyncio.Task[None], infer: Callable[..., Awaitable[object]]) -> None:
    """Give the stop its first turn of the loop, then ask."""
    await asyncio.sleep(0)
    assert not stopping.done()
    await infer(request(), timeout=10)


def test_the_grace_has_an_end() -> None:
    async def scenario() -> None:
        plane = FakePlane()
        plane.gate = asyncio.Event()
        async with serving(plane) as (server, stub, _):
            accepted = asyncio.ensure_future(stub.ModelInfer(request()))
            await asyncio.wait_for(plane.arrived.wait(), 10)
            await asyncio.wait_for(server.stop(0.01), 10)
            code, _ = await status_of(accepted)
            assert code in ("UNAVAILABLE", "CANCELLED")
            assert len(plane.cancelled) == 1

    asyncio.run(scenario())


def test_a_port_in_use_is_an_os_error_that_names_the_address() -> None:
    async def scenario() -> None:
        async with serving(FakePlane()) as (server, _, _):
            plane = FakePlane()
            with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{server.port}: the address is in use"):
                await start_rpc(plane, control_of(plane), "127.0.0.1", server.port)

    asyncio.run(scenario())


def test_servers_that_ask_for_it_share_a_port() -> None:
    async def scenario() -> None:
        plane = FakePlane()
        async with serving(plane, reuse_port=True) as (server, _, _):
            other = await start_rpc(plane, control_of(plane), "127.0.0.1", server.port, RpcOptions(reuse_port=True))
            assert other.port == server.port
            await other.stop(0)

    asyncio.run(scenario())
