"""The least that a server of grpc.aio can do: a handler that takes bytes and answers the same bytes to all, or refuses.

python -m benchmarks.floors.rpc 8001 [refuse]
"""

from __future__ import annotations

import sys
from typing import Any

import grpc
import uvloop

from protos.inference_pb2 import ModelInferResponse

ANSWER = ModelInferResponse(model_name="mlp", model_version="1", raw_output_contents=[bytes(40)])

REFUSAL = "the queue is full: 64 requests wait already (max_queue_size 64): try again later"
PUSHBACK = (("grpc-retry-pushback-ms", "330"),)


class AnyCall(grpc.GenericRpcHandler):  # type: ignore[misc]  # its base is untyped
    """Every method of every service."""

    def __init__(self, refuses: bool) -> None:
        self._handler = grpc.unary_unary_rpc_method_handler(self._refuse if refuses else self._answer)
        self._bytes = ANSWER.SerializeToString()

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        """The handler, whatever the call."""
        return self._handler

    async def _answer(self, request: bytes, context: Any) -> bytes:
        return self._bytes

    async def _refuse(self, request: bytes, context: Any) -> None:
        await context.abort(grpc.StatusCode.UNAVAILABLE, REFUSAL, PUSHBACK)


async def main() -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((AnyCall("refuse" in sys.argv[2:]),))
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main())
