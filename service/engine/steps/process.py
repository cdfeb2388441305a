"""The engine's end of one process of steps: starts it, asks it, ends it when it hangs.

Knows the messages, nothing of requests or queues. One thread uses it, but for `wake`. `pool.py` has several of these,
`worker.py` is what runs at the other end.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from service.engine.steps.channel import LINK_VARIABLE, Blob, Channel
from service.engine.steps.messages import (
    Call,
    EngineMessage,
    Gave,
    Open,
    Opened,
    Raised,
    Said,
    StepMessage,
)
from service.errors import ExecutionFailed, InvalidInput, ServiceError

log = logging.getLogger("torchere.step")

START_TIMEOUT_S = 300.0  # a step may load a large vocabulary while other models are being compiled
LEAVE_TIMEOUT_S = 2.0  # it leaves when the socket is closed; one that is deep in other code is ended
HIDDEN = {"CUDA_VISIBLE_DEVICES": ""}  # a step that imports torch must not take memory of the model's GPU
MODEST = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}  # the cores are the model's; `processes` adds more


class StepsFailed(Exception):
    """The step files of a model cannot be loaded."""


class Ended(Exception):
    """The process is gone, or was ended because it hung; `str()` says why."""


class StepProcess:
    """`title` names the model in sentences, `timeout_s` bounds each call."""

    def __init__(self, title: str, opening: Open, timeout_s: float) -> None:
        self.title = title
        self.timeout_s = timeout_s
        self.is_up = False
        self._opening = opening
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel[StepMessage] | None = None
        self._lock = threading.Lock()  # around the writing end, which others use
        self._woken, self._waking = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._waking, False)

    def __repr__(self) -> str:
        return f"<StepProcess {self.title} pid {self.pid}{'' if self.is_up else ', down'}>"

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it and let it load the files. Raises StepsFailed."""
        ours, theirs = socket.socketpair()
        environment = {**MODEST, **os.environ, **HIDDEN, LINK_VARIABLE: str(theirs.fileno())}
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "service.engine.steps.worker"],
                    stdin=subprocess.DEVNULL,
                    stdout=sys.stderr.fileno() if _has_descriptor() else subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    env=environment,
                )
        except OSError as error:  # no memory or no place for a process, which may be there in a while
            ours.close()
            raise StepsFailed(f"no process could be started for its Python steps: {error.strerror}") from error
        self._channel = Channel(ours, StepMessage)  # type: ignore[arg-type]
        try:
            self.send(self._opening)
            until = time.monotonic() + START_TIMEOUT_S
            while (found := self.wait(until)) is None:
                pass  # woken for a request of before
        except Ended as error:
            raise StepsFailed(f"the process of its Python steps {error}") from error
        except TimeoutError as error:
            self._process.kill()
            self.end()
            raise StepsFailed(f"the process of its Python steps was not up within {START_TIMEOUT_S:g} s") from error
        answer, _ = found
        if not isinstance(answer, Opened):
            self.end()
            raise StepsFailed(answer.error if isinstance(answer, Raised) else "its Python steps could not be loaded")
        self.is_up = True

    def send(self, message: EngineMessage, blobs: Sequence[Blob] = ()) -> None:
        """Raises Ended."""
        assert self._channel is not None, "a process that was started has one"
        try:
            self._channel.send(message, blobs, self.timeout_s)
        except TimeoutError as error:
            raise self.hung() from error
        except OSError as error:
            raise Ended(self._gone()) from error

    def wait(self, until: float) -> tuple[StepMessage, memoryview] | None:
        """The next message; None where `wake` was called. Raises Ended, or TimeoutError when it is `until`."""
        assert self._channel is not None, "a process that was started has one"
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        while True:
            try:
                found = self._channel.receive_now()
            except EOFError as error:
                raise Ended(self._gone()) from error
            if found is not None:
                message, body = found
                if not isinstance(message, Said):
                    return message, body
                log.log(message.level, "%s: %s", self.title, message.text)
                continue
            if self._was_woken():
                return None
            left_s = until - time.monotonic()
            if left_s <= 0 or not poll.poll(None if left_s == math.inf else left_s * 1e3):
                raise TimeoutError

    def wake(self) -> None:
        """Let `wait` return; any thread may call it."""
        with self._lock, contextlib.suppress(BlockingIOError):  # full: it will wake all the same
            if self._waking >= 0:
                os.write(self._waking, b"x")

    def ask(self, call: Call, blobs: Sequence[Blob]) -> tuple[Gave, memoryview]:
        """One step for one request. Raises InvalidInput or ExecutionFailed."""
        try:
            self.send(call, blobs)
            message, body = self._await_answer()
        except Ended as error:
            raise ExecutionFailed(f"{call.file} of {self.title} {error}") from error
        if isinstance(message, Gave):
            return message, body
        raise self.translate(call.file, message)

    def _await_answer(self) -> tuple[StepMessage, memoryview]:
        until = time.monotonic() + self.timeout_s
        try:
            while (found := self.wait(until)) is None:
                pass  # woken for a request that has been answered
        except TimeoutError:
            raise self.hung() from None
        return found

    def translate(self, file: str, message: StepMessage) -> ServiceError:
        """The error that a client reads."""
        if not isinstance(message, Raised):
            return ExecutionFailed(f"{file} of {self.title} broke the words of this server")
        if message.is_refusal:
            return InvalidInput(f"{file} of {self.title} refuses the input: {message.error}")
        return ExecutionFailed(f"{file} of {self.title} failed on this input: {message.error}")

    def end(self) -> None:
        """Let it leave; at once where it does not."""
        self.is_up = False
        if self._channel is not None:
            self._channel.close()
        if self._process is not None:
            try:
                self._process.wait(LEAVE_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def forget(self) -> None:
        """End it for good."""
        self.end()
        with self._lock:
            os.close(self._woken)
            os.close(self._waking)
            self._waking = -1

    def _was_woken(self) -> bool:
        try:
            return bool(os.read(self._woken, 4096))
        except BlockingIOError:
            return False

    def hung(self) -> Ended:
        """End it, which does not answer; the error to raise."""
        assert self._process is not None, "only what was started hangs"
        self._process.kill()
        self.end()
        return Ended(f"took longer than {self.timeout_s:g} s (python.timeout_s in model.yaml) and was ended")

    def _gone(self) -> str:
        assert self._process is not None, "only what was started ends"
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(LEAVE_TIMEOUT_S)  # the socket is closed a moment before the process is
        code = self._process.returncode
        self.end()
        how = f"was killed by {signal.Signals(-code).name}" if code and code < 0 else f"left with exit code {code}"
        return f"ended its process, which {how}"


def _has_descriptor() -> bool:
    try:
        return sys.stderr.fileno() >= 0
    except (OSError, ValueError, AttributeError):  # a test has replaced it
        return False
