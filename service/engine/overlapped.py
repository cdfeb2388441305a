"""One served model version on a device that computes on its own: the next batch is laid and launched meanwhile.

An instance has two threads. Its owner takes batches, lays and launches them; the other waits for the device and
answers. `models.py` is the same for a processor; `foresight.py` says when to prepare, `runtime/cuda.py` launches.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.engine.batcher import Expire, Run, WaitUntil
from service.engine.blackbox import Lane
from service.engine.foresight import Foresight
from service.engine.models import ServedModel, reply
from service.engine.stacking import Stack
from service.errors import Code
from service.runtime.runner import BATCHES_AT_ONCE, Launched, Runner

if TYPE_CHECKING:
    import torch


DEAF_S = 0.002  # while the device computes: to be woken by each arrival costs more than all else that is done for it


@dataclass(frozen=True, slots=True)
class Flight:
    """A batch that the device has been given."""

    run: Run
    batch: Stack
    launched: Launched
    runner: Runner
    taken: float
    began: float
    lane: Lane


class Instance:
    """What one instance has under way. `flying` and `failed` change under the model's lock only."""

    def __init__(self, name: str, lane: Lane) -> None:
        self.name = name
        self.lanes = [lane]  # free ones; more are made where more is under way
        self.foresight = Foresight()
        self.flying: deque[Flight] = deque()
        self.failed: list[Flight] = []  # its owner runs them again, in halves: nobody else may launch
        self.landing: queue.SimpleQueue[Flight | None] = queue.SimpleQueue()
        self.landed = threading.Event()


class OverlappedModel(ServedModel):
    """As ServedModel, with a second thread for each instance.

    What comes alone while nothing is under way is launched and waited for by the thread that brings it, in the stream
    of the instance, whose threads keep off meanwhile.
    """

    _stream: torch.cuda.Stream | None = None  # of the only instance

    def _serve(self, index: int) -> None:
        first = self._instances.lanes[index]
        instance = Instance(threading.current_thread().name, first)
        lander = threading.Thread(target=self._land_all, args=(instance,), name=f"{instance.name} lands", daemon=True)
        lander.start()
        with self._device.stream() as self._stream:
            while (todo := self._take(instance)) is not None:
                match todo:
                    case Expire(requests):
                        self._fail(requests, Code.DEADLINE, "the request's time ran out while it waited in the queue")
                    case Run():
                        self._was_alone = len(todo.requests) == 1
                        self._counter.dispatched(todo.reason, len(todo.requests))
                        self._launch(instance, self._runners[index], todo)
                    case Flight():
                        self._run_again(instance, todo)
            instance.landing.put(None)
            lander.join()
            for flight in instance.failed:  # the last of all
                self._run_again(instance, flight)
        for lane in instance.lanes:
            if lane is not first:
                self._instances.give_back(lane)

    def _take(self, instance: Instance) -> Run | Expire | Flight | None:
        """Wait for something to do; None when closing and all is done.

        While the device computes, nobody listens to what arrives before a full batch would have to be laid, and once
        something waits, only now and then. What is full is laid at once: nothing more could join it.
        """
        largest = max(1, self.entry.max_batch_size)
        while True:
            instance.landed.clear()
            with self._inbox:
                pause = None
                if self._is_lent:
                    self._inbox.wait()
                    continue
                if len(instance.flying) < BATCHES_AT_ONCE:
                    if instance.failed:
                        return instance.failed.pop()
                    pause = instance.foresight.prepares_at(largest) - time.monotonic()
                    if pause <= 0 or self._batcher.is_full:
                        found, is_over, pause = self._poll(instance)
                        if found is not None or is_over:
                            return found
                        if pause is None:
                            continue
            instance.landed.wait(pause)

    def _poll(self, instance: Instance) -> tuple[Run | Expire | None, bool, float | None]:
        """What to do now; whether it is all over; for how long to look out for a landing only.

        Without any of these, it has waited for an arrival or a landing.
        """
        now = time.monotonic()
        prepares_at = instance.foresight.prepares_at(min(self._batcher.rows, self.entry.max_batch_size))
        is_busy = now < prepares_at
        until = prepares_at if is_busy and len(self._batcher) else None
        match self._batcher.poll(now, is_busy=is_busy):
            case (Run(requests) | Expire(requests)) as decision:
                for waiting in requests:
                    pending = waiting.payload
                    self._waiting.pop((id(pending.connection), pending.message.id), None)
                return decision, False, None
            case WaitUntil(when):
                self._counter.queued()
                until = when if until is None else min(until, when)
            case None if self._is_closing and not instance.flying and not len(self._batcher):
                return None, True, None
        if is_busy and until is not None:
            return None, False, min(DEAF_S, max(0.0, until - now))
        self._is_idle = until is None and not instance.flying
        self._inbox.wait(None if until is None else max(0.0, until - now))
        self._is_idle = False
        return None, False, None

    def _do(self, decision: Run | Expire, index: int, *, tells_time: bool = True) -> None:
        """All of it in the thread that submits. What it takes there is not what a batch takes the device."""
        self._device.enter(self._stream)
        super()._do(decision, index, tells_time=False)

    def _launch(self, instance: Instance, runner: Runner, run: Run) -> None:
        taken = time.monotonic()
        lane = self._begin(instance, run)
        try:
            batch = self._stacker.stack(run.requests)
            laid = runner.lay(batch.stacked.parts, batch.stacked.shapes)
            launched = runner.launch(laid, batch.stays)
        except Exception:  # noqa: BLE001 - whatever it is, it is met again where the batch is run in halves
            is_sound = self._run(runner, run.requests, taken, lane)
            with self._inbox:
                self._batcher.finished(run, time.monotonic() - taken if is_sound else None)
            self._end(instance, run, lane)
            return
        began = time.monotonic()
        flight = Flight(run, batch, launched, runner, taken, began, lane)
        with self._inbox:
            instance.foresight.launched(batch.kind, began)
            instance.flying.append(flight)
        instance.landing.put(flight)

    def _run_again(self, instance: Instance, flight: Flight) -> None:
        self._run(flight.runner, flight.run.requests, flight.taken, flight.lane)
        self._end(instance, flight.run, flight.lane)

    def _begin(self, instance: Instance, run: Run) -> Lane:
        lane = instance.lanes.pop() if instance.lanes else self._instances.lane()
        lane.begin([waiting.payload.root for waiting in run.requests])
        return lane

    def _end(self, instance: Instance, run: Run, lane: Lane) -> None:
        lane.end()
        self._counter.settled(len(run.requests))
        instance.lanes.append(lane)

    def _land_all(self, instance: Instance) -> None:
        """The thread that answers."""
        with self._device.stream():
            while (flight := instance.landing.get()) is not None:
                self._land(instance, flight)

    def _land(self, instance: Instance, flight: Flight) -> None:
        """The owner is told first: it may launch the next batch while this one is answered."""
        answers = None
        try:
            outputs, phases = flight.runner.land(flight.launched)
        except Exception:  # noqa: BLE001 - as above
            self._landed(instance, flight)
        else:
            self._landed(instance, flight, prepared_s=(phases[0] + phases[1]) / 1e9)
            with contextlib.suppress(ValueError):  # the outputs have not the batch's rows
                answers = self._unstack(flight.batch, outputs, phases, flight.taken)
        if answers is not None:
            reply(flight.run.requests, answers)
            self._end(instance, flight.run, flight.lane)
            return
        with self._inbox:
            instance.failed.append(flight)
            self._inbox.notify_all()
        instance.landed.set()

    def _landed(self, instance: Instance, flight: Flight, prepared_s: float | None = None) -> None:
        """`prepared_s` is what laying and copying in took; None where the batch failed."""
        with self._inbox:
            instance.flying.popleft()
            if prepared_s is not None:
                instance.foresight.prepared(sum(flight.batch.rows), prepared_s)
            spent = instance.foresight.landed(flight.batch.kind, flight.began, time.monotonic())
            self._batcher.finished(flight.run, None if prepared_s is None else spent)
            self._inbox.notify_all()
        instance.landed.set()
