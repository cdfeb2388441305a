"""Memory that the C library keeps for itself after a peak, given back to the system.

Knows nothing of what it was for. glibc returns by itself only what is free at the end of its heap: a message that lives
there keeps all before it resident. `frontend.py` has it given back now and then.
"""

from __future__ import annotations

import asyncio
import ctypes

# It takes a millisecond at most (measured with 11 MB to give back), also under load; what is taken again must be
# zeroed again, so not oftener.
EVERY_S = 10.0


def give_back() -> bool:
    """Return the free pages amid the heap. False where the C library is none that can: musl keeps little."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:
        return False
    trim(0)
    return True


async def give_back_now_and_then() -> None:
    """Until cancelled, or until it is known that it cannot be."""
    while True:
        await asyncio.sleep(EVERY_S)
        if not give_back():
            return
