"""Which engine a sequence belongs to: the same for every frontend, without asking any of them.

Sends nothing itself. `client.py` asks it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from service.engine.messages import Infer
from service.engine.responses import Answer
from service.errors import UnknownSequence

if TYPE_CHECKING:
    from service.engine.client import Blobs, EngineClient


def weight(message: Infer, device: str) -> bytes:
    """A sequence's own device is that with the largest; it changes only where that one goes or comes."""
    assert message.sequence is not None, "only sequences have a place"
    key = (message.model, message.version, message.sequence.id, device)
    return hashlib.blake2b(msgspec.msgpack.encode(key), digest_size=8).digest()


async def follow_sequence(usable: Sequence[EngineClient], message: Infer, blobs: Blobs) -> Answer:
    """Run `message` where its sequence lives: on the same engine, whichever frontend asks.

    One that began while its engine was away lives on the next, so each is asked before it is unknown.
    """
    unknown: list[UnknownSequence] = []
    for client in sorted(usable, key=lambda client: weight(message, client.address.device), reverse=True):
        try:
            return await client.infer(message, blobs)
        except UnknownSequence as error:
            unknown.append(error)
    raise unknown[0]
