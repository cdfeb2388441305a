"""One replica of one model: what Ray Serve starts, asks and ends. It answers by what `local.py` serves in it.

A replica is counted by Ray as ready when it answers requests. It batches itself, from whatever number of calls Ray lets
run at once. `handles.py` calls it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from service.observe.logs import set_up_logging
from service.ray_serve import wire
from service.settings import Settings


class Replica:
    """`settings`: those of the service; device and threads are what Ray has given to this actor."""

    async def __init__(self, model: str, settings: dict[str, Any]) -> None:  # type: ignore[misc]  # Ray awaits it
        from service.ray_serve.local import LocalService  # torch, which an ingress that knows this class has no use for

        own = own_settings(settings)
        set_up_logging(own.log_format, own.log_level, f"replica of {model}")
        self._service = LocalService(model, own)
        await self._service.ready()

    async def infer(self, head: bytes, blobs: Sequence[Any]) -> wire.Parcel:
        """One request: its answer, or a Failure that says why there is none."""
        answer = await self._service.infer(*wire.unpack_request(head, blobs, time.monotonic()))
        return wire.pack_answer(*answer, time.monotonic())

    async def stream(self, head: bytes, blobs: Sequence[Any]) -> AsyncGenerator[wire.Parcel]:
        """One request that may have several answers."""
        async for answer in self._service.stream(*wire.unpack_request(head, blobs, time.monotonic())):
            yield wire.pack_answer(*answer, time.monotonic())

    async def entries(self) -> bytes:
        """The versions of the model as this replica has them."""
        return wire.pack_entries(self._service.entries())

    async def __del__(self) -> None:  # Ray awaits it when it has ended the requests under way
        await self._service.close()


def own_settings(given: dict[str, Any]) -> Settings:
    """The service's settings with the part of the machine that Ray has set aside for this actor."""
    import ray

    assigned = ray.get_runtime_context().get_assigned_resources()
    threads = max(1, int(assigned.get("CPU", 1)))
    device = "auto" if ray.get_gpu_ids() else "cpu"
    return Settings.model_validate({**given, "threads": threads, "device": device})
