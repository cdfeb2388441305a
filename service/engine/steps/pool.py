"""The processes that run one model's Python steps, and the queue in front of them.

One thread for each process, and one that tells those whose time ran out. Knows tasks, not what is in them:
`stepped.py` and `generating.py` make these, `process.py` is one process.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import Protocol

from service.engine.backoff import Backoff
from service.engine.queues import Queue, Waiting
from service.engine.steps.messages import Open
from service.engine.steps.process import StepProcess, StepsFailed
from service.errors import DeadlineExceeded, ExecutionFailed, QueueFull, ServiceError, Unavailable

log = logging.getLogger("torchere.engine")


class Task(Protocol):
    """What to do with a process. Exactly one of the two is called, and `run` once; it may leave the process dead."""

    def run(self, process: StepProcess) -> None: ...
    def fail(self, error: ServiceError) -> None: ...


class Pool:
    """`open` starts the processes; `max_waiting` tasks may wait beside those that were begun already."""

    def __init__(self, title: str, opening: Open, processes: int, timeout_s: float, max_waiting: int) -> None:
        self.title = title
        self._max_waiting = max_waiting
        self._queue = Queue()
        self._begun: deque[Task] = deque()
        lock = threading.Lock()
        self._changed = threading.Condition(lock)  # there is something to do
        self._due = threading.Condition(lock)  # somebody's time may run out before anybody else's
        self._closing = threading.Event()
        self._failure = ""  # why the processes could not be started again
        self._processes = [StepProcess(title, opening, timeout_s) for _ in range(processes)]
        self._threads = [
            threading.Thread(target=self._serve, args=(process,), name=f"{title} steps#{index}", daemon=True)
            for index, process in enumerate(self._processes)
        ]
        self._threads.append(threading.Thread(target=self._expire, name=f"{title} steps", daemon=True))

    def __repr__(self) -> str:
        return f"<Pool {self.title} {len(self._queue)} waiting, {self._processes!r}>"

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes if process.is_up]

    def open(self) -> None:
        """Start every process, at the same time. Raises StepsFailed, and then none is left."""
        failures: list[StepsFailed] = []

        def start(process: StepProcess) -> None:
            try:
                process.start()
            except StepsFailed as error:
                failures.append(error)

        starting = [threading.Thread(target=start, args=(process,), daemon=True) for process in self._processes]
        for thread in starting:
            thread.start()
        for thread in starting:
            thread.join()
        if failures:
            for process in self._processes:
                process.forget()
            raise failures[0]
        for thread in self._threads:
            thread.start()

    def submit(
        self, task: Task, arrived: float, deadline: float | None = None, priority: int = 0, *, is_accepted: bool = False
    ) -> Waiting:
        """Let a task wait for a process. Raises QueueFull, unless it was accepted before; Unavailable without any."""
        waiting = Waiting(1, None, arrived, deadline, priority, task)
        with self._changed:
            if self._failure:
                raise Unavailable(f"the Python steps of {self.title} are being restarted: {self._failure}")
            if self._closing.is_set():
                raise Unavailable(f"{self.title} is being unloaded: try again")
            if len(self._queue) >= self._max_waiting and not is_accepted:
                raise QueueFull(
                    f"the queue is full: {len(self._queue)} requests wait for the Python steps already (max_queue_size "
                    f"{self._max_waiting}): try again later"
                )
            self._queue.add(waiting)
            self._changed.notify()
            if deadline is not None:
                self._due.notify()
        return waiting

    def go_on(self, task: Task) -> None:
        """Let a task go first: what was begun is ended before more is taken."""
        with self._changed:
            self._begun.append(task)
            self._changed.notify()

    def cancel(self, waiting: Waiting) -> bool:
        """Forget a task that still waits; False where it has begun."""
        with self._changed:
            return self._queue.remove(waiting)

    def close(self) -> None:
        """Do what waits, then end the processes."""
        with self._changed:
            self._closing.set()
            self._changed.notify_all()
            self._due.notify()
        for thread in self._threads:
            thread.join()

    def _serve(self, process: StepProcess) -> None:
        backoff = Backoff()
        while (task := self._next()) is not None:
            if not process.is_running:  # it ended by itself: this request must not fail for that
                process.end()
                self._restart(process, backoff)
            try:
                task.run(process)
            except Exception:  # a fault of this server: the process must serve on
                log.exception("%s", self.title)
                task.fail(ExecutionFailed("internal error: the server's log has the details"))
            if process.is_up:
                backoff = Backoff()
            else:
                log.error("a process of the Python steps of %s ended: starting another", self.title)
                self._restart(process, backoff)
        process.forget()

    def _next(self) -> Task | None:
        """Wait for something to do; None when closing and all is done."""
        with self._changed:
            while True:
                if self._begun:
                    return self._begun.popleft()
                first = self._queue.first()
                if first is not None:
                    task: Task = self._queue.take([first.shape], 1)[0].payload
                    return task
                if self._closing.is_set():
                    return None
                self._changed.wait()

    def _restart(self, process: StepProcess, backoff: Backoff) -> None:
        """Until it is up, or the pool closes; what waits meanwhile is told when the files cannot even be loaded."""
        while not process.is_up:
            if self._closing.wait(backoff.after_death(0.0)) and not self._begun and not len(self._queue):
                return
            try:
                process.start()
                self._failure = ""
            except StepsFailed as error:
                log.error("the Python steps of %s could not be started again: %s", self.title, error)
                if not self.pids:
                    self._give_up_waiting(str(error))

    def _give_up_waiting(self, reason: str) -> None:
        with self._changed:
            self._failure = reason
            lost: list[Task] = list(self._begun)
            self._begun.clear()
            while (first := self._queue.first()) is not None:
                lost += [waiting.payload for waiting in self._queue.take([first.shape], 1)]
        for task in lost:
            task.fail(Unavailable(f"the Python steps of {self.title} are being restarted: {reason}"))

    def _expire(self) -> None:
        """Tell those whose time ran out while they waited."""
        while True:
            with self._changed:
                expired = self._queue.expire(time.monotonic())
                if not expired:
                    if self._closing.is_set():
                        return
                    due = self._queue.next_deadline()
                    self._due.wait(None if due is None else max(0.0, due - time.monotonic()))
                    continue
            for waiting in expired:
                waiting.payload.fail(DeadlineExceeded("the request's time ran out while it waited in the queue"))
