"""The streaming call: many requests on one stream run at the same time and are answered in the order they came.

Those of a model that gives several responses are answered as these come, whatever was asked before. Knows nothing of
the plane: it is given the function that answers one request. `servicer.py` calls `run_stream`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from protos.inference_pb2 import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse
from service.errors import ServiceError, Unavailable
from service.rpc.codec import encode
from service.rpc.errors import Context, status_of
from service.rpc.parameters import EMPTY_FINAL
from service.tensors import InferResponse

MAX_IN_FLIGHT = 64  # per stream; beyond it the client is held back by the flow control of HTTP/2
STRICT_KEY = "triton_grpc_error"
FINAL_KEY = "triton_final_response"

Answer = Callable[[ModelInferRequest], AsyncGenerator[InferResponse]]
Answering = asyncio.Task[ModelStreamInferResponse | None]


class _Writer:
    """The stream's writing side, for several that answer at once."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = asyncio.Lock()

    async def write(self, message: ModelStreamInferResponse | None) -> None:
        if message is not None:
            async with self._lock:
                await self._context.write(message)


def wants_status_on_error(context: Context) -> bool:
    """True where the client asks that the first failure ends the stream with its status."""
    return any(key == STRICT_KEY and value == "true" for key, value in context.invocation_metadata() or ())


async def run_stream(
    context: Context,
    answer: Answer,
    stopping: asyncio.Event,
    *,
    strict: bool,
    is_ordered: Callable[[ModelInferRequest], bool] = lambda request: True,
) -> None:
    """Serve the stream until the client half-closes it, or until `stopping` is set: then what was read is answered.

    Raises Unavailable at the end of a stream that was stopped, and where `strict`, the first ServiceError.
    """
    line: deque[Answering] = deque()
    loose: set[Answering] = set()  # answered out of turn
    writer = _Writer(context)
    stopped = asyncio.create_task(stopping.wait())
    reading: asyncio.Task[ModelInferRequest | object] | None = asyncio.create_task(context.read())
    is_cut = False
    try:
        while reading or line or loose:
            has_room = len(line) + len(loose) < MAX_IN_FLIGHT
            waiting: list[asyncio.Task[Any]] = [*list(line)[:1], *loose]
            if reading:
                waiting += [stopped, reading] if has_room else [stopped]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            while line and line[0].done():
                await writer.write(line.popleft().result())
            for task in [task for task in loose if task.done()]:
                loose.remove(task)
                await writer.write(task.result())
            if reading and reading.done() and has_room:
                message = reading.result()
                if isinstance(message, ModelInferRequest):
                    answering = asyncio.create_task(_answer(answer, message, strict, writer))
                    (line.append if is_ordered(message) else loose.add)(answering)
                    reading = asyncio.create_task(context.read())
                else:
                    reading = None
            if reading and stopped.done():
                await _cancel([reading])
                reading, is_cut = None, True
    finally:
        await _cancel([stopped, *line, *loose, *([reading] if reading else [])])
    if is_cut:
        raise Unavailable("the server is shutting down: open the stream on another replica")


async def _answer(
    answer: Answer, request: ModelInferRequest, strict: bool, writer: _Writer
) -> ModelStreamInferResponse | None:
    """The answer that has to wait for its turn; None where there were several, which are written already.

    An error is a sentence: a stream stays open when a request fails, unless `strict`.
    """
    try:
        async with aclosing(answer(request)) as responses:
            async for response in responses:
                if response.is_final and response.outputs:
                    return _message(response)
                if not response.is_final or wants_empty_final(request):
                    await writer.write(_message(response))
    except ServiceError as error:
        if strict:
            raise
        return ModelStreamInferResponse(
            error_message=status_of(error)[1],
            infer_response=ModelInferResponse(model_name=request.model_name, id=request.id),
        )
    return None


def _message(response: InferResponse) -> ModelStreamInferResponse:
    message = encode(response)
    message.parameters[FINAL_KEY].bool_param = response.is_final  # a client of a stream counts answers by this
    return ModelStreamInferResponse(infer_response=message)


def wants_empty_final(request: ModelInferRequest) -> bool:
    """Whether a response without outputs shall say that it was the last one."""
    return EMPTY_FINAL in request.parameters and request.parameters[EMPTY_FINAL].bool_param


async def _cancel(tasks: list[asyncio.Task[Any]]) -> None:
    """Stop `tasks` and wait until they have; what they raise no longer matters to anyone."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
