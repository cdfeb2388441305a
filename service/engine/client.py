"""A frontend's end of the data sockets: sends requests to the engine with the least to do, and brings the answers back.

Knows no HTTP, no gRPC, no torch. `plane.py` awaits it; the parent's snapshots say which engines there are.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from service.engine import blackbox
from service.engine.affinity import follow_sequence
from service.engine.counting import Counted, Counting, all_counted
from service.engine.lending import LENT_BYTES, Dropped, FrontendEnd, Lender, Returned
from service.engine.link import FrameProtocol
from service.engine.messages import Cancel, EngineAddress, Failure, Infer, Result, Took
from service.engine.rerun import EngineGone, absent, look_back
from service.engine.resend import Resender
from service.engine.responses import TELL_EVERY, Answer, Stream, Waiter
from service.engine.transport import FrameTemplate, frame, lent_frame, split
from service.errors import NotLoaded, from_inside
from service.looking_loop import LookingLoop

log = logging.getLogger("torchere.frontend")

Heard = Result | Failure | Dropped | Counted
Blobs = Sequence[bytes | bytearray | memoryview]


class EngineClient:
    """The connection to one engine. `settle` is called when all answers of one read have been handed out."""

    def __init__(
        self,
        address: EngineAddress,
        settle: Callable[[], None] = lambda: None,
        lender: Lender | None = None,
        looking: LookingLoop | None = None,
    ) -> None:
        self.address = address
        self._settle = settle
        self._lender = lender
        self._looking = looking
        self._memory: FrontendEnd | None = None
        self._pending: dict[int, Waiter] = {}
        self._streams: dict[int, Stream] = {}
        self._protocol: FrameProtocol[Heard] | None = None
        self._is_retired = False
        self._counting = Counting()

    def __repr__(self) -> str:
        return f"<EngineClient {self.address.device} {self.outstanding} outstanding>"

    @property
    def outstanding(self) -> int:
        return len(self._pending) + len(self._streams)

    @property
    def is_open(self) -> bool:
        return self._protocol is not None and self._protocol.is_open and not self._is_retired

    async def connect(self) -> None:
        """Raises OSError where the engine is not there."""
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, self.address.path)
            self._memory = self._lender.greet(sock, self._return) if self._lender is not None else None
            _, self._protocol = await loop.create_unix_connection(self._open, sock=sock)
        except BaseException:
            sock.close()
            raise

    async def infer(self, message: Infer, blobs: Blobs) -> Answer:
        """The engine's answer. Raises the ServiceError that the engine reports, or EngineGone where it died."""
        if self._protocol is None or not self._protocol.is_open:
            raise absent()
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._pending[message.id] = future
        self._ask(self._protocol, message, blobs)
        try:
            return await future
        except asyncio.CancelledError:
            self._protocol.send(Cancel(message.id))
            raise
        finally:
            self._pending.pop(message.id, None)
            del future  # whose error knows this frame: together they would keep the tensors for a while
            self._leave()

    def begin(
        self, number: int, frame: FrameTemplate, blobs: Blobs, waiter: Waiter, deadline: float | None
    ) -> Callable[[int], None]:
        """Send a request whose message is laid out; the waiter gets its answer, or what `infer` raises."""
        assert self._protocol is not None, "only those that are open are chosen"
        self._pending[number] = waiter
        if self._memory is not None and frame.body_size >= LENT_BYTES and (body := self._memory.lend(number, blobs)):
            self._protocol.send_buffers(frame.lent(number, body, deadline))
        else:
            self._protocol.send_buffers([frame.begin(number, deadline), *blobs])
        if self._looking is not None:
            self._looking.asked(self.outstanding)
        return self._withdraw

    def _ask(self, protocol: FrameProtocol[Heard], message: Infer, blobs: Blobs) -> None:
        """Send a request, what is large of it by way of shared memory."""
        body = self._memory.lend(message.id, blobs) if self._memory is not None else None
        protocol.send_buffers(frame(message, blobs) if body is None else lent_frame(message, body))
        if self._looking is not None:
            self._looking.asked(self.outstanding)

    def _return(self, message: Returned) -> None:
        """Of what the engine has lent, this is seen no more."""
        if self._protocol is not None:
            self._protocol.send(message)

    def _withdraw(self, number: int) -> None:
        """Its client has left."""
        if self._pending.pop(number, None) is not None and self._protocol is not None:
            self._protocol.send(Cancel(number))
        self._leave()

    async def stream(self, message: Infer, blobs: Blobs) -> AsyncGenerator[Answer]:
        """Every response, until the final one; whoever leaves before ends the generation. Raises as `infer` does."""
        if self._protocol is None or not self._protocol.is_open:
            raise absent()
        stream = self._streams[message.id] = Stream()
        self._ask(self._protocol, message, blobs)
        try:
            while not stream.is_over:
                yield await stream.next()
                if stream.untold >= TELL_EVERY:
                    self._protocol.send(Took(message.id, stream.told()))
        finally:
            del self._streams[message.id]
            if not stream.is_over:
                self._protocol.send(Cancel(message.id))
            self._leave()

    def count(self) -> asyncio.Future[None]:
        """Done when the engine has counted all that it has answered, or died."""
        assert self._protocol is not None, "only those that are open are asked"
        return self._counting.ask(self._protocol.send)

    def _open(self) -> FrameProtocol[Heard]:
        return FrameProtocol(
            Heard,  # type: ignore[arg-type]
            self._answered,
            self._lost,
            self._settled,
            self._memory.read if self._memory is not None else None,
        )

    def _settled(self) -> None:
        self._settle()
        if self._looking is not None:
            self._looking.answered(self.outstanding)

    def close(self) -> None:
        if self._protocol is not None:
            self._protocol.close()

    def retire(self) -> None:
        """Take no more; the connection is closed when what is under way has been answered."""
        self._is_retired = True
        self._leave()

    def _leave(self) -> None:
        if self._is_retired and not self.outstanding:
            self.close()

    def _answered(self, message: Heard, body: memoryview) -> None:
        if self._memory is not None and (not isinstance(message, Result) or message.is_final):
            self._memory.settled(message.id)
        stream = self._streams.get(message.id)
        if stream is not None:
            match message:
                case Result():
                    stream.put((message, split(body, message.sizes)))
                case Failure():
                    stream.put(from_inside(message.code, message.message, message.retry_after_s))
            return
        waiter = self._pending.pop(message.id, None)
        if waiter is None or waiter.done():
            if isinstance(message, Counted):
                self._counting.told(message)
            return  # else the client left before the answer came, or what it had lent was dropped
        match message:
            case Result():
                waiter.set_result((message, split(body, message.sizes)))
            case Failure():
                waiter.set_exception(from_inside(message.code, message.message, message.retry_after_s))
        self._leave()

    def _lost(self) -> None:
        if self._memory is not None:
            self._memory.lost()
        self._counting.lost()
        if not self.outstanding:
            return
        aftermath = look_back(self.address.device, blackbox.see_beside(self.address.path))
        lost, self._pending = self._pending, {}
        for waiter in lost.values():
            if not waiter.done():
                waiter.set_exception(EngineGone(aftermath))
        for stream in self._streams.values():
            stream.put(EngineGone(aftermath))


class EngineClients:
    """All engines of the service, as the last snapshot told."""

    def __init__(self, settle: Callable[[], None] = lambda: None) -> None:
        self.lender: Lender | None = None  # set before there are any
        self.looking: LookingLoop | None = None  # as well
        self._settle = settle
        self._clients: dict[EngineAddress, EngineClient] = {}
        self.resender = Resender(self._send)

    def __repr__(self) -> str:
        return f"<EngineClients {list(self._clients.values())!r}>"

    async def follow(self, addresses: Sequence[EngineAddress]) -> None:
        """Connect to engines that are new, let go of those that are no more."""
        for address in set(self._clients) - set(addresses):
            self._clients.pop(address).retire()
        for address in addresses:
            if address not in self._clients:
                client = EngineClient(address, self._settle, self.lender, self.looking)
                try:
                    await client.connect()
                except OSError as error:
                    log.warning("the engine on %s does not answer: %s", address.device, error)
                    continue  # it died again: the next snapshot brings its successor
                self._clients[address] = client

    async def infer(self, message: Infer, blobs: Blobs) -> Answer:
        """Run `message` on the engine with the fewest outstanding requests, or on that whose GPU has its tensors.

        Where there is none it waits, and where that dies it is run again, as `resend.py` says.
        """
        try:
            return await self._send(message, blobs)
        except NotLoaded as error:
            return await self.resender.infer(message, blobs, error)

    async def stream(self, message: Infer, blobs: Blobs) -> AsyncGenerator[Answer]:
        """The same for a model that answers in several responses."""
        while True:
            try:
                async with aclosing(self._choose(message).stream(message, blobs)) as answers:
                    async for answer in answers:
                        yield answer
                return
            except EngineGone:
                raise  # what it began is lost, told or not
            except NotLoaded as error:
                await self.resender.wait(message, error)

    async def count(self, limit_s: float) -> None:
        """Every engine has counted what it has answered; after so many seconds it is not waited for."""
        await all_counted([client.count() for client in self._clients.values() if client.is_open], limit_s)

    def begin(
        self, number: int, frame: FrameTemplate, blobs: Blobs, waiter: Waiter, deadline: float | None
    ) -> Callable[[int], None]:
        """The same for a message that is laid out: no coroutine. What it returns takes the request back, by its number.

        Raises NotLoaded where there is no engine; where that is what the waiter is told, `resend` goes on.
        """
        usable = [client for client in self._clients.values() if client.is_open]
        if not usable:
            raise absent()
        chosen = usable[0] if len(usable) == 1 else min(usable, key=lambda client: client.outstanding)
        return chosen.begin(number, frame, blobs, waiter, deadline)

    async def resend(self, message: Infer, blobs: Blobs, error: NotLoaded) -> Answer:
        """Run it on another engine, after `error`."""
        return await self.resender.infer(message, blobs, error)

    async def _send(self, message: Infer, blobs: Blobs) -> Answer:
        if message.sequence is None:
            return await self._choose(message).infer(message, blobs)
        return await follow_sequence(self._usable(message), message, blobs)

    def _choose(self, message: Infer) -> EngineClient:
        return min(self._usable(message), key=lambda client: client.outstanding)

    def _usable(self, message: Infer) -> list[EngineClient]:
        usable = [client for client in self._clients.values() if client.is_open]
        if message.places is not None:
            usable = [client for client in usable if client.address.device == message.places.device]
        if not usable:
            raise absent()
        return usable
