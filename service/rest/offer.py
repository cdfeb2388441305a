"""Java's client offers HTTP/2 with each first request; the parser would take the body for the other protocol's bytes.

Pure. `protocol.py` asks it.
"""

from __future__ import annotations

import re

OFFER = re.compile(rb"\r\nupgrade:[ \t]*h2c(?=\r\n)", re.IGNORECASE)
OFFER_BYTES = 8192  # of a head are searched for it


def has_offer(data: bytes) -> bool:
    """Whether a head may have it."""
    return data.find(b"h2c", 0, OFFER_BYTES) >= 0


def without_offer(data: bytes) -> bytes:
    """The head without its offer to speak HTTP/2, which is declined by answering as if it were not there."""
    head, blank, rest = data.partition(b"\r\n\r\n")
    return OFFER.sub(b"", head + b"\r\n").removesuffix(b"\r\n") + blank + rest
