"""The ingress's way to the models: each message goes to a replica of its model's deployment, which Ray chooses.

Knows neither protocol nor batches; `plane.py` awaits it. What Ray raises is told in the words of the service, and a
request that a replica took with it when it died is run again elsewhere.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from service.engine.messages import Failure, Infer, Result
from service.errors import DeadlineExceeded, NotFound, QueueFull, ServiceError, Unavailable, from_inside
from service.ray_serve import wire
from service.tensors import Buffer

Answer = tuple[Result, list[memoryview]]
Errors = tuple[type[BaseException], ...]

MAX_RUNS = 3  # a node takes several replicas with it, and the router may not know of all of them yet


@dataclass(frozen=True, slots=True)
class Faults:
    """What Ray raises where the replica died over a request, where too many wait, where there is no replica."""

    lost: Errors
    full: Errors
    absent: Errors


class HandleEngines:
    """`handles` by model: deployment handles of Ray Serve."""

    def __init__(self, handles: Mapping[str, Any], faults: Faults, clock: Callable[[], float] = time.monotonic) -> None:
        # A handle of a method is made once: it has counters of its own, and to make one takes as long as a call.
        self._infer = {model: handle.infer for model, handle in handles.items()}
        self._stream = {model: handle.options(stream=True).stream for model, handle in handles.items()}
        self._faults = faults
        self._clock = clock

    def __repr__(self) -> str:
        return f"<HandleEngines {', '.join(self._infer)}>"

    async def infer(self, message: Infer, blobs: Sequence[Buffer]) -> Answer:
        """The answer of some replica. Raises the ServiceError that it reports, or Unavailable where each one died."""
        call = _method(self._infer, message)
        # What belongs to a sequence has changed its state, perhaps: to run it again could count it twice.
        runs = 1 if message.sequence is not None else MAX_RUNS
        for run in range(1, runs + 1):
            try:
                return _answer(await self._bounded(call.remote(*self._pack(message, blobs)), message), self._clock())
            except self._faults.lost as error:
                if run == runs:
                    raise _lost(message) from error
            except self._faults.full as error:
                raise _full(message) from error
            except self._faults.absent as error:
                raise _absent(message) from error
        raise AssertionError("the last run returns or raises")

    async def stream(self, message: Infer, blobs: Sequence[Buffer]) -> AsyncGenerator[Answer]:
        """Every answer; whoever leaves before the last ends the work. What was begun is not run again."""
        responses = _method(self._stream, message).remote(*self._pack(message, blobs))
        is_over = False
        try:
            async with aclosing(_each(responses)) as parcels:
                async for parcel in parcels:
                    answer = _answer(parcel, self._clock())
                    is_over = answer[0].is_final
                    yield answer
        except self._faults.lost as error:
            raise _lost(message) from error
        except self._faults.full as error:
            raise _full(message) from error
        except self._faults.absent as error:
            raise _absent(message) from error
        finally:
            if not is_over:
                responses.cancel()

    def _pack(self, message: Infer, blobs: Sequence[Buffer]) -> wire.Parcel:
        return wire.pack_request(message, blobs, self._clock())

    async def _bounded(self, response: Any, message: Infer) -> wire.Parcel:
        """The response; given up when the request's time is over, for it may wait long before a replica takes it."""
        left_s = None if message.deadline is None else message.deadline - self._clock()
        try:
            async with asyncio.timeout(left_s):
                return await _awaited(response)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"the request's time ran out while it waited for a replica of model '{message.model}'"
            ) from error


def _method(methods: Mapping[str, Any], message: Infer) -> Any:
    method = methods.get(message.model)
    if method is None:
        raise NotFound(f"model '{message.model}' has no deployment in this application")
    return method


async def _awaited(response: Any) -> wire.Parcel:
    """Ray goes on with what nobody awaits any more unless it is told."""
    waiting: Awaitable[wire.Parcel] = response
    try:
        return await waiting
    except asyncio.CancelledError:
        response.cancel()
        raise


async def _each(responses: Any) -> AsyncGenerator[wire.Parcel]:
    async for parcel in responses:
        yield parcel


def _answer(parcel: wire.Parcel, now: float) -> Answer:
    message, parts = wire.unpack_answer(*parcel, now)
    match message:
        case Failure():
            raise from_inside(message.code, message.message, message.retry_after_s)
        case Result():
            return message, parts


def _lost(message: Infer) -> ServiceError:
    return Unavailable(f"the replica of model '{message.model}' died while it worked on this request: try again")


def _full(message: Infer) -> ServiceError:
    return QueueFull(f"too many requests wait for model '{message.model}': try again, or let it have more replicas")


def _absent(message: Infer) -> ServiceError:
    return Unavailable(f"model '{message.model}' has no replica that could be started: `serve status` says why")
