"""Child processes of the parent: started, told what to do over a socket, and started again when they die.

Knows no particular child: `serve.py` says what to run and acts on what they report. `backoff.py` says when to restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from service.engine.backoff import Backoff
from service.engine.link import LINK_VARIABLE, FrameProtocol
from service.engine.messages import ChildMessage, Drain, ParentMessage, Started, StartFailed

log = logging.getLogger("torchere.parent")

MAX_FAILED_STARTS = 5  # what never came up will not come up: better to leave with the reason than to look alive


@dataclass(frozen=True, slots=True)
class Program:
    """What to run: `python -m module *arguments`, with these inherited descriptors and extra environment."""

    name: str
    module: str
    arguments: tuple[str, ...] = ()
    descriptors: tuple[int, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


class Child:
    """One supervised process. `on_message` gets what it reports, `on_exit(pid)` is called after each death."""

    def __init__(
        self,
        program: Program,
        first_words: Callable[[], Sequence[ParentMessage]],
        on_message: Callable[[ChildMessage], None],
        on_exit: Callable[[int], None],
    ) -> None:
        self.program = program
        self.pid = 0
        self.restarts = 0
        self._first_words = first_words
        self._on_message = on_message
        self._on_exit = on_exit
        self._protocol: FrameProtocol[ChildMessage] | None = None
        self._leaving = asyncio.Event()
        self._has_started = False
        self._has_served = False
        self._code = 0
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Child {self.program.name} pid {self.pid}, {self.restarts} restarts>"

    def start(self) -> None:
        """Run it until `leave` is called; a death in between starts it again."""
        self._task = asyncio.create_task(self._keep_alive(), name=self.program.name)

    def send(self, message: ParentMessage) -> None:
        """Tell the child, if it lives; a successor is told anew by `first_words`."""
        if self._protocol is not None:
            self._protocol.send(message)

    def serves(self) -> None:
        """The process is all that it should be: should it die now, it will not have died of starting."""
        self._has_served = True

    async def leave(self, timeout_s: float) -> bool:
        """Ask it to finish and go; kill it where it has not gone in time. Whether it finished."""
        self._leaving.set()
        self.send(Drain())
        if self._task is None:
            return True
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(self._task)
        except TimeoutError:
            log.warning("%s did not leave within %.0f s: killing it", self.program.name, timeout_s)
            self.kill()
            await self._task
        return self._code == 0

    def kill(self) -> None:
        """End the process and all that it started."""
        if self.pid:
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                log.debug("%s has gone already", self.program.name)

    def _open(self) -> FrameProtocol[ChildMessage]:
        return FrameProtocol(ChildMessage, self._heard, lambda: None)  # type: ignore[arg-type]

    def _heard(self, message: ChildMessage, _: memoryview) -> None:
        self._has_started |= isinstance(message, Started)
        self._on_message(message)

    async def _keep_alive(self) -> None:
        backoff = Backoff()
        while not self._leaving.is_set():
            started, self._has_served = time.monotonic(), False
            try:
                how = describe_exit(await self._run_once())
            except OSError as error:  # no memory or no place for a process, which may be there in a while
                how = f"it could not be started: {error.strerror}"
            if self._leaving.is_set():
                return
            self.restarts += 1
            if not self._has_started and self.restarts >= MAX_FAILED_STARTS:
                reason = f"{self.program.name} died {self.restarts} times before it was up ({how})"
                self._on_message(StartFailed(f"{reason}: the log above says why"))
                return
            delay_s = backoff.after_death(time.monotonic() - started, has_served=self._has_served)
            log.error("%s died (%s): starting it again in %.1f s", self.program.name, how, delay_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await self._leaving.wait()

    async def _run_once(self) -> int:
        ours, theirs = socket.socketpair()
        with theirs, contextlib.ExitStack() as unused:
            unused.callback(ours.close)
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                self.program.module,
                *self.program.arguments,
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), *self.program.descriptors),
                env={**os.environ, **self.program.environment, LINK_VARIABLE: str(theirs.fileno())},
                start_new_session=True,  # Ctrl-C in a terminal goes to the parent alone, which drains in order
            )
            unused.pop_all()
        self.pid = process.pid
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_connection(self._open, sock=ours)
        self._protocol = protocol
        try:
            for message in self._first_words():
                protocol.send(message)
        except OSError as error:
            log.error("%s cannot be told what to do: %s", self.program.name, error)
            self.kill()
        if self._leaving.is_set():
            protocol.send(Drain())  # it was told before there was a process to tell
        code = self._code = await process.wait()
        protocol.close()
        self._protocol = None
        pid, self.pid = self.pid, 0
        self._on_exit(pid)
        return code


def describe_exit(code: int) -> str:
    """`killed by SIGKILL`, `exit code 1`."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
