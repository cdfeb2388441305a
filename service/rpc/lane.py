"""ModelInfer over bytes: what came before is answered without protobuf, all else by the servicer.

Installed before the servicer's own handlers, for calls of which nothing but the message matters: whoever sends a trace
or asks for timings beside it gets the servicer. `familiar.py` knows what came before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
from msgspec.structs import replace

from protos.inference_pb2 import ModelInferRequest, ModelInferResponse
from service.engine.messages import Result
from service.errors import ServiceError
from service.observe.traceparent import TRACEPARENT
from service.observe.watching import Watcher, fields_of
from service.rpc.errors import Context, refuse
from service.rpc.familiar import Familiar, Found
from service.rpc.margin import Margin
from service.template import Templates
from service.timing import ASK

CALL = "/inference.GRPCInferenceService/ModelInfer"
SPECIAL = frozenset((TRACEPARENT, ASK.decode()))  # metadata that changes what is done
CLOCKS_S = 0.005  # a call that ends so long before its deadline was ended by it: clocks and timers differ

Usual = Callable[[ModelInferRequest, Context], Awaitable[ModelInferResponse]]


class Under:
    """A request under way: gets its answer from the engine's connection, for the coroutine of its call."""

    __slots__ = ("_found", "answer")

    def __init__(self, found: Found) -> None:
        self._found = found
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def answered(self, result: Result, outputs: Sequence[memoryview]) -> None:
        if not self.answer.done():
            self.answer.set_result(self._found.form.answer(self._found.identity, result, outputs))

    def refused(self, error: ServiceError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class InferLane(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs alone
    """`usual` answers what is not familiar, or what `watcher` wants to see."""

    def __init__(self, familiar: Familiar, templates: Templates, usual: Usual, watcher: Watcher | None) -> None:
        self._familiar = familiar
        self._templates = templates
        self._usual = usual
        self._watcher = watcher
        self._margin = Margin()
        self._handler = grpc.unary_unary_rpc_method_handler(self._answer)  # without (de)serializers: bytes

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        """The handler, None for calls that are others' to answer."""
        if details.method != CALL:
            return None
        for key, _ in details.invocation_metadata or ():
            if key in SPECIAL:
                return None
        return self._handler

    async def _answer(self, data: bytes, context: Context) -> bytes:
        arrived = time.monotonic()
        found = self._familiar.find(data)
        if found is None or self._is_seen(found):
            answer = await self._usual(ModelInferRequest.FromString(data), context)
            return answer.SerializeToString()
        under = Under(found)
        left_s = context.time_remaining()
        if left_s == 0.0:
            return self._too_late(found, arrived, context)
        deadline = None if left_s is None else arrived + self._margin.within(left_s)
        sent = self._templates.send(found.form.template, found.tensors, arrived, under, deadline)
        try:
            message = await under.answer
            if left_s is not None:
                self._margin.kept()
            return message
        except asyncio.CancelledError:
            sent.cancel()  # nobody waits for the answer: what still waits in a queue need not run
            if left_s is not None and time.monotonic() >= arrived + left_s - CLOCKS_S:
                self._margin.missed()
            raise
        except ServiceError as error:
            await refuse(context, error, {})
            raise
        except Exception as error:
            request = replace(found.form.template.request, id=found.id)
            await refuse(context, error, fields_of(request))
            raise

    def _too_late(self, found: Found, arrived: float, context: Context) -> bytes:
        """Its time had passed when it was first seen: it is counted, and ended without a word that nobody reads."""
        self._templates.lapsed(found.form.template, arrived)
        context.set_code(grpc.StatusCode.DEADLINE_EXCEEDED)
        return b""

    def _is_seen(self, found: Found) -> bool:
        """Whether somebody wants to see the request."""
        return self._watcher is not None and not self._watcher.passes_by(found.form.template.request.model)
