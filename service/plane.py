"""The one door of inference: find the model, check the request, bound its time, have it run, count the outcome.

Knows no protocol and no torch. `rest` and `rpc` translate into it; `engine/client.py` carries the request on.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Protocol

from msgspec.structs import replace

from service.checks import check_inputs, check_names, check_outputs
from service.classify import choose_outputs
from service.defaults import fill_inputs
from service.engine.messages import Infer, Result
from service.errors import OUTCOMES, Code, Exhausted, NotFound, ServiceError, Unavailable, Unsupported
from service.gpu_places import place, take_places, tell_places
from service.patience import deadline_of, late_of, patience_of
from service.repository.catalog import Catalog, Entry
from service.response_cache import ResponseCache, digest_inputs
from service.shared_memory import CudaRegion, Regions, write_outputs
from service.template import Sender, Tally, Templates
from service.tensors import Buffer, InferRequest, InferResponse, RequestedOutput, Tensor

MANY_RESPONSES = (
    "model '{}' answers a request with any number of responses: use POST .../generate or .../generate_stream, or "
    "ModelStreamInfer over gRPC"
)


class Engines(Sender, Protocol):
    """What the plane asks of `engine/client.py`: run one message, with its tensors, on the least busy engine."""

    async def infer(self, message: Infer, blobs: Sequence[Buffer]) -> tuple[Result, list[memoryview]]: ...
    def stream(self, message: Infer, blobs: Sequence[Buffer]) -> AsyncGenerator[tuple[Result, list[memoryview]]]: ...


class Counter(Protocol):
    """What the plane reports to `observe/metrics.py` about each request, once."""

    def finished(self, model: str, version: str, protocol: str, outcome: str, seconds: float, rows: int) -> None: ...
    def looked_up(self, model: str, version: str, is_kept: bool, seconds: float) -> None: ...
    def encoded(self, model: str, version: str, seconds: float) -> None: ...
    def tally(self, model: str, version: str, protocol: str, rows: int) -> Tally: ...
    def traced(self, model: str, version: str, protocol: str, seconds: float, traceparent: str) -> None: ...


class Plane:
    """`await plane.infer(request)` answers, or raises a ServiceError that says how to mend the request."""

    def __init__(self, engines: Engines, counter: Counter, clock: Callable[[], float] = time.monotonic) -> None:
        self.catalog = Catalog()
        self.cache: ResponseCache | None = None
        self.regions = Regions()
        self.cuda_regions: tuple[CudaRegion, ...] = ()
        self.is_leaving = False  # it will drain soon
        self.is_draining = False
        self.says_exhausted = False  # of a full queue, in place of unavailable
        self.in_flight = 0
        self._is_idle = asyncio.Event()
        self._engines = engines
        self._counter = counter
        self._clock = clock
        self._next_id = os.getpid() << 32  # black boxes tell of the requests of all frontends
        self.templates = Templates(self, engines, counter.tally)

    def __repr__(self) -> str:
        return f"<Plane {self.in_flight} in flight{', draining' if self.is_draining else ''}, {self.catalog!r}>"

    @property
    def is_ready(self) -> bool:
        """True when the service takes inference requests for all that it serves."""
        return not self.is_leaving and not self.is_draining and self.catalog.is_ready

    async def wait_until_idle(self) -> None:
        """While draining: return when every request that was accepted has been answered."""
        if self.in_flight:
            await self._is_idle.wait()

    def follow(self, catalog: Catalog) -> None:
        """Serve what is in `catalog` from now on."""
        self.catalog = catalog
        if self.cache is not None:
            self.cache.follow(catalog)

    async def infer(self, request: InferRequest) -> InferResponse:
        """Check, run and answer one request.

        Raises InvalidInput, NotFound, Unavailable, QueueFull, DeadlineExceeded or ExecutionFailed.
        """
        started = request.arrived or self._clock()
        version, rows, outcome = "", 0, "failed"
        self.in_flight += 1
        try:
            entry = self.admit(request)
            version = entry.version
            if entry.is_decoupled:
                raise Unsupported(MANY_RESPONSES.format(entry.name))
            if self.cuda_regions and (request.shared_inputs or request.shared_outputs):
                request = take_places(request, self.cuda_regions)
            targets = self.regions.targets(request) if request.shared_outputs else {}
            if request.shared_inputs:
                check_names(request.inputs, entry)
                request = self.regions.read_inputs(request)
            rows = check_inputs(request.inputs, entry)
            if len(request.inputs) < len(entry.inputs):
                request = replace(request, inputs=fill_inputs(request.inputs, entry, rows))
            wanted = check_outputs(request.outputs, entry)
            run = self._recall if entry.response_cache else self._run
            response = await run(request, entry, rows, wanted)
            if targets:
                response = write_outputs(request, response, targets)
            if request.on_gpu is not None:
                response = tell_places(response, request.on_gpu)
            outcome = "success"
            return response
        except ServiceError as error:
            outcome = OUTCOMES.get(error.code, "failed")
            if self.says_exhausted and error.code is Code.QUEUE_FULL:
                raise Exhausted.instead_of(error) from error
            raise
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        finally:
            self.finished(request, version, outcome, started, rows)

    async def stream(self, request: InferRequest) -> AsyncGenerator[InferResponse]:
        """Check, run and answer one request of any model: with each response as it comes, or with its one.

        Where there may be several, the last has no outputs and says only that it is final. Raises as `infer` does; who
        leaves before the end, by closing this, ends the work.
        """
        if not self._is_decoupled(request):
            yield await self.infer(request)
            return
        started = request.arrived or self._clock()
        version, rows, outcome = "", 0, "cancelled"  # until something else happens, the client has left
        self.in_flight += 1
        try:
            entry = self.admit(request)
            version = entry.version
            if request.shared_outputs:
                raise Unsupported(f"model '{entry.name}' answers in several responses: shared memory holds one")
            if request.shared_inputs:
                request = self.regions.read_inputs(take_places(request, self.cuda_regions))
            rows = check_inputs(request.inputs, entry)
            if len(request.inputs) < len(entry.inputs):
                request = replace(request, inputs=fill_inputs(request.inputs, entry, rows))
            wanted = check_outputs(request.outputs, entry)
            async with aclosing(self._engines.stream(*self.message(request, entry, rows))) as answers:
                async for result, blobs in answers:
                    outcome = "success" if result.is_final else outcome
                    yield self._response(request, entry, wanted, result, blobs)
        except ServiceError as error:
            outcome = OUTCOMES.get(error.code, "failed")
            if self.says_exhausted and error.code is Code.QUEUE_FULL:
                raise Exhausted.instead_of(error) from error
            raise
        finally:
            self.finished(request, version, outcome, started, rows)

    def _is_decoupled(self, request: InferRequest) -> bool:
        try:
            return self.catalog.entry(request.model, request.version).is_decoupled
        except NotFound:
            return False

    def finished(self, request: InferRequest, version: str, outcome: str, started: float, rows: int) -> None:
        """Count a request that was under way."""
        self.left()
        # A name that no model has must not become a label of a metric: version is "" until the model is found.
        model = request.model if version else ""
        seconds = self._clock() - started
        self._counter.finished(model, version, request.protocol, outcome, seconds, rows)
        if request.trace and outcome == "success":
            self._counter.traced(model, version, request.protocol, seconds, request.trace)

    def left(self) -> None:
        """One that was under way is so no more; it is counted elsewhere."""
        self.in_flight -= 1
        if self.is_draining and not self.in_flight:
            self._is_idle.set()

    def encoded(self, response: InferResponse, seconds: float) -> None:
        """Count what turning a response into its protocol's bytes took."""
        self._counter.encoded(response.model, response.version, seconds)

    def version_of(self, model: str, alias: str) -> str:
        """The version that an alias of a model stands for now. Raises NotFound."""
        return self.catalog.aliased(model, alias).version

    def refused(self, request: InferRequest, error: ServiceError) -> None:
        """Count a request that could not even be translated."""
        version = request.version if self.catalog.has(request.model, request.version) else ""
        model = request.model if version or self.catalog.has(request.model) else ""
        seconds = self._clock() - (request.arrived or self._clock())
        self._counter.finished(model, version, request.protocol, OUTCOMES.get(error.code, "failed"), seconds, 0)

    def admit(self, request: InferRequest) -> Entry:
        """The version that answers it. Raises Unavailable, NotFound."""
        if self.is_draining:
            raise Unavailable("the server is shutting down: send the request to another replica")
        return self.catalog.ready_entry(request.model, request.version)

    async def _run(
        self, request: InferRequest, entry: Entry, rows: int, wanted: tuple[RequestedOutput, ...]
    ) -> InferResponse:
        result, blobs = await self._engines.infer(*self.message(request, entry, rows))
        return self._response(request, entry, wanted, result, blobs)

    def next_id(self) -> int:
        """Of a request to an engine."""
        self._next_id += 1
        return self._next_id

    def message(self, request: InferRequest, entry: Entry, rows: int) -> tuple[Infer, list[Buffer]]:
        """As engines take it, with the tensors in their order."""
        inputs = request.inputs
        if len(inputs) > 1:
            by_name = {tensor.name: tensor for tensor in inputs}
            inputs = tuple([by_name[spec.name] for spec in entry.inputs])
        message = Infer(
            self.next_id(),
            entry.name,
            entry.version,
            rows,
            tuple([tensor.shape for tensor in inputs]),
            tuple([len(tensor.data) for tensor in inputs]),
            deadline_of(patience_of(request, entry), request.deadline, now := self._clock()),
            request.priority,
            entry.contract,
            request.sequence if entry.sequencing is not None or entry.ensemble is not None else None,
            late=late_of(request, entry, now),
            mark=request.mark,
        )
        data = [tensor.data for tensor in inputs]
        if request.on_gpu is not None:
            message, data = place(message, data, request.on_gpu, entry)
        return message, data

    def _response(
        self,
        request: InferRequest,
        entry: Entry,
        wanted: tuple[RequestedOutput, ...],
        result: Result,
        blobs: list[memoryview],
    ) -> InferResponse:
        specs = () if entry.is_decoupled and result.is_final else entry.outputs
        outputs = tuple(
            [
                Tensor(spec.name, spec.datatype, shape, blob)
                for spec, shape, blob in zip(specs, result.shapes, blobs, strict=True)
            ]
        )
        if request.outputs and specs:
            outputs = choose_outputs(outputs, wanted, entry)
        return InferResponse(
            entry.name,
            entry.version,
            request.id,
            outputs,
            result.phases,
            batch=result.batch,
            bucket=result.bucket,
            is_final=result.is_final,
            ran=result.ran,
        )

    async def _recall(
        self, request: InferRequest, entry: Entry, rows: int, wanted: tuple[RequestedOutput, ...]
    ) -> InferResponse:
        """Answer with what is kept; where nothing is, as `_run`, and keep all outputs, whichever were asked for."""
        source = self.cache.source(entry) if self.cache is not None else None
        if self.cache is None or source is None or request.sequence is not None or request.on_gpu is not None:
            return await self._run(request, entry, rows, wanted)
        started = self._clock()
        digest = await digest_inputs(request.inputs)
        kept = self.cache.get(source, digest)
        seconds = self._clock() - started
        if kept is not None:
            response = InferResponse(entry.name, entry.version, request.id, kept)
        else:
            response = await self._run(replace(request, outputs=()), entry, rows, ())
            started = self._clock()
            self.cache.put(source, digest, response.outputs)
            seconds += self._clock() - started
        self._counter.looked_up(entry.name, entry.version, kept is not None, seconds)
        if request.outputs:
            response = replace(response, outputs=choose_outputs(response.outputs, wanted, entry))
        return response
