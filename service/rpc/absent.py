"""The calls of the protocol that this server does not implement: each names the feature and what to do instead.

Knows nothing of models. `servicer.py` inherits these and adds the calls that work.
"""

from __future__ import annotations

from typing import Any

from protos.inference_pb2_grpc import GRPCInferenceServiceServicer
from service.errors import Unsupported
from service.rpc.errors import Context, refuse

RESTART = "change the model repository and restart the server"
REPOSITORY = f"loading and unloading models over the API is not supported: {RESTART}"
STATISTICS = "statistics over gRPC are not supported: read the metrics endpoint"
SHARED_MEMORY = "shared memory regions are not supported: send tensors in the request"
TRACE = "trace settings are not supported"
LOGGING = "log settings over the API are not supported: set them when the server starts"


class AbsentFeatures(GRPCInferenceServiceServicer):
    """Answers UNIMPLEMENTED with a sentence."""

    async def ModelStatistics(self, request: Any, context: Context) -> None:
        await refuse(context, Unsupported(STATISTICS))

    async def RepositoryModelLoad(self, request: Any, context: Context) -> None:
        await refuse(context, Unsupported(REPOSITORY))

    async def RepositoryModelUnload(self, request: Any, context: Context) -> None:
        await refuse(context, Unsupported(REPOSITORY))

    async def SystemSharedMemoryStatus(self, request: Any, context: Context) -> None:
        await refuse(context, Unsupported(SHARED_MEMORY))

    async def SystemSharedMemoryRegister(self, request: Any, context: Context) -> None:
        await refuse(context, Unsupported(SHARED_MEMORY))

    async def SystemSharedMemoryUnregister(self, request: Any, context: Context) -> None:
        await refuse(context, Unsupported(SHARED_MEMORY))

    async def CudaSharedMemoryStatus(self, request: Any, context: Context) -> None:
        await refuse(context, Unsupported(SHARED_MEMORY))

    async def CudaSharedMemoryRegister(self, request: Any, context: Context) -> None:
        await refuse(context, Unsupported(SHARED_MEMORY))

    async def CudaSharedMemoryUnregister(self, request: Any, context: Context) -> None:
        await refuse(context, Unsupported(SHARED_MEMORY))

    async def TraceSetting(self, request: Any, context: Context) -> None:
        await refuse(context, Unsupported(TRACE))

    async def LogSettings(self, request: Any, context: Context) -> None:
        await refuse(context, Unsupported(LOGGING))
