"""A model whose generate.py answers in its place: in any number of responses, calling the model as often as it likes.

The calls of all generations meet in the model's own queue, and so in its batches. Knows no batches and no sockets:
`steps/pool.py` has the processes, one for each generation that runs. `stepped.py` is the other kind with steps.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from operator import add

from service.engine.marks import step_of
from service.engine.messages import Failure, Infer, Result
from service.engine.queues import Waiting
from service.engine.served import Connection, Pending, Served
from service.engine.steps.checking import check_outputs, count_rows, cut, describe_inputs, describe_outputs, no_places
from service.engine.steps.messages import (
    GENERATE,
    WINDOW,
    AskModel,
    Call,
    Gave,
    ModelGave,
    StepMessage,
    Stop,
    Tensors,
    Took,
)
from service.engine.steps.pool import Pool
from service.engine.steps.process import Ended, StepProcess
from service.errors import Cancelled, Code, DeadlineExceeded, ExecutionFailed, ServiceError, Unavailable
from service.repository.catalog import Entry
from service.traced import MOST_STEPS, Ran, Step

CLIENT_TIMEOUT_S = 60.0  # a client that takes no response for so long holds up a process in vain

Answer = tuple[Result | Failure, Sequence[memoryview]]
Key = tuple[int, int]  # of a connection and of a request on it


class Generation:
    """One request, from its turn to its end, on the thread of its process. Others leave word and wake it."""

    def __init__(self, entry: Entry, inside: Served, pending: Pending, number: int, ended: Callable[[], None]) -> None:
        self.pending = pending
        self.waiting: Waiting | None = None
        self._entry = entry
        self._inside = inside
        self._number = number  # its name inside
        self._ended = ended
        self._words: deque[Took | Stop | Answer] = deque()
        self._process: StepProcess | None = None
        self._untaken = 0
        self._is_asking = self._is_stopped = False  # stopped: nobody wants more, what still comes is not passed on
        self._since = self._arrived = time.monotonic()  # whose turn it is has it since then
        self._phases = (0, 0, 0, 0, 0)
        self._rows = (0, 0)  # of the last batch, and what it was padded to
        self._traced: list[Step] = []
        self._asked = 0.0  # the model, at last

    def __repr__(self) -> str:
        return f"<Generation {self._entry.name} request {self.pending.message.id}, {self._untaken} untaken>"

    def say(self, word: Took | Stop | Answer) -> None:
        """From any thread."""
        self._words.append(word)
        if self._process is not None:
            self._process.wake()

    def send(self, answers: Sequence[Answer]) -> None:
        """What the model inside says: this is the connection that it answers."""
        for answer in answers:
            self.say(answer)

    def fail(self, error: ServiceError) -> None:
        """It will not run, or is at an end."""
        self._answer_with(error)
        self._ended()

    def run(self, process: StepProcess) -> None:
        """All of it, on the thread of its process."""
        self._since = time.monotonic()
        self._phases = (int((self._since - self._arrived) * 1e9), 0, 0, 0, 0)
        self._process = process
        try:
            process.send(Call(GENERATE, describe_inputs(self._entry, self.pending.message)), self.pending.tensors)
            while not self._go_on(process):
                pass
        except Ended as error:
            self._inside.cancel(self, self._number)
            self._answer_with(ExecutionFailed(f"{GENERATE} of {process.title} {error}"))
        self._ended()

    def _go_on(self, process: StepProcess) -> bool:
        """Wait for one thing and act on it; True when the generation is over. Raises Ended."""
        while self._words:
            self._obey(self._words.popleft(), process)
        try:
            found = process.wait(self._limit(process))
        except TimeoutError:
            self._run_out(process)
            return False
        if found is None:
            return False
        self._since = time.monotonic()
        return self._act(*found, process)

    @property
    def _is_clients_turn(self) -> bool:
        return self._untaken >= WINDOW and not self._is_asking

    def _limit(self, process: StepProcess) -> float:
        """How long to wait for whose turn it is: the code, the model, or the client."""
        if self._is_stopped:
            return self._since + process.timeout_s
        deadline = self.pending.message.deadline or float("inf")
        if self._is_asking:
            return deadline
        return min(deadline, self._since + (CLIENT_TIMEOUT_S if self._is_clients_turn else process.timeout_s))

    def _run_out(self, process: StepProcess) -> None:
        deadline = self.pending.message.deadline
        if not self._is_stopped and deadline is not None and time.monotonic() >= deadline:
            self._give_up(DeadlineExceeded("the request's time ran out while it was being answered"), process)
        elif not self._is_stopped and self._is_clients_turn:
            self._give_up(Cancelled(f"the client took no response for {CLIENT_TIMEOUT_S:g} s"), process)
        else:
            raise process.hung()

    def _obey(self, word: Took | Stop | Answer, process: StepProcess) -> None:
        self._since = time.monotonic()
        match word:
            case Took(count):
                self._untaken -= count
                process.send(word)
            case Stop():
                self._stop(process)
            case (message, blobs) if self._is_asking:
                self._is_asking = False
                self._pass_on(message, blobs, process)

    def _pass_on(self, message: Result | Failure, blobs: Sequence[memoryview], process: StepProcess) -> None:
        if isinstance(message, Failure):
            process.send(ModelGave((), message.message, message.code == Code.INVALID))
            return
        if message.ran is not None and len(self._traced) < MOST_STEPS:
            self._traced.append(step_of(self._inside.entry, self._asked, message))
        self._phases = tuple(map(add, self._phases, message.phases))
        self._rows = (message.batch, message.bucket)
        process.send(ModelGave(describe_outputs(self._inside.entry, message)), blobs)

    def _act(self, message: StepMessage, body: memoryview, process: StepProcess) -> bool:
        """What the code says; True where that is its last word."""
        match message:
            case Gave(is_final=True):
                self._answer(self._result((), is_final=True), ())
                return True
            case Gave(tensors):
                self._respond(tensors, body, process)
                return False
            case AskModel(tensors):
                self._ask_model(tensors, body, process)
                return False
            case _:
                self._answer_with(process.translate(GENERATE, message))
                return True

    def _respond(self, tensors: Tensors, body: memoryview, process: StepProcess) -> None:
        try:
            check_outputs(GENERATE, tensors, self._entry, rows=0)
        except ExecutionFailed as error:
            self._give_up(error, process)
            return
        self._answer(self._result(tensors, is_final=False), cut(tensors, body))
        self._untaken += 1

    def _ask_model(self, tensors: Tensors, body: memoryview, process: StepProcess) -> None:
        if self._is_stopped:
            return
        blobs, inside, message = cut(tensors, body), self._inside.entry, self.pending.message
        try:
            rows = count_rows(GENERATE, tensors, blobs, inside)
        except ExecutionFailed as error:
            process.send(ModelGave((), str(error)))
            return
        self._is_asking = True
        asked = Infer(
            self._number,
            inside.name,
            inside.version,
            rows,
            tuple(each.shape for each in tensors),
            tuple(each.size for each in tensors),
            message.deadline,
            message.priority,
            inside.contract,
            mark=message.mark,
        )
        self._asked = time.monotonic()
        self._inside.submit(Pending(asked, blobs, self, within=self.pending.root), time.monotonic())

    def _give_up(self, error: ServiceError, process: StepProcess) -> None:
        self._answer_with(error)
        self._stop(process)

    def _stop(self, process: StepProcess) -> None:
        if self._is_stopped:
            return
        self._is_stopped, self._since = True, time.monotonic()
        if self._is_asking:
            self._is_asking = False
            self._inside.cancel(self, self._number)
        process.send(Stop())

    def _result(self, tensors: Tensors, *, is_final: bool) -> Result:
        shapes, sizes = tuple(each.shape for each in tensors), tuple(each.size for each in tensors)
        ran = Ran(steps=tuple(self._traced)) if is_final and self.pending.message.mark else None
        return Result(self.pending.message.id, shapes, sizes, self._phases, *self._rows, is_final, ran)

    def _answer_with(self, error: ServiceError) -> None:
        self._answer(Failure(self.pending.message.id, error.code, str(error)), ())

    def _answer(self, answer: Result | Failure, blobs: Sequence[memoryview]) -> None:
        if not self._is_stopped:
            self.pending.connection.send([(answer, blobs)])


class GeneratingModel:
    """`inside` is the model that generate.py may call, `pool` runs it."""

    def __init__(self, entry: Entry, inside: Served, pool: Pool) -> None:
        self.entry = entry
        self.inside = inside
        self._pool = pool
        self._running: dict[Key, Generation] = {}
        self._numbers = itertools.count(1)
        self._changed = threading.Condition()
        self._is_closing = False

    def __repr__(self) -> str:
        return f"<GeneratingModel {self.entry.name}/{self.entry.version} {len(self._running)} running, {self._pool!r}>"

    def start(self, on_broken: Callable[[str], None]) -> None:
        self.inside.start(on_broken)

    def close(self) -> None:
        with self._changed:
            self._is_closing = True
            self._changed.wait_for(lambda: not self._running)
        self.inside.close()
        self._pool.close()

    def submit(self, pending: Pending, now: float) -> None:
        """Let it wait for a process."""
        if pending.message.places is not None:
            pending.connection.send([(no_places(self.entry, pending.message), ())])
            return
        key = id(pending.connection), pending.message.id
        generation = Generation(self.entry, self.inside, pending, next(self._numbers), lambda: self._end(key))
        with self._changed:
            is_refused = self._is_closing
            self._running[key] = generation
        try:
            if is_refused:
                raise Unavailable(f"model '{self.entry.name}' is being unloaded: try again")
            message = pending.message
            generation.waiting = self._pool.submit(generation, now, message.deadline, message.priority)
        except Unavailable as error:
            generation.fail(error)

    def took(self, connection: Connection, request_id: int, count: int) -> None:
        """The client has taken so many responses."""
        generation = self._running.get((id(connection), request_id))
        if generation is not None:
            generation.say(Took(count))

    def cancel(self, connection: Connection, request_id: int) -> None:
        generation = self._running.get((id(connection), request_id))
        if generation is not None:
            self._stop(generation)

    def forget(self, connection: Connection) -> None:
        for key, generation in list(self._running.items()):
            if key[0] == id(connection):
                self._stop(generation)

    def _stop(self, generation: Generation) -> None:
        if generation.waiting is not None and self._pool.cancel(generation.waiting):
            self._end((id(generation.pending.connection), generation.pending.message.id))
        else:
            generation.say(Stop())

    def _end(self, key: Key) -> None:
        with self._changed:
            self._running.pop(key, None)
            self._changed.notify_all()
