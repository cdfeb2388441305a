"""What a step prints or logs becomes lines in the server's log, and can disturb nothing else.

Knows only where lines go. `worker.py` calls `speak` once, `process.py` in the engine writes them down.
"""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable

Say = Callable[[int, str], None]

MAX_LINE = 2000  # characters; a step that prints an array is shortened


class _Lines(io.TextIOBase):
    """A text stream that says each whole line."""

    def __init__(self, say: Say, level: int) -> None:
        self._say = say
        self._level = level
        self._begun = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._tell(line)
        if len(self._begun) > MAX_LINE:
            self.flush()
        return len(text)

    def flush(self) -> None:
        begun, self._begun = self._begun, ""
        self._tell(begun)

    def _tell(self, line: str) -> None:
        if line.strip():
            self._say(self._level, line[:MAX_LINE])


class _Handler(logging.Handler):
    def __init__(self, say: Say) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        for line in self.format(record).split("\n"):
            self._say(record.levelno, line[:MAX_LINE])


def speak(say: Say) -> None:
    """Send all that this process prints, logs or warns of to `say(level, line)`."""
    sys.stdout = _Lines(say, logging.INFO)
    sys.stderr = _Lines(say, logging.ERROR)
    root = logging.getLogger()
    root.handlers[:] = [_Handler(say)]
    root.setLevel(logging.INFO)
    logging.captureWarnings(capture=True)
