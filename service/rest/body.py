"""The body of an HTTP request: read within the limits, unpacked within the limits.

Knows ASGI's receive channel, nothing of models. `infer.py` reads through it.
"""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from service.errors import Cancelled, InvalidInput, TooLarge

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

AUTOMATIC_HEADER = 32 + zlib.MAX_WBITS  # zlib recognises gzip and deflate (zlib) framing by itself


async def read_body(receive: Receive, headers: dict[bytes, bytes], limit: int) -> bytes:
    """The whole body as it was sent. Raises TooLarge, before anything is buffered where the length is announced."""
    announced = headers.get(b"content-length", b"0")
    if announced.isdigit() and int(announced) > limit:
        raise too_large(int(announced), limit)
    message = await receive()
    body = message.get("body", b"")
    if message.get("more_body"):
        body = await _read_rest(receive, body, limit)
    elif message["type"] == "http.disconnect":
        raise Cancelled("the client left before its request was read")
    return bytes(body)


def unpack(body: bytes | bytearray, headers: dict[bytes, bytes], limit: int) -> bytes | bytearray:
    """The body without its Content-Encoding, never more than `limit` bytes."""
    encoding = headers.get(b"content-encoding")
    if encoding is None or encoding.lower() in (b"identity", b""):
        return body
    return decompress(body, encoding.lower(), limit)


async def _read_rest(receive: Receive, first: bytes, limit: int) -> bytes:
    chunks, size, more = [first], len(first), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Cancelled("the client left before its request was read")
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > limit:
            raise too_large(size, limit)
        more = message.get("more_body", False)
    return b"".join(chunks)


def decompress(body: bytes | bytearray, encoding: bytes, limit: int) -> bytes:
    """Undo gzip or deflate, never making more than `limit` bytes."""
    if encoding not in (b"gzip", b"deflate"):
        name = encoding.decode("latin-1")[:40]
        raise InvalidInput(f"Content-Encoding '{name}' is unknown: use gzip, deflate or none")
    inflater = zlib.decompressobj(AUTOMATIC_HEADER)
    try:
        plain = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise InvalidInput(f"the body is not valid {encoding.decode()} data: {error}") from error
    if len(plain) > limit:
        raise too_large(len(plain), limit)
    if not inflater.eof:
        raise InvalidInput(f"the {encoding.decode()} data of the body ends too early")
    return plain


def too_large(size: int, limit: int) -> TooLarge:
    """The refusal of a body of `size` bytes or more."""
    return TooLarge(f"the body has {size} bytes or more, this server takes {limit} (setting max_body_bytes)")
