"""One format of log lines for every process: for people, or JSON for machines. Control characters never get through.

Knows nothing of the service. Each process calls `set_up_logging` once, first thing, and `follow_log_settings` when they
are changed.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Literal

import msgspec

CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), 127)}  # a client's text cannot forge a line


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
        message = record.getMessage().translate(CONTROL)
        line = f"{self._stamp(record)} {record.levelname:<7} {self._process}: {message}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line

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
            "message": record.getMessage(),
        }
        fields.update({key: getattr(record, key) for key in ("request_id", "model", "status") if hasattr(record, key)})
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(fields).decode()


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
