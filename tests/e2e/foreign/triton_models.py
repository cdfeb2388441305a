"""Models that are more than one function of numbers, called through tritonclient: texts, answers in parts, sequences.

`mood`, `story` and `total` are in tests/models. It judges nothing: test_tritonclient.py does.
"""

from __future__ import annotations

import queue
from collections.abc import AsyncIterator
from typing import Any

import numpy as np

from tests.e2e.foreign.triton_client import TIMEOUT_S, Caller, failure, now

SEQUENCE = (1.0, 2.0, 3.0)


async def texts(caller: Caller) -> dict[str, Any]:
    """BYTES there and back, as bytes and, over HTTP, as JSON."""
    array = np.array([[b"a good day"], ["awful, bad ü".encode()]], np.object_)
    answers = []
    for is_binary in (True, False) if caller.is_http else (True,):
        inputs = [caller.tensor("text", array, is_binary, "BYTES")]
        answer = await now(caller.client.infer("mood", inputs, outputs=[caller.output("mood", is_binary)]))
        answers.append([each if isinstance(each, str) else each.decode() for each in answer.as_numpy("mood").flat])
    empty = [caller.tensor("text", np.array([[b""]], np.object_), datatype="BYTES")]
    return {"moods": answers, "empty": await failure(lambda: caller.client.infer("mood", empty))}


async def story(caller: Caller) -> dict[str, Any]:
    """One request that is answered in parts, on a stream (gRPC); a call that can take one answer only is refused."""
    array = np.array([b"the"], np.object_)
    inputs = [caller.tensor("text_input", array, datatype="BYTES")]
    inputs.append(caller.tensor("max_tokens", np.array([5], np.int32), datatype="INT32"))
    refused = await failure(lambda: caller.client.infer("story", inputs))
    if caller.is_http:
        return {"refused": refused}
    request = {"model_name": "story", "inputs": inputs, "request_id": "s", "enable_empty_final_response": True}
    parts = await several(caller, [request])
    said = [b"".join(part.as_numpy("text_output").flat).decode() for part in parts if part.get_response().outputs]
    finals = [part.get_response().parameters["triton_final_response"].bool_param for part in parts]
    return {"refused": refused, "said": said, "finals": finals, "ids": [part.get_response().id for part in parts]}


async def sequences(caller: Caller) -> dict[str, Any]:
    """Two sequences in turn, one with a number and one with a name; then what is no sequence."""
    sums: dict[str, list[Any]] = {"7": [], "named": []}
    for at, value in enumerate(SEQUENCE):
        for name, identity in (("7", 7), ("named", "named")):
            where = {"sequence_start": at == 0, "sequence_end": at == len(SEQUENCE) - 1, "sequence_id": identity}
            factor = 1 if name == "7" else 10
            answer = await now(caller.client.infer("total", [step(caller, factor * value)], **where))
            sums[name].append(answer.as_numpy("sum").tolist())
    came: dict[str, Any] = {
        "sums": sums,
        "no start": await failure(lambda: caller.client.infer("total", [step(caller, 1)], sequence_id=9)),
        "no id": await failure(lambda: caller.client.infer("total", [step(caller, 1)])),
    }
    if not caller.is_http:
        requests = [
            {
                **{"model_name": "total", "inputs": [step(caller, value)], "sequence_id": 8},
                **{"sequence_start": at == 0, "sequence_end": at == len(SEQUENCE) - 1},
            }
            for at, value in enumerate(SEQUENCE)
        ]
        came["on a stream"] = [part.as_numpy("sum").tolist() for part in await several(caller, requests)]
    return came


def step(caller: Caller, value: float) -> Any:
    return caller.tensor("x", np.full((1, 2), value, np.float32))


async def several(caller: Caller, requests: list[dict[str, Any]]) -> list[Any]:
    """All the answers to the requests on one stream, in the order in which they came."""
    if caller.is_aio:

        async def sent() -> AsyncIterator[dict[str, Any]]:
            for request in requests:
                yield request

        return [result or raised(error) async for result, error in caller.client.stream_infer(sent())]
    found: queue.Queue[Any] = queue.Queue()
    caller.client.start_stream(lambda result, error: found.put(error or result))
    for request in requests:
        caller.client.async_stream_infer(**request)
    parts = []
    while len([part for part in parts if is_last(part)]) < len(requests):
        parts.append(found.get(timeout=TIMEOUT_S))
        if isinstance(parts[-1], Exception):
            raised(parts[-1])
    caller.client.stop_stream()
    return parts


def raised(error: Exception) -> None:
    raise error


def is_last(part: Any) -> bool:
    return bool(part.get_response().parameters["triton_final_response"].bool_param)
