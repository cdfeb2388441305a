"""torchere's own view of its models: every version with its state, reason, backend, inputs and outputs.

Translates only: `control.py` has the answers.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from service.control import Control
from service.repository.catalog import Entry


def create_router(control: Control) -> APIRouter:
    """GET /, /v1/models and /v1/models/{name}."""
    router = APIRouter(tags=["torchere"])

    @router.get("/", summary="Is somebody there?")
    async def alive() -> dict[str, str]:
        return {"status": "alive", "name": "torchere", "version": control.version}

    @router.get("/v1/models", summary="Every version of every model")
    async def models() -> dict[str, list[dict[str, Any]]]:
        return {"models": [describe_entry(entry) for entry in control.entries()]}

    @router.get("/v1/models/{name}", summary="One model, with the labels of its outputs")
    async def model(name: str) -> dict[str, Any]:
        entry = control.entry(name)
        return {**describe_entry(entry), "labels": entry.labels}

    @router.get("/v1/models/{name}/versions/{version}", summary="One version, with the labels of its outputs")
    async def version(name: str, version: str) -> dict[str, Any]:
        entry = control.entry(name, version)
        return {**describe_entry(entry), "labels": entry.labels}

    return router


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
