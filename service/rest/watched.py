"""Requests over HTTP as those who watch them see them: no header but the trace's, and no query.

Translates only, for `observe/watching.py`. `infer.py` calls it for inference, `app.py` for everything else.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from service.observe.watching import Asking, Watcher, fields_of
from service.rest.routes import PATTERNS, Route
from service.tensors import InferRequest

log = logging.getLogger("torchere.frontend")

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

TRACE, TRACE_STATE = b"traceparent", b"tracestate"


def asking_of(route: Route, headers: dict[bytes, bytes], arrived: float, verb: str = "POST") -> Asking:
    """A request for inference."""
    parent, state = headers.get(TRACE, b"").decode("latin-1"), headers.get(TRACE_STATE, b"").decode("latin-1")
    return Asking("http", f"{verb[:20]} {PATTERNS[route.door]}", route.model, route.version, arrived, parent, state)


def noting(watcher: Watcher, scope: MutableMapping[str, Any], send: Send) -> Send:
    """`send` of a request that is no inference; a line is logged when all is sent. The query may hold secrets."""
    arrived, status = time.monotonic(), 0
    trace = dict(scope["headers"]).get(TRACE, b"").decode("latin-1")
    asking = Asking("http", f"{scope['method'][:20]} {scope['path']}", "", "", arrived, trace)

    async def note(message: MutableMapping[str, Any]) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        await send(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            watcher.note(asking, status)

    return note


def log_fault(request: InferRequest) -> None:
    """A fault of ours: the client gets no inner detail, the log gets all. Call it where the exception is handled."""
    log.exception("an inference request failed unexpectedly", extra=fields_of(request))
