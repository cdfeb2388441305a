"""W3C trace context: the headers traceparent and tracestate, read and written.

    parse_traceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")

Pure. A header that is not valid is as none at all, as the recommendation has it. `watching.py` asks.
"""

from __future__ import annotations

import re

import msgspec

TRACEPARENT, TRACESTATE = "traceparent", "tracestate"
FORMAT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
LEAST_STATE = 512  # characters of a tracestate that everybody must pass on; more is left out
STATE = re.compile(r"[\x20-\x7e]*")


class TraceContext(msgspec.Struct, frozen=True):
    """One span of a trace, as its children know it."""

    trace_id: int
    span_id: int
    is_sampled: bool
    state: str = ""

    @property
    def trace_text(self) -> str:
        """The trace id as everybody writes it."""
        return f"{self.trace_id:032x}"

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{int(self.is_sampled):02x}"


def parse_traceparent(text: str, state: str = "") -> TraceContext | None:
    """The caller's span, or None where the header is missing or not valid."""
    found = FORMAT.fullmatch(text.strip())
    if found is None:
        return None
    version, trace, span, flags, more = found.groups()
    trace_id, span_id = int(trace, 16), int(span, 16)
    if version == "ff" or (version == "00" and more) or not trace_id or not span_id:
        return None
    is_kept = len(state) <= LEAST_STATE and STATE.fullmatch(state)
    return TraceContext(trace_id, span_id, bool(int(flags, 16) & 1), state if is_kept else "")
