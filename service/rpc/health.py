"""grpc.health.v1: whether this server takes requests, computed when asked.

Knows nothing of inference. Load balancers and Kubernetes probes ask; `server.py` registers it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.errors import NotFound
from service.rpc.errors import Context, Refusals

SERVICE = "inference.GRPCInferenceService"
NAMES = ("", SERVICE)
WATCH_PERIOD_S = 1.0  # readiness of models has no event here; probes themselves come every few seconds


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # the generated class is untyped
    """SERVING while `is_ready()` holds and nobody has called `set_serving(False)`."""

    def __init__(self, is_ready: Callable[[], bool]) -> None:
        self._is_ready = is_ready
        self._is_serving = True
        self._is_closed = False
        self._changed = asyncio.Event()

    def set_serving(self, is_serving: bool) -> None:
        """Say NOT_SERVING from now on, or follow readiness again; watchers are told at once."""
        self._is_serving = is_serving
        self._wake()

    def close(self) -> None:
        """Tell watchers NOT_SERVING and end their calls, so that they do not hold up a shutdown."""
        self._is_serving, self._is_closed = False, True
        self._wake()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> health_pb2.HealthCheckResponse:
        async with Refusals(context):
            if request.service not in NAMES:
                raise NotFound(f"unknown service '{request.service}': ask for '' or '{SERVICE}'")
            return health_pb2.HealthCheckResponse(status=self._status(request.service))

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        told = None
        while True:
            changed, status = self._changed, self._status(request.service)
            if status != told:
                yield health_pb2.HealthCheckResponse(status=status)
                told = status
            if self._is_closed:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), WATCH_PERIOD_S)

    def _status(self, service: str) -> str:
        if service not in NAMES:
            return "SERVICE_UNKNOWN"
        return "SERVING" if self._is_serving and self._is_ready() else "NOT_SERVING"

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
