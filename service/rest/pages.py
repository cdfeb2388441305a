"""What goes through FastAPI: every route but inference and probes, the page that describes all, and their errors.

Knows routes, not models. `app.py` imports it with the first such request: FastAPI and what it brings are a sixth of
what a frontend holds, and where clients only infer nobody asks.
"""

from __future__ import annotations

import functools
import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.routing import Route

from service.control import Control
from service.errors import ServiceError
from service.rest import models, v2, v2_admin
from service.rest.errors import error_answer, error_body
from service.rest.openapi import describe_models

log = logging.getLogger("torchere.frontend")


def create_pages(control: Control) -> FastAPI:
    """The application of all such routes."""
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
    return pages


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
