"""A frontend's way to ask its parent for what concerns the whole service.

Knows no protocol and none of the changes themselves: `extensions.py` asks, `registrar.py` carries out and answers.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Protocol

from service.engine.messages import Answer, Ask, Change
from service.errors import Unavailable, from_inside


class Parent(Protocol):
    """Whoever can change what concerns the whole service."""

    async def ask(self, change: Change) -> None:
        """Returns when every frontend goes by the change. Raises the ServiceError that says why not."""
        ...


class ParentLink:
    """`await parent.ask(change)`. `send(ask)` goes to the parent; `answered` and `lost` are told what comes of it."""

    def __init__(self, send: Callable[[Ask], None]) -> None:
        self._send = send
        self._ids = itertools.count(1)
        self._pending: dict[int, asyncio.Future[None]] = {}

    def __repr__(self) -> str:
        return f"<ParentLink {len(self._pending)} asked>"

    async def ask(self, change: Change) -> None:
        number = next(self._ids)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending[number] = future
        self._send(Ask(number, change))
        try:
            await future
        finally:
            self._pending.pop(number, None)

    def answered(self, answer: Answer) -> None:
        """The parent has done what was asked, or not."""
        future = self._pending.get(answer.id)
        if future is None or future.done():
            return  # the client left meanwhile
        if answer.code:
            future.set_exception(from_inside(answer.code, answer.message))
        else:
            future.set_result(None)

    def lost(self) -> None:
        """The parent is gone."""
        for future in self._pending.values():
            if not future.done():
                future.set_exception(Unavailable("the server is shutting down: send the request to another replica"))
