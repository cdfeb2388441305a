"""A served model with state: the requests of each sequence run in their order, on the state that the one before left.

The state lies where the runners compute (`runtime/states.py`) and outlives them. `sequences.py` decides, `layout.py`
lays a batch, `runtime/stateful.py` runs it; `models.py` is the same for models without state.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from compiler.spec import TensorSpec
from service.engine.blackbox import BlackBox, Lane
from service.engine.instances import Instances
from service.engine.layout import Layout
from service.engine.messages import Failure, Result
from service.engine.sequences import Sequences
from service.engine.served import BatchCounter, Connection, Pending
from service.engine.slots import Policy
from service.engine.turns import Expire, Refuse, Run, Turn
from service.errors import Code, DeadlineExceeded, ExecutionFailed, InvalidInput, ServiceError, Unavailable
from service.repository.catalog import Entry
from service.runtime.device import Device
from service.runtime.runner import Output
from service.runtime.stateful import Signature, StatefulRunner
from service.runtime.states import ZEROS, Places, States
from service.traced import ran_together

Specs = tuple[TensorSpec, ...]

OUT_OF_TIME = "the request's time ran out while it waited in the queue"


@dataclass(frozen=True, slots=True)
class Program:
    """What runs: the artifact's signature, and the state that its instances, and those after them, work on."""

    signature: Signature
    states: States
    device: Device


class SequencedModel:
    """Accepts requests of sequences for one version and answers each exactly once, those of a sequence in order."""

    def __init__(
        self,
        entry: Entry,
        program: Program,
        runners: Sequence[StatefulRunner],
        counter: BatchCounter,
        box: BlackBox | None = None,
    ) -> None:
        assert entry.sequencing is not None, "it has state"
        self.entry = entry
        self.program = program
        self._counter = counter
        self._runners = tuple(runners)
        self._batched = entry.max_batch_size > 0
        self._layout = Layout(entry.sequencing, program.signature.host_inputs, batched=self._batched)
        self._sequences = Sequences(entry.name, policy_of(entry))
        self._inbox = threading.Condition()
        self._waiting: dict[tuple[int, int], Turn] = {}
        self._is_closing = False
        self._on_broken: Callable[[str], None] = lambda _: None
        self._instances = Instances(entry, len(runners), box, self._serve)

    def __repr__(self) -> str:
        return f"<SequencedModel {self.entry.name}/{self.entry.version} {self._sequences!r}>"

    def start(self, on_broken: Callable[[str], None]) -> None:
        """Start the instance threads. `on_broken(reason)` is called when the device can no longer be used."""
        self._on_broken = on_broken
        self._instances.start()

    def replace_runners(self, runners: Sequence[StatefulRunner]) -> None:
        """Each thread runs its next batch on its new runner, which works on the same state. Any thread may call it."""
        assert len(runners) == len(self._instances), "one for each thread"
        self._runners = tuple(runners)

    def close(self) -> None:
        """Answer what waits of the sequences that have begun, refuse the others, then end the threads."""
        with self._inbox:
            self._is_closing = True
            self._sequences.stop()
            self._inbox.notify_all()
        self._instances.join()

    def submit(self, pending: Pending, now: float) -> None:
        """Let a request wait for its turn; what cannot be is answered at once."""
        try:
            turn = self._turn(pending, now)
            with self._inbox:
                if self._is_closing:
                    raise Unavailable(f"model '{self.entry.name}' is being unloaded: try again")
                self._sequences.add(turn, now)
                self._waiting[id(pending.connection), pending.message.id] = turn
                self._inbox.notify_all()
        except ServiceError as error:
            _refuse(pending, error)
        self._counter.depth(self._sequences.waiting)

    def cancel(self, connection: Connection, request_id: int) -> None:
        """Forget a request whose client left, if it still waits."""
        with self._inbox:
            turn = self._waiting.pop((id(connection), request_id), None)
            if turn is not None:
                self._sequences.cancel(turn, time.monotonic())
                self._inbox.notify_all()

    def forget(self, connection: Connection) -> None:
        """Forget what waits for a frontend that has gone; its sequences live until they are idle for too long."""
        with self._inbox:
            for key in [key for key in self._waiting if key[0] == id(connection)]:
                self._sequences.cancel(self._waiting.pop(key), time.monotonic())
            self._inbox.notify_all()

    def _turn(self, pending: Pending, now: float) -> Turn:
        message, name = pending.message, self.entry.name
        if message.sequence is None:
            raise InvalidInput(
                f"model '{name}' has state: send the parameter sequence_id with each request, and sequence_start with "
                "the first of a sequence"
            )
        if message.rows != 1:
            raise InvalidInput(
                f"model '{name}' has state: a request of a sequence has one row, this one has {message.rows}: send "
                "each sequence by itself"
            )
        return Turn(message.sequence, message.shapes, now, message.deadline, pending)

    def _serve(self, index: int) -> None:
        lane = self._instances.lanes[index]
        with self.program.device.stream():
            while True:
                match self._next(index):
                    case None:
                        return
                    case Expire(turns):
                        for turn in turns:
                            _refuse(turn.payload, DeadlineExceeded(OUT_OF_TIME))
                    case Refuse(refused):
                        for turn, error in refused:
                            _refuse(turn.payload, error)
                    case Run() as run:
                        self._counter.dispatched(run.reason, len(run.turns))
                        self._run(self._runners[index], run, time.monotonic(), lane)
                        lane.end()
                        self._counter.settled(len(run.turns))
                        self._counter.depth(self._sequences.waiting)

    def _next(self, index: int) -> Run | Expire | Refuse | None:
        """Wait for something to do; None when closing and all is done."""
        with self._inbox:
            while True:
                now = time.monotonic()
                decision = self._sequences.poll(index, now)
                match decision:
                    case Run(turns) | Expire(turns):
                        self._leave(turns)
                        return decision
                    case Refuse(refused):
                        self._leave([turn for turn, _ in refused])
                        return decision
                    case _ if self._is_closing and not self._sequences.waiting:
                        return None
                    case None:
                        self._inbox.wait()
                    case _:
                        self._inbox.wait(max(0.0, decision.when - now))

    def _leave(self, turns: Sequence[Turn]) -> None:
        for turn in turns:
            self._waiting.pop((id(turn.payload.connection), turn.payload.message.id), None)

    def _run(self, runner: StatefulRunner, run: Run, taken: float, lane: Lane) -> None:
        """Answer every request; a batch that fails is halved, so that only the request at fault fails."""
        lane.begin([turn.payload.root for turn in run.turns])
        try:
            answers = self._answers(runner, run, taken)
        except Exception as error:  # noqa: BLE001 - a model may raise anything; it is translated here, once
            if not self.program.device.is_sound:
                self._on_broken(f"the device failed while running model '{self.entry.name}': {error}")
            if len(run.turns) > 1:
                middle = len(run.turns) // 2
                for part in (slice(None, middle), slice(middle, None)):
                    half = Run(run.turns[part], run.rows[part], run.slots[part], run.bucket)
                    self._run(runner, half, taken, lane)
                return
            reason = str(error).strip().partition("\n")[0][:300]
            sentence = f"model '{self.entry.name}' failed on this input: {type(error).__name__}: {reason}"
            _refuse(run.turns[0].payload, ExecutionFailed(sentence))
            self._finish(run.turns, has_run=False)
            return
        by_connection = defaultdict(list)
        for turn, answer in zip(run.turns, answers, strict=True):
            by_connection[id(turn.payload.connection)].append((turn.payload.connection, answer))
        for replies in by_connection.values():
            replies[0][0].send([answer for _, answer in replies])
        self._finish(run.turns, has_run=True)

    def _finish(self, turns: Sequence[Turn], *, has_run: bool) -> None:
        """After the answers: so those of one sequence leave in its order, whichever instance runs the next."""
        with self._inbox:
            now = time.monotonic()
            for turn in turns:
                self._sequences.finished(turn, now, has_run=has_run)
            self._inbox.notify_all()

    def _answers(self, runner: StatefulRunner, run: Run, taken: float) -> list[tuple[Result, Sequence[memoryview]]]:
        pending = [turn.payload for turn in run.turns]
        requests = [(item.message.shapes, item.tensors) for item in pending]
        parts, shapes = self._layout.lay(run.turns, requests, run.rows, run.bucket)
        outputs, phases = runner.run(parts, shapes, self._places(run))
        queue_ns = [int((taken - turn.arrived) * 1e9) for turn in run.turns]
        self._counter.batch(queue_ns, phases, len(pending), run.bucket)
        ran = ran_together([item.message.mark for item in pending], taken)
        answers: list[tuple[Result, Sequence[memoryview]]] = []
        for item, row, waited in zip(pending, run.rows, queue_ns, strict=True):
            cut = [self._cut(output, row) for output in outputs]
            blobs = [data for _, data in cut]
            result = Result(
                id=item.message.id,
                shapes=tuple(shape for shape, _ in cut),
                sizes=tuple(map(len, blobs)),
                phases=(waited, *phases),
                batch=len(pending),
                bucket=run.bucket,
                ran=ran if item.message.mark else None,
            )
            answers.append((result, blobs))
        return answers

    def _places(self, run: Run) -> Places:
        """Rows without a request get the state of the sequence whose row it is (direct), or zeros."""
        policy = self._sequences.policy
        if policy.strategy == "direct":
            base = policy.group_of(run.slots[0]) * policy.rows
            sources = list(range(base, base + run.bucket))
        else:
            sources = [ZEROS] * run.bucket
        for turn, row, slot in zip(run.turns, run.rows, run.slots, strict=True):
            sources[row] = ZEROS if turn.point.is_start else slot
        return Places(tuple(sources), run.rows, run.slots)

    def _cut(self, output: Output, row: int) -> tuple[tuple[int, ...], memoryview]:
        if not self._batched:
            return output.shape, output.data
        size = len(output.data) // output.shape[0]
        return (1, *output.shape[1:]), output.data[row * size : (row + 1) * size]


def _refuse(pending: Pending, error: ServiceError) -> None:
    pending.connection.send([(Failure(pending.message.id, Code(error.code), str(error)), ())])


def program_of(entry: Entry, inputs: Specs, outputs: Specs, device: Device) -> Program:
    """Room for the state of a model whose artifact takes and gives these tensors."""
    assert entry.sequencing is not None, "it has state"
    takes, gives = [spec.name for spec in inputs], [spec.name for spec in outputs]
    batched = entry.max_batch_size > 0
    signature = Signature(
        inputs,
        outputs,
        tuple(takes.index(state.input) for state in entry.sequencing.state),
        tuple(gives.index(state.output) for state in entry.sequencing.state),
        batched,
    )
    return Program(signature, States(signature.states, policy_of(entry).slots, device, batched=batched), device)


def policy_of(entry: Entry) -> Policy:
    """What a model's entry asks for."""
    assert entry.sequencing is not None, "it has state"
    return Policy(
        strategy=entry.sequencing.strategy,
        instances=entry.instances,
        rows=entry.max_batch_size or 1,
        buckets=entry.buckets if entry.max_batch_size else (),
        max_sequences=entry.sequencing.max_sequences,
        idle_timeout_s=entry.sequencing.idle_timeout_s,
        max_queue_size=entry.batching.max_queue_size,
        max_queue_delay_s=entry.batching.max_queue_delay_us / 1e6,
    )
