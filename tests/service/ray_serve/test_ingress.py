"""The ingress without Ray: its lifespan, both doors, and what it refuses because there is no parent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from msgspec import structs

from protos import inference_pb2 as messages
from protos import inference_pb2_grpc
from service.engine.messages import Result
from service.ray_serve import wire
from service.ray_serve.handles import Faults
from service.ray_serve.ingress import Ingress
from service.settings import Settings
from service.traced import ran_together
from tests import fakes
from tests.e2e.collector import Collector
from tests.e2e.running import free_ports
from tests.service.ray_serve.loop import in_loop

FAULTS = Faults((), (), ())


class Double:
    """A deployment of `double` whose every answer is the input as it came."""

    def __init__(self) -> None:
        self.infer = self._Method(self._echo)
        self.entries = self._Method(self._entries)
        self.stream = self.infer

    class _Method:
        def __init__(self, answer: Any) -> None:
            self.remote = answer

    def options(self, **_: Any) -> Double:
        return self

    async def _entries(self) -> bytes:
        return wire.pack_entries((fakes.entry(),))

    async def _echo(self, head: bytes, blobs: list[Any]) -> wire.Parcel:
        message, body = wire.unpack_request(head, blobs, 0.0)
        result = Result(message.id, message.shapes, message.sizes, (0, 0, 0, 0, 0), message.rows, message.rows)
        return wire.pack_answer(structs.replace(result, ran=ran_together([message.mark], 0.5)), [body], 1.0)


@asynccontextmanager
async def alive(ingress: Ingress) -> AsyncGenerator[httpx.AsyncClient]:
    """As a server of ASGI keeps it."""
    said: asyncio.Queue[Any] = asyncio.Queue()
    heard: asyncio.Queue[Any] = asyncio.Queue()
    living = asyncio.create_task(ingress({"type": "lifespan"}, said.get, heard.put))
    said.put_nowait({"type": "lifespan.startup"})
    assert (await heard.get())["type"] == "lifespan.startup.complete"
    async with httpx.AsyncClient(transport=httpx.ASGITransport(ingress), base_url="http://ingress") as client:
        for _ in range(100):  # turns of the loop, in which the deployment is asked
            if (await client.get("/v2/health/ready")).status_code == 200:
                break
            await asyncio.sleep(0)
        yield client
    said.put_nowait({"type": "lifespan.shutdown"})
    assert (await heard.get())["type"] == "lifespan.shutdown.complete"
    await living


@in_loop
async def test_both_doors_lead_to_the_deployment() -> None:
    (port,) = free_ports(1)
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}
    async with alive(Ingress(Settings(grpc_port=port), {"double": Double()}, FAULTS)) as client:
        answer = await client.post("/v2/models/double/infer", json={"inputs": [tensor]})
        assert answer.json()["outputs"] == [{**tensor, "name": "y"}]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]
            request = messages.ModelInferRequest(model_name="double", raw_input_contents=[bytes(12)])
            request.inputs.add(name="x", datatype="FP32", shape=[1, 3])
            assert (await stub.ModelInfer(request)).raw_output_contents == [bytes(12)]


@in_loop
async def test_a_trace_goes_on_through_both_doors_to_the_replica() -> None:
    (port,) = free_ports(1)
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}
    with Collector() as collector:
        settings = Settings(grpc_port=port, tracing=True, trace_endpoint=collector.url, trace_ratio=0)
        async with alive(Ingress(settings, {"double": Double()}, FAULTS)) as client:
            for trace in ("0" * 31 + "1", ""):
                headers = {"traceparent": f"00-{trace}-{'1' * 16}-01"} if trace else {}
                path = "/v2/models/double/infer"
                assert (await client.post(path, json={"inputs": [tensor]}, headers=headers)).status_code == 200
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]
                request = messages.ModelInferRequest(model_name="double", raw_input_contents=[bytes(12)])
                request.inputs.add(name="x", datatype="FP32", shape=[1, 3])
                await stub.ModelInfer(request, metadata=(("traceparent", f"00-{'0' * 31}2-{'1' * 16}-01"),))
    traces = {span.trace_id.hex() for span, _ in collector.spans}
    assert traces == {"0" * 31 + "1", "0" * 31 + "2"}, "the end of the ingress sends what waits"
    for trace in traces:
        spans = collector.of_trace(trace)
        assert {"queue", "batch", "encode"} <= spans.keys()
        (server,) = [span for span in spans.values() if span.parent_span_id == b"\x11" * 8]
        batch = spans["batch"]
        assert batch.parent_span_id == server.span_id
        # Half a second ago by the replica's clock, which shows something else than ours.
        assert 0 <= server.end_time_unix_nano - batch.start_time_unix_nano - 500_000_000 < 10**9


@pytest.mark.parametrize(
    ("path", "body", "sentence"),
    [
        ("/v2/repository/models/double/load", {}, "each model is a deployment"),
        ("/v2/repository/models/double/unload", {}, "each model is a deployment"),
        ("/v2/logging", {"log_info": False}, "no replica can change the others"),
        ("/v2/models/double/stats", None, "each replica counts for itself"),
    ],
)
@in_loop
async def test_what_needs_a_parent_is_refused(path: str, body: dict[str, Any] | None, sentence: str) -> None:
    async with alive(Ingress(Settings(grpc_port=0), {"double": Double()}, FAULTS)) as client:
        answer = await (client.get(path) if body is None else client.post(path, json=body))
        assert answer.status_code == 501
        assert sentence in answer.json()["error"]
        assert {"statistics", "logging"}.isdisjoint((await client.get("/v2")).json()["extensions"])


@in_loop
async def test_an_ingress_that_cannot_start_says_why(tmp_path: Path) -> None:
    settings = Settings(grpc_port=0, tls_certificate=tmp_path / "no.pem", tls_key=tmp_path / "no.key")
    heard: list[Any] = []

    async def receive() -> dict[str, str]:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        heard.append(message)

    await Ingress(settings, {}, FAULTS)({"type": "lifespan"}, receive, send)
    (failed,) = heard
    assert failed["type"] == "lifespan.startup.failed"
    assert "no.pem" in failed["message"]
