"""inference.GRPCInferenceService: each call is translated to the plane or to control, and its answer back.

Knows nothing of engines, and decides nothing: `codec.py` translates inference, `stream.py` runs the streaming call,
`admin.py` has the extensions. `server.py` listens.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Protocol

from google.protobuf.json_format import ParseDict

from protos import inference_pb2 as messages
from service.control import Control
from service.errors import NotFound, ServiceError
from service.rpc.admin import AdminCalls
from service.rpc.codec import decode, encode
from service.rpc.errors import Context, Refusals
from service.rpc.stream import run_stream, wants_status_on_error
from service.tensors import InferRequest, InferResponse
from service.timing import ASK, is_wanted, server_timing

TIMING_KEY = ASK.decode()


class Inference(Protocol):
    """What the servicer asks of `plane.py`."""

    async def infer(self, request: InferRequest) -> InferResponse: ...
    def stream(self, request: InferRequest) -> AsyncGenerator[InferResponse]: ...
    def refused(self, request: InferRequest, error: ServiceError) -> None: ...
    def encoded(self, response: InferResponse, seconds: float) -> None: ...


class Servicer(AdminCalls):
    """The calls that work. `stopping` is set when streams must come to an end."""

    def __init__(self, plane: Inference, control: Control, stopping: asyncio.Event) -> None:
        self._plane = plane
        self._control = control
        self._stopping = stopping

    async def ModelInfer(self, request: messages.ModelInferRequest, context: Context) -> messages.ModelInferResponse:
        async with Refusals(context):
            arrived = time.monotonic()
            response = await self._infer(request, context, arrived)
            if wants_timing(context):
                context.set_trailing_metadata(((TIMING_KEY, self._timing(response, arrived)),))
            began = time.monotonic()
            message = encode(response)
            self._plane.encoded(response, time.monotonic() - began)
            return message

    async def ModelStreamInfer(self, requests: Any, context: Context) -> None:
        async with Refusals(context):
            await run_stream(
                context,
                lambda request: self._stream(request, context),
                self._stopping,
                strict=wants_status_on_error(context),
                is_ordered=lambda request: not self._control.is_decoupled(request.model_name, request.model_version),
            )

    async def _infer(self, request: messages.ModelInferRequest, context: Context, arrived: float) -> InferResponse:
        return await self._plane.infer(self._translate(request, context, arrived))

    async def _stream(self, request: messages.ModelInferRequest, context: Context) -> AsyncGenerator[InferResponse]:
        async with aclosing(self._plane.stream(self._translate(request, context, time.monotonic()))) as responses:
            async for response in responses:
                yield response

    def _translate(self, request: messages.ModelInferRequest, context: Context, arrived: float) -> InferRequest:
        remaining_s = context.time_remaining()
        deadline = None if remaining_s is None else arrived + remaining_s
        try:
            return decode(request, deadline=deadline, arrived=arrived)
        except ServiceError as error:
            bare = InferRequest(request.model_name, request.model_version, (), protocol="grpc", arrived=arrived)
            self._plane.refused(bare, error)
            raise

    def _timing(self, response: InferResponse, arrived: float) -> str:
        backend = self._control.entry(response.model, response.version).rung
        seconds = time.monotonic() - arrived
        return server_timing(response.phases_ns, seconds, response.batch, response.bucket, backend).decode("latin-1")

    async def ServerLive(self, request: messages.ServerLiveRequest, context: Context) -> messages.ServerLiveResponse:
        return messages.ServerLiveResponse(live=True)

    async def ServerReady(self, request: messages.ServerReadyRequest, context: Context) -> messages.ServerReadyResponse:
        return messages.ServerReadyResponse(ready=self._control.is_ready)

    async def ModelReady(self, request: messages.ModelReadyRequest, context: Context) -> messages.ModelReadyResponse:
        async with Refusals(context):
            try:
                ready = self._control.is_model_ready(request.name, request.version)
            except NotFound:
                ready = False  # as Triton answers: its clients poll for a model that may still come
            return messages.ModelReadyResponse(ready=ready)

    async def ServerMetadata(
        self, request: messages.ServerMetadataRequest, context: Context
    ) -> messages.ServerMetadataResponse:
        return messages.ServerMetadataResponse(**self._control.server_metadata())

    async def ModelMetadata(
        self, request: messages.ModelMetadataRequest, context: Context
    ) -> messages.ModelMetadataResponse:
        async with Refusals(context):
            return messages.ModelMetadataResponse(**self._control.model_metadata(request.name, request.version))

    async def ModelConfig(self, request: messages.ModelConfigRequest, context: Context) -> messages.ModelConfigResponse:
        async with Refusals(context):
            config = self._control.model_config(request.name, request.version)
            return messages.ModelConfigResponse(config=ParseDict(config, messages.ModelConfig()))

    async def RepositoryIndex(
        self, request: messages.RepositoryIndexRequest, context: Context
    ) -> messages.RepositoryIndexResponse:
        async with Refusals(context):
            return messages.RepositoryIndexResponse(
                models=[
                    {"name": entry.name, "version": entry.version, "state": entry.state, "reason": entry.reason}
                    for entry in self._control.entries()
                    if entry.is_ready or not request.ready
                ]
            )


def wants_timing(context: Context) -> bool:
    """True where the client asks in its metadata where the time went."""
    for key, value in context.invocation_metadata() or ():
        if key == TIMING_KEY:
            return is_wanted(value if isinstance(value, bytes) else value.encode())
    return False
