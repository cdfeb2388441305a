"""The client processes as the parent sees them: started once, then told level after level.

Knows no statistics. `run.py` uses it, `process.py` is the other end.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from service.bench.errors import BenchError
from service.bench.levels import Level
from service.bench.messages import Go, Order, Prepare, Prepared, Report, Stop, Target, frame, next_answer

CONNECT_TIMEOUT_S = 60.0
LEAVE_TIMEOUT_S = 5.0
SEED_STRIDE = 1_000_003  # each process draws from a seed of its own


class Clients:
    """`async with Clients(target, processes) as clients:`; each holds a share of the load."""

    def __init__(self, target: Target, processes: int) -> None:
        self._target = target
        self._count = processes
        self._processes: list[asyncio.subprocess.Process] = []
        self._active: list[asyncio.subprocess.Process] = []

    async def __aenter__(self) -> Self:
        for _ in range(self._count):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "service.bench.process"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=1 << 30,
                start_new_session=True,  # Ctrl-C is for the parent, which lets them go
            )
            self._processes.append(process)
        self._send(self._processes, self._target)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            assert process.stdin is not None, "a pipe"
            process.stdin.close()
        for process in self._processes:
            try:
                await asyncio.wait_for(process.wait(), LEAVE_TIMEOUT_S)
            except TimeoutError:
                process.kill()
                await process.wait()

    async def prepare(self, level: Level, seed: int) -> None:
        """Open the connections of `level`. Raises BenchError where the server does not take them."""
        count = min(self._count, level.concurrency)
        self._active = self._processes[:count]
        for index, process in enumerate(self._active):
            self._send([process], Prepare(level.share(index, count), seed + index * SEED_STRIDE))
        try:
            answers = await asyncio.wait_for(self._hear(), CONNECT_TIMEOUT_S)
        except TimeoutError as error:
            raise BenchError(f"the connections for {level} did not open within {CONNECT_TIMEOUT_S:g} s") from error
        for answer in answers:
            if isinstance(answer, Prepared) and answer.problem:
                where = f"{self._target.host}:{self._target.port}"
                raise BenchError(f"{where} does not take the connections of {level}: {answer.problem}")

    def go(self, begin_ns: int) -> None:
        self._send(self._active, Go(begin_ns))

    def stop(self) -> None:
        self._send(self._active, Stop())

    @property
    def is_loading(self) -> bool:
        """Until the last report of every process."""
        return bool(self._active)

    async def reports(self) -> list[tuple[int, Report]]:
        """The next report of each process that has a share, with its number; raises BenchError where one has died."""
        reports = []
        for process, answer in zip(self._active, await self._hear(), strict=True):
            assert isinstance(answer, Report), "between Go and the last report nothing else comes"
            reports.append((self._processes.index(process), answer))
        self._active = [self._processes[index] for index, report in reports if not report.is_last]
        return reports

    async def _hear(self) -> list[Prepared | Report]:
        readers = [process.stdout for process in self._active]
        answers = await asyncio.gather(*(next_answer(reader) for reader in readers if reader is not None))
        heard = [answer for answer in answers if answer is not None]
        if len(heard) < len(answers):
            raise BenchError("a client process died: see its message above")
        return heard

    def _send(self, processes: Sequence[asyncio.subprocess.Process], order: Order) -> None:
        for process in processes:
            assert process.stdin is not None, "a pipe"
            process.stdin.write(frame(order))
