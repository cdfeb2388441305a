"""What carries one request at a time: the surface that a pacer drives, whatever the protocol.

Knows no protocol: `rest_slot.py` and `rpc_slot.py` are the two kinds.
"""

from __future__ import annotations

from typing import Protocol

RETRY_S = 0.05  # between attempts to connect again, so that a dead server is not stormed


class Events(Protocol):
    """What a slot tells its pacer."""

    def answered(self, slot: Slot, outcome: int) -> None:
        """The request of `slot` ended: exactly once for every `send`."""

    def opened(self, slot: Slot) -> None:
        """`slot` can send again, after it lost its connection."""


class Slot(Protocol):
    """`begun_ns` and `lag_ns` belong to the pacer."""

    begun_ns: int
    lag_ns: int
    events: Events
    is_open: bool
    is_busy: bool

    async def open(self) -> None:
        """Connect. Raises OSError where nobody listens."""

    def send(self) -> None:
        """Write the request. Only where `is_open` and not `is_busy`."""

    def abort(self, outcome: int) -> None:
        """End the request under way as `outcome`."""

    async def close(self) -> None: ...
