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


class AbsentFeatures(GRPCInferenceServiceServicer):
    """Answers UNIMPLEMENTED with a sentence."""

    async def RepositoryModelLoad(self, request: Any, context: Context) -> None:
        await refuse(context, Unsupported(REPOSITORY))

    async def RepositoryModelUnload(self, request: Any, context: Context) -> None:
        await refuse(context, Unsupported(REPOSITORY))
