"""The streaming call: answers in order, requests at the same time, errors that leave it open, an orderly end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from protos import inference_pb2 as pb
from service.errors import InvalidInput
from service.rpc.stream import MAX_IN_FLIGHT
from service.tensors import InferRequest, InferResponse, Tensor
from tests.fakes import STORY_ENTRY, catalog
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


class Stories(FakePlane):
    """`story` answers with each letter of the request's id, all in its own time; `gates` open one letter each."""

    def __init__(self) -> None:
        super().__init__(known=catalog(STORY_ENTRY))
        self.gates: dict[str, asyncio.Semaphore] = {}
        self.left_early: list[str] = []

    async def stream(self, request: InferRequest) -> AsyncIterator[InferResponse]:
        if request.model != "story":
            yield await self.infer(request)
            return
        gate = self.gates.setdefault(request.id, asyncio.Semaphore(0))
        self.arrived.set()
        try:
            for letter in request.id:
                await gate.acquire()
                if letter == "!":
                    raise InvalidInput("a letter is wrong")
                tensor = Tensor("number", "BYTES", (1,), letter.encode())
                yield InferResponse("story", "1", request.id, (tensor,), is_final=False)
            yield InferResponse("story", "1", request.id, ())
        except (GeneratorExit, asyncio.CancelledError):
            self.left_early.append(request.id)
            self.left.set()
            raise

    async def open(self, name: str, letters: int) -> None:
        async with asyncio.timeout(10):
            while name not in self.gates:
                self.arrived.clear()
                await self.arrived.wait()
        for _ in range(letters):
            self.gates[name].release()


def story(name: str, empty_final: bool = False) -> pb.ModelInferRequest:
    message = request(name)
    message.model_name = "story"
    if empty_final:
        message.parameters["triton_enable_empty_final_response"].bool_param = True
    return message


def said(each: pb.ModelStreamInferResponse) -> tuple[str, str, bool]:
    """Of which request, the letter or the error, and whether it is the last."""
    response = each.infer_response
    letter = b"".join(response.raw_output_contents).decode()
    return response.id, each.error_message or letter, response.parameters["triton_final_response"].bool_param


def test_several_responses_to_one_request_and_the_empty_last_one_for_who_asks() -> None:
    async def scenario() -> None:
        plane = Stories()
        async with serving(plane) as (_, stub, _):
            call = stub.ModelStreamInfer(iter([story("ab"), story("cd", empty_final=True)]))
            replies = aiter(call)
            await plane.open("ab", 2)
            assert [said(await anext(replies)) for _ in range(2)] == [("ab", "a", False), ("ab", "b", False)]
            await plane.open("cd", 2)
            rest = [said(each) async for each in replies]
            assert rest == [("cd", "c", False), ("cd", "d", False), ("cd", "", True)]

    asyncio.run(scenario())


def test_a_long_story_holds_nobody_up() -> None:
    async def scenario() -> None:
        plane = Stories()
        async with serving(plane) as (_, stub, _):
            call = stub.ModelStreamInfer(iter([story("abc"), request("x"), story("de")]))
            replies = aiter(call)
            await plane.open("abc", 1)
            found = {said(await anext(replies)) for _ in range(2)}
            assert found == {("abc", "a", False), ("x", "x", True)}
            await plane.open("de", 2)
            assert [said(await anext(replies))[1] for _ in range(2)] == ["d", "e"]
            await plane.open("abc", 2)
            assert [said(each)[1] async for each in replies] == ["b", "c"]

    asyncio.run(scenario())


def test_an_error_amid_the_responses_ends_them_and_not_the_stream() -> None:
    async def scenario() -> None:
        plane = Stories()
        async with serving(plane) as (_, stub, _):
            call = stub.ModelStreamInfer(iter([story("a!b"), request("x")]))
            replies = aiter(call)
            await plane.open("a!b", 3)
            found = [said(each) async for each in replies]
            assert sorted(found) == [("a!b", "a", False), ("a!b", "a letter is wrong", False), ("x", "x", True)]

    asyncio.run(scenario())


def test_a_client_that_leaves_the_stream_ends_what_it_began() -> None:
    async def scenario() -> None:
        plane = Stories()
        async with serving(plane) as (_, stub, _):
            call = stub.ModelStreamInfer(iter([story("abc")]))
            replies = aiter(call)
            await plane.open("abc", 1)
            assert said(await anext(replies)) == ("abc", "a", False)
            call.cancel()
            async with asyncio.timeout(10):
                await plane.left.wait()
            assert plane.left_early == ["abc"]

    asyncio.run(scenario())
