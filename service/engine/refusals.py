"""What a client is told whose request the queue does not take, and when to come again.

Pure. `batcher.py` decides what is refused.
"""

from __future__ import annotations

from service.errors import QueueFull

MAX_RETRY_S = 60.0  # a client that is told of more than a minute had better ask somebody else


def refusal(sentence: str, seconds: float | None) -> QueueFull:
    """To be raised; `seconds` is in how many there is room again, where that is known."""
    error = QueueFull(sentence)
    if seconds is not None:
        error.retry_after_s = min(seconds, MAX_RETRY_S)
    return error


def milliseconds(seconds: float) -> str:
    """In words."""
    return f"{1000 * max(0.0, seconds):.0f} ms"
