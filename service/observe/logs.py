"""One format of log lines for every process: for people, or JSON for machines. What a client wrote can forge none.

Knows nothing of the service. Each process calls `set_up_logging` once, first thing, and `follow_log_settings` when they
are changed.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from typing import Literal

import msgspec

MOST_CHARACTERS = 8192  # of a message: a client must not fill the disk with a name
FIELDS = ("request_id", "trace_id", "model", "version", "protocol", "status", "seconds", "batch", "phases_ms")
NAMED = FIELDS[:4]  # what lines for people end with; the rest is in their message
PLAIN_VALUE = re.compile(r"[A-Za-z0-9_.:/-]+")
JSON = json.JSONEncoder(separators=(",", ":"))  # all but ASCII is escaped, so nothing can act on a terminal


def plain(text: str) -> str:
    """The text with everything escaped that is no ordinary character, and bounded.

    That is: controls, line and paragraph separators, what turns the direction of text, what cannot be seen.
    """
    if len(text) > MOST_CHARACTERS:
        text = f"{text[:MOST_CHARACTERS]}..."
    if text.isprintable():
        return text
    return "".join([each if each.isprintable() else _escaped(ord(each)) for each in text])


def _escaped(code: int) -> str:
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"


class RateLimit:
    """At most `most` in any `per_s` seconds or so, in one burst or not."""

    def __init__(self, most: int, per_s: float) -> None:
        self._most = most
        self._per_s = per_s
        self._since = float("-inf")
        self._taken = self._left_out = 0

    def take(self, now: float) -> int | None:
        """How many were left out since the last; None: this one is, too."""
        if now - self._since >= self._per_s:
            self._since, self._taken = now, 0
        if self._taken >= self._most:
            self._left_out += 1
            return None
        self._taken += 1
        left_out, self._left_out = self._left_out, 0
        return left_out


class LogSettings(msgspec.Struct, frozen=True):
    """What is logged, in the words of the logging extension. `log_verbose_level` above 0: debug lines too.

    `log_format` is how the lines for people write the time: "default" the time of day, "ISO8601" the date too, in UTC.
    """

    log_error: bool = True
    log_warning: bool = True
    log_info: bool = True
    log_verbose_level: int = 0
    log_format: Literal["default", "ISO8601"] = "default"

    def lets_pass(self, level: int) -> bool:
        """Whether lines of this level are written; what ends a process always is."""
        if level >= logging.CRITICAL:
            return True
        if level >= logging.ERROR:
            return self.log_error
        if level >= logging.WARNING:
            return self.log_warning
        return self.log_info if level >= logging.INFO else self.log_verbose_level > 0

    @property
    def level(self) -> int:
        """The least severe level that passes."""
        levels = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)
        return next(level for level in levels if self.lets_pass(level))


def log_settings_of(level: str) -> LogSettings:
    """What a level of the service's own settings means."""
    return LogSettings(
        log_warning=level != "error", log_info=level in ("info", "debug"), log_verbose_level=int(level == "debug")
    )


class _Chosen(logging.Filter):
    """Lets pass what the settings of the moment say."""

    def __init__(self, settings: LogSettings) -> None:
        super().__init__()
        self.settings = settings

    def filter(self, record: logging.LogRecord) -> bool:
        return self.settings.lets_pass(record.levelno)


class _Lines(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__()
        self.has_date = False
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        named = [f"{name}={_quoted(getattr(record, name))}" for name in NAMED if hasattr(record, name)]
        message = plain(record.getMessage()) + (plain(f" [{' '.join(named)}]") if named else "")
        line = f"{self._stamp(record)} {record.levelname:<7} {self._process}: {message}"
        if not record.exc_info:
            return line
        # Indented, so that no line of an exception's own text can pass for one of the log.
        return "\n".join([line, *(f"    {plain(each)}" for each in self.formatException(record.exc_info).split("\n"))])

    def _stamp(self, record: logging.LogRecord) -> str:
        if self.has_date:
            return _utc(record)
        return time.strftime("%H:%M:%S", time.localtime(record.created)) + f".{int(record.msecs):03d}"


class _Json(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": _utc(record),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": _bounded(record.getMessage()),
        }
        fields.update({name: getattr(record, name) for name in FIELDS if hasattr(record, name)})
        if record.exc_info:
            fields["exception"] = _bounded(self.formatException(record.exc_info))
        return JSON.encode(fields)


def _quoted(text: str) -> str:
    """A client's word for something cannot look as if it were several fields."""
    return text if PLAIN_VALUE.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _bounded(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}..."


def _utc(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"


def set_up_logging(log_format: str, level: str, process: str) -> None:
    """Send everything at `level` and above to standard error as `human` or `json` lines, named after `process`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json(process) if log_format == "json" else _Lines(process))
    handler.addFilter(_Chosen(LogSettings()))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    follow_log_settings(log_settings_of(level))
    for chatty in ("httpx", "httpcore", "asyncio", "PIL", "filelock"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def follow_log_settings(settings: LogSettings) -> None:
    """Log so from now on, in this process."""
    root = logging.getLogger()
    root.setLevel(settings.level)
    for handler in root.handlers:
        for chosen in handler.filters:
            if isinstance(chosen, _Chosen):
                chosen.settings = settings
        if isinstance(handler.formatter, _Lines):
            handler.formatter.has_date = settings.log_format == "ISO8601"
