"""Calls over gRPC are watched: traced as their caller is, with a line for each request and each other call."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc
import pytest

from protos import inference_pb2 as messages
from service.errors import Unavailable
from service.observe.sampling import Sampler, Sampling
from service.observe.watching import Watch, Watcher
from service.security import Guard, make_guard, token_line
from service.tensors import InferRequest
from tests.service.rpc.fakes import FakePlane, answer_with, serving

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
METADATA = (("traceparent", f"00-{TRACE}-{SPAN}-01"), ("tracestate", "a=1"), ("some-bin", b"\x00"))
CALL, STREAM = (f"inference.GRPCInferenceService/{call}" for call in ("ModelInfer", "ModelStreamInfer"))
SECRET = "a-token-nobody-may-read-0123456789"


class Kept(Watcher):
    """A watcher that keeps what is traced."""

    def __init__(self, **wanted: Any) -> None:
        super().__init__(**wanted)
        self.watches: list[Watch] = []
        self.trace(Sampler(Sampling(0.0), lambda bits: 5), self, lambda model, version: "eager")

    def put(self, watch: Watch) -> None:
        self.watches.append(watch)


def request(name: str = "double") -> messages.ModelInferRequest:
    asked = messages.ModelInferRequest(model_name=name, id="r1")
    asked.inputs.add(name="x", datatype="FP32", shape=[1, 1], contents=messages.InferTensorContents(fp32_contents=[1]))
    return asked


def access(caplog: pytest.LogCaptureFixture) -> list[tuple[str, Any]]:
    lines = [record for record in caplog.records if record.name == "torchere.access"]
    return [(line.getMessage().split(" ")[0], line.status) for line in lines]  # type: ignore[attr-defined]


async def stream(stub: Any, *asked: messages.ModelInferRequest) -> list[Any]:
    async def ask() -> Any:
        for each in asked:
            yield each

    return [answer async for answer in stub.ModelStreamInfer(ask(), metadata=METADATA)]


def test_a_call_goes_on_in_the_callers_trace() -> None:
    plane, watcher = FakePlane(), Kept()

    async def check() -> None:
        async with serving(plane, watcher=watcher) as (_, stub, _):
            await stub.ModelInfer(request(), metadata=METADATA)
            await stub.ModelInfer(request())

    asyncio.run(check())
    (watch,) = watcher.watches
    assert watch.context is not None
    assert (watch.context.trace_text, watch.context.state) == (TRACE, "a=1")
    assert (watch.asking.operation, watch.status, watch.request_id, watch.version) == (CALL, "OK", "r1", "1")
    marked, bare = plane.asked
    assert len(marked.mark) == 24
    assert (marked.trace, bare.trace, bare.mark) == (watch.context.traceparent, "", b"")


def test_a_trace_is_the_example_of_a_latency_where_nothing_is_traced_here() -> None:
    plane = FakePlane()

    async def check() -> None:
        async with serving(plane) as (_, stub, _):
            await stub.ModelInfer(request(), metadata=METADATA)

    asyncio.run(check())
    assert [asked.trace for asked in plane.asked] == [f"00-{TRACE}-{SPAN}-01"]


def test_each_request_of_a_stream_is_one() -> None:
    watcher = Kept()

    async def check() -> None:
        async with serving(FakePlane(), watcher=watcher) as (_, stub, _):
            assert len(await stream(stub, request(), request("other"))) == 2

    asyncio.run(check())
    assert [(watch.asking.operation, watch.model, watch.status) for watch in watcher.watches] == [
        (STREAM, "double", "OK"),
        (STREAM, "other", "OK"),
    ]
    assert len({watch.context.trace_id for watch in watcher.watches if watch.context}) == 1


def test_a_failure_has_its_status_and_its_reason() -> None:
    watcher = Kept()

    async def check() -> None:
        plane = FakePlane(answer_with(Unavailable("no engine is running: try again")))
        async with serving(plane, watcher=watcher) as (_, stub, _):
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.ModelInfer(request(), metadata=METADATA)
            await stream(stub, request())

    asyncio.run(check())
    assert [(watch.status, watch.error) for watch in watcher.watches] == [
        ("UNAVAILABLE", "no engine is running: try again")
    ] * 2


def test_a_client_that_leaves_is_told_of() -> None:
    plane, watcher = FakePlane(), Kept()

    async def check() -> None:
        plane.gate = asyncio.Event()
        async with serving(plane, watcher=watcher) as (_, stub, _):
            call = stub.ModelInfer(request(), metadata=METADATA)
            await plane.arrived.wait()
            call.cancel()
            await plane.left.wait()

    asyncio.run(check())
    assert [(watch.status, watch.error) for watch in watcher.watches] == [("CANCELLED", "the client left")]


def test_a_fault_of_ours_names_the_request(caplog: pytest.LogCaptureFixture) -> None:
    def fail(asked: InferRequest) -> Exception:
        return RuntimeError("inner")

    async def check() -> None:
        async with serving(FakePlane(fail), watcher=Kept()) as (_, stub, _):
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.ModelInfer(request(), metadata=METADATA)

    asyncio.run(check())
    (line,) = [record for record in caplog.records if record.exc_info]
    assert (line.request_id, line.trace_id, line.model) == ("r1", TRACE, "double")  # type: ignore[attr-defined]


def guard(tmp_path: Any) -> Guard | None:
    tokens = tmp_path / "tokens"
    tokens.write_text(token_line(SECRET, ["infer"]) + "\n")
    tokens.chmod(0o600)
    return make_guard(tokens, ())


def test_every_call_has_a_line_and_no_secret_is_in_it(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def check() -> None:
        options = {"watcher": Kept(logs_access=True), "guard": guard(tmp_path)}
        async with serving(FakePlane(), **options) as (_, stub, _):
            let_in = (("authorization", f"Bearer {SECRET}"),)
            await stub.ServerLive(messages.ServerLiveRequest())
            await stub.ModelInfer(request(), metadata=let_in)
            for refused in (stub.ModelInfer(request()), stub.ServerMetadata(messages.ServerMetadataRequest())):
                with pytest.raises(grpc.aio.AioRpcError):
                    await refused

    with caplog.at_level(logging.DEBUG):
        asyncio.run(check())
    service = CALL.partition("/")[0]
    first, second, *refused = access(caplog)
    assert (first, second) == ((f"{service}/ServerLive", "OK"), (CALL, "OK"))
    assert sorted(refused) == [(CALL, "UNAUTHENTICATED"), (f"{service}/ServerMetadata", "UNAUTHENTICATED")]
    assert not any(SECRET in str(vars(record)) for record in caplog.records)
