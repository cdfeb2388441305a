"""The least that a server under uvicorn can do: an ASGI callable that reads the body and answers the same to all.

python -m uvicorn benchmarks.floors.asgi:app --port 8000 --no-access-log
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]

ANSWER = b'{"outputs": []}'.ljust(175)  # as large as the MLP's
HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(ANSWER)).encode())]


async def app(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """One request."""
    assert scope["type"] == "http", "started without a lifespan"
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": ANSWER})
