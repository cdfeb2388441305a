"""A real server on the loopback: description, deadlines, cancellation, limits, health, reflection, drain."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable

import grpc
import pytest
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from protos import inference_pb2 as pb
from service.rpc.admin import AdminCalls
from service.rpc.health import SERVICE
from service.rpc.servicer import Servicer
from tests.service.rpc.fakes import FakePlane, real_plane, serving

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def request(size: int = 2) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name="double", id="one", raw_input_contents=[b"x" * size])
    message.inputs.add(name="x", datatype="UINT8", shape=[size])
    return message


async def status_of(call: Awaitable[object]) -> tuple[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code().name, caught.value.details() or ""


def test_an_answer_carries_id_model_version_and_raw_bytes() -> None:
    async def scenario() -> None:
        async with serving(FakePlane()) as (_, stub, _):
            answer = await stub.ModelInfer(request())
            assert (answer.id, answer.model_name, answer.model_version) == ("one", "double", "1")
            assert list(answer.raw_output_contents) == [b"xx"]
            assert [(each.name, each.datatype, list(each.shape)) for each in answer.outputs] == [("x", "UINT8", [2])]

    asyncio.run(scenario())


def test_the_clients_deadline_reaches_the_plane_on_the_monotonic_clock() -> None:
    async def scenario() -> None:
        plane = FakePlane()
        async with serving(plane) as (_, stub, _):
            before = time.monotonic()
            await stub.ModelInfer(request(), timeout=50)
            await stub.ModelInfer(request())
            after = time.monotonic()
        bounded, unbounded = plane.asked
        assert bounded.deadline is not None
        assert before + 49 < bounded.deadline <= after + 50.5, "gRPC rounds it up on its way"
        assert before <= bounded.arrived <= after
        assert unbounded.deadline is None

    asyncio.run(scenario())


@pytest.mark.parametrize(("asked", "is_told"), [("1", True), ("off", False), (None, False)])
def test_where_the_time_went_is_told_in_the_trailers_to_whoever_asks(asked: str | None, is_told: bool) -> None:
    async def scenario() -> None:
        async with serving(real_plane()) as (_, stub, _):
            message = pb.ModelInferRequest(model_name="double", raw_input_contents=[bytes(12)])
            message.inputs.add(name="x", datatype="FP32", shape=[1, 3])
            call = stub.ModelInfer(message, metadata=(("server-timing", asked),) if asked else ())
            await call
            trailers = dict(await call.trailing_metadata())
            assert ("server-timing" in trailers) is is_told
            if is_told:
                parts = [part.partition(";")[0] for part in trailers["server-timing"].split(", ")]
                phases = ["queue", "stack", "copy_in", "compute", "copy_out", "total"]
                assert parts == [*phases, "batch", "bucket", "backend"]
                assert 'backend;desc="eager fp32"' in trailers["server-timing"]

    asyncio.run(scenario())


def test_a_client_that_leaves_cancels_its_request() -> None:
    async def scenario() -> None:
        plane = FakePlane()
        plane.gate = asyncio.Event()
        async with serving(plane) as (_, stub, _):
            call = stub.ModelInfer(request())
            asking = asyncio.ensure_future(call)
            await asyncio.wait_for(plane.arrived.wait(), 10)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            await asyncio.wait_for(plane.left.wait(), 10)
            plane.gate.set()
            assert (await stub.ModelInfer(request())).id == "one"

    asyncio.run(scenario())


def test_the_server_runs_on_uvloop_as_the_frontend_does() -> None:
    async def scenario() -> None:
        plane = FakePlane()
        async with serving(plane) as (server, stub, _):
            assert (await stub.ModelInfer(request())).id == "one"
            plane.gate = asyncio.Event()
            late = asyncio.ensure_future(stub.ModelInfer(request()))
            stopping = asyncio.create_task(server.stop(30))
            plane.gate.set()
            await asyncio.wait_for(asyncio.gather(late, stopping, return_exceptions=True), 10)

    uvloop.run(scenario())


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_calls_are_accepted(compression: grpc.Compression) -> None:
    async def scenario() -> None:
        async with serving(FakePlane()) as (_, stub, _):
            answer = await stub.ModelInfer(request(100_000), compression=compression)
            assert list(answer.raw_output_contents) == [b"x" * 100_000]

    asyncio.run(scenario())


def test_messages_above_the_limit_are_refused_and_those_above_grpcs_default_are_not() -> None:
    async def scenario() -> None:
        async with serving(FakePlane(), max_message_bytes=6 << 20) as (_, stub, _):
            assert len((await stub.ModelInfer(request(3 << 20))).raw_output_contents[0]) == 3 << 20
            code, sentence = await status_of(stub.ModelInfer(request(7 << 20)))
            assert (code, "larger than max" in sentence) == ("RESOURCE_EXHAUSTED", True)

    asyncio.run(scenario())


def test_bytes_that_are_no_message_are_refused_and_the_server_goes_on() -> None:
    async def scenario() -> None:
        async with serving(FakePlane()) as (_, stub, channel):
            garbage = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            code, _ = await status_of(garbage(b"\xff\xff\xff"))
            assert code in ("INTERNAL", "UNKNOWN"), "gRPC itself answers, before any code of ours"
            assert (await stub.ModelInfer(request())).id == "one"

    asyncio.run(scenario())


def test_the_server_and_its_models_describe_themselves() -> None:
    async def scenario() -> None:
        plane = real_plane()
        async with serving(plane) as (_, stub, _):
            assert (await stub.ServerLive(pb.ServerLiveRequest())).live
            assert not (await stub.ServerReady(pb.ServerReadyRequest())).ready, "slow_start still loads"
            assert (await stub.ModelReady(pb.ModelReadyRequest(name="double"))).ready
            assert not (await stub.ModelReady(pb.ModelReadyRequest(name="slow_start"))).ready
            assert not (await stub.ModelReady(pb.ModelReadyRequest(name="nobody"))).ready
            server = await stub.ServerMetadata(pb.ServerMetadataRequest())
            assert server.name == "torchere"
            assert "classification" in server.extensions
            model = await stub.ModelMetadata(pb.ModelMetadataRequest(name="double"))
            assert (model.name, list(model.versions)) == ("double", ["1", "2"])
            assert [(each.name, each.datatype, list(each.shape)) for each in model.inputs] == [("x", "FP32", [-1, 3])]
            config = (await stub.ModelConfig(pb.ModelConfigRequest(name="double", version="1"))).config
            assert (config.max_batch_size, list(config.input[0].dims)) == (8, [3])
            assert config.input[0].data_type == pb.TYPE_FP32
            assert list(config.dynamic_batching.preferred_batch_size) == [1, 2, 4, 8]
            assert config.parameters["torchere_backend"].string_value == "eager"

    asyncio.run(scenario())


def test_the_index_lists_every_version_or_only_the_ready_ones() -> None:
    async def scenario() -> None:
        async with serving(real_plane()) as (_, stub, _):
            everything = (await stub.RepositoryIndex(pb.RepositoryIndexRequest())).models
            ready = (await stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True))).models
            states = {(each.name, each.version): (each.state, each.reason) for each in everything}
            assert states["double", "2"] == ("READY", "")
            assert states["slow_start", "1"] == ("LOADING", "compiling: inductor")
            assert len(ready) == len(everything) - 1

    asyncio.run(scenario())


def test_unknown_models_and_those_not_ready_are_told_apart() -> None:
    async def scenario() -> None:
        async with serving(real_plane()) as (_, stub, _):
            code, sentence = await status_of(stub.ModelMetadata(pb.ModelMetadataRequest(name="duble")))
            assert (code, "did you mean 'double'?" in sentence) == ("NOT_FOUND", True)
            code, sentence = await status_of(stub.ModelConfig(pb.ModelConfigRequest(name="slow_start")))
            assert (code, "compiling: inductor" in sentence) == ("UNAVAILABLE", True)

    asyncio.run(scenario())


def test_every_call_of_the_service_is_answered_by_a_method_of_ours() -> None:
    names = {method.name for method in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods}
    ours = {*vars(Servicer), *vars(AdminCalls)}
    missing = names - ours
    assert not missing
    assert len(names) == 20


def test_health_follows_readiness_when_asked() -> None:
    async def scenario() -> None:
        plane = FakePlane()
        async with serving(plane) as (server, _, channel):
            health = health_pb2_grpc.HealthStub(channel)

            async def check(service: str = "") -> int:
                return int((await health.Check(health_pb2.HealthCheckRequest(service=service))).status)

            assert [await check(""), await check(SERVICE)] == [SERVING, SERVING]
            plane.is_ready = False
            assert await check() == NOT_SERVING
            plane.is_ready = True
            server.set_serving(False)
            assert await check() == NOT_SERVING
            server.set_serving(True)
            assert await check() == SERVING
            code, sentence = await status_of(health.Check(health_pb2.HealthCheckRequest(service="other")))
            assert (code, "'other'" in sentence) == ("NOT_FOUND", True)

    asyncio.run(scenario())


def test_a_watcher_is_told_of_changes_and_let_go_at_the_end() -> None:
    async def scenario() -> None:
        async with serving(FakePlane()) as (server, _, channel):
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
            unknown = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="other"))
            assert (await watch.read()).status == SERVING
            assert (await unknown.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
            server.set_serving(False)
            assert (await watch.read()).status == NOT_SERVING
            server.set_serving(True)
            assert (await watch.read()).status == SERVING
            await asyncio.wait_for(server.stop(30), 10)
            assert (await watch.read()).status == NOT_SERVING
            assert await watch.read() is grpc.aio.EOF  # type: ignore[attr-defined]  # missing in the type stubs

    asyncio.run(scenario())


def test_reflection_lists_the_services() -> None:
    async def scenario() -> None:
        async with serving(FakePlane()) as (_, _, channel):
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
            answer = await call.read()
            names = {each.name for each in answer.list_services_response.service}
            assert {SERVICE, "grpc.health.v1.Health"} <= names

    asyncio.run(scenario())
