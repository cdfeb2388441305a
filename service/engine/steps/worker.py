"""A process of steps: loads the Python files that came with a model and calls them for one request at a time.

Imports no torch and nothing of serving; leaves when its engine does. `code.py` loads, `arrays.py` translates,
`pool.py` in the engine starts these processes.

    python -m service.engine.steps.worker     (started by an engine, with the socket in the environment)
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from service.engine.steps.arrays import Arrays, WrongResult, to_arrays, to_tensors
from service.engine.steps.channel import LINK_VARIABLE, Channel
from service.engine.steps.code import NotAStep, describe, first_line, is_refusal, load_step
from service.engine.steps.messages import (
    GENERATE,
    POSTPROCESS,
    WINDOW,
    AskModel,
    Call,
    EngineMessage,
    Gave,
    ModelGave,
    Open,
    Opened,
    Raised,
    Said,
    Stop,
    Took,
)
from service.engine.steps.speech import speak

Frame = tuple[EngineMessage, memoryview]


class Stopped(BaseException):
    """The generation ends inside a call of the model: nobody wants the rest."""


class Worker:
    """`run()` obeys the engine for ever."""

    def __init__(self, channel: Channel[EngineMessage]) -> None:
        self._channel = channel
        self._inbox: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        self._steps: dict[str, Callable[..., Any]] = {}
        self._expected: dict[str, dict[str, str]] = {}
        self._model: dict[str, str] = {}
        self._untaken = 0
        self._is_stopped = False

    def __repr__(self) -> str:
        return f"<Worker {', '.join(self._steps)}>"

    def read(self) -> None:
        """On a thread of its own, so that the process leaves with its engine whatever a step does just then."""
        try:
            while True:
                self._inbox.put(self._channel.receive())
        except EOFError:
            os._exit(0)

    def run(self) -> None:
        while True:
            message, body = self._inbox.get()
            match message:
                case Open():
                    self._open(message)
                case Call():
                    self._call(message, body)
                case _:
                    pass  # said to a generation that had ended

    def _open(self, message: Open) -> None:
        folder = Path(message.folder)
        sys.path.insert(0, message.folder)
        try:
            self._steps = {file: load_step(folder, file) for file in message.files}
        except NotAStep as error:
            self._channel.send(Raised(str(error)))
            return
        self._expected, self._model = message.files, message.model
        self._channel.send(Opened())

    def _call(self, call: Call, body: memoryview) -> None:
        try:
            arrays, body = to_arrays(call.tensors, body)
            if call.file == GENERATE:
                self._generate(arrays)
                return
            given = (arrays, to_arrays(call.inputs, body)[0]) if call.file == POSTPROCESS else (arrays,)
            self._give(call.file, self._steps[call.file](*given), is_final=True)
        except WrongResult as error:
            self._channel.send(Raised(str(error)))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - code may raise anything; it is translated here, once
            if is_refusal(call.file, error):
                self._channel.send(Raised(first_line(error) or describe(error), is_refusal=True))
            else:
                traceback.print_exc()
                self._channel.send(Raised(describe(error)))

    def _give(self, file: str, result: Any, *, is_final: bool) -> None:
        tensors, blobs = to_tensors(result, self._expected[file], f"what {file} returns")
        self._channel.send(Gave(tensors, is_final), blobs)

    def _generate(self, inputs: Arrays) -> None:
        """Give each response as it comes, ask for no more than the client takes, and close the generator at the end."""
        self._untaken, self._is_stopped = 0, False
        responses = self._steps[GENERATE](inputs, self._ask_model)
        if isinstance(responses, Mapping) or not hasattr(responses, "__iter__"):
            raise WrongResult(f"generate() in {GENERATE} must yield dicts, it returned {type(responses).__name__}")
        try:
            self._give_all(iter(responses))
        except Stopped:
            pass  # said from inside the generator, which is over by that
        finally:
            if hasattr(responses, "close"):
                responses.close()
        self._channel.send(Gave())

    def _give_all(self, responses: Iterator[Any]) -> None:
        for response in responses:
            if self._is_stopped:
                return
            self._give(GENERATE, response, is_final=False)
            self._untaken += 1
            while not self._inbox.empty() or (self._untaken >= WINDOW and not self._is_stopped):
                self._hear()
            if self._is_stopped:
                return

    def _hear(self) -> tuple[ModelGave, memoryview] | None:
        """Obey one word of the engine; the model's answer, where it is that."""
        message, body = self._inbox.get()
        match message:
            case Took(count):
                self._untaken -= count
            case Stop():
                self._is_stopped = True
            case ModelGave():
                return message, body
        return None

    def _ask_model(self, **tensors: Any) -> Arrays:
        """What generate.py calls as `model(name=array)`."""
        described, blobs = to_tensors(tensors, self._model, "a call of the model")
        if self._is_stopped:
            raise Stopped
        self._channel.send(AskModel(described), blobs)
        while (heard := self._hear()) is None:
            if self._is_stopped:
                raise Stopped
        answer, body = heard
        if answer.error:
            raise (ValueError if answer.is_refusal else RuntimeError)(answer.error)
        return to_arrays(answer.tensors, body)[0]


def main() -> None:
    """Obey the engine until it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    sys.dont_write_bytecode = True
    sock = socket.socket(fileno=int(os.environ.pop(LINK_VARIABLE)))
    channel: Channel[EngineMessage] = Channel(sock, EngineMessage)  # type: ignore[arg-type]
    speak(lambda level, text: channel.send(Said(level, text)))
    worker = Worker(channel)
    threading.Thread(target=worker.read, name="reader", daemon=True).start()
    logging.getLogger("torchere.step").debug("up")
    worker.run()


if __name__ == "__main__":
    main()
