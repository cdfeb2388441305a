"""One format of log lines for every process: for people, or JSON for machines. Control characters never get through.

Knows nothing of the service. Each process calls `set_up_logging` once, first thing.
"""

from __future__ import annotations

import logging
import sys
import time

import msgspec

CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), 127)}  # a client's text cannot forge a line


class _Lines(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage().translate(CONTROL)
        stamp = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{stamp}.{int(record.msecs):03d} {record.levelname:<7} {self._process}: {message}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _Json(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields.update({key: getattr(record, key) for key in ("request_id", "model", "status") if hasattr(record, key)})
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(fields).decode()


def set_up_logging(log_format: str, level: str, process: str) -> None:
    """Send everything at `level` and above to standard error as `human` or `json` lines, named after `process`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json(process) if log_format == "json" else _Lines(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for chatty in ("httpx", "httpcore", "asyncio", "PIL", "filelock"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
