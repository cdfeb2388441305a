"""A client's deadline that ends while the server works: the client is told in time, and nothing is kept for it."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from protos import inference_pb2 as messages
from service.control import Control
from service.extensions import Extensions
from service.parent import ParentLink
from tests.service.rpc.fakes import FakePlane, serving

DEADLINE_S = 0.2
PATIENCE_S = 10.0
REQUEST = messages.ModelInferRequest(
    model_name="double",
    inputs=[messages.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, 3])],
    raw_input_contents=[bytes(12)],
)


def test_of_an_inference() -> None:
    async def scenario() -> None:
        plane = FakePlane()
        plane.gate = asyncio.Event()
        async with serving(plane) as (_, stub, _channel):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await stub.ModelInfer(REQUEST, timeout=DEADLINE_S)
            assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            await asyncio.wait_for(plane.left.wait(), PATIENCE_S)
        assert len(plane.cancelled) == 1

    asyncio.run(scenario())


def test_of_a_stream() -> None:
    async def scenario() -> None:
        plane = FakePlane()
        plane.gate = asyncio.Event()
        async with serving(plane) as (_, stub, _channel):
            call = stub.ModelStreamInfer(timeout=DEADLINE_S)
            await call.write(REQUEST)
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call.read()
            assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            await asyncio.wait_for(plane.left.wait(), PATIENCE_S)

    asyncio.run(scenario())


@pytest.mark.parametrize("call", ["RepositoryModelLoad", "RepositoryModelUnload", "LogSettings"])
def test_of_a_change_that_the_parent_never_answers(call: str) -> None:
    changes = {
        "RepositoryModelLoad": messages.RepositoryModelLoadRequest(model_name="double"),
        "RepositoryModelUnload": messages.RepositoryModelUnloadRequest(model_name="double"),
        "LogSettings": messages.LogSettingsRequest(
            settings={"log_verbose_level": messages.LogSettingsRequest.SettingValue(uint32_param=1)}
        ),
    }

    async def scenario() -> None:
        plane, heard = FakePlane(), asyncio.Event()
        link = ParentLink(lambda ask: heard.set())
        extensions = Extensions(plane, link)  # type: ignore[arg-type]
        extensions.is_explicit = True
        control = Control(plane, extensions)  # type: ignore[arg-type]
        async with serving(plane, control) as (_, stub, _channel):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await getattr(stub, call)(changes[call], timeout=DEADLINE_S)
            assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert heard.is_set()
            assert (await stub.ServerLive(messages.ServerLiveRequest())).live
        assert repr(link) == "<ParentLink 0 asked>"

    asyncio.run(scenario())
