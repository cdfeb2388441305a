"""Responses as server-sent events, each as soon as it is there: `data: {...}`, and `data: {"error": ...}` at a failure.

Knows ASGI, no models. `infer.py` gives it the responses and says how each is written.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import aclosing
from typing import Any

from service.errors import ServiceError
from service.rest.body import Receive
from service.rest.errors import Headers, error_body
from service.tensors import InferResponse

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# No proxy shall gather what is meant to be read as it comes.
HEADERS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


async def send_events(
    responses: AsyncGenerator[InferResponse], encode: Callable[[InferResponse], bytes], receive: Receive, send: Send
) -> ServiceError | None:
    """Send all that comes; a client that leaves ends it. The error that came before anything was sent is returned."""
    sending = asyncio.create_task(_send_all(responses, encode, send))
    leaving = asyncio.create_task(_left(receive))
    try:
        await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
        return sending.result() if sending.done() else None
    finally:
        for task in (sending, leaving):
            task.cancel()
        await asyncio.gather(sending, leaving, return_exceptions=True)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send_all(
    responses: AsyncGenerator[InferResponse], encode: Callable[[InferResponse], bytes], send: Send
) -> ServiceError | None:
    has_begun = False

    async def event(data: bytes) -> None:
        nonlocal has_begun
        if not has_begun:
            await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            has_begun = True
        await send({"type": "http.response.body", "body": b"data: " + data + b"\n\n", "more_body": True})

    async with aclosing(responses):
        try:
            async for response in responses:
                if response.outputs:
                    await event(encode(response))
        except ServiceError as error:
            if not has_begun:
                return error
            await event(error_body(str(error)))
    if not has_begun:
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": b""})
    return None
