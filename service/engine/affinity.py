"""Which engine a sequence belongs to: the same for every frontend, without asking any of them.

Pure. `client.py` asks it.
"""

from __future__ import annotations

import hashlib

import msgspec

from service.engine.messages import Infer


def weight(message: Infer, device: str) -> bytes:
    """A sequence's own device is that with the largest; it changes only where that one goes or comes."""
    assert message.sequence is not None, "only sequences have a place"
    key = (message.model, message.version, message.sequence.id, device)
    return hashlib.blake2b(msgspec.msgpack.encode(key), digest_size=8).digest()
