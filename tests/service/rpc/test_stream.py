"""The streaming call: answers in order, requests at the same time, errors that leave it open, an orderly end."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from protos import inference_pb2 as pb
from service.errors import InvalidInput
from service.rpc.stream import MAX_IN_FLIGHT
from service.tensors import InferRequest, InferResponse
from tests.service.rpc.fakes import FakePlane, echo, serving

STRICT = (("triton_grpc_error", "true"),)


def request(name: str) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name="double", id=name, raw_input_contents=[name.encode()])
    message.inputs.add(name="x", datatype="UINT8", shape=[len(name)])
    return message


def refuse_bad(asked: InferRequest) -> InferResponse | Exception:
    return InvalidInput(f"{asked.id} is not good") if asked.id.startswith("bad") else echo(asked)


async def answers(call: Any) -> list[str]:
    return [each.error_message or each.infer_response.id async for each in call]


def test_answers_come_in_the_order_of_the_requests_each_marked_final() -> None:
    async def scenario() -> None:
        async with serving(FakePlane()) as (_, stub, _):
            call = stub.ModelStreamInfer(iter([request("a"), request("b"), request("c")]))
            found = [each async for each in call]
            assert [each.infer_response.id for each in found] == ["a", "b", "c"]
            assert [each.infer_response.raw_output_contents[0] for each in found] == [b"a", b"b", b"c"]
            assert all(each.infer_response.parameters["triton_final_response"].bool_param for each in found)

    asyncio.run(scenario())


def test_requests_of_one_stream_run_at_the_same_time_up_to_a_bound() -> None:
    async def scenario() -> None:
        plane = FakePlane()
        plane.gate = asyncio.Event()
        async with serving(plane) as (_, stub, _):
            names = [str(at) for at in range(MAX_IN_FLIGHT + 20)]
            call = asyncio.create_task(answers(stub.ModelStreamInfer(map(request, names))))
            async with asyncio.timeout(10):
                while len(plane.asked) < MAX_IN_FLIGHT:
                    plane.arrived.clear()
                    await plane.arrived.wait()
            assert len(plane.asked) == MAX_IN_FLIGHT
            plane.gate.set()
            assert await asyncio.wait_for(call, 10) == names

    asyncio.run(scenario())


def test_a_failed_request_leaves_the_stream_open() -> None:
    async def scenario() -> None:
        async with serving(FakePlane(refuse_bad)) as (_, stub, _):
            call = stub.ModelStreamInfer(iter([request("a"), request("bad"), request("c")]))
            found = [each async for each in call]
            assert [each.error_message for each in found] == ["", "bad is not good", ""]
            assert [each.infer_response.id for each in found] == ["a", "bad", "c"]
            assert await call.code() is grpc.StatusCode.OK

    asyncio.run(scenario())


def test_a_client_that_asks_for_it_gets_a_status_and_the_stream_is_closed() -> None:
    async def scenario() -> None:
        async with serving(FakePlane(refuse_bad)) as (_, stub, _):
            requests = iter([request("a"), request("bad"), request("bad2"), request("c")])
            call = stub.ModelStreamInfer(requests, metadata=STRICT)
            assert (await call.read()).infer_response.id == "a"
            with pytest.raises(grpc.aio.AioRpcError, match="bad is not good") as caught:
                await call.read()
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    asyncio.run(scenario())


def test_an_unexpected_error_closes_the_stream_and_the_server_lives() -> None:
    async def scenario() -> None:
        faults: list[Exception] = [RuntimeError("inside")]
        async with serving(FakePlane(lambda asked: faults.pop() if faults else echo(asked))) as (_, stub, _):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await answers(stub.ModelStreamInfer(iter([request("a")])))
            assert caught.value.code() is grpc.StatusCode.INTERNAL
            assert await answers(stub.ModelStreamInfer(iter([request("b")]))) == ["b"]

    asyncio.run(scenario())


def test_a_client_that_leaves_cancels_all_its_requests() -> None:
    async def scenario() -> None:
        plane = FakePlane()
        plane.gate = asyncio.Event()
        async with serving(plane) as (_, stub, _):
            call = stub.ModelStreamInfer()
            await call.write(request("a"))
            await asyncio.wait_for(plane.arrived.wait(), 10)
            call.cancel()
            await asyncio.wait_for(plane.left.wait(), 10)

    asyncio.run(scenario())


def test_stopping_answers_what_was_read_and_ends_idle_streams_at_once() -> None:
    async def scenario() -> None:
        plane = FakePlane()
        plane.gate = asyncio.Event()
        async with serving(plane) as (server, stub, _):
            busy, idle = stub.ModelStreamInfer(), stub.ModelStreamInfer()
            await busy.write(request("a"))
            await asyncio.wait_for(plane.arrived.wait(), 10)
            stopping = asyncio.create_task(server.stop(30))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await asyncio.wait_for(idle.read(), 10)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert not stopping.done()
            plane.gate.set()
            assert (await busy.read()).infer_response.id == "a"
            with pytest.raises(grpc.aio.AioRpcError, match="shutting down") as caught:
                await busy.read()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            await asyncio.wait_for(stopping, 10)

    asyncio.run(scenario())
