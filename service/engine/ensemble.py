"""A served ensemble: gives each step of a request to its model's own queue in this engine once its tensors are there.

Has no thread: it acts where a request comes in and where a model answers. `pipeline.py` says which steps can run.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from service.engine.marks import step_of
from service.engine.messages import Failure, Infer, Result
from service.engine.pipeline import Call, Flow, Phases, Plan, add, arrange, find_shortfall
from service.engine.rerun import FIRST
from service.engine.served import BatchCounter, Connection, Pending, Served
from service.errors import OUTCOMES, Code, InvalidInput, QueueFull, ServiceError, Unavailable
from service.repository.catalog import Entry
from service.repository.scheduling import EnsembleStep
from service.tensors import Tensor
from service.traced import Ran, Step

Find = Callable[[str, str], Sequence[Served]]  # name, version -> what is loaded of it, the best to call first
RunKey = tuple[int, int]  # the connection, the request


class InnerCounter(Protocol):
    """What `observe/recorders.py` is told about each request to a model of an ensemble, when it has ended."""

    def finished(self, model: str, version: str, outcome: str, seconds: float, rows: int) -> None: ...


@dataclass(slots=True, eq=False)
class _Run:
    """A request under way, and its steps that have been given to their models."""

    pending: Pending
    flow: Flow
    given: set[int] = field(default_factory=set)
    traced: list[Step] = field(default_factory=list)

    @property
    def key(self) -> RunKey:
        return id(self.pending.connection), self.pending.message.id


@dataclass(frozen=True, slots=True)
class _Given:
    """A step that its model has been given."""

    run: _Run
    call: Call
    served: Served
    rows: int
    begun: float


class ServedEnsemble:
    """Answers each request once: with the outputs when all have arrived, or as soon as one step has failed.

    It is itself where its models' answers go, so their tensors come as they are.
    """

    def __init__(self, entry: Entry, find: Find, counter: BatchCounter, inner: InnerCounter) -> None:
        self.entry = entry
        self._plan = Plan(entry)
        self._find = find
        self._counter = counter
        self._inner = inner
        self._numbers = itertools.count(1)
        self._state = threading.Condition()  # never held while a model or a connection is called
        self._runs: dict[RunKey, _Run] = {}
        self._given: dict[int, _Given] = {}
        self._is_closing = False

    def __repr__(self) -> str:
        return f"<ServedEnsemble {self.entry.name}/{self.entry.version} {len(self._runs)} under way>"

    def start(self, on_broken: Callable[[str], None]) -> None:
        """There is nothing to start, and its models tell by themselves what is broken."""

    def submit(self, pending: Pending, now: float) -> None:
        """Give the first steps to their models; too many requests under way are answered at once."""
        message = pending.message
        run = _Run(pending, Flow(self._plan))
        try:
            with self._state:
                self._check_room(pending.message.retry)
                self._runs[run.key] = run
                calls = run.flow.begin(message.shapes, pending.tensors)
        except Unavailable as error:
            pending.connection.send([(Failure(message.id, error.code, str(error)), ())])
            return
        self._counter.depth(len(self._runs))
        self._give(run, calls)

    def cancel(self, connection: Connection, request_id: int) -> None:
        """Forget a request and its steps."""
        with self._state:
            run = self._runs.get((id(connection), request_id))
            left = self._leave(run) if run is not None else {}
        self._withdraw(left)

    def forget(self, connection: Connection) -> None:
        """Forget the requests of a connection that is gone."""
        with self._state:
            runs = [run for key, run in self._runs.items() if key[0] == id(connection)]
            left = {number: given for run in runs for number, given in self._leave(run).items()}
        self._withdraw(left)

    def close(self) -> None:
        """Refuse what comes, and wait until what is under way has been answered."""
        with self._state:
            self._is_closing = True
            self._state.wait_for(lambda: not self._runs)

    def send(self, answers: Sequence[tuple[Result | Failure, Sequence[memoryview]]]) -> None:
        """A model's answers to steps."""
        for message, blobs in answers:
            with self._state:
                given = self._given.pop(message.id, None)
                if given is not None:
                    given.run.given.discard(message.id)
            if given is None:
                continue  # its request has been answered, or its client has gone
            match message:
                case Failure(_, code, reason):
                    self._count(given, OUTCOMES.get(Code(code), "failed"))
                    self._failed(given, code, reason)
                case Result():
                    self._count(given, "success")
                    self._arrived(given, message, blobs)

    def _check_room(self, retry: int) -> None:
        name, limit = self.entry.name, self.entry.batching.max_queue_size
        if self._is_closing:
            raise Unavailable(f"model '{name}' is being unloaded: try again")
        if len(self._runs) >= limit and retry == FIRST:
            raise QueueFull(f"model '{name}' has {limit} requests under way: try again later")

    def _give(self, run: _Run, calls: Sequence[Call]) -> None:
        for call in calls:
            try:
                self._submit(run, call)
            except ServiceError as error:
                self._refuse(run, call.step, error.code, str(error))
                return

    def _submit(self, run: _Run, call: Call) -> None:
        """Raises a ServiceError where no model can take the step."""
        served, tensors, rows = self._choose(call)
        request, number = run.pending.message, next(self._numbers)
        message = Infer(
            number,
            served.entry.name,
            served.entry.version,
            rows,
            tuple(tensor.shape for tensor in tensors),
            tuple(len(tensor.data) for tensor in tensors),
            request.deadline,
            request.priority,
            served.entry.contract,
            request.sequence,
            mark=request.mark,
            retry=request.retry,
        )
        now = time.monotonic()
        with self._state:
            if self._runs.get(run.key) is not run:
                return  # another step has failed meanwhile, or the client has gone
            self._given[number] = _Given(run, call, served, rows, now)
            run.given.add(number)
        data = [memoryview(tensor.data) for tensor in tensors]
        served.submit(Pending(message, data, self, within=run.pending.root), now)

    def _choose(self, call: Call) -> tuple[Served, list[Tensor], int]:
        """The newest that takes these tensors: while a model changes, the one before it is still there."""
        step = call.step
        error: ServiceError | None = None
        for served in self._find(step.model, step.version):
            missing = find_shortfall(served.entry, step)
            try:
                if not missing:
                    return served, *arrange(call.tensors, served.entry)
                error = error or Unavailable(f"it gives no output '{missing}' by now: try again")
            except InvalidInput as misfit:
                error = error or misfit
        raise error or Unavailable("it is not loaded in this engine: try again")

    def _arrived(self, given: _Given, result: Result, blobs: Sequence[memoryview]) -> None:
        run, call = given.run, given.call
        specs = zip(given.served.entry.outputs, result.shapes, blobs, strict=True)
        tensors = [Tensor(spec.name, spec.datatype, shape, blob) for spec, shape, blob in specs]
        with self._state:
            if self._runs.get(run.key) is not run:
                return
            if result.ran is not None:
                run.traced.append(step_of(given.served.entry, given.begun, result))
            calls = run.flow.arrived(call, tensors, result.phases)
            is_done = run.flow.is_done
        if is_done:
            self._finish(run, result, add(call.phases, result.phases))
        else:
            self._give(run, calls)

    def _finish(self, run: _Run, last: Result, phases: Phases) -> None:
        """The outputs are there. `last` answered the step that was longest under way."""
        outputs, message = run.flow.outputs(), run.pending.message
        blobs = [memoryview(tensor.data) for tensor in outputs]
        self._counter.batch([phases[0]], phases[1:], message.rows, message.rows)
        answer = Result(
            id=message.id,
            shapes=tuple(tensor.shape for tensor in outputs),
            sizes=tuple(map(len, blobs)),
            phases=phases,
            batch=last.batch,
            bucket=last.bucket,
            ran=Ran(steps=tuple(run.traced)) if message.mark else None,
        )
        self._answer(run, answer, blobs)

    def _failed(self, given: _Given, code: str, reason: str) -> None:
        """A model that was let go of just when it was asked has a successor: ask that."""
        step = given.call.step
        is_gone = code == Code.UNAVAILABLE and given.served not in self._find(step.model, step.version)
        if is_gone:
            self._give(given.run, [given.call])
        else:
            self._refuse(given.run, step, code, reason)

    def _refuse(self, run: _Run, step: EnsembleStep, code: str, reason: str) -> None:
        sentence = f"ensemble '{self.entry.name}': its step '{step.model}' failed: {reason}"
        self._answer(run, Failure(run.pending.message.id, code, sentence), ())

    def _answer(self, run: _Run, answer: Result | Failure, blobs: Sequence[memoryview]) -> None:
        """The first answer counts; what of the request is under way elsewhere is called back."""
        with self._state:
            if self._runs.get(run.key) is not run:
                return
            left = self._leave(run)
        self._withdraw(left)
        run.pending.connection.send([(answer, blobs)])

    def _leave(self, run: _Run) -> dict[int, _Given]:
        """Forget a request; returns its steps that are under way, by number."""
        del self._runs[run.key]
        if not self._runs:
            self._state.notify_all()
        return {number: self._given.pop(number) for number in run.given}

    def _withdraw(self, left: Mapping[int, _Given]) -> None:
        for number, given in left.items():
            given.served.cancel(self, number)
            self._count(given, "cancelled")
        self._counter.depth(len(self._runs))

    def _count(self, given: _Given, outcome: str) -> None:
        entry = given.served.entry
        self._inner.finished(entry.name, entry.version, outcome, time.monotonic() - given.begun, given.rows)
