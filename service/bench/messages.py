"""What crosses between the parent and its client processes.

    parent                     client process
    Target, once
    Prepare(level)        →
                          ←    Prepared, once its connections are open
    Go(begin_ns)          →
                          ←    Report, every TICK_S
    Stop                  →
                          ←    Report(is_last), once nothing is under way

Frames on the client's stdin and stdout: four bytes of length, then msgpack.
"""

from __future__ import annotations

import asyncio
from typing import Literal

import msgspec

from service.bench.levels import Level
from service.bench.records import Batch

TICK_S = 0.2  # often enough for a progress line, seldom enough to cost nothing
LENGTH_BYTES = 4

Protocol = Literal["http", "http-json", "grpc"]


class Target(msgspec.Struct, frozen=True, tag=True):
    """Where to send what. `payload` is all that is written: an HTTP request, or the message of a gRPC call.

    `deadline_s` is what a gRPC call tells of its time, 0: nothing.
    """

    protocol: Protocol
    host: str
    port: int
    payload: bytes
    timeout_s: float
    deadline_s: float = 0.0


class Prepare(msgspec.Struct, frozen=True, tag=True):
    level: Level
    seed: int


class Go(msgspec.Struct, frozen=True, tag=True):
    begin_ns: int


class Stop(msgspec.Struct, frozen=True, tag=True):
    pass


class Prepared(msgspec.Struct, frozen=True, tag=True):
    """`problem` says why connections could not be opened."""

    problem: str = ""


class Report(msgspec.Struct, frozen=True, tag=True):
    """What happened since the last one. Every request that was meant to begin before `watermark_ns` is accounted for;
    `cpu_ns` is all that this process has used by `now_ns`."""

    now_ns: int
    watermark_ns: int
    cpu_ns: int
    batch: Batch
    is_last: bool = False


Order = Target | Prepare | Go | Stop
Answer = Prepared | Report


def frame(message: Order | Answer) -> bytes:
    body = msgspec.msgpack.encode(message)
    return len(body).to_bytes(LENGTH_BYTES, "little") + body


async def next_order(reader: asyncio.StreamReader) -> Order | None:
    """None where the parent has gone."""
    body = await _next_body(reader)
    return None if body is None else msgspec.msgpack.decode(body, type=Order)


async def next_answer(reader: asyncio.StreamReader) -> Answer | None:
    """None where the client process has gone."""
    body = await _next_body(reader)
    return None if body is None else msgspec.msgpack.decode(body, type=Answer)


async def _next_body(reader: asyncio.StreamReader) -> bytes | None:
    try:
        length = await reader.readexactly(LENGTH_BYTES)
        return await reader.readexactly(int.from_bytes(length, "little"))
    except asyncio.IncompleteReadError:
        return None
