"""inference.GRPCInferenceService: each call is translated to the plane or to control, and its answer back.

Knows nothing of engines, and decides nothing: `codec.py` translates inference, `stream.py` runs the streaming call,
`admin.py` has the extensions. `server.py` listens.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Protocol

from google.protobuf.json_format import ParseDict
from msgspec.structs import replace

from protos import inference_pb2 as messages
from service.control import Control
from service.errors import NotFound, ServiceError
from service.observe.traceparent import TRACEPARENT, TRACESTATE
from service.observe.watching import LEFT, Asking, Watch, Watcher
from service.repository.catalog import Catalog
from service.rpc.admin import AdminCalls
from service.rpc.codec import decode, encode
from service.rpc.errors import Context, Refusals, status_of
from service.rpc.stream import run_stream, wants_status_on_error
from service.template import Templates
from service.tensors import InferRequest, InferResponse
from service.timing import ASK, is_wanted, server_timing

TIMING_KEY = ASK.decode()
INFER, STREAM = (f"inference.GRPCInferenceService/{call}" for call in ("ModelInfer", "ModelStreamInfer"))
OK, CANCELLED = "OK", "CANCELLED"


class Inference(Protocol):
    """What the doors of gRPC ask of `plane.py`."""

    @property
    def catalog(self) -> Catalog: ...
    @property
    def is_draining(self) -> bool: ...
    @property
    def templates(self) -> Templates: ...
    async def infer(self, request: InferRequest) -> InferResponse: ...
    def stream(self, request: InferRequest) -> AsyncGenerator[InferResponse]: ...
    def refused(self, request: InferRequest, error: ServiceError) -> None: ...
    def encoded(self, response: InferResponse, seconds: float) -> None: ...


class Servicer(AdminCalls):
    """The calls that work. `stopping` is set when streams must come to an end."""

    def __init__(
        self, plane: Inference, control: Control, stopping: asyncio.Event, watcher: Watcher | None = None
    ) -> None:
        self._plane = plane
        self._control = control
        self._stopping = stopping
        self._watcher = watcher

    async def ModelInfer(self, request: messages.ModelInferRequest, context: Context) -> messages.ModelInferResponse:
        async with Refusals(context) as refusals:
            arrived = time.monotonic()
            metadata = metadata_of(context)
            watch = self._watch(INFER, request, metadata, arrived) if self._watcher is not None else None
            try:
                asked = self._translate(request, context, metadata, arrived)
                refusals.request = asked
                response = await self._plane.infer(asked if watch is None else watch.mark(asked))
                if TIMING_KEY in metadata and is_wanted(metadata[TIMING_KEY].encode()):
                    context.set_trailing_metadata(((TIMING_KEY, self._timing(response, arrived)),))
                began = time.monotonic()
                message = encode(response)
                spent = time.monotonic() - began
            except BaseException as error:
                self._failed(watch, error)
                raise
            self._plane.encoded(response, spent)
            if watch is not None and self._watcher is not None:
                watch.answered(response)
                watch.encoded(began, spent)
                self._watcher.finish(watch, OK)
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

    async def _stream(self, request: messages.ModelInferRequest, context: Context) -> AsyncGenerator[InferResponse]:
        arrived = time.monotonic()
        metadata = metadata_of(context)
        watch = self._watch(STREAM, request, metadata, arrived) if self._watcher is not None else None
        try:
            asked = self._translate(request, context, metadata, arrived)
            given = self._plane.stream(asked if watch is None else watch.mark(asked))
            async with aclosing(given if watch is None else watch.over(given)) as responses:
                async for response in responses:
                    yield response
        except BaseException as error:
            self._failed(watch, error)
            raise
        if watch is not None and self._watcher is not None:
            self._watcher.finish(watch, OK)

    def _watch(
        self, call: str, request: messages.ModelInferRequest, metadata: Mapping[str, str], arrived: float
    ) -> Watch | None:
        if self._watcher is None or (TRACEPARENT not in metadata and self._watcher.passes_by(request.model_name)):
            return None
        parent, state = metadata.get(TRACEPARENT, ""), metadata.get(TRACESTATE, "")
        return self._watcher.begin(
            Asking("grpc", call, request.model_name, request.model_version, arrived, parent, state)
        )

    def _failed(self, watch: Watch | None, error: BaseException) -> None:
        """The request ends without its answer, for a reason of ours or the client's."""
        if watch is None or self._watcher is None:
            return
        if isinstance(error, Exception):
            status, sentence = status_of(error)
            self._watcher.finish(watch, status.name, sentence)
        elif watch.is_over:
            self._watcher.finish(watch, OK)
        else:
            self._watcher.finish(watch, CANCELLED, LEFT)

    def _translate(
        self, request: messages.ModelInferRequest, context: Context, metadata: Mapping[str, str], arrived: float
    ) -> InferRequest:
        remaining_s = context.time_remaining()
        deadline = None if remaining_s is None else arrived + remaining_s
        try:
            asked = decode(request, deadline=deadline, arrived=arrived)
            return replace(asked, trace=metadata[TRACEPARENT]) if TRACEPARENT in metadata else asked
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


def metadata_of(context: Context) -> dict[str, str]:
    """What the client said beside its request, without what is binary. To ask gRPC for it costs, so ask once."""
    return {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
