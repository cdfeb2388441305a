"""How long to wait before a process that died is started again. Pure; `children.py` sleeps."""

from __future__ import annotations

FIRST_DELAY_S = 0.1  # a single crash should cost no more than the process's own start
LONGEST_DELAY_S = 30.0
LONGEST_AFTER_SERVING_S = 1.0  # what was up has not died of starting; the wait is for a crowd of deadly requests
STABLE_AFTER_S = 60.0  # a process that lived this long has earned a fresh start


class Backoff:
    """`backoff.after_death(lived_s)` doubles with each death in a row."""

    def __init__(self) -> None:
        self._delay_s = FIRST_DELAY_S

    def after_death(self, lived_s: float, *, has_served: bool = False) -> float:
        """Seconds to wait now. `has_served`: it was all that it should be before it died."""
        if lived_s >= STABLE_AFTER_S:
            self._delay_s = FIRST_DELAY_S
        if has_served:
            self._delay_s = min(self._delay_s, LONGEST_AFTER_SERVING_S)
        delay_s = self._delay_s
        self._delay_s = min(2 * delay_s, LONGEST_DELAY_S)
        return delay_s
