"""Calls over a real connection whose like came before: they are answered, counted, refused and ended as any other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from protos.inference_pb2 import ModelInferRequest
from service.errors import QueueFull, ServiceError
from service.observe.watching import Watcher
from tests.service.rest.remembering import Engines
from tests.service.rpc.fakes import serving
from tests.service.rpc.test_familiar import double, make_plane


async def ask(stub: Any, engines: Engines, message: ModelInferRequest, error: ServiceError | None = None) -> Any:
    """The answer of a call that is begun on the lane."""
    call = asyncio.ensure_future(stub.ModelInfer(message))
    await until(lambda: bool(engines.waiting) or call.done())
    engines.answer(error)
    return await call


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110  # it is gRPC's threads that bring it about
            await asyncio.sleep(0)


async def teach(stub: Any) -> None:
    for _ in range(2):
        await stub.ModelInfer(double())


def test_a_call_is_answered_counted_and_refused_as_ever() -> None:
    engines = Engines()
    plane = make_plane(engines)

    async def check() -> None:
        async with serving(plane) as (_, stub, _channel):
            first = await stub.ModelInfer(double(id="1"))
            assert (await stub.ModelInfer(double(id="1"))) == first
            assert await ask(stub, engines, double(id="1")) == first
            assert (engines.asked, engines.begun) == (2, 1)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await ask(stub, engines, double(), QueueFull("full: try again"))
            assert (refused.value.code(), refused.value.details()) == (grpc.StatusCode.UNAVAILABLE, "full: try again")
            trailers = {str(key): value for key, value in refused.value.trailing_metadata()}
            assert trailers == {"grpc-retry-pushback-ms": "1000"}
            engines.absent = True
            assert (await stub.ModelInfer(double(id="1"))) == first
            assert engines.resent == 1

    asyncio.run(check())
    outcomes = [(protocol, outcome) for _, _, protocol, outcome, _ in plane._counter.ended]  # type: ignore[attr-defined]
    assert outcomes == [("grpc", "success")] * 3 + [("grpc", "rejected")] + [("grpc", "success")]
    assert plane.in_flight == 0


def test_who_leaves_takes_the_request_back() -> None:
    engines = Engines()
    plane = make_plane(engines)

    async def check() -> None:
        async with serving(plane) as (_, stub, _channel):
            await teach(stub)
            call = stub.ModelInfer(double())
            begun = asyncio.ensure_future(call.code())
            await until(lambda: bool(engines.waiting))
            call.cancel()
            assert await begun is grpc.StatusCode.CANCELLED
            await until(lambda: bool(engines.withdrawn))
        assert plane.in_flight == 0

    asyncio.run(check())


def test_a_deadline_travels_with_the_request_and_ends_it() -> None:
    engines = Engines()
    plane = make_plane(engines)

    async def check() -> None:
        async with serving(plane) as (_, stub, _channel):
            await teach(stub)
            began = time.monotonic()
            call = asyncio.ensure_future(stub.ModelInfer(double(), timeout=50.0))
            await until(lambda: bool(engines.waiting))
            ((message, _, _),) = engines.waiting.values()
            assert message.deadline is not None
            assert began + 49 < message.deadline < time.monotonic() + 50.5, "gRPC rounds it up on its way"
            engines.answer()
            await call
            with pytest.raises(grpc.aio.AioRpcError) as late:
                await stub.ModelInfer(double(), timeout=0.2)
            assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            await until(lambda: bool(engines.withdrawn))
            engines.absent = True
            await stub.ModelInfer(double(), timeout=50.0)
            assert engines.resent_until is not None, "another engine has no more time"

    asyncio.run(check())
    assert (engines.asked, engines.begun, plane.in_flight) == (2, 2, 0)


@pytest.mark.parametrize(
    "special",
    [
        {"metadata": (("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),)},
        {"metadata": (("server-timing", "1"),)},
    ],
)
def test_calls_with_more_than_a_message_go_the_usual_way(special: dict[str, Any]) -> None:
    engines = Engines()

    async def check() -> None:
        async with serving(make_plane(engines)) as (_, stub, _channel):
            await teach(stub)
            await stub.ModelInfer(double(), **special)

    asyncio.run(check())
    assert (engines.asked, engines.begun) == (3, 0)


def test_calls_that_somebody_watches_go_the_usual_way() -> None:
    engines = Engines()

    async def check() -> None:
        async with serving(make_plane(engines), watcher=Watcher(slow_s=10.0)) as (_, stub, _channel):
            await teach(stub)
            await stub.ModelInfer(double())

    asyncio.run(check())
    assert (engines.asked, engines.begun) == (3, 0)
