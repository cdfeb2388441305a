"""A frontend's end of the data sockets: sends requests to the engine with the least to do, and brings the answers back.

Knows no HTTP, no gRPC, no torch. `plane.py` awaits it; the parent's snapshots say which engines there are.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from service.engine.link import FrameProtocol
from service.engine.messages import Cancel, EngineAddress, Failure, Infer, Result
from service.engine.transport import split
from service.errors import ServiceError, Unavailable, from_inside

log = logging.getLogger("torchere.frontend")

Answer = tuple[Result, list[memoryview]]


class EngineClient:
    """The connection to one engine."""

    def __init__(self, address: EngineAddress) -> None:
        self.address = address
        self._pending: dict[int, asyncio.Future[Answer]] = {}
        self._protocol: FrameProtocol[Result | Failure] | None = None

    def __repr__(self) -> str:
        return f"<EngineClient {self.address.device} {self.outstanding} outstanding>"

    @property
    def outstanding(self) -> int:
        return len(self._pending)

    @property
    def is_open(self) -> bool:
        return self._protocol is not None and self._protocol.is_open

    async def connect(self) -> None:
        """Raises OSError where the engine is not there."""
        loop = asyncio.get_running_loop()
        _, self._protocol = await loop.create_unix_connection(self._open, self.address.path)

    async def infer(self, message: Infer, blobs: Sequence[bytes | bytearray | memoryview]) -> Answer:
        """The engine's answer. Raises the ServiceError that the engine reports, or Unavailable where it died."""
        if self._protocol is None or not self._protocol.is_open:
            raise _gone(self.address)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._pending[message.id] = future
        self._protocol.send(message, blobs)
        try:
            return await future
        except asyncio.CancelledError:
            self._protocol.send(Cancel(message.id))
            raise
        finally:
            self._pending.pop(message.id, None)

    def _open(self) -> FrameProtocol[Result | Failure]:
        return FrameProtocol(Result | Failure, self._answered, self._lost)  # type: ignore[arg-type]

    def close(self) -> None:
        if self._protocol is not None:
            self._protocol.close()

    def _answered(self, message: Result | Failure, body: memoryview) -> None:
        future = self._pending.get(message.id)
        if future is None or future.done():
            return  # the client left before the answer came
        match message:
            case Result():
                future.set_result((message, split(body, message.sizes)))
            case Failure():
                future.set_exception(from_inside(message.code, message.message))

    def _lost(self) -> None:
        for future in self._pending.values():
            if not future.done():
                future.set_exception(_gone(self.address))


class EngineClients:
    """All engines of the service, as the last snapshot told."""

    def __init__(self) -> None:
        self._clients: dict[EngineAddress, EngineClient] = {}

    def __repr__(self) -> str:
        return f"<EngineClients {list(self._clients.values())!r}>"

    async def follow(self, addresses: Sequence[EngineAddress]) -> None:
        """Connect to engines that are new, let go of those that are no more."""
        for address in set(self._clients) - set(addresses):
            self._clients.pop(address).close()
        for address in addresses:
            if address not in self._clients:
                client = EngineClient(address)
                try:
                    await client.connect()
                except OSError as error:
                    log.warning("the engine on %s does not answer: %s", address.device, error)
                    continue  # it died again: the next snapshot brings its successor
                self._clients[address] = client

    async def infer(self, message: Infer, blobs: Sequence[bytes | bytearray | memoryview]) -> Answer:
        """Run `message` on the engine with the fewest outstanding requests."""
        usable = [client for client in self._clients.values() if client.is_open]
        if not usable:
            raise Unavailable("no engine is running: it is being restarted, try again")
        return await min(usable, key=lambda client: client.outstanding).infer(message, blobs)


def _gone(address: EngineAddress) -> ServiceError:
    return Unavailable(
        f"the engine on {address.device} died while it worked on this request: it is being restarted, try again"
    )
