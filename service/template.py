"""Requests that differ from an earlier one in nothing but the bytes of their tensors: checked once, then only sent.

A `Template` is what the plane's checks found, with the message to the engine laid out. It holds as long as the catalog
by which it was made. What is not plain has none, and goes the way of `plane.py`, which decides in all that is not here.

    template = templates.make(request)                  # None: this request needs more than a template can say
    sent = templates.send(template, tensors, arrived, receiver)
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from msgspec import structs

from service.checks import check_inputs, check_outputs
from service.defaults import fill_inputs
from service.engine.messages import Infer, Result
from service.engine.responses import Answer, Waiter
from service.engine.transport import FrameTemplate
from service.errors import OUTCOMES, Code, ExecutionFailed, Exhausted, NotLoaded, ServiceError
from service.patience import deadline_of, late_of, patience_of
from service.refusal import Refused
from service.repository.catalog import Entry
from service.tensors import Buffer, InferRequest, Tensor

log = logging.getLogger("torchere.frontend")


class Receiver(Protocol):
    """Who gets the outcome of a request, by one call of one of these."""

    def answered(self, result: Result, outputs: list[memoryview]) -> None: ...
    def refused(self, error: ServiceError) -> None: ...


class Tally(Protocol):
    """What counts an answer, given the moment at which its request came."""

    def add(self, arrived: float, /) -> None: ...


class Sender(Protocol):
    """What is asked of `engine/client.py`."""

    def begin(
        self, number: int, frame: FrameTemplate, blobs: Sequence[Buffer], waiter: Waiter, deadline: float | None
    ) -> Callable[[int], None]: ...
    async def resend(self, message: Infer, blobs: Sequence[Buffer], error: NotLoaded) -> Answer: ...


class Template:
    """What all requests of one kind share. `sizes` are the bytes of its tensors, in the order of the request.

    `refused` is the last refusal of one by an engine.
    """

    __slots__ = (
        *("_filled", "_is_whole", "_order", "_picked"),
        *("entry", "frame", "message", "patience_s", "refused", "request", "rows", "sizes", "tally"),
    )

    def __init__(
        self, request: InferRequest, filled: Sequence[Tensor], entry: Entry, message: Infer, tally: Tally
    ) -> None:
        self.request = structs.replace(
            request, inputs=tuple(structs.replace(tensor, data=b"") for tensor in request.inputs)
        )
        self.entry = entry
        self.message = message
        self.rows = message.rows
        self.patience_s = patience_of(request, entry)
        self.refused: Refused | None = None
        self.tally = tally
        self.sizes = tuple(len(tensor.data) for tensor in request.inputs)
        self.frame = FrameTemplate(message, sum(message.sizes))
        self._filled = [tensor.data for tensor in filled]  # what the request leaves out
        given = [tensor.name for tensor in (*request.inputs, *filled)]
        self._order = tuple(given.index(spec.name) for spec in entry.inputs)
        made = [spec.name for spec in entry.outputs]
        every = tuple(range(len(made)))
        self._picked = tuple(made.index(output.name) for output in request.outputs) or every
        self._is_whole = self._picked == every

    def arrange(self, blobs: Sequence[Buffer]) -> Sequence[Buffer]:
        """The tensors as the engine takes them."""
        if self._filled:
            blobs = [*blobs, *self._filled]
        return blobs if len(blobs) == 1 else [blobs[index] for index in self._order]

    def pick(self, blobs: Sequence[memoryview]) -> Sequence[memoryview]:
        """The outputs that are asked for, in that order."""
        return blobs if self._is_whole else [blobs[index] for index in self._picked]

    def outputs(self, result: Result, blobs: Sequence[memoryview]) -> tuple[Tensor, ...]:
        """The same as tensors."""
        specs, shapes = self.entry.outputs, result.shapes
        return tuple(
            Tensor(specs[index].name, specs[index].datatype, shapes[index], blobs[index]) for index in self._picked
        )

    def answers_in(self, binary: Mapping[str, bool], default: bool) -> bool:
        """Whether all outputs that are asked for are wanted as bytes."""
        return all(binary.get(self.entry.outputs[index].name, default) for index in self._picked)


class Sent:
    """A request that is under way. `cancel` forgets it; nothing happens where it has ended."""

    __slots__ = (
        *("_again", "_arrived", "_blobs", "_deadline", "_id", "_is_over", "_receiver"),
        *("_template", "_templates", "_withdraw"),
    )

    def __init__(
        self, templates: Templates, template: Template, blobs: Sequence[Buffer], arrived: float, receiver: Receiver
    ) -> None:
        self._templates = templates
        self._template = template
        self._blobs = blobs  # kept until it is answered: another engine may have to run it
        self._arrived = arrived
        self._receiver = receiver
        self._is_over = False
        self._again: asyncio.Task[None] | None = None
        self._id = 0
        self._deadline: float | None = None
        self._withdraw: Callable[[int], None] | None = None

    def begin(self, number: int, deadline: float | None) -> None:
        """Give it to an engine."""
        self._id, self._deadline = number, deadline
        try:
            self._withdraw = self._templates.engines.begin(number, self._template.frame, self._blobs, self, deadline)
        except NotLoaded as error:
            self.set_exception(error)

    def done(self) -> bool:
        return self._is_over

    def set_result(self, answer: Answer, /) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._blobs = ()
        self._template.tally.add(self._arrived)
        self._templates.plane.left()
        receiver = self._let_go()
        try:
            receiver.answered(*answer)
        except Exception:  # a fault of ours must not end the connection to the engine, which all share
            log.exception("an answer could not be sent")
            receiver.refused(ExecutionFailed("internal error: the server's log has the details"))

    def set_exception(self, error: ServiceError, /) -> None:
        if isinstance(error, NotLoaded) and self._again is None and not self._is_over:
            self._again = asyncio.get_running_loop().create_task(self._send_again(error))
        else:
            if error.code is Code.QUEUE_FULL:
                self._template.refused = Refused(error, self._deadline, time.monotonic())
            self.refuse(error)

    def refuse(self, error: ServiceError) -> None:
        """Tell the receiver, whom no engine can help."""
        if self._end(OUTCOMES.get(error.code, "failed")):
            if self._templates.plane.says_exhausted and error.code is Code.QUEUE_FULL:
                error = Exhausted.instead_of(error)
            self._let_go().refused(error)

    def cancel(self) -> None:
        if self._end("cancelled"):
            if self._again is not None:
                self._again.cancel()
            elif self._withdraw is not None:
                self._withdraw(self._id)

    def _let_go(self) -> Receiver:
        """The receiver, which knows this: without the circle both are gone at once, and nobody has to collect them."""
        receiver = self._receiver
        del self._receiver
        return receiver

    async def _send_again(self, error: NotLoaded) -> None:
        message = structs.replace(self._template.message, id=self._id, deadline=self._deadline)
        try:
            answer = await self._templates.engines.resend(message, self._blobs, error)
        except ServiceError as final:
            self.set_exception(final)
        else:
            self.set_result(answer)

    def _end(self, outcome: str) -> bool:
        """Count that it failed; False where it had ended before."""
        if self._is_over:
            return False
        self._is_over = True
        self._blobs = ()
        template = self._template
        self._templates.plane.finished(template.request, template.entry.version, outcome, self._arrived, template.rows)
        return True


class Door(Protocol):
    """What is asked of `plane.py`, which has the checks, and counts."""

    in_flight: int
    says_exhausted: bool

    def admit(self, request: InferRequest) -> Entry: ...
    def message(self, request: InferRequest, entry: Entry, rows: int) -> tuple[Infer, list[Buffer]]: ...
    def next_id(self) -> int: ...
    def left(self) -> None: ...
    def finished(self, request: InferRequest, version: str, outcome: str, started: float, rows: int) -> None: ...


class Templates:
    """Makes templates of a plane's requests and sends by them."""

    def __init__(self, plane: Door, engines: Sender, tally: Callable[[str, str, str, int], Tally]) -> None:
        self.plane = plane
        self.engines = engines
        self._tally = tally

    def make(self, request: InferRequest) -> Template | None:
        """The template of requests like this one. Raises what the plane would."""
        entry = self.plane.admit(request)
        rows = check_inputs(request.inputs, entry)
        check_outputs(request.outputs, entry)
        if not _is_plain(request, entry):
            return None
        inputs = fill_inputs(request.inputs, entry, rows)
        message, _ = self.plane.message(structs.replace(request, inputs=inputs), entry, rows)
        tally = self._tally(request.model, entry.version, request.protocol, rows)
        filled = inputs[len(request.inputs) :]
        return Template(request, filled, entry, structs.replace(message, id=0, deadline=None), tally)

    def send(
        self,
        template: Template,
        blobs: Sequence[Buffer],
        arrived: float,
        receiver: Receiver,
        deadline: float | None = None,
    ) -> Sent:
        """Give it to an engine, with its tensors in the order of the request. The receiver may be told before this
        returns. `deadline` is the client's own."""
        plane = self.plane
        plane.in_flight += 1
        sent = Sent(self, template, template.arrange(blobs), arrived, receiver)
        if template.patience_s is not None:
            deadline = deadline_of(template.patience_s, deadline, arrived)
        if template.refused is not None and template.refused.covers(deadline, arrived):
            sent.refuse(template.refused.again())
        else:
            sent.begin(plane.next_id(), deadline)
        return sent

    def lapsed(self, template: Template, arrived: float) -> None:
        """Count a request whose time had passed before it could be sent."""
        self.plane.in_flight += 1
        self.plane.finished(template.request, template.entry.version, "timeout", arrived, template.rows)


def _is_plain(request: InferRequest, entry: Entry) -> bool:
    """Whether nothing but the bytes of tensors can differ from one request to the next, and no byte matters here."""
    return not (
        entry.is_decoupled
        or entry.response_cache
        or entry.sequencing is not None
        or entry.ensemble is not None
        or request.sequence is not None
        or request.shared_inputs
        or request.shared_outputs
        or request.trace
        or request.deadline is not None
        or late_of(request, entry, 0.0) is not None
        or any(output.classification for output in request.outputs)
        or any(spec.datatype == "BYTES" for spec in entry.inputs)
    )
