"""The v2 routes of the extensions: loading models, statistics, shared memory, trace and log settings.

Translates only: `control.py` answers questions, `extensions.py` makes changes. Clients send JSON without saying so.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request

from service.control import Control
from service.cuda_memory import read_handle
from service.errors import InvalidInput
from service.extensions import Extensions
from service.rest.json_text import parse_json
from service.shared_memory import CudaRegion, Region
from service.tuning import TRACE_LISTS

CONFIG, FILE, UNLOAD_DEPENDENTS = "config", "file:", "unload_dependents"


def create_router(control: Control) -> APIRouter:
    """The routes under /v2; to be asked before those of `v2.py`, since `stats` looks like the name of a model."""
    router = APIRouter(prefix="/v2", tags=["Extensions of the Open Inference Protocol"])
    _add_models(router, control.extensions)
    _add_statistics(router, control)
    _add_system_memory(router, control.extensions)
    _add_cuda_memory(router, control.extensions)
    _add_trace(router, control.extensions)
    _add_logging(router, control.extensions)
    return router


async def _body(request: Request) -> dict[str, Any]:
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise InvalidInput("only inference takes compressed bodies: send this one without Content-Encoding")
    body = await request.body()
    return parse_json(body) if body.strip() else {}


def _add_models(router: APIRouter, extensions: Extensions) -> None:
    @router.post("/repository/models/{name}/load", summary="Load or reload a model")
    async def load(name: str, request: Request) -> dict[str, Any]:
        config, files = None, {}
        for key, value in _parameters(await _body(request)).items():
            if not isinstance(value, str):
                raise InvalidInput(f"parameter '{key[:100]}' must be text")
            if key == CONFIG:
                config = value
            elif key.startswith(FILE):
                files[key.removeprefix(FILE)] = _decode(key, value)
            else:
                raise InvalidInput(f"parameter '{key[:100]}' is unknown: a load call takes config and file:PATH")
        await extensions.load(name, config, files)
        return {}

    @router.post("/repository/models/{name}/unload", summary="Serve a model no more")
    async def unload(name: str, request: Request) -> dict[str, Any]:
        parameters = _parameters(await _body(request))
        for key, value in parameters.items():
            if key != UNLOAD_DEPENDENTS or not isinstance(value, bool):
                raise InvalidInput(f"parameter '{key[:100]}': an unload call takes unload_dependents, true or false")
        await extensions.unload(name, with_members=parameters.get(UNLOAD_DEPENDENTS, False))
        return {}


def _parameters(body: dict[str, Any]) -> dict[str, Any]:
    unknown = next((key for key in body if key != "parameters"), "")
    parameters = body.get("parameters") or {}
    if unknown or not isinstance(parameters, dict):
        raise InvalidInput("the body must be empty, or have parameters and nothing else")
    return parameters


def _decode(key: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"parameter '{key[:100]}' must be base64") from error


def _add_statistics(router: APIRouter, control: Control) -> None:
    @router.get("/models/stats", summary="What every model did, and how long it took")
    async def all_statistics() -> dict[str, Any]:
        return await control.statistics()

    @router.get("/models/{name}/stats", summary="What the versions of a model did, and how long it took")
    async def statistics(name: str) -> dict[str, Any]:
        return await control.statistics(name)

    @router.get("/models/{name}/versions/{version}/stats", summary="What a version did, and how long it took")
    async def version_statistics(name: str, version: str) -> dict[str, Any]:
        return await control.statistics(name, version)


def _add_system_memory(router: APIRouter, extensions: Extensions) -> None:
    @router.get("/systemsharedmemory/status", summary="Every registered region of shared memory")
    async def regions() -> list[dict[str, Any]]:
        return _regions(extensions.regions())

    @router.get("/systemsharedmemory/region/{name}/status", summary="One registered region of shared memory")
    async def region(name: str) -> list[dict[str, Any]]:
        return _regions(extensions.regions(name))

    @router.post("/systemsharedmemory/region/{name}/register", summary="Register a region of shared memory")
    async def register(name: str, request: Request) -> dict[str, Any]:
        given = await _body(request)
        key = given.get("key")
        if not isinstance(key, str):
            raise InvalidInput("key must be the name of the shared memory, as text")
        region = Region(name, key, _whole(given, "offset", 0), _whole(given, "byte_size"))
        await extensions.register_region(region)
        return {}

    @router.post("/systemsharedmemory/unregister", summary="Forget every region of shared memory")
    async def unregister_all() -> dict[str, Any]:
        await extensions.unregister_regions()
        return {}

    @router.post("/systemsharedmemory/region/{name}/unregister", summary="Forget a region of shared memory")
    async def unregister(name: str) -> dict[str, Any]:
        await extensions.unregister_regions(name)
        return {}


def _regions(regions: Sequence[Region]) -> list[dict[str, Any]]:
    return [
        {"name": region.name, "key": region.key, "offset": region.offset, "byte_size": region.byte_size}
        for region in regions
    ]


def _whole(given: dict[str, Any], name: str, default: int | None = None) -> int:
    value = given.get(name, default)
    if type(value) is not int:
        raise InvalidInput(f"{name} must be a whole number")
    return value


def _add_cuda_memory(router: APIRouter, extensions: Extensions) -> None:
    @router.get("/cudasharedmemory/status", summary="Every registered region of CUDA shared memory")
    async def regions() -> list[dict[str, Any]]:
        return _cuda_regions(extensions.cuda_regions())

    @router.get("/cudasharedmemory/region/{name}/status", summary="One registered region of CUDA shared memory")
    async def region(name: str) -> list[dict[str, Any]]:
        return _cuda_regions(extensions.cuda_regions(name))

    @router.post("/cudasharedmemory/region/{name}/register", summary="Register memory of a GPU")
    async def register(name: str, request: Request) -> dict[str, Any]:
        given = await _body(request)
        handle = given.get("raw_handle")
        if not isinstance(handle, dict) or not isinstance(handle.get("b64"), str):
            raise InvalidInput('raw_handle must be {"b64": a CUDA IPC handle in base64}')
        wanted = CudaRegion(name, _whole(given, "device_id", 0), _whole(given, "byte_size"))
        await extensions.register_cuda_region(wanted, read_handle(handle["b64"]))
        return {}

    @router.post("/cudasharedmemory/unregister", summary="Forget every region of CUDA shared memory")
    async def unregister_all() -> dict[str, Any]:
        await extensions.unregister_cuda_regions()
        return {}

    @router.post("/cudasharedmemory/region/{name}/unregister", summary="Forget a region of CUDA shared memory")
    async def unregister(name: str) -> dict[str, Any]:
        await extensions.unregister_cuda_regions(name)
        return {}


def _cuda_regions(regions: Sequence[CudaRegion]) -> list[dict[str, Any]]:
    return [{"name": each.name, "device_id": each.device_id, "byte_size": each.byte_size} for each in regions]


def _add_trace(router: APIRouter, extensions: Extensions) -> None:
    @router.get("/trace/setting", summary="The trace settings of all models")
    async def settings() -> dict[str, Any]:
        return _trace(extensions.trace_settings())

    @router.post("/trace/setting", summary="Change the trace settings of all models; null clears one")
    async def change(request: Request) -> dict[str, Any]:
        return _trace(await extensions.change_trace("", await _body(request)))

    @router.get("/models/{name}/trace/setting", summary="The trace settings of a model")
    async def model_settings(name: str) -> dict[str, Any]:
        return _trace(extensions.trace_settings(name))

    @router.post("/models/{name}/trace/setting", summary="Change the trace settings of a model; null clears one")
    async def change_model(name: str, request: Request) -> dict[str, Any]:
        return _trace(await extensions.change_trace(name, await _body(request)))


def _trace(settings: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    return {name: list(values) if name in TRACE_LISTS else values[0] for name, values in settings.items()}


def _add_logging(router: APIRouter, extensions: Extensions) -> None:
    @router.get("/logging", summary="What is logged")
    async def settings() -> dict[str, Any]:
        return extensions.log_settings()

    @router.post("/logging", summary="Change what is logged, in every process")
    async def change(request: Request) -> dict[str, Any]:
        return await extensions.change_log(await _body(request))
