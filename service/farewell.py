"""The end of a service: its children leave in order. Says whether all that was accepted could be finished.

Knows no signals: `serve.py` decides when.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from service.engine.children import Child
from service.settings import Settings

log = logging.getLogger("torchere.parent")

LEAVE_MARGIN_S = 5.0  # beyond the drain timeout, for closing sockets and leaving the interpreter
CUT_SHORT_EXIT = 1


async def leave(
    frontends: Sequence[Child], engines: Sequence[Child], sidecars: Sequence[Child], settings: Settings
) -> int:
    """Once it is told that the service is not ready: go on answering for `drain_delay_s`, then finish, and close.

    Frontends first: they refuse new work and wait for the engines' answers; then engines, last the metrics. The exit
    code of the service: 0, or CUT_SHORT_EXIT where somebody had to be cut short.
    """
    if settings.drain_delay_s:
        log.info("shutting down in %g s: it is not ready any more", settings.drain_delay_s)
        await asyncio.sleep(settings.drain_delay_s)
    log.info("shutting down: finishing what was accepted")
    timeout_s = settings.drain_timeout_s + LEAVE_MARGIN_S
    left = await asyncio.gather(*(child.leave(timeout_s) for child in frontends))
    left += await asyncio.gather(*(child.leave(timeout_s) for child in engines))
    await asyncio.gather(*(child.leave(LEAVE_MARGIN_S) for child in sidecars))
    return 0 if all(left) else CUT_SHORT_EXIT
