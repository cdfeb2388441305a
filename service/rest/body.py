"""The body of an HTTP request: read within the limits, unpacked within the limits; and answers packed as asked.

Knows ASGI's receive channel and zlib, nothing of models. `infer.py` reads and answers through it.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from service.errors import Cancelled, InvalidInput, TooLarge
from service.rest.errors import UnknownEncoding
from service.tensors import Buffer

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

AUTOMATIC_HEADER = 32 + zlib.MAX_WBITS  # zlib recognises gzip and deflate (zlib) framing by itself
FRAMING = {b"gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}
LEVEL = 1  # higher levels take several times as long for a few percent
LONG_BYTES = 128 * 1024  # takes zlib more than a millisecond: done in a thread, beside the event loop
REFUSED = re.compile(rb"q=0(\.0*)?")  # as HTTP says "not this one"
WORTH_BYTES = 1400  # what fits one packet is not made faster by compression


async def read_body(receive: Receive, headers: dict[bytes, bytes], limit: int) -> bytes | bytearray:
    """The whole body as it was sent. Raises TooLarge, before anything is buffered where the length is announced."""
    announced = headers.get(b"content-length", b"0")
    if announced.isdigit() and (len(announced) > 18 or int(announced) > limit):
        raise too_large(announced.decode(), limit)
    message = await receive()
    body = message.get("body", b"")
    if message.get("more_body"):
        return await _read_rest(receive, body, limit)
    if message["type"] == "http.disconnect":
        raise Cancelled("the client left before its request was read")
    return bytes(body)


def limit_body(receive: Receive, limit: int) -> Receive:
    """`receive` for those who read by themselves: it raises TooLarge when more than `limit` bytes have come."""
    size = 0

    async def limited() -> MutableMapping[str, Any]:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > limit:
            raise too_large(size, limit)
        return message

    return limited


async def _read_rest(receive: Receive, first: bytes, limit: int) -> bytearray:
    body, more = bytearray(first), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Cancelled("the client left before its request was read")
        body += message.get("body", b"")
        if len(body) > limit:
            raise too_large(len(body), limit)
        more = message.get("more_body", False)
    return body


async def unpack(body: Buffer, headers: dict[bytes, bytes], limit: int) -> Buffer:
    """The body without its Content-Encoding, never more than `limit` bytes."""
    encoding = headers.get(b"content-encoding", b"").strip().lower()
    if encoding in (b"identity", b""):
        return body
    if len(body) < LONG_BYTES // 8:  # even if it grows manyfold
        return decompress(body, encoding, limit)
    return await asyncio.to_thread(decompress, body, encoding, limit)


def decompress(body: Buffer, encoding: bytes, limit: int) -> bytes:
    """Undo gzip or deflate, never making more than `limit` bytes."""
    if encoding not in FRAMING:
        name = encoding.decode("latin-1")[:40]
        raise UnknownEncoding(f"Content-Encoding '{name}' is unknown: use gzip, deflate or none")
    inflater = zlib.decompressobj(AUTOMATIC_HEADER)
    try:
        plain = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise InvalidInput(f"the body is not valid {encoding.decode()} data: {error}") from error
    if len(plain) > limit:
        raise too_large(len(plain), limit)
    if not inflater.eof:
        raise InvalidInput(f"the {encoding.decode()} data of the body ends too early")
    if inflater.unused_data:
        raise InvalidInput(
            f"{len(inflater.unused_data)} bytes follow the {encoding.decode()} data of the body: send one stream alone"
        )
    return plain


def choose_encoding(accepted: bytes, size: int, is_text: bool) -> bytes | None:
    """How to pack an answer of `size` bytes for this Accept-Encoding; None: as it is.

    One encoding alone is a wish, as Triton's clients have it, and is met. Libraries send a list by themselves: for them
    text is packed from a packet's size on, and tensors are not, since numbers take longer to pack than to send.
    """
    names = []
    for part in accepted.lower().split(b","):
        name, _, parameters = part.partition(b";")
        if not REFUSED.fullmatch(parameters.strip()):
            names.append(name.strip())
    known = [name for name in names if name in FRAMING]
    if not known or not size:
        return None
    is_wish = len(names) == 1
    return known[0] if is_wish or (is_text and size >= WORTH_BYTES) else None


async def compress(blobs: Sequence[Buffer], encoding: bytes) -> list[Buffer]:
    """The blobs as one stream of `encoding`."""
    if sum(map(len, blobs)) < LONG_BYTES:
        return [_deflate(blobs, encoding)]
    return [await asyncio.to_thread(_deflate, blobs, encoding)]


def _deflate(blobs: Sequence[Buffer], encoding: bytes) -> bytes:
    deflater = zlib.compressobj(LEVEL, zlib.DEFLATED, FRAMING[encoding])
    return b"".join([*map(deflater.compress, blobs), deflater.flush()])


def too_large(size: int | str, limit: int) -> TooLarge:
    """The refusal of a body of `size` bytes or more."""
    return TooLarge(f"the body has {size} bytes or more, this server takes {limit} (setting max_body_bytes)")
