"""The gRPC server: one port with inference, health and reflection, in the event loop of the caller.

Knows nothing of messages: `servicer.py` answers inference calls, `health.py` probes.

    server = await start_rpc(plane, control, "127.0.0.1", 8001)
    ...
    await server.stop(grace_s=30)
"""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import grpc
import msgspec
from grpc_health.v1 import health_pb2_grpc

from protos import inference_pb2_grpc
from service.certificates import Certificates, Held
from service.control import Control
from service.observe.watching import Watcher
from service.rpc.access import AccessInterceptor
from service.rpc.familiar import Familiar
from service.rpc.guard import GuardInterceptor
from service.rpc.health import SERVICE, Health
from service.rpc.lane import InferLane
from service.rpc.reflection import Reflection
from service.rpc.servicer import Inference, Servicer
from service.security import Guard

BACKLOG = 1000  # calls that wait unread: as many as clients may send at the same moment
MAX_MESSAGE_BYTES = 2**31 - 1  # gRPC holds the limit in a signed 32 bit integer, and protobuf stops at 2 GiB too


class RpcOptions(msgspec.Struct, frozen=True):
    """How to listen. `reuse_port` lets several processes share the port.

    Requests above `max_message_bytes` are refused with RESOURCE_EXHAUSTED. `restricted_status`: see `guard.py`.
    Where `backlog` calls wait that nobody has looked at, gRPC begins to end new ones with CANCELLED.
    """

    max_message_bytes: int = MAX_MESSAGE_BYTES
    reuse_port: bool = False
    tls: Certificates | None = None
    guard: Guard | None = None
    restricted_status: Literal["forbidden", "unavailable"] = "forbidden"
    watcher: Watcher | None = None
    backlog: int = BACKLOG


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
    plane: Inference, control: Control, host: str, port: int, options: RpcOptions | None = None
) -> RpcServer:
    """Listen on `host`:`port` (0 picks a free port, see `.port`) and answer calls until stopped.

    Raises OSError where the address cannot be bound.
    """
    options = options or RpcOptions()
    server = grpc.aio.server(interceptors=_interceptors(options), options=_channel_options(options))
    stopping = asyncio.Event()
    health = Health(lambda: control.is_ready)
    servicer = Servicer(plane, control, stopping, options.watcher)
    lane = InferLane(Familiar(plane), plane.templates, servicer.ModelInfer, options.watcher)
    server.add_generic_rpc_handlers((lane,))  # before the servicer's: the first that knows a call answers it
    inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, _Unregistered(server))  # type: ignore[no-untyped-call]
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    server.add_generic_rpc_handlers((Reflection((SERVICE, "grpc.health.v1.Health")),))
    bound = _bind(server, f"[{host}]:{port}" if ":" in host else f"{host}:{port}", options.tls)
    await server.start()
    return RpcServer(server, health, stopping, bound)


class _Unregistered:
    """A server that takes handlers as generic ones alone: those that are registered are asked before any other."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """They came as generic ones too."""


def _interceptors(options: RpcOptions) -> list[grpc.aio.ServerInterceptor[Any, Any]]:
    """None where nothing is guarded or logged, for an interceptor costs every call."""
    interceptors: list[grpc.aio.ServerInterceptor[Any, Any]] = []
    if options.watcher is not None and options.watcher.logs_access:
        interceptors.append(AccessInterceptor(options.watcher))
    if options.guard is not None:
        is_forbidden = options.restricted_status == "forbidden"
        status = grpc.StatusCode.PERMISSION_DENIED if is_forbidden else grpc.StatusCode.UNAVAILABLE
        interceptors.append(GuardInterceptor(options.guard, status))
    return interceptors


def _channel_options(options: RpcOptions) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", min(options.max_message_bytes, MAX_MESSAGE_BYTES)),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),  # an answer is as large as the model makes it
        # On by default, and then two servers would share a port unawares.
        ("grpc.so_reuseport", int(options.reuse_port)),
        # A call waits unread while the loop has too much to do, and a client's deadline passes: one that is ended there
        # costs 12 us, a refusal in words 200. A client with one connection waits itself, before any of its calls is.
        ("grpc.server.max_pending_requests", options.backlog),
        ("grpc.server.max_pending_requests_hard_limit", options.backlog + options.backlog // 4),
        ("grpc.max_concurrent_streams", options.backlog),
        ("grpc.http.overload_protection", 0),  # else calls that were answered count until they are let go of
        # A client that keeps its idle connection alive with pings is not cut off for it.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_ping_strikes", 0),
    ]


def _bind(server: grpc.aio.Server, address: str, tls: Certificates | None) -> int:
    sentence = f"cannot listen on {address}: the address is in use, unknown or not permitted"
    try:
        port = server.add_secure_port(address, _credentials(tls)) if tls else server.add_insecure_port(address)
    except RuntimeError as error:  # how gRPC tells that it cannot bind
        raise OSError(sentence) from error
    if not port:  # how it told so before
        raise OSError(sentence)
    return port


def _credentials(certificates: Certificates) -> grpc.ServerCredentials:
    """They are asked at each handshake, in a thread of gRPC's, whether they were renewed."""
    last = certificates.current()

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal last
        held = certificates.current()
        if held is last:
            return None
        last = held
        return _configuration(held)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(last),
        renewed,  # type: ignore[arg-type]  # the stubs have forgotten None, which is: as before
        certificates.is_mutual,
    )


def _configuration(held: Held) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(held.key, held.certificate)], held.client_authority)
