"""The v2 routes beside inference: health, metadata, configuration, the repository's index.

Translates only: `control.py` has the answers. Inference itself is on the fast lane, `infer.py`.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from service.control import Control
from service.errors import InvalidInput, Unavailable
from service.rest.json_text import parse_json

NOT_READY = 503


def create_router(control: Control) -> APIRouter:
    """The routes under /v2."""
    router = APIRouter(prefix="/v2", tags=["Open Inference Protocol v2"])
    _add_server_routes(router, control)
    _add_model_routes(router, control)
    return router


def _add_server_routes(router: APIRouter, control: Control) -> None:
    @router.get("", summary="The server's name, version and extensions")
    async def server_metadata() -> dict[str, Any]:
        return control.server_metadata()

    @router.get("/health/live", summary="Is the server up?")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @router.get("/health/ready", summary="Does it serve all that it should?")
    async def ready() -> JSONResponse:
        return _readiness({"ready": control.is_ready})

    @router.get("/models", summary="The names of the models")
    async def names() -> dict[str, list[str]]:
        return {"models": sorted({entry.name for entry in control.entries()})}

    @router.post("/repository/index", summary="Every version and its state")
    async def index(request: Request) -> list[dict[str, str]]:
        body = await request.body()  # clients send JSON here without saying so in Content-Type
        only_ready = parse_json(body).get("ready", False) if body.strip() else False
        if not isinstance(only_ready, bool):
            raise InvalidInput("ready must be true or false")
        return [
            {"name": entry.name, "version": entry.version, "state": entry.state, "reason": entry.reason}
            for entry in control.entries()
            if entry.is_ready or not only_ready
        ]


def _readiness(answer: dict[str, Any]) -> JSONResponse:
    if answer["ready"]:
        return JSONResponse(answer)
    return JSONResponse(answer, NOT_READY, {"retry-after": str(round(Unavailable.retry_after_s))})


def _add_model_routes(router: APIRouter, control: Control) -> None:
    def ready(name: str, version: str) -> JSONResponse:
        return _readiness({"name": name, "ready": control.is_model_ready(name, version)})

    @router.get("/models/{name}", summary="Inputs and outputs of a model")
    async def metadata(name: str) -> dict[str, Any]:
        return control.model_metadata(name)

    @router.get("/models/{name}/versions/{version}", summary="Inputs and outputs of a version")
    async def version_metadata(name: str, version: str) -> dict[str, Any]:
        return control.model_metadata(name, version)

    @router.get("/models/{name}/ready", summary="Is the model ready?")
    async def model_ready(name: str) -> JSONResponse:
        return ready(name, "")

    @router.get("/models/{name}/versions/{version}/ready", summary="Is the version ready?")
    async def version_ready(name: str, version: str) -> JSONResponse:
        return ready(name, version)

    @router.get("/models/{name}/config", summary="The model's configuration, in Triton's words")
    async def config(name: str) -> dict[str, Any]:
        return control.model_config(name)

    @router.get("/models/{name}/versions/{version}/config", summary="The version's configuration")
    async def version_config(name: str, version: str) -> dict[str, Any]:
        return control.model_config(name, version)
