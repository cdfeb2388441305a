"""Sends traced requests on, from a thread of its own: serving never waits for a collector, whatever becomes of it.

What does not fit its queue is dropped and counted. Knows no OpenTelemetry: `send` is `otel.py`'s, which makes the spans
in that thread, so that the event loop only appends to a queue.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import msgspec

from service.observe.watching import Watch

log = logging.getLogger("torchere.tracing")

FLUSH_S = 3.0  # within the margin that the parent gives: a collector that is gone must not hold up a shutdown


class Limits(msgspec.Struct, frozen=True):
    """By the names and defaults that OpenTelemetry gives its batches, in requests rather than spans."""

    queue: int = 2048
    batch: int = 512
    delay_s: float = 5.0


def limits_of(environment: Mapping[str, str]) -> Limits:
    """As OTEL_BSP_MAX_QUEUE_SIZE, ..._MAX_EXPORT_BATCH_SIZE and ..._SCHEDULE_DELAY (ms) say, where they are numbers."""

    def number(name: str, default: int) -> int:
        text = environment.get(f"OTEL_BSP_{name}", "")
        return int(text) if text.isascii() and text.isdigit() and 0 < int(text) < 10**9 else default

    standard = Limits()
    return Limits(
        number("MAX_QUEUE_SIZE", standard.queue),
        number("MAX_EXPORT_BATCH_SIZE", standard.batch),
        number("SCHEDULE_DELAY", int(standard.delay_s * 1000)) / 1000,
    )


class Exporter:
    """`put` from the event loop; `close` at the end. `send` returns whether the collector took them.

    `counted(outcome, requests)` hears of what was exported, dropped for want of room, and failed: from both threads, in
    turn.
    """

    def __init__(
        self,
        send: Callable[[Sequence[Watch]], bool],
        counted: Callable[[str, int], None],
        limits: Limits | None = None,
    ) -> None:
        self._send = send
        self._counted = counted
        self._limits = limits or limits_of(os.environ)
        self._waiting: deque[Watch] = deque()
        self._changed = threading.Condition()
        self._is_closing = False
        self._is_failing = False
        self._thread = threading.Thread(target=self._run, name="tracing", daemon=True)  # it may hang in `send`
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Exporter {len(self._waiting)} of {self._limits.queue} waiting>"

    def put(self, watch: Watch) -> None:
        """Let it wait, or drop it where too many do."""
        with self._changed:
            if len(self._waiting) >= self._limits.queue or self._is_closing:
                self._counted("dropped", 1)
                return
            self._waiting.append(watch)
            if len(self._waiting) == self._limits.batch:
                self._changed.notify()

    def close(self, timeout_s: float = FLUSH_S) -> None:
        """Send what waits, for so long at most."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            log.warning(
                "traces could not be sent within %.0f s: those of %d requests are lost", timeout_s, self.waiting
            )

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def _run(self) -> None:
        while True:
            with self._changed:
                if len(self._waiting) < self._limits.batch and not self._is_closing:
                    self._changed.wait(self._limits.delay_s)
                taken = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._limits.batch))]
                if not taken and self._is_closing:
                    return
            if taken:
                self._export(taken)

    def _export(self, taken: Sequence[Watch]) -> None:
        try:
            is_taken = self._send(taken)
        except Exception:  # whatever the SDK raises, the thread lives on
            log.exception("traces could not be sent")
            is_taken = False
        with self._changed:
            self._counted("exported" if is_taken else "failed", len(taken))
        if is_taken == self._is_failing:  # said once, not for each batch
            self._is_failing = not is_taken
            if is_taken:
                log.info("the collector takes traces again")
            else:
                log.warning("the collector does not take traces: they are counted in torchere_traces_total and lost")
