"""The ingress's way to a model: what goes and comes, what Ray's faults become, what is run again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest
from msgspec import structs

from service.engine.messages import Failure, Infer, Result
from service.errors import Code, DeadlineExceeded, InvalidInput, NotFound, QueueFull, Unavailable
from service.ray_serve import wire
from service.ray_serve.handles import MAX_RUNS, Faults, HandleEngines
from service.tensors import SequencePoint
from service.traced import Ran, Step
from tests.service.ray_serve.loop import in_loop

MESSAGE = Infer(7, "m", "1", 1, ((1, 2), (1, 1)), (2, 1))
BLOBS = [b"ab", memoryview(b"c")]
RESULT = Result(1, ((1, 2),), (2,), (0, 0, 0, 0, 0), 1, 1)


class Lost(Exception):
    pass


class Full(Exception):
    pass


class Absent(Exception):
    pass


FAULTS = Faults((Lost,), (Full,), (Absent,))


class Response:
    """What a handle's call gives: awaited, or its answers one by one."""

    def __init__(self, outcomes: Sequence[Any]) -> None:
        self._outcomes = outcomes
        self.is_cancelled = False

    def __await__(self) -> Any:
        return self._one().__await__()

    async def _one(self) -> Any:
        async for each in self:
            return each
        await asyncio.Event().wait()  # nothing ever comes
        return None

    async def __aiter__(self) -> AsyncGenerator[Any]:
        for each in self._outcomes:
            if isinstance(each, Exception):
                raise each
            yield each

    def cancel(self) -> None:
        self.is_cancelled = True


class Handle:
    """A deployment handle whose calls end as `responses` say, one after the other."""

    def __init__(self, *responses: Response) -> None:
        self._left = list(responses)
        self.sent: list[tuple[bytes, list[Any]]] = []
        self.infer = self.stream = self

    def options(self, *, stream: bool) -> Handle:
        assert stream
        return self

    def remote(self, head: bytes, blobs: list[Any]) -> Response:
        self.sent.append((head, blobs))
        return self._left.pop(0)


def answer(*blobs: bytes, **changes: Any) -> wire.Parcel:
    return wire.pack_answer(structs.replace(RESULT, **changes), [memoryview(blob) for blob in blobs], 0.0)


def engines(handle: Handle) -> HandleEngines:
    return HandleEngines({"m": handle}, FAULTS)


@in_loop
async def test_tensors_go_and_come_as_they_are() -> None:
    handle = Handle(Response([answer(b"xy")]))
    result, blobs = await engines(handle).infer(MESSAGE, BLOBS)
    assert (result.shapes, [bytes(blob) for blob in blobs]) == (((1, 2),), [b"xy"])
    message, body = wire.unpack_request(*handle.sent[0], now=0.0)
    assert (message, bytes(body)) == (MESSAGE, b"abc")


def test_a_moment_is_one_by_the_clock_of_whoever_reads_it() -> None:
    head, blobs = wire.pack_request(structs.replace(MESSAGE, deadline=105.0, late=103.0), BLOBS, now=100.0)
    message, _ = wire.unpack_request(head, blobs, now=7000.0)
    assert (message.deadline, message.late) == (7005.0, 7003.0)


def test_so_is_what_an_answer_tells_of_its_way() -> None:
    second = 10**9
    step = Step("inner", "1", 95 * second, 96 * second, ran=Ran(95 * second))
    result = structs.replace(RESULT, ran=Ran(0, steps=(step,)))
    found, _ = wire.unpack_answer(*wire.pack_answer(result, [], now=100.0), now=7000.0)
    moved = Step("inner", "1", 6995 * second, 6996 * second, ran=Ran(6995 * second))
    assert found == structs.replace(RESULT, ran=Ran(0, steps=(moved,)))


@in_loop
async def test_an_empty_tensor_is_one_too() -> None:
    handle = Handle(Response([answer(b"")]))
    _, blobs = await engines(handle).infer(structs.replace(MESSAGE, sizes=(0,)), [b""])
    assert [bytes(blob) for blob in blobs] == [b""]


@in_loop
async def test_a_refusal_is_the_same_error_here() -> None:
    failure = wire.pack_answer(Failure(1, Code.INVALID, "no good: /srv/models/secret.txt"), [], 0.0)
    with pytest.raises(InvalidInput, match=r"^no good: secret\.txt$"):
        await engines(Handle(Response([failure]))).infer(MESSAGE, BLOBS)


@in_loop
async def test_a_full_replica_says_when_to_come_again() -> None:
    failure = wire.pack_answer(Failure(1, Code.QUEUE_FULL, "the queue is full", 1.5), [], 0.0)
    with pytest.raises(QueueFull) as raised:
        await engines(Handle(Response([failure]))).infer(MESSAGE, BLOBS)
    assert raised.value.retry_after_s == 1.5


@in_loop
async def test_a_request_whose_replica_died_is_run_elsewhere() -> None:
    handle = Handle(Response([Lost()]), Response([Lost()]), Response([answer(b"xy")]))
    _, blobs = await engines(handle).infer(MESSAGE, BLOBS)
    assert bytes(blobs[0]) == b"xy"
    assert len(handle.sent) == 3


@in_loop
async def test_there_is_an_end_to_it() -> None:
    handle = Handle(*(Response([Lost()]) for _ in range(MAX_RUNS)))
    with pytest.raises(Unavailable, match="the replica of model 'm' died while it worked on this request"):
        await engines(handle).infer(MESSAGE, BLOBS)
    assert len(handle.sent) == MAX_RUNS


@in_loop
async def test_what_changes_state_is_not_run_twice() -> None:
    handle = Handle(Response([Lost()]), Response([answer(b"xy")]))
    message = structs.replace(MESSAGE, sequence=SequencePoint(1, False, False))
    with pytest.raises(Unavailable):
        await engines(handle).infer(message, BLOBS)
    assert len(handle.sent) == 1


@pytest.mark.parametrize(("raised", "error"), [(Full(), QueueFull), (Absent(), Unavailable)])
@in_loop
async def test_faults_are_told_in_words_of_the_service(raised: Exception, error: type[Exception]) -> None:
    with pytest.raises(error, match="model 'm'"):
        await engines(Handle(Response([raised]))).infer(MESSAGE, BLOBS)


@in_loop
async def test_a_request_waits_for_a_replica_no_longer_than_it_may() -> None:
    response = Response([])
    with pytest.raises(DeadlineExceeded, match="waited for a replica of model 'm'"):
        await engines(Handle(response)).infer(structs.replace(MESSAGE, deadline=time.monotonic() - 1), BLOBS)
    assert response.is_cancelled


@in_loop
async def test_what_a_client_left_is_given_up() -> None:
    response = Response([])
    task = asyncio.create_task(engines(Handle(response)).infer(MESSAGE, BLOBS))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert response.is_cancelled


@in_loop
async def test_a_stream_ends_with_its_last_answer() -> None:
    response = Response([answer(b"a", is_final=False), answer(b"b")])
    found = [bytes(blobs[0]) async for _, blobs in engines(Handle(response)).stream(MESSAGE, BLOBS)]
    assert found == [b"a", b"b"]
    assert not response.is_cancelled


@in_loop
async def test_whoever_leaves_a_stream_ends_it() -> None:
    response = Response([answer(b"a", is_final=False), answer(b"b")])
    answers = engines(Handle(response)).stream(MESSAGE, BLOBS)
    await anext(answers)
    await answers.aclose()
    assert response.is_cancelled


@in_loop
async def test_a_stream_is_not_begun_again() -> None:
    handle = Handle(Response([answer(b"a", is_final=False), Lost()]), Response([]))
    with pytest.raises(Unavailable, match="died"):
        [each async for each in engines(handle).stream(MESSAGE, BLOBS)]
    assert len(handle.sent) == 1


@in_loop
async def test_a_model_that_is_not_deployed_is_not_found() -> None:
    with pytest.raises(NotFound, match="'other' has no deployment"):
        await engines(Handle()).infer(structs.replace(MESSAGE, model="other"), BLOBS)
