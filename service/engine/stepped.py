"""A model with Python before or after it: each request goes through preprocess.py, the model, and postprocess.py.

Knows no batches and no processes: what is inside has its own queue, `steps/pool.py` has the processes. Threads of both
carry a request on; none belongs to it. `generating.py` is the other kind of model with steps.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from msgspec import structs

from service.engine.marks import step_between
from service.engine.messages import Failure, Result
from service.engine.queues import Waiting
from service.engine.rerun import FIRST
from service.engine.served import Connection, Pending, Served
from service.engine.steps.checking import (
    check_outputs,
    count_rows,
    cut,
    describe_inputs,
    describe_outputs,
    no_places,
)
from service.engine.steps.messages import POSTPROCESS, PREPROCESS, Call, Gave
from service.engine.steps.order import Order
from service.engine.steps.pool import Pool
from service.engine.steps.process import StepProcess
from service.errors import Code, ServiceError, Unavailable
from service.repository.catalog import Entry
from service.traced import Step

Key = tuple[int, int]  # of a connection and of a request on it


@dataclass(slots=True, eq=False)
class Job:
    """One request on its way. `number` is its name inside, `asked` what the model is asked."""

    number: int
    pending: Pending
    arrived: float
    asked: Pending | None = None
    waiting: Waiting | None = None
    prepared: float = 0.0  # when preprocess.py had answered
    given: float = 0.0  # when the model had
    is_gone: bool = False  # the client left

    @property
    def id(self) -> int:
        return self.pending.message.id

    @property
    def key(self) -> Key:
        return id(self.pending.connection), self.id


@dataclass(frozen=True, slots=True)
class StepTask:
    """A call of one step; `gave` gets what it returned, `failed` why it did not."""

    call: Call
    blobs: Sequence[memoryview]
    gave: Callable[[Gave, memoryview], None]
    fail: Callable[[ServiceError], None] = field(repr=False)

    def run(self, process: StepProcess) -> None:
        try:
            answer, body = process.ask(self.call, self.blobs)
            self.gave(answer, body)
        except ServiceError as error:
            self.fail(error)


def _steps(job: Job) -> tuple[Step, ...]:
    """The Python files that ran."""
    before = [step_between(PREPROCESS, job.arrived, job.prepared)] if job.prepared else []
    after = [step_between(POSTPROCESS, job.given, time.monotonic())] if job.given else []
    return (*before, *after)


class SteppedModel:
    """`inside` is the model itself, `pool` runs the steps that `entry` declares."""

    def __init__(self, entry: Entry, inside: Served, pool: Pool) -> None:
        assert entry.steps is not None, "a model without steps is served as it is"
        self.entry = entry
        self.inside = inside
        self._pool = pool
        self._has_before = entry.steps.preprocess is not None
        self._has_after = entry.steps.postprocess is not None
        self._jobs: dict[Key, Job] = {}
        self._inner: dict[int, Job] = {}
        self._order: Order[Job] = Order()
        self._in_order = threading.RLock()  # held while a sequence's requests go to the model
        self._numbers = itertools.count(1)
        self._changed = threading.Condition()
        self._is_closing = False

    def __repr__(self) -> str:
        return f"<SteppedModel {self.entry.name}/{self.entry.version} {len(self._jobs)} under way, {self._pool!r}>"

    def start(self, on_broken: Callable[[str], None]) -> None:
        self.inside.start(on_broken)

    def close(self) -> None:
        with self._changed:
            self._is_closing = True
            self._changed.wait_for(lambda: not self._jobs)
        self.inside.close()
        self._pool.close()

    def submit(self, pending: Pending, now: float) -> None:
        """Let it wait for a process, or go to the model at once where there is nothing before it."""
        message = pending.message
        if message.places is not None:
            pending.connection.send([(no_places(self.entry, message), ())])
            return
        job = Job(next(self._numbers), pending, now)
        with self._changed:
            if not self._is_closing:
                self._jobs[job.key] = job
        if job.key not in self._jobs:
            reason = f"model '{self.entry.name}' is being unloaded: try again"
            pending.connection.send([(Failure(message.id, Code.UNAVAILABLE, reason), ())])
            return
        if message.sequence is not None:
            with self._in_order:
                self._order.began(message.sequence.id, job)
        if not self._has_before:
            self._go_on(job, pending)
            return
        call = Call(PREPROCESS, describe_inputs(self.entry, message))
        task = StepTask(
            call,
            pending.tensors,
            lambda gave, body: self._prepared(job, gave, body),
            lambda error: self._fail(job, error),
        )
        try:
            is_accepted = message.retry != FIRST
            job.waiting = self._pool.submit(task, now, message.deadline, message.priority, is_accepted=is_accepted)
        except Unavailable as error:
            self._fail(job, error)

    def cancel(self, connection: Connection, request_id: int) -> None:
        with self._changed:
            job = self._jobs.get((id(connection), request_id))
        if job is not None:
            self._drop(job)

    def forget(self, connection: Connection) -> None:
        with self._changed:
            gone = [job for job in self._jobs.values() if job.pending.connection is connection]
        for job in gone:
            self._drop(job)

    def send(self, answers: Sequence[tuple[Result | Failure, Sequence[memoryview]]]) -> None:
        """What the model inside says: this is the connection that it answers."""
        for message, blobs in answers:
            with self._changed:
                job = self._inner.pop(message.id, None)
            if job is None or job.is_gone:
                continue
            if isinstance(message, Result) and self._has_after:
                self._finish(job, message, blobs)
            else:
                self._end(job, message, blobs)

    def _prepared(self, job: Job, gave: Gave, body: memoryview) -> None:
        """What preprocess.py returned goes to the model."""
        job.prepared = time.monotonic()
        message, blobs = job.pending.message, cut(gave.tensors, body)
        rows = count_rows(PREPROCESS, gave.tensors, blobs, self.inside.entry)
        shapes, sizes = tuple(each.shape for each in gave.tensors), tuple(map(len, blobs))
        asked = structs.replace(message, rows=rows, shapes=shapes, sizes=sizes)
        self._go_on(job, Pending(asked, blobs, job.pending.connection))

    def _go_on(self, job: Job, asked: Pending) -> None:
        """To the model, but not before what came earlier in the same sequence."""
        job.asked = asked
        sequence = asked.message.sequence
        if sequence is None:
            self._ask_model(job)
            return
        with self._in_order:
            for each in () if job.is_gone else self._order.ready(sequence.id, job):
                self._ask_model(each)

    def _ask_model(self, job: Job) -> None:
        assert job.asked is not None, "it is ready"
        with self._changed:
            if job.is_gone:
                return
            self._inner[job.number] = job
        asked = structs.replace(job.asked.message, id=job.number)
        self.inside.submit(Pending(asked, job.asked.tensors, self, within=job.pending.root), time.monotonic())

    def _finish(self, job: Job, result: Result, blobs: Sequence[memoryview]) -> None:
        """What the model gave goes through postprocess.py, beside the client's own inputs."""
        job.given = time.monotonic()
        tensors, inputs = describe_outputs(self.inside.entry, result), describe_inputs(self.entry, job.pending.message)
        rows = job.pending.message.rows if self.entry.max_batch_size else 0

        def gave(answer: Gave, body: memoryview) -> None:
            check_outputs(POSTPROCESS, answer.tensors, self.entry, rows)
            parts = cut(answer.tensors, body)
            shapes, sizes = tuple(each.shape for each in answer.tensors), tuple(map(len, parts))
            self._end(job, structs.replace(result, shapes=shapes, sizes=sizes), parts)

        call = Call(POSTPROCESS, tensors, inputs)
        self._pool.go_on(StepTask(call, [*blobs, *job.pending.tensors], gave, lambda error: self._fail(job, error)))

    def _fail(self, job: Job, error: ServiceError) -> None:
        self._pass_by(job)
        self._end(job, Failure(job.id, error.code, str(error)), ())

    def _drop(self, job: Job) -> None:
        """Its client left: it is not answered, and what has not begun is not done."""
        with self._changed:
            job.is_gone = True
            self._jobs.pop(job.key, None)
            self._inner.pop(job.number, None)  # what only waits in the model is never answered
            self._changed.notify_all()
        if job.waiting is not None:
            self._pool.cancel(job.waiting)
        self.inside.cancel(self, job.number)
        self._pass_by(job)

    def _pass_by(self, job: Job) -> None:
        """Let go on what waits behind it in its sequence."""
        sequence = job.pending.message.sequence
        if sequence is not None:
            with self._in_order:
                for each in self._order.left(sequence.id, job):
                    self._ask_model(each)

    def _end(self, job: Job, answer: Result | Failure, blobs: Sequence[memoryview]) -> None:
        with self._changed:
            if self._jobs.pop(job.key, None) is None:
                return  # its client left
            self._changed.notify_all()
        if isinstance(answer, Result) and answer.ran is not None:
            answer = structs.replace(answer, ran=structs.replace(answer.ran, steps=_steps(job)))
        job.pending.connection.send([(structs.replace(answer, id=job.id), blobs)])
