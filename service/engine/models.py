"""One served model version in an engine: its queue, and the threads that pull batches from it.

The concurrency of the engine is the loop in `_serve`. `batcher.py` decides, `runtime/runner.py` runs,
`worker.py` brings requests and carries answers, and may replace the runners while requests wait.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from compiler.manifest import PaddedTime
from service.engine.batcher import Batcher, Expire, Policy, Run, WaitUntil
from service.engine.blackbox import BlackBox, Lane
from service.engine.company import Sizes
from service.engine.dividing import Divided
from service.engine.instances import Instances
from service.engine.messages import Failure, Result
from service.engine.queues import Waiting
from service.engine.rerun import FIRST
from service.engine.served import BatchCounter, Connection, Pending
from service.engine.stacking import Stack, Stacker
from service.errors import Code, InvalidInput, Unavailable
from service.repository.catalog import Entry
from service.runtime.device import Device
from service.runtime.runner import Output, Runner
from service.traced import ran_together

QUICK_MS = 1.0  # for so long the thread that reads may compute: to wake another takes a tenth of it, or more
SLOW_S = 0.05  # a batch that took so long shows that the model is not quick, or not just now
REST_S = 1.0  # for so long it is left to its own thread then; the first call in a thread may be such a one


class ServedModel:
    """Accepts requests for one version and answers each exactly once."""

    def __init__(
        self,
        entry: Entry,
        runners: Sequence[Runner],
        device: Device,
        counter: BatchCounter,
        box: BlackBox | None = None,
    ) -> None:
        self.entry = entry
        self._device = device
        self._counter = counter
        self._runners = tuple(runners)
        self._batcher = Batcher(policy_of(entry))
        counter.follow(self._batcher.__len__)
        self._stacker = Stacker(entry, self._batcher.bucket)
        self._inbox = threading.Condition()
        self._waiting: dict[tuple[int, int], Waiting] = {}
        self._is_closing = False
        self._is_idle = False  # the thread of the only instance waits for nothing in particular
        self._is_lent = False  # that instance is run by the thread that submits
        self._was_alone = True  # the last batch was of one request, so that the next one is likely to be
        self._may_lend = len(runners) == 1
        self._quick_rows = 0
        self._slow_until = 0.0
        self._on_broken: Callable[[str], None] = lambda _: None
        self._instances = Instances(entry, len(runners), box, self._serve)

    def __repr__(self) -> str:
        return f"<ServedModel {self.entry.name}/{self.entry.version} {self._batcher!r}>"

    def start(self, on_broken: Callable[[str], None]) -> None:
        """Start the instance threads. `on_broken(reason)` is called when the device can no longer be used."""
        self._on_broken = on_broken
        self._instances.start()

    def replace_runners(self, runners: Sequence[Runner]) -> None:
        """Each thread runs its next batch on its new runner, warmed up already; the queue stays as it is.

        The new runners must take and give the same tensors at the same batch sizes. Any thread may call it.
        """
        assert len(runners) == len(self._instances), "one for each thread"
        self._runners = tuple(runners)

    @property
    def takes_gpu(self) -> bool:
        """Whether tensors of requests may lie in the memory of the GPU. Sizes are padded by the host."""
        return not self._stacker.pads

    def plan_by(self, milliseconds: Mapping[int, float], padded: Sequence[PaddedTime] = ()) -> None:
        """Batches are planned from now on by what they take, by their sizes. Any thread may call it."""
        by_sizes: dict[Sizes, dict[int, float]] = {}
        for each in padded:
            by_sizes.setdefault(each.sizes, {})[each.rows] = each.milliseconds / 1e3
        quick = [size for size, spent in milliseconds.items() if spent <= QUICK_MS]
        self._quick_rows = max(quick, default=0) if self._may_lend and not padded else 0
        with self._inbox:
            self._batcher.measured({size: spent / 1e3 for size, spent in milliseconds.items()}, by_sizes)

    def close(self) -> None:
        """Answer what waits, then end the threads; returns when they have ended."""
        with self._inbox:
            self._is_closing = True
            self._inbox.notify_all()
        self._instances.join()

    def submit(self, pending: Pending, now: float) -> None:
        """Let a request wait; a full queue is answered at once."""
        message, here = pending.message, None
        try:
            group = self._stacker.group(message)
            waiting = Waiting(message.rows, group, now, message.deadline, message.priority, pending, message.late)
            if message.rows > self.entry.max_batch_size > 0:
                self._divide(waiting, pending)
            with self._inbox:
                if self._is_closing:
                    raise Unavailable(f"model '{self.entry.name}' is being unloaded: try again")
                here = self._borrow(waiting, now) if pending.is_alone else None
                if here is None:
                    self._batcher.add(waiting, is_accepted=message.retry != FIRST)
                    self._waiting[id(pending.connection), message.id] = waiting
                    self._inbox.notify()
        except (Unavailable, InvalidInput) as error:
            failure = Failure(message.id, error.code, str(error), error.retry_after_s)
            pending.connection.send([(failure, ())])
        if here is not None:
            self._run_here(here)

    def _borrow(self, waiting: Waiting, now: float) -> Run | None:
        """What this thread shall do itself, in place of the instance's: one small batch where that one is idle."""
        message = waiting.payload.message
        if not (self._was_alone and self._is_idle) or self._is_lent or now < self._slow_until:
            return None
        if message.rows > self._quick_rows or message.retry != FIRST or message.places is not None:
            return None
        run = self._batcher.run_alone(waiting, now)
        self._is_lent = run is not None
        return run

    def _run_here(self, run: Run) -> None:
        began = time.monotonic()
        self._do(run, 0)
        with self._inbox:
            self._is_lent = False
            if (now := time.monotonic()) - began > SLOW_S:
                self._slow_until = now + REST_S
            if len(self._batcher) or self._is_closing:
                self._inbox.notify()

    def cancel(self, connection: Connection, request_id: int) -> None:
        """Forget a request whose client left, if it still waits."""
        with self._inbox:
            waiting = self._waiting.pop((id(connection), request_id), None)
            if waiting is not None:
                self._batcher.cancel(waiting)

    def _divide(self, waiting: Waiting, pending: Pending) -> None:
        """Let it run in parts, as it has more rows than a batch."""
        divided = Divided(pending, lambda: self.cancel(pending.connection, pending.message.id))
        waiting.payload, waiting.divide, waiting.part = divided.whole, divided.part, self.entry.max_batch_size

    def forget(self, connection: Connection) -> None:
        """Forget what waits for a frontend that has gone."""
        with self._inbox:
            for key in [key for key in self._waiting if key[0] == id(connection)]:
                self._batcher.cancel(self._waiting.pop(key))

    def _serve(self, index: int) -> None:
        with self._device.stream():
            while (decision := self._next()) is not None:
                self._do(decision, index)

    def _do(self, decision: Run | Expire, index: int, *, tells_time: bool = True) -> None:
        if isinstance(decision, Expire):
            self._fail(decision.requests, Code.DEADLINE, "the request's time ran out while it waited in the queue")
            return
        self._was_alone = len(decision.requests) == 1
        lane = self._instances.lanes[index]
        self._counter.dispatched(decision.reason, len(decision.requests))
        began = time.monotonic()
        is_sound = self._run(self._runners[index], decision.requests, began, lane)
        with self._inbox:
            self._batcher.finished(decision, time.monotonic() - began if is_sound and tells_time else None)
        lane.end()
        self._counter.settled(len(decision.requests))

    def _next(self) -> Run | Expire | None:
        """Wait for something to do; None when closing and all is done."""
        with self._inbox:
            while True:
                decision = None if self._is_lent else self._pick()
                match decision:
                    case Run() | Expire():
                        return decision
                    case None if self._is_closing and not self._is_lent:
                        return None
                    case WaitUntil(when):
                        self._counter.queued()
                        self._inbox.wait(max(0.0, when - time.monotonic()))
                    case None:
                        self._is_idle = True
                        self._inbox.wait()
                        self._is_idle = False

    def _pick(self) -> Run | Expire | WaitUntil | None:
        """What is to be done now; what it runs waits no more."""
        decision = self._batcher.poll(time.monotonic())
        if isinstance(decision, Run | Expire):
            for waiting in decision.requests:
                self._waiting.pop((id(waiting.payload.connection), waiting.payload.message.id), None)
        return decision

    def _run(self, runner: Runner, requests: Sequence[Waiting], taken: float, lane: Lane) -> bool:
        """Answer every request; a batch that fails is halved, so that only the request at fault fails.

        False where something failed.
        """
        lane.begin([waiting.payload.root for waiting in requests])
        try:
            answers = self._answers(runner, requests, taken)
        except Exception as error:  # noqa: BLE001 - a model may raise anything; it is translated here, once
            if not self._device.is_sound:
                self._on_broken(f"the device failed while running model '{self.entry.name}': {error}")
            if len(requests) == 1:
                reason = str(error).strip().partition("\n")[0][:300]
                self._fail(
                    requests,
                    Code.FAILED,
                    f"model '{self.entry.name}' failed on this input: {type(error).__name__}: {reason}",
                )
                return False
            middle = len(requests) // 2
            self._run(runner, requests[:middle], taken, lane)
            self._run(runner, requests[middle:], taken, lane)
            return False
        reply(requests, answers)
        return True

    def _answers(
        self, runner: Runner, requests: Sequence[Waiting], taken: float
    ) -> list[tuple[Result, Sequence[memoryview]]]:
        batch = self._stacker.stack(requests)
        outputs, phases = runner.run(batch.stacked.parts, batch.stacked.shapes, batch.stays)
        return self._unstack(batch, outputs, phases, taken)

    def _unstack(
        self, batch: Stack, outputs: Sequence[Output], phases: tuple[int, int, int, int], taken: float
    ) -> list[tuple[Result, Sequence[memoryview]]]:
        requests, bucket, total = batch.requests, batch.bucket, sum(batch.rows)
        pending = [waiting.payload for waiting in requests]
        columns = self._stacker.unstack(batch, outputs)
        queue_ns = [int((taken - waiting.arrived) * 1e9) for waiting in requests]
        begun = [ns for ns, waiting in zip(queue_ns, requests, strict=True) if not waiting.start]
        self._counter.batch(begun, phases, total, bucket, len(requests) - len(begun))
        elements = self._stacker.elements(batch)
        if elements is not None:
            self._counter.padded(*elements)
        ran = ran_together([item.message.mark for item in pending], taken)
        answers: list[tuple[Result, Sequence[memoryview]]] = []
        for index, item in enumerate(pending):
            shapes, blobs = zip(*[column[index] for column in columns], strict=True)
            message, times = item.message, (queue_ns[index], *phases)
            own = ran if message.mark else None
            answers.append((Result(message.id, shapes, tuple(map(len, blobs)), times, total, bucket, True, own), blobs))
        return answers

    def _fail(self, requests: Sequence[Waiting], code: Code, message: str) -> None:
        for waiting in requests:
            waiting.payload.connection.send([(Failure(waiting.payload.message.id, code, message), ())])


def reply(requests: Sequence[Waiting], answers: Sequence[tuple[Result, Sequence[memoryview]]]) -> None:
    """Send each its answer, those of one connection together."""
    by_connection = defaultdict(list)
    for waiting, answer in zip(requests, answers, strict=True):
        by_connection[id(waiting.payload.connection)].append((waiting.payload.connection, answer))
    for replies in by_connection.values():
        replies[0][0].send([answer for _, answer in replies])


def policy_of(entry: Entry) -> Policy:
    """The batching that a model's entry asks for."""
    return Policy(
        max_batch_size=entry.max_batch_size,
        buckets=entry.buckets,
        max_queue_delay_s=entry.batching.max_queue_delay_us / 1e6,
        max_queue_size=entry.batching.max_queue_size,
        preferred=entry.batching.preferred_batch_sizes,
        instances=entry.instances,
    )
