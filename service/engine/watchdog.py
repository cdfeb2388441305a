"""In the parent: looks at the black box of each engine, and ends those that hang.

`watch.py` decides, `kill(slot)` ends the process; what died is started again as ever (`children.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path

from service.engine import blackbox
from service.engine.watch import Watch

log = logging.getLogger("torchere.parent")

LOOK_EVERY_S = 0.25
KEPT_BOXES = 3  # of one slot: frontends look into a box at once when its engine dies


class Watchdog:
    """`freeze_s` is how long an engine may show no sign of life; 0: as long as it likes."""

    def __init__(self, freeze_s: float, kill: Callable[[int], None]) -> None:
        self._freeze_s = freeze_s
        self._kill = kill
        self._watched: dict[int, tuple[Path, Watch]] = {}
        self._boxes: dict[int, list[Path]] = {}

    def __repr__(self) -> str:
        return f"<Watchdog of {len(self._watched)} engines>"

    def began(self, slot: int, socket: Path) -> None:
        """A new engine is about to start, and will listen there: make its box, and watch it."""
        box, boxes = blackbox.beside(socket), self._boxes.setdefault(slot, [])
        blackbox.create(box)
        self._watched[slot] = (box, Watch(self._freeze_s))
        boxes.append(box)
        while len(boxes) > KEPT_BOXES:
            boxes.pop(0).unlink(missing_ok=True)

    def ended(self, slot: int) -> None:
        """The process has gone; its box stays for those who want to know what ran."""
        self._watched.pop(slot, None)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            for slot in list(self._watched):
                self.look(slot, time.monotonic())

    def look(self, slot: int, now_s: float) -> None:
        """End the engine if it hangs."""
        box, watch = self._watched[slot]
        with contextlib.suppress(OSError):
            hang = watch.look(now_s, blackbox.read(box))
            if hang is not None:
                log.critical("the engine in slot %d hangs: %s; ending it", slot, hang.reason)
                blackbox.condemn(box, hang.verdict)
                self.ended(slot)
                self._kill(slot)
