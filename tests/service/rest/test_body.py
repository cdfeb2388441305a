"""Bodies are read and unpacked within the limits."""

import asyncio
import gzip
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from service.errors import Cancelled, InvalidInput, TooLarge
from service.rest.body import decompress, read_body, unpack


def read(*messages: dict[str, Any], limit: int = 100, **headers: str) -> bytes:
    queue: Iterator[dict[str, Any]] = iter(messages)
    asked = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}

    async def receive() -> dict[str, Any]:
        return next(queue)

    async def run() -> bytes:
        return bytes(await unpack(await read_body(receive, asked, limit), asked, limit))

    return asyncio.run(run())


def part(body: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def test_one_part_or_many() -> None:
    assert read(part(b"abc")) == b"abc"
    assert read(part(b"a", True), part(b"b", True), part(b"c")) == b"abc"


def test_an_announced_length_over_the_limit_is_refused_before_anything_is_read() -> None:
    with pytest.raises(TooLarge, match="101 bytes or more, this server takes 100"):
        read(content_length="101")


def test_an_unannounced_body_is_refused_as_soon_as_it_grows_too_large() -> None:
    with pytest.raises(TooLarge):
        read(part(b"x" * 60, True), part(b"x" * 60, True))


def test_a_client_that_leaves_is_noticed() -> None:
    with pytest.raises(Cancelled):
        read({"type": "http.disconnect"})
    with pytest.raises(Cancelled):
        read(part(b"a", True), {"type": "http.disconnect"})


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_compressed_bodies_are_unpacked(encoding: str, pack: Any) -> None:
    assert read(part(pack(b"hello")), content_encoding=encoding) == b"hello"


def test_a_bomb_is_refused_without_being_unpacked() -> None:
    with pytest.raises(TooLarge):
        decompress(zlib.compress(bytes(10_000_000)), b"deflate", limit=1000)


@pytest.mark.parametrize(
    ("body", "encoding", "sentence"),
    [
        (b"x", b"br", "'br' is unknown"),
        (b"no", b"gzip", "not valid gzip"),
        (gzip.compress(b"hello", mtime=0)[:-4], b"gzip", "ends too early"),
    ],
)
def test_what_cannot_be_unpacked_is_refused(body: bytes, encoding: bytes, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        decompress(body, encoding, limit=1000)
