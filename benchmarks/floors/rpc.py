"""The least that a server of grpc.aio can do: a handler that takes bytes and answers the same bytes to all.

python -m benchmarks.floors.rpc 8001
"""

from __future__ import annotations

import sys
from typing import Any

import grpc
import uvloop

from protos.inference_pb2 import ModelInferResponse

ANSWER = ModelInferResponse(model_name="mlp", model_version="1", raw_output_contents=[bytes(40)])


class AnyCall(grpc.GenericRpcHandler):  # type: ignore[misc]  # its base is untyped
    """Every method of every service."""

    def __init__(self) -> None:
        self._handler = grpc.unary_unary_rpc_method_handler(self._answer)
        self._bytes = ANSWER.SerializeToString()

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        """The handler, whatever the call."""
        return self._handler

    async def _answer(self, request: bytes, context: Any) -> bytes:
        return self._bytes


async def main() -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((AnyCall(),))
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main())
