"""What the ingress serves: it asks a replica of each model what it has, at first often, then now and then.

Knows no protocol. `ingress.py` lets it run; the plane reads the catalog that comes of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from service.ray_serve import wire
from service.repository.catalog import Catalog, Entry, State

log = logging.getLogger("torchere.ray")

ASK_AT_FIRST_S = 0.25
ASK_EVERY_S = 5.0  # what changes is only which artifact serves
ASK_TIMEOUT_S = 5.0  # a question waits behind requests where a model has as many as it may
WAITING = "its deployment has not answered yet: it compiles, or waits for a place in the cluster"


class Deployments:
    """`handles` by model. `followed` is called with a catalog whenever another one has come of asking."""

    def __init__(self, handles: Mapping[str, Any], followed: Callable[[Catalog], None]) -> None:
        self._entries_of = {name: handle.entries for name, handle in handles.items()}
        self._followed = followed
        self._entries: dict[str, tuple[Entry, ...]] = {
            name: (Entry(name, "", State.LOADING, WAITING),) for name in handles
        }

    def __repr__(self) -> str:
        return f"<Deployments {', '.join(self._entries)}>"

    def catalog(self) -> Catalog:
        """All versions of all models, as their replicas last said."""
        return Catalog(tuple(entry for entries in self._entries.values() for entry in entries))

    async def follow(self) -> None:
        """Ask each model for itself, so that one that does not answer keeps nobody waiting; never returns."""
        self._followed(self.catalog())
        async with asyncio.TaskGroup() as group:
            for name in self._entries_of:
                group.create_task(self._follow_one(name))

    async def _follow_one(self, name: str) -> None:
        while True:
            await self.ask(name)
            is_known = all(entry.version for entry in self._entries[name])
            await asyncio.sleep(ASK_EVERY_S if is_known else ASK_AT_FIRST_S)

    async def ask(self, name: str) -> None:
        """Ask once. Where there is no answer, the last one holds: requests wait for a replica, or are refused."""
        response: Any = None
        try:
            response = self._entries_of[name].remote()
            async with asyncio.timeout(ASK_TIMEOUT_S):
                entries = wire.unpack_entries(await response)
        except TimeoutError:
            if response is not None:
                response.cancel()
            return
        except Exception as error:  # noqa: BLE001 - whatever Ray raises, it is asked again
            log.info("model %s: no replica says what it serves: %s", name, type(error).__name__)
            return
        if entries != self._entries[name]:
            self._entries[name] = entries
            self._followed(self.catalog())
