"""One gRPC call at a time, on a connection that it shares with other slots.

`rpc_wire.py` speaks HTTP/2; here is what happens when the connection breaks. Knows nothing of messages.
"""

from __future__ import annotations

import asyncio
import contextlib

from service.bench.messages import Target
from service.bench.rpc_wire import Wire
from service.bench.slots import RETRY_S, Events

CONNECTIONS = 8  # of a process: enough that a server with several frontends has work for each
CALLS_PER_CONNECTION = 100  # where there are more calls, more connections: servers allow a hundred at least
GREETING_TIMEOUT_S = 10.0


class Connection:
    """A wire, and the slots that share it; opened anew where it breaks."""

    def __init__(self, target: Target) -> None:
        self.wire: Wire | None = None
        self.slots: list[RpcSlot] = []
        self._target = target
        self._opening: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect, once for all slots. Raises OSError where nobody speaks HTTP/2."""
        if self._opening is None:
            self._opening = asyncio.ensure_future(self._open())
        await self._opening

    def close(self) -> None:
        if self._opening:
            self._opening.cancel()
        if wire := self._give_up():
            wire.transport.abort()

    def lost(self, wire: Wire) -> None:
        """The wire tells so, before it ends its calls."""
        if wire is self.wire:
            self._give_up()
            self._opening = asyncio.ensure_future(self._reopen())

    def _give_up(self) -> Wire | None:
        wire, self.wire = self.wire, None
        for slot in self.slots:
            slot.is_open = False
        return wire

    async def _open(self) -> None:
        target, loop = self._target, asyncio.get_running_loop()
        authority = f"{target.host}:{target.port}"
        _, wire = await loop.create_connection(
            lambda: Wire(self, authority, target.payload, target.deadline_s), target.host, target.port
        )
        try:
            await asyncio.wait_for(wire.greeted, GREETING_TIMEOUT_S)
        except TimeoutError as error:
            wire.transport.abort()
            raise OSError("nobody speaks gRPC there") from error
        if wire.transport.is_closing():
            raise ConnectionError("the server closed the connection at once")
        self.wire = wire
        for slot in self.slots:
            slot.is_open = True

    async def _reopen(self) -> None:
        while self.wire is None:
            with contextlib.suppress(OSError):
                await self._open()
                break
            await asyncio.sleep(RETRY_S)
        for slot in self.slots:
            slot.events.opened(slot)


class RpcSlot:
    """A slot over gRPC."""

    def __init__(self, connection: Connection, events: Events) -> None:
        self.events = events
        self.begun_ns = self.lag_ns = 0
        self.is_open = self.is_busy = False
        self.window = self.sent = self.received = self.announced = 0  # the wire's
        self._connection = connection
        self._wire: Wire | None = None  # that carries the call; the connection may have a new one already
        connection.slots.append(self)

    async def open(self) -> None:
        await self._connection.open()

    def send(self) -> None:
        self._wire = self._connection.wire
        assert self._wire is not None, "only an open slot sends"
        self.is_busy = True
        self._wire.begin(self)

    def abort(self, outcome: int) -> None:
        if self._wire:
            self._wire.cancel(self)
        self.ended(outcome)

    def ended(self, outcome: int) -> None:
        """The wire tells so, once for every call."""
        self.is_busy = False
        self.events.answered(self, outcome)

    async def close(self) -> None:
        self._connection.close()
        await asyncio.sleep(0)  # the transport closes its socket in the loop's next turn


def create_slots(target: Target, count: int, events: Events) -> list[RpcSlot]:
    """`count` slots, spread over connections."""
    most = max(CONNECTIONS, -(-count // CALLS_PER_CONNECTION))
    connections = [Connection(target) for _ in range(min(count, most))]
    return [RpcSlot(connections[index % len(connections)], events) for index in range(count)]
