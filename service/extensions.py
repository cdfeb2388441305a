"""The door of what changes the service for all of its clients: models, shared memory regions, trace and log settings.

Reads what the last snapshot shared; changes go to the parent, so that every frontend knows of them when a client is
answered. `control.py` holds it; `rest/v2_admin.py` and `rpc/admin.py` translate. Knows no protocol.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service import tuning
from service.engine.messages import (
    Change,
    ChangeLog,
    ChangeTrace,
    LoadModel,
    RegisterCudaRegion,
    RegisterRegion,
    Shared,
    UnloadModel,
    UnregisterRegions,
)
from service.errors import InvalidInput, NotFound, Unsupported
from service.parent import Parent
from service.plane import Plane
from service.repository.model_config import MODEL_NAME
from service.repository.overrides import read_override
from service.repository.uploads import write_upload
from service.shared_memory import CudaRegion, Region, region_status

EXPLICIT_ONLY = "loading and unloading models needs a server started with --model-control-mode explicit"


class Nobody:
    """A parent that changes nothing."""

    async def ask(self, change: Change) -> None:
        raise Unsupported("this server takes no changes: it runs without its parent")


class Extensions:
    """`extensions.shared` is replaced at each snapshot; `is_explicit`: models are loaded on a client's word."""

    def __init__(self, plane: Plane, parent: Parent) -> None:
        self.shared = Shared()
        self.trace_defaults: Mapping[str, tuple[str, ...]] = {}  # none: nothing is traced here
        self.is_explicit = False
        self.why_fixed = EXPLICIT_ONLY  # why no client may load and unload models, unless `is_explicit`
        self.runtime_directory = Path()
        self._plane = plane
        self._parent = parent

    def __repr__(self) -> str:
        return f"<Extensions {self.shared!r}>"

    def regions(self, name: str = "") -> tuple[Region, ...]:
        """That region of system shared memory, or all. Raises NotFound."""
        return region_status(self.shared.regions, name)

    async def register_region(self, region: Region) -> None:
        """Raises Unsupported, InvalidInput or AlreadyExists."""
        await self._parent.ask(RegisterRegion(region))

    async def unregister_regions(self, name: str = "") -> None:
        """That region, or all; one that is not registered is none to unregister."""
        if not self.shared.regions:
            return  # clients do this at every start, whether they use shared memory or not
        await self._parent.ask(UnregisterRegions(name))

    def cuda_regions(self, name: str = "") -> tuple[CudaRegion, ...]:
        """That region of CUDA shared memory, or all. Raises NotFound."""
        return region_status(self.shared.cuda_regions, name)

    async def register_cuda_region(self, region: CudaRegion, handle: bytes) -> None:
        """Raises Unsupported, InvalidInput, AlreadyExists or Unavailable."""
        await self._parent.ask(RegisterCudaRegion(region, handle))

    async def unregister_cuda_regions(self, name: str = "") -> None:
        """That region, or all; one that is not registered is none to unregister."""
        if self.shared.cuda_regions:
            await self._parent.ask(UnregisterRegions(name, is_cuda=True))

    def trace_settings(self, model: str = "") -> dict[str, tuple[str, ...]]:
        """The settings of a model, or of all. Raises NotFound."""
        self._check_model(model)
        return tuning.trace_settings(self.shared.trace, model, self.trace_defaults)

    async def change_trace(self, model: str, given: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
        """The settings after the change. Raises NotFound or InvalidInput."""
        self._check_model(model)
        changes = tuning.read_trace_changes(given, self.trace_defaults)
        if changes:
            await self._parent.ask(ChangeTrace(model, changes))
        return self.trace_settings(model)

    def log_settings(self) -> dict[str, Any]:
        """The settings by which every process logs."""
        return tuning.log_settings(self.shared.log)

    async def change_log(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The settings after the change. Raises InvalidInput."""
        if tuning.change_log(self.shared.log, given) != self.shared.log:
            await self._parent.ask(ChangeLog(dict(given)))
        return self.log_settings()

    async def load(self, model: str, config: str | None, files: Mapping[str, bytes]) -> None:
        """Load or reload a model, as the repository has it, or as `config` and `files` say. Raises ServiceError."""
        if not MODEL_NAME.fullmatch(model):
            raise NotFound(f"unknown model '{model[:128]}': the model repository has none of that name")
        if files and config is None:
            raise InvalidInput("a load call that brings files needs a config too: '{}' where their model.yaml says all")
        self._check_explicit()
        override = json.dumps(read_override(model, config)) if config is not None else ""
        upload = await asyncio.to_thread(write_upload, self.runtime_directory, model, files) if files else ""
        await self._parent.ask(LoadModel(model, override, str(upload)))

    async def unload(self, model: str, *, with_members: bool = False) -> None:
        """Serve a model no more; of an ensemble also what was loaded for it alone. Raises NotFound or Unsupported."""
        self._check_explicit()
        self._check_model(model)
        await self._parent.ask(UnloadModel(model, with_members))

    def _check_explicit(self) -> None:
        if not self.is_explicit:
            raise Unsupported(self.why_fixed)

    def _check_model(self, model: str) -> None:
        if model:
            self._plane.catalog.versions(model)
