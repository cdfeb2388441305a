"""What is served: torchere's own view of its models, in one answer with what the neighbours' clients look for in it.

Translates only: `control.py` has the answers. KServe v1 reads `models` and `ready`, TensorFlow Serving
`model_version_status`, TorchServe `modelName`.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from service.control import Control
from service.repository.catalog import Entry
from service.rest.tf_serving import metadata, status


def create_router(control: Control) -> APIRouter:
    """GET /, /v1/models and below; GET /ping and /models of TorchServe."""
    router = APIRouter(tags=["torchere"])
    _add_own_routes(router, control)
    _add_tensorflow_routes(router, control)
    _add_torchserve_routes(router, control)
    return router


def _add_own_routes(router: APIRouter, control: Control) -> None:
    def described(name: str, version: str) -> dict[str, Any]:
        entry = control.entry(name, version)
        versions = (entry,) if version else control.versions(name)
        return {
            **describe_entry(entry),
            "labels": entry.labels,
            "ready": control.is_model_ready(name, version),
            "model_version_status": status(versions),
        }

    @router.get("/", summary="Is somebody there?")
    async def alive() -> dict[str, str]:
        return {"status": "alive", "name": "torchere", "version": control.version}

    @router.get("/v1/models", summary="The names of the models, and every version of each as an entry")
    async def models() -> dict[str, list[Any]]:
        entries = control.entries()
        names = list(dict.fromkeys(entry.name for entry in entries))
        return {"models": names, "entries": [describe_entry(entry) for entry in entries]}

    @router.get("/v1/models/{name}", summary="One model: its default version, its labels, the state of each version")
    async def model(name: str) -> dict[str, Any]:
        return described(name, "")

    @router.get("/v1/models/{name}/versions/{version}", summary="One version, with the labels of its outputs")
    async def version(name: str, version: str) -> dict[str, Any]:
        return described(name, version)

    @router.get("/v1/models/{name}/labels/{label}", summary="The version that a label stands for")
    async def labelled(name: str, label: str) -> dict[str, Any]:
        return described(name, control.version_of(name, label))


def _add_tensorflow_routes(router: APIRouter, control: Control) -> None:
    def answer(name: str, version: str) -> dict[str, Any]:
        return metadata(control.ready_entry(name, version))

    @router.get("/v1/models/{name}/metadata", summary="Inputs and outputs in the words of TensorFlow Serving")
    async def model_metadata(name: str) -> dict[str, Any]:
        return answer(name, "")

    @router.get("/v1/models/{name}/versions/{version}/metadata", summary="The same of a version")
    async def version_metadata(name: str, version: str) -> dict[str, Any]:
        return answer(name, version)

    @router.get("/v1/models/{name}/labels/{label}/metadata", summary="The same of the version a label stands for")
    async def labelled_metadata(name: str, label: str) -> dict[str, Any]:
        return answer(name, control.version_of(name, label))


def _add_torchserve_routes(router: APIRouter, control: Control) -> None:
    @router.get("/ping", summary="Does it serve all that it should? As TorchServe says it")
    async def ping() -> JSONResponse:
        return JSONResponse({"status": "Healthy"}) if control.is_ready else JSONResponse({"status": "Unhealthy"}, 503)

    @router.get("/models", summary="The names of the models, as TorchServe lists them")
    async def listed() -> dict[str, list[dict[str, str]]]:
        names = dict.fromkeys(entry.name for entry in control.entries())
        return {"models": [{"modelName": name, "modelUrl": name} for name in names]}


def describe_entry(entry: Entry) -> dict[str, Any]:
    """What a person asks of a model first."""
    return {
        "name": entry.name,
        "version": entry.version,
        "state": entry.state,
        "reason": entry.reason,
        "description": entry.description,
        "inputs": [{"name": s.name, "datatype": s.datatype, "shape": list(s.shape)} for s in entry.inputs],
        "outputs": [{"name": s.name, "datatype": s.datatype, "shape": list(s.shape)} for s in entry.outputs],
        "max_batch_size": entry.max_batch_size,
        "backend": entry.backend,
        "precision": entry.precision,
        "variant": entry.variant,
        "device": entry.device,
        "source": entry.origin,
        "seconds": round(entry.seconds, 3),
        "optimization": entry.optimization,
        "progress": entry.progress,
        "takes_images": bool(entry.images),
    }
