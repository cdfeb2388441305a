"""The HTTP application: inference on the fast lane, probes beside it, everything else through FastAPI.

Knows routes, not models. `frontend.py` serves it; `infer.py` is the lane, `probes.py` answers probes, `pages.py` has
all other routes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from service.control import Control
from service.errors import NotFound, ServiceError
from service.plane import Plane
from service.rest.body import Receive, limit_body
from service.rest.infer import InferLane, header_of, send_answer
from service.rest.operations import operation_of
from service.rest.probes import answer_probe
from service.rest.routes import parse_route
from service.rest.watched import Send, noting
from service.security import Guard
from service.settings import Settings

Scope = MutableMapping[str, Any]
Pages = Callable[[Scope, Receive, Send], Awaitable[None]]


class App:
    """An ASGI application. Every path begins with `prefix`; `guard` is asked before anything is read."""

    def __init__(self, lane: InferLane, control: Control, prefix: str = "", guard: Guard | None = None) -> None:
        self.lane = lane
        self.on_opened: Callable[[], object] = lambda: None  # when all that will stay is there
        self._control = control
        self._prefix = prefix
        self._guard = guard
        self._pages: asyncio.Future[Pages] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await (await self._opened())(scope, receive, send)
            return
        watcher = self.lane.watcher
        noted = send if watcher is None or not watcher.logs_access else noting(watcher, scope, send)
        path = scope["path"]
        if self._prefix:
            if not path.startswith(f"{self._prefix}/"):
                sentence = f"there is no {path[:200]} here: every path of this server begins with {self._prefix}"
                await send_answer(noted, *self.lane.refusal(NotFound(sentence)))
                return
            path = path.removeprefix(self._prefix)
            scope = {**scope, "root_path": self._prefix}
        try:
            if self._guard is not None:
                self._guard.check(operation_of(scope["method"], path), header_of(dict(scope["headers"])))
        except ServiceError as error:
            await send_answer(noted, *self.lane.refusal(error))
            return
        route = parse_route(path)
        if route is not None:
            await self.lane(scope, receive, send, route)
            return
        answer = answer_probe(scope["method"], path, self._control)
        if answer is not None:
            await send_answer(noted, *answer)
            return
        await (await self._opened())(scope, limit_body(receive, self.lane.limits.body_bytes), noted)

    async def _opened(self) -> Pages:
        """Made beside the loop when they are first asked for: to import what they need takes half a second."""
        if self._pages is None:
            self._pages = asyncio.ensure_future(asyncio.to_thread(self._open))
        return await asyncio.shield(self._pages)  # others wait for them too, if this client leaves

    def _open(self) -> Pages:
        from service.rest.pages import create_pages

        pages = create_pages(self._control)
        self.on_opened()
        return pages


def create_app(plane: Plane, control: Control, settings: Settings, guard: Guard | None = None) -> App:
    """The application of one frontend."""
    prefix = settings.http_prefix
    return App(InferLane(plane, settings.limits, prefix, guard), control, prefix, guard)
