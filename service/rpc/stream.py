"""The streaming call: many requests on one stream run at the same time and are answered in the order they came.

Knows nothing of the plane: it is given the function that answers one request. `servicer.py` calls `run_stream`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from protos.inference_pb2 import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse
from service.errors import ServiceError, Unavailable
from service.rpc.codec import encode
from service.rpc.errors import Context, status_of
from service.tensors import InferResponse

MAX_IN_FLIGHT = 64  # per stream; beyond it the client is held back by the flow control of HTTP/2
STRICT_KEY = "triton_grpc_error"
FINAL_KEY = "triton_final_response"

Answer = Callable[[ModelInferRequest], Awaitable[InferResponse]]


def wants_status_on_error(context: Context) -> bool:
    """True where the client asks that the first failure ends the stream with its status."""
    return any(key == STRICT_KEY and value == "true" for key, value in context.invocation_metadata() or ())


async def run_stream(context: Context, answer: Answer, stopping: asyncio.Event, *, strict: bool) -> None:
    """Serve the stream until the client half-closes it, or until `stopping` is set: then what was read is answered.

    Raises Unavailable at the end of a stream that was stopped, and where `strict`, the first ServiceError.
    """
    answers: deque[asyncio.Task[ModelStreamInferResponse]] = deque()
    stopped = asyncio.create_task(stopping.wait())
    reading: asyncio.Task[ModelInferRequest | object] | None = asyncio.create_task(context.read())
    is_cut = False
    try:
        while reading or answers:
            waiting: list[asyncio.Task[Any]] = [answers[0]] if answers else []
            if reading:
                waiting += [stopped, reading] if len(answers) < MAX_IN_FLIGHT else [stopped]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            while answers and answers[0].done():
                await context.write(answers.popleft().result())
            if reading and reading.done() and len(answers) < MAX_IN_FLIGHT:
                message = reading.result()
                if isinstance(message, ModelInferRequest):
                    answers.append(asyncio.create_task(_answer(answer, message, strict)))
                    reading = asyncio.create_task(context.read())
                else:
                    reading = None
            if reading and stopped.done():
                await _cancel([reading])
                reading, is_cut = None, True
    finally:
        await _cancel([stopped, *answers, *([reading] if reading else [])])
    if is_cut:
        raise Unavailable("the server is shutting down: open the stream on another replica")


async def _answer(answer: Answer, request: ModelInferRequest, strict: bool) -> ModelStreamInferResponse:
    """The answer, or the sentence of its error: a stream stays open when a request fails, unless `strict`."""
    try:
        response = encode(await answer(request))
    except ServiceError as error:
        if strict:
            raise
        return ModelStreamInferResponse(
            error_message=status_of(error)[1],
            infer_response=ModelInferResponse(model_name=request.model_name, id=request.id),
        )
    response.parameters[FINAL_KEY].bool_param = True  # a client of a stream counts answers by this
    return ModelStreamInferResponse(infer_response=response)


async def _cancel(tasks: list[asyncio.Task[Any]]) -> None:
    """Stop `tasks` and wait until they have; what they raise no longer matters to anyone."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
