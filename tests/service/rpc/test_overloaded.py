"""More calls than an engine or a frontend can take: one is refused by an engine, its like without it, some unread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from protos import inference_pb2 as messages
from protos.inference_pb2_grpc import GRPCInferenceServiceStub
from service.errors import QueueFull
from service.plane import Plane
from service.rpc.familiar import Familiar
from service.rpc.lane import CALL, InferLane
from tests.fakes import FakeCounter, FakeEngines, catalog
from tests.service.rpc.fakes import FakePlane, serving

PATIENCE_S = 20.0
BACKLOG = 100
OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)
SENTENCE = "the queue is full: 64 requests wait already (max_queue_size 64): try again later"
REQUEST = messages.ModelInferRequest(
    model_name="double",
    inputs=[messages.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, 3])],
    raw_input_contents=[bytes(12)],
)


class FullEngines(FakeEngines):
    """Everything that is laid out is refused, at once."""

    def __init__(self, retry_after_s: float | None) -> None:
        super().__init__()
        self.asked_count = 0
        self._retry_after_s = retry_after_s

    def begin(
        self, number: int, frame: Any, blobs: Sequence[Any], waiter: Any, deadline: float | None
    ) -> Callable[[int], None]:
        self.asked_count += 1
        error = QueueFull(SENTENCE)
        if self._retry_after_s is not None:
            error.retry_after_s = self._retry_after_s
        waiter.set_exception(error)
        return lambda number: None


def make_plane(engines: FakeEngines) -> tuple[Plane, FakeCounter]:
    counter = FakeCounter()
    plane = Plane(engines, counter)
    plane.follow(catalog())
    return plane, counter


async def refusal(stub: GRPCInferenceServiceStub) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.ModelInfer(REQUEST)
    return raised.value


def pushback_of(error: grpc.aio.AioRpcError) -> str:
    trailer: Any = error.trailing_metadata()
    return str(dict(trailer)["grpc-retry-pushback-ms"])


@pytest.mark.parametrize("says_exhausted", [False, True])
def test_what_came_before_is_refused_in_the_words_of_its_like(says_exhausted: bool) -> None:
    async def scenario() -> None:
        engines, count = FullEngines(retry_after_s=0.5), 40
        plane, counter = make_plane(engines)
        plane.says_exhausted = says_exhausted
        async with serving(plane) as (_, stub, _channel):
            for _ in range(2):  # it is met, then learned; these are answered in the usual way
                await stub.ModelInfer(REQUEST)
            errors = await asyncio.gather(*[refusal(stub) for _ in range(count)])
        status = grpc.StatusCode.RESOURCE_EXHAUSTED if says_exhausted else grpc.StatusCode.UNAVAILABLE
        assert {(error.code(), error.details()) for error in errors} == {(status, SENTENCE)}
        assert {pushback_of(error) for error in errors} == {"500"}
        assert 0 < engines.asked_count < count
        assert [outcome for *_, outcome, _ in counter.ended] == ["success"] * 2 + ["rejected"] * count
        assert plane.in_flight == 0

    asyncio.run(scenario())


def test_a_queue_of_unknown_length_is_asked_each_time() -> None:
    async def scenario() -> None:
        engines = FullEngines(retry_after_s=None)
        plane, _ = make_plane(engines)
        async with serving(plane) as (_server, stub, _channel):
            for _ in range(2):
                await stub.ModelInfer(REQUEST)
            for _ in range(5):
                await refusal(stub)
        assert engines.asked_count == 5

    asyncio.run(scenario())


def test_a_call_whose_time_had_passed_before_it_was_seen_reaches_no_engine_and_gets_no_words() -> None:
    async def scenario() -> None:
        engines = FullEngines(retry_after_s=0.5)
        plane, counter = make_plane(engines)
        lane = InferLane(Familiar(plane), plane.templates, NotImplemented, None)
        data = REQUEST.SerializeToString()
        for _ in range(2):
            lane._familiar.find(data)
        codes: list[grpc.StatusCode] = []
        details = SimpleNamespace(method=CALL, invocation_metadata=())
        answer = await lane.service(details).unary_unary(  # type: ignore[arg-type]
            data, SimpleNamespace(time_remaining=lambda: 0.0, set_code=codes.append)
        )
        assert (answer, codes) == (b"", [grpc.StatusCode.DEADLINE_EXCEEDED])
        assert engines.asked_count == 0
        assert counter.ended == [("double", "2", "grpc", "timeout", 1)]
        assert plane.in_flight == 0

    asyncio.run(scenario())


def test_one_connection_waits_where_its_backlog_is_full_and_loses_no_call() -> None:
    async def scenario() -> None:
        plane = FakePlane()
        plane.gate = asyncio.Event()
        async with serving(plane, backlog=BACKLOG) as (_, stub, _channel):
            calls = [asyncio.ensure_future(stub.ModelInfer(REQUEST)) for _ in range(3 * BACKLOG)]
            await asyncio.wait_for(plane.arrived.wait(), PATIENCE_S)
            plane.gate.set()
            await asyncio.wait_for(asyncio.gather(*calls), PATIENCE_S)
        assert len(plane.asked) == len(calls)

    asyncio.run(scenario())


def test_while_the_loop_is_held_up_no_more_than_a_backlog_waits_unread() -> None:
    connections = 4
    count, cancelled = connections * BACKLOG, threading.Event()
    surplus = count - BACKLOG - BACKLOG // 4 - 1  # one is taken at once; of those above a backlog it is chance
    ended: list[grpc.StatusCode] = []

    def note(call: Any) -> None:
        ended.append(call.code())
        if len(ended) >= surplus:
            cancelled.set()

    async def scenario() -> list[grpc.StatusCode]:
        async with serving(FakePlane(), backlog=BACKLOG) as (server, _, _channel):
            with ExitStack() as stack:
                stubs = []
                for _ in range(connections):
                    channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{server.port}", OWN_CONNECTION))
                    await asyncio.to_thread(grpc.channel_ready_future(channel).result, PATIENCE_S)
                    stubs.append(GRPCInferenceServiceStub(channel))  # type: ignore[no-untyped-call]
                calls = [stub.ModelInfer.future(REQUEST) for stub in stubs for _ in range(BACKLOG)]
                for call in calls:
                    call.add_done_callback(note)
                assert cancelled.wait(PATIENCE_S), "while this thread, which is the server's, does nothing else"
                return await asyncio.to_thread(lambda: [call.code() for call in calls])

    codes = asyncio.run(scenario())
    assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.CANCELLED}
    assert BACKLOG <= codes.count(grpc.StatusCode.OK) <= count - surplus
