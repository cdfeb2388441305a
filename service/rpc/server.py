"""The gRPC server: one port with inference, health and reflection, in the event loop of the caller.

Knows nothing of messages: `servicer.py` answers inference calls, `health.py` probes.

    server = await start_rpc(plane, control, "127.0.0.1", 8001)
    ...
    await server.stop(grace_s=30)
"""

from __future__ import annotations

import asyncio

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from protos import inference_pb2_grpc
from service.control import Control
from service.rpc.health import SERVICE, Health
from service.rpc.servicer import Inference, Servicer

MAX_MESSAGE_BYTES = 2**31 - 1  # gRPC holds the limit in a signed 32 bit integer, and protobuf stops at 2 GiB too


class RpcServer:
    """A server that listens; `await stop(grace_s)` ends it."""

    def __init__(self, server: grpc.aio.Server, health: Health, stopping: asyncio.Event, port: int) -> None:
        self.port = port
        self._server = server
        self._health = health
        self._stopping = stopping

    def __repr__(self) -> str:
        return f"<RpcServer port {self.port}{', stopping' if self._stopping.is_set() else ''}>"

    def set_serving(self, is_serving: bool) -> None:
        """False: health says NOT_SERVING whatever the models' state. True: it follows readiness."""
        self._health.set_serving(is_serving)

    async def stop(self, grace_s: float) -> None:
        """Take no new calls; return when those accepted are answered, or after `grace_s` seconds, when they are cut."""
        self._health.close()
        self._stopping.set()
        await self._server.stop(grace_s)


async def start_rpc(
    plane: Inference,
    control: Control,
    host: str,
    port: int,
    *,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    reuse_port: bool = False,
) -> RpcServer:
    """Listen on `host`:`port` (0 picks a free port, see `.port`) and answer calls until stopped.

    `reuse_port` lets several processes share the port. Requests above `max_message_bytes` are refused with
    RESOURCE_EXHAUSTED. Raises OSError where the address cannot be bound.
    """
    server = grpc.aio.server(options=_options(min(max_message_bytes, MAX_MESSAGE_BYTES), reuse_port))
    stopping = asyncio.Event()
    health = Health(lambda: control.is_ready)
    servicer = Servicer(plane, control, stopping)
    inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    reflection.enable_server_reflection((SERVICE, "grpc.health.v1.Health", reflection.SERVICE_NAME), server)
    bound = _bind(server, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    await server.start()
    return RpcServer(server, health, stopping, bound)


def _options(max_message_bytes: int, reuse_port: bool) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),  # an answer is as large as the model makes it
        # On by default, and then two servers would share a port unawares.
        ("grpc.so_reuseport", int(reuse_port)),
        # A client that keeps its idle connection alive with pings is not cut off for it.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_ping_strikes", 0),
    ]


def _bind(server: grpc.aio.Server, address: str) -> int:
    sentence = f"cannot listen on {address}: the address is in use, unknown or not permitted"
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:  # how gRPC tells that it cannot bind
        raise OSError(sentence) from error
    if not port:  # how it told so before
        raise OSError(sentence)
    return port
