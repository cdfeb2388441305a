"""The HTTP application: inference on the fast lane, everything else through FastAPI, every error `{"error": ...}`.

Knows routes, not models. `frontend.py` serves it; `infer.py` is the lane, `v2.py` and `models.py` are the other routes.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import MutableMapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.routing import Route

from service.control import Control
from service.errors import NotFound, ServiceError
from service.plane import Plane
from service.rest import models, v2, v2_admin
from service.rest.body import Receive, limit_body
from service.rest.errors import error_answer, error_body
from service.rest.infer import InferLane, header_of, send_answer
from service.rest.openapi import describe_models
from service.rest.operations import operation_of
from service.rest.routes import parse_route
from service.rest.watched import Send, noting
from service.security import Guard
from service.settings import Settings

log = logging.getLogger("torchere.frontend")


class App:
    """An ASGI application. Every path begins with `prefix`; `guard` is asked before anything is read."""

    def __init__(self, lane: InferLane, pages: FastAPI, prefix: str = "", guard: Guard | None = None) -> None:
        self.lane = lane
        self._pages = pages
        self._prefix = prefix
        self._guard = guard

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._pages(scope, receive, send)
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
        else:
            await self._pages(scope, limit_body(receive, self.lane.limits.body_bytes), noted)


def create_app(plane: Plane, control: Control, settings: Settings, guard: Guard | None = None) -> App:
    """The application of one frontend."""
    pages = FastAPI(
        title="torchere",
        version=control.version,
        description="Serves PyTorch models with dynamic batching, over the Open Inference Protocol v2 and by name.",
        redirect_slashes=False,
    )
    # The first is asked first: `stats` is no model's name here.
    routers = [v2_admin.create_router(control), v2.create_router(control), models.create_router(control)]
    for router in routers:
        pages.include_router(router)
    routes = [route for router in routers for route in router.routes if isinstance(route, Route)]
    pages.add_exception_handler(HTTPException, functools.partial(_http_error, routes))
    pages.add_exception_handler(RequestValidationError, _validation_error)
    pages.add_exception_handler(ServiceError, _service_error)
    pages.add_exception_handler(Exception, _unexpected_error)
    describe_models(pages, control)
    prefix = settings.http_prefix
    return App(InferLane(plane, settings.limits, prefix, guard), pages, prefix, guard)


async def _http_error(routes: list[Route], request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException), "registered for it"
    detail, headers = error.detail, {name.lower(): value for name, value in (error.headers or {}).items()}
    method, path = request.method[:20], request.url.path[:200]
    prefix = request.scope.get("root_path", "")
    if error.status_code == 404:
        detail = f"there is no {method} {path} here: {prefix}/docs lists the routes"
    if error.status_code == 405:
        headers["allow"] = _allowed(routes, request.url.path.removeprefix(prefix)) or headers.get("allow", "")
        detail = f"{method} is not allowed for {path}: use {headers['allow']}"
    return Response(error_body(detail), error.status_code, headers, "application/json")


def _allowed(routes: list[Route], path: str) -> str:
    """The verbs of every route with this path; FastAPI itself names those of the first."""
    return ", ".join(sorted({verb for route in routes if route.path_regex.match(path) for verb in route.methods or ()}))


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError), "registered for it"
    first = error.errors()[0]
    where = ".".join(str(part) for part in first.get("loc", ()))
    return Response(error_body(f"{where}: {first.get('msg', 'not valid')}"), 400, media_type="application/json")


async def _service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError), "registered for it"
    status, headers, body = error_answer(error)
    return Response(body, status, {name.decode(): value.decode() for name, value in headers})


async def _unexpected_error(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return Response(error_body("internal error: the server's log has the details"), 500, media_type="application/json")
