"""A client process: puts its share of each level's load on the server and reports what became of it.

    python -m service.bench.process        (orders on stdin, reports on stdout: see messages.py)

Leaves when its parent has gone. Decides nothing about how long or how hard; `run.py` does.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import sys
import time
from collections.abc import Sequence

import uvloop

from service.bench.alarm import Alarm
from service.bench.arrivals import poisson_times_ns
from service.bench.messages import (
    TICK_S,
    Answer,
    Go,
    Order,
    Prepare,
    Prepared,
    Report,
    Target,
    frame,
    next_order,
)
from service.bench.outcomes import OK
from service.bench.pacers import ClosedLoop, OpenLoop, Pacer
from service.bench.records import Book
from service.bench.rest_slot import RestSlot
from service.bench.rpc_slot import create_slots
from service.bench.slots import Slot

NANOSECONDS = 1_000_000_000
Clock = time.monotonic_ns
CONNECT_AT_ONCE = 64  # a server's listen backlog is often 128
DRAIN_POLL_S = 0.02


class Deaf:
    """Events of slots before the load begins."""

    def answered(self, slot: Slot, outcome: int) -> None:
        assert outcome != OK, "nothing was asked"

    def opened(self, slot: Slot) -> None:
        pass


class Crew:
    """The slots of one level, opened and closed together."""

    def __init__(self, target: Target, count: int) -> None:
        self.slots: Sequence[Slot] = (
            create_slots(target, count, Deaf())
            if target.protocol == "grpc"
            else [RestSlot(target, Deaf()) for _ in range(count)]
        )

    async def open(self) -> str:
        """ "" where all are connected, else why not."""
        try:
            for first in range(0, len(self.slots), CONNECT_AT_ONCE):
                await asyncio.gather(*(slot.open() for slot in self.slots[first : first + CONNECT_AT_ONCE]))
        except OSError as error:
            return str(error)
        return ""

    async def close(self) -> None:
        for slot in self.slots:
            await slot.close()


class Client:
    """This process: one target, then level after level."""

    def __init__(self, target: Target, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._target = target
        self._reader = reader
        self._writer = writer
        self._book = Book()

    async def run(self) -> None:
        """Until the parent has no more levels."""
        while (order := await next_order(self._reader)) is not None:
            assert isinstance(order, Prepare), order
            crew = Crew(self._target, order.level.concurrency)
            problem = await crew.open()
            self._tell(Prepared(problem))
            if not problem:
                await self._load(crew.slots, order)
            await crew.close()

    async def _load(self, slots: Sequence[Slot], order: Prepare) -> None:
        go = await next_order(self._reader)
        if not isinstance(go, Go):
            return  # the parent has gone, or another client process could not connect
        pacer = self._pacer(slots, order, go.begin_ns)
        for slot in slots:
            slot.events = pacer
        gc.collect()
        gc.freeze()  # what is here now stays: no need to look at it again and again
        await asyncio.sleep(max(0, go.begin_ns - Clock()) / NANOSECONDS)
        alarm = _begin(pacer)
        stop = asyncio.ensure_future(next_order(self._reader))
        while not stop.done():
            await asyncio.wait({stop}, timeout=TICK_S)
            self._report(pacer)
        pacer.stop()
        if alarm:
            alarm.close()
        while not pacer.is_idle and stop.result() is not None:
            await asyncio.sleep(DRAIN_POLL_S)
            self._report(pacer)
        self._report(pacer, is_last=True)

    def _pacer(self, slots: Sequence[Slot], order: Prepare, begin_ns: int) -> Pacer:
        if not order.level.is_open:
            return ClosedLoop(slots, self._book)
        return OpenLoop(slots, self._book, poisson_times_ns(order.level.rate_per_s, order.seed, begin_ns))

    def _report(self, pacer: Pacer, is_last: bool = False) -> None:
        now_ns = Clock()
        pacer.expire(now_ns, int(self._target.timeout_s * NANOSECONDS))
        usage = resource.getrusage(resource.RUSAGE_SELF)
        cpu_ns = int((usage.ru_utime + usage.ru_stime) * NANOSECONDS)
        self._tell(Report(now_ns, pacer.watermark_ns(now_ns), cpu_ns, self._book.take(), is_last))

    def _tell(self, message: Answer) -> None:
        self._writer.write(frame(message))


def _begin(pacer: Pacer) -> Alarm | None:
    """An open loop is woken each time its next request is due."""
    if isinstance(pacer, ClosedLoop):
        pacer.begin()
        return None
    alarm = Alarm(lambda: alarm.set(pacer.release()))
    alarm.set(pacer.release())
    return alarm


async def main() -> None:
    """Connect stdin and stdout, hear the target, serve the parent."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 30)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, sys.stdout)
    target: Order | None = await next_order(reader)
    if isinstance(target, Target):
        await Client(target, reader, asyncio.StreamWriter(transport, protocol, None, loop)).run()


if __name__ == "__main__":
    uvloop.run(main())
