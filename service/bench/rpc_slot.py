"""One gRPC call at a time on a channel that slots share: bytes in, bytes out, no message is built or parsed.

grpc.aio costs the client some hundred microseconds a call, which is why the client's cost is told beside the result and
`--processes` spreads it.
"""

from __future__ import annotations

import asyncio
from typing import cast

import grpc
import grpc.aio

from service.bench.messages import Target
from service.bench.outcomes import GRPC, OK
from service.bench.slots import Events

METHOD = "/inference.GRPCInferenceService/ModelInfer"
CHANNELS = 8  # a process's connections: enough that a server with several frontends has work for each
CONNECT_TIMEOUT_S = 10.0
OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # else all channels of a process share one connection
]


def open_channels(target: Target, slots: int) -> list[grpc.aio.Channel]:
    """As many as `slots` need; they connect at the first call."""
    address = f"{target.host}:{target.port}"
    return [grpc.aio.insecure_channel(address, options=OPTIONS) for _ in range(min(slots, CHANNELS))]


class RpcSlot:
    """A slot over gRPC. The channel mends its own connection, so it is open from the first time on."""

    def __init__(self, target: Target, events: Events, channel: grpc.aio.Channel) -> None:
        self.events = events
        self.begun_ns = self.lag_ns = 0
        self.is_open = self.is_busy = False
        self._payload = target.payload
        self._channel = channel
        self._call = channel.unary_unary(METHOD, None, None)
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        try:
            await asyncio.wait_for(self._channel.channel_ready(), CONNECT_TIMEOUT_S)
        except TimeoutError as error:
            raise OSError("nobody speaks gRPC there") from error
        self.is_open = True

    def send(self) -> None:
        self.is_busy = True
        self._task = asyncio.get_running_loop().create_task(self._ask())

    def abort(self, outcome: int) -> None:
        if self._task:
            self._task.cancel()
        self._end(outcome)

    async def close(self) -> None:
        if self._task:
            self._task.cancel()

    async def _ask(self) -> None:
        try:
            await self._call(self._payload)
        except grpc.aio.AioRpcError as error:
            self._end(GRPC + cast(int, error.code().value[0]))
        else:
            self._end(OK)

    def _end(self, outcome: int) -> None:
        self.is_busy = False
        self.events.answered(self, outcome)
