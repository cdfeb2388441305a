"""The gRPC slot against grpcio's own server, over real sockets on this machine; HTTP/2's pure parts."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import grpc
import grpc.aio
import msgspec
import pytest

from service.bench import http2
from service.bench.messages import Target
from service.bench.outcomes import DISCONNECTED, GRPC, MALFORMED, OK, TIMED_OUT
from service.bench.rpc_slot import RpcSlot, create_slots
from service.bench.rpc_wire import METHOD, Wire
from service.bench.slots import Slot

LARGE = 3_000_000  # beyond every window and frame
HANGS = b"hang"
Scene = Callable[[Target], Awaitable[None]]


class Heard:
    """The events of slots, in order."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[int | str] = asyncio.Queue()

    def answered(self, slot: Slot, outcome: int) -> None:
        self.queue.put_nowait(outcome)

    def opened(self, slot: Slot) -> None:
        self.queue.put_nowait("opened")

    async def next(self) -> int | str:
        return await asyncio.wait_for(self.queue.get(), 10)


LEFT_S: list[float | None] = []  # of the calls' deadlines, as they came


async def answer(request: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
    LEFT_S.append(context.time_remaining())
    if request == HANGS:
        await asyncio.Event().wait()
    if request.startswith(b"refuse"):
        await context.abort(grpc.StatusCode.UNAVAILABLE, "x" * 200)
    return request[::-1]


class Calls(grpc.GenericRpcHandler):
    def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        return grpc.unary_unary_rpc_method_handler(answer) if details.method == METHOD else None  # type: ignore[arg-type]


def with_server(payload: bytes, scene: Scene) -> None:
    async def run() -> None:
        server = grpc.aio.server(
            options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        )
        server.add_generic_rpc_handlers((Calls(),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            await scene(Target("grpc", "127.0.0.1", port, payload, 5.0))
        finally:
            await server.stop(None)

    asyncio.run(run())


async def opened(target: Target, count: int) -> tuple[list[RpcSlot], Heard]:
    heard = Heard()
    slots = create_slots(target, count, heard)
    await asyncio.gather(*(slot.open() for slot in slots))
    return slots, heard


async def close(slots: list[RpcSlot]) -> None:
    for slot in slots:
        await slot.close()


def test_a_deadline_reaches_the_server() -> None:
    async def scene(target: Target) -> None:
        for deadline_s in (0.0, 20.0):
            slots, heard = await opened(msgspec.structs.replace(target, deadline_s=deadline_s), 1)
            slots[0].send()
            assert await heard.next() == OK
            await close(slots)

    with_server(b"small", scene)
    unbounded, bounded = LEFT_S[-2:]
    assert unbounded is None
    assert bounded is not None
    assert 10 < bounded <= 20.5


@pytest.mark.parametrize("payload", [b"", b"small", bytes(LARGE)], ids=["empty", "small", "large"])
def test_calls_side_by_side_are_all_answered(payload: bytes) -> None:
    async def scene(target: Target) -> None:
        slots, heard = await opened(target, 20)
        for _ in range(3):
            for slot in slots:
                slot.send()
            assert [await heard.next() for _ in slots] == [OK] * 20
        await close(slots)

    with_server(payload, scene)


def test_a_refusal_is_told_by_its_status() -> None:
    async def scene(target: Target) -> None:
        slots, heard = await opened(target, 1)
        for _ in range(2):
            slots[0].send()
            assert await heard.next() == GRPC + 14
        await close(slots)

    with_server(b"refuse", scene)


def test_a_call_that_is_given_up_leaves_the_connection_usable() -> None:
    async def scene(target: Target) -> None:
        slots, heard = await opened(target, 9)  # the first and the last share a connection
        for slot in (slots[0], slots[8]):
            slot.send()
            slot.abort(TIMED_OUT)
            assert await heard.next() == TIMED_OUT
        slots[0].send()
        assert slots[0].is_busy
        await close(slots)

    with_server(HANGS, scene)


def test_nobody_there_is_an_error() -> None:
    async def scene() -> None:
        (slot,) = create_slots(Target("grpc", "127.0.0.1", 1, b"", 1.0), 1, Heard())
        with pytest.raises(OSError, match="1"):
            await slot.open()

    asyncio.run(scene())


class FakePeer(asyncio.Protocol):
    """Greets, then says what its script has for each burst of bytes that comes."""

    def __init__(self, script: Iterator[bytes]) -> None:
        self._script = script

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.gone = asyncio.get_running_loop().create_future()
        transport.write(http2.frame(http2.SETTINGS, 0, 0))

    def data_received(self, data: bytes) -> None:
        if http2.frame(http2.HEADERS, http2.END_HEADERS, 1)[3:] in data:
            said = next(self._script)
            self.transport.write(said)
            if not said:
                self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.gone.set_result(None)


def trailers(stream: int, *, status: str = "0") -> bytes:
    block = b"\x88\x00\x0bgrpc-status" + bytes([len(status)]) + status.encode()
    return http2.frame(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, stream, block)


def message(stream: int, body: bytes, flags: int = 0) -> bytes:
    return http2.frame(http2.DATA, flags, stream, http2.GRPC_PREFIX.pack(0, len(body)) + body)


LEAVING = http2.frame(http2.GO_AWAY, 0, 0, bytes([0, 0, 0, 1, 0, 0, 0, 0]))  # once call 1 is answered


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        (message(1, b"ab") + trailers(1), OK),
        (message(1, b"ab")[:-1] + b"b" + trailers(1), OK),
        (http2.frame(http2.DATA, 0, 1, http2.GRPC_PREFIX.pack(0, 9) + b"short") + trailers(1), MALFORMED),
        (trailers(1), MALFORMED),  # success without a message
        (message(1, b"ab", http2.END_STREAM), MALFORMED),
        (trailers(1, status="13"), GRPC + 13),
        (http2.frame(http2.PING, 0, 0, b"12345678") + message(1, b"") + trailers(1), OK),
        (LEAVING + message(1, b"") + trailers(1), OK),
        (http2.frame(http2.GO_AWAY, 0, 0, bytes(8)), DISCONNECTED),
        (b"", DISCONNECTED),
    ],
)
def test_answers_of_every_kind(said: bytes, outcome: int) -> None:
    async def scene() -> None:
        peers: list[FakePeer] = []

        def serve() -> FakePeer:
            peers.append(FakePeer(iter([said])))
            return peers[-1]

        server = await asyncio.get_running_loop().create_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            slots, heard = await opened(Target("grpc", "127.0.0.1", port, b"x", 5.0), 1)
            slots[0].send()
            expected = {outcome, "opened"} if outcome == DISCONNECTED or LEAVING in said else {outcome}
            assert {await heard.next() for _ in expected} == expected
            await close(slots)
        for peer in peers:
            peer.transport.abort()
            await peer.gone

    asyncio.run(scene())


def test_a_status_is_found_in_every_form_it_is_written_in() -> None:
    coded = next(text for is_coded, text in http2.STATUS_NAMES if is_coded)
    assert coded == bytes.fromhex("9acac8b21234da8f")  # as nghttp2 and Go write it
    plain = b"\x0bgrpc-status"
    for block, status in {
        b"\x88\x00" + plain + b"\x010": 0,
        b"\x20\x40" + plain + b"\x0214": 14,
        b"\x10\x88" + coded + b"\x017": 7,
        b"\x00" + plain + b"\x81\x07": 0,
        b"\x0f\x10\x10application/grpc\x00" + plain + b"\x012": 2,
        b"\x88": None,
        b"\x00" + plain: None,
        b"\x00" + plain + b"\x0599999": None,
        b"\x00\x7f\xff": None,
        b"": None,
    }.items():
        assert http2.find_status(block) == status


def test_padding_and_priority_are_left_out() -> None:
    body = b"\x02" + bytes(5) + b"block" + bytes(2)
    assert http2.header_block(body, http2.PADDED | http2.PRIORITY) == b"block"
    assert http2.header_block(b"block", 0) == b"block"


def test_a_wire_reads_frames_however_they_arrive() -> None:
    async def scene() -> None:
        told: list[int] = []

        class Call:
            window = sent = received = announced = 0

            def ended(self, outcome: int) -> None:
                told.append(outcome)

        class Owner:
            def lost(self, wire: Wire) -> None: ...

        class Mute(asyncio.Transport):
            def write(self, data: object) -> None: ...

        wire = Wire(Owner(), "h:1", b"x")
        wire.connection_made(Mute())
        wire.begin(Call())
        for byte in http2.frame(http2.SETTINGS, 0, 0) + message(1, b"abc") + trailers(1):
            wire.data_received(bytes([byte]))
        assert told == [OK]

    asyncio.run(scene())
