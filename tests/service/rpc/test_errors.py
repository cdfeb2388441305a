"""The table from codes to statuses is complete, and what a refused call tells is fit for the wire."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc
import pytest

from protos.inference_pb2 import ModelInferRequest
from service.client.rpc import CODES
from service.errors import BY_CODE, Code, InvalidInput, NotFound, QueueFull, ServiceError, Unavailable
from service.rpc.errors import NEUTRAL_SENTENCE, STATUS
from tests.service.rpc.fakes import FakePlane, answer_with, serving

EXPECTED = {
    Code.INVALID: "INVALID_ARGUMENT",
    Code.UNKNOWN_SEQUENCE: "INVALID_ARGUMENT",
    Code.NOT_LOADED: "UNAVAILABLE",
    Code.NOT_FOUND: "NOT_FOUND",
    Code.UNAVAILABLE: "UNAVAILABLE",
    Code.QUEUE_FULL: "UNAVAILABLE",
    Code.EXHAUSTED: "RESOURCE_EXHAUSTED",
    Code.UNAUTHENTICATED: "UNAUTHENTICATED",
    Code.FORBIDDEN: "PERMISSION_DENIED",
    Code.DEADLINE: "DEADLINE_EXCEEDED",
    Code.CANCELLED: "CANCELLED",
    Code.UNSUPPORTED: "UNIMPLEMENTED",
    Code.TOO_LARGE: "RESOURCE_EXHAUSTED",
    Code.EXISTS: "ALREADY_EXISTS",
    Code.FAILED: "INTERNAL",
}


def trailers_of(caught: grpc.aio.AioRpcError) -> dict[str, str]:
    metadata: Any = caught.trailing_metadata()  # pairs, which the type stubs do not know
    return dict(metadata)


def refusal(error: Exception) -> grpc.aio.AioRpcError:
    """What a client gets from a server whose plane raises `error`."""

    async def scenario() -> grpc.aio.AioRpcError:
        async with serving(FakePlane(answer_with(error))) as (_, stub, _):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.ModelInfer(ModelInferRequest(model_name="m"))
            return caught.value

    return asyncio.run(scenario())


def test_every_code_has_its_status() -> None:
    assert {code: status.name for code, status in STATUS.items()} == EXPECTED
    assert STATUS.keys() == set(Code)


def test_our_client_turns_statuses_back_into_the_same_codes() -> None:
    back = {code: CODES.get(status, Code.FAILED) for code, status in STATUS.items()}
    assert {code: found for code, found in back.items() if code is not found} == {
        Code.UNKNOWN_SEQUENCE: Code.INVALID,
        Code.NOT_LOADED: Code.UNAVAILABLE,
        Code.QUEUE_FULL: Code.UNAVAILABLE,
        Code.EXHAUSTED: Code.TOO_LARGE,
    }


@pytest.mark.parametrize("code", Code)
def test_a_client_gets_the_status_and_the_sentence(code: Code) -> None:
    caught = refusal(BY_CODE[code]("the thing: the remedy"))
    assert (caught.code().name, caught.details()) == (EXPECTED[code], "the thing: the remedy")


def test_the_wait_before_another_try_is_told_in_the_trailer() -> None:
    assert trailers_of(refusal(Unavailable("not ready")))["grpc-retry-pushback-ms"] == "2000"
    assert trailers_of(refusal(QueueFull("full")))["grpc-retry-pushback-ms"] == "1000"
    assert "grpc-retry-pushback-ms" not in trailers_of(refusal(NotFound("no such model")))


@pytest.mark.parametrize("letter", ["x", "\n", "ü", "猫", "🐈"])
def test_a_very_long_sentence_arrives_shortened(letter: str) -> None:
    caught = refusal(NotFound("unknown model " + letter * 20_000))
    assert caught.code() is grpc.StatusCode.NOT_FOUND
    sentence = caught.details() or ""
    assert sentence.startswith("unknown model " + letter * 400)
    assert sentence.endswith("...")


def test_an_unexpected_error_is_logged_and_told_in_neutral_words(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "torchere.rpc"):
        caught = refusal(ZeroDivisionError("secret of the inside"))
    assert (caught.code(), caught.details()) == (grpc.StatusCode.INTERNAL, NEUTRAL_SENTENCE)
    (record,) = [record for record in caplog.records if record.name == "torchere.rpc"]
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


def test_the_server_answers_on_after_errors() -> None:
    async def scenario() -> None:
        faults: list[Exception] = [InvalidInput("a"), RuntimeError("b"), ServiceError("c")]
        plane = FakePlane(lambda request: faults.pop())
        async with serving(plane) as (_, stub, _):
            codes = []
            for _ in range(3):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stub.ModelInfer(ModelInferRequest(model_name="m"))
                codes.append(caught.value.code().name)
            assert codes == ["INTERNAL", "INTERNAL", "INVALID_ARGUMENT"]

    asyncio.run(scenario())
