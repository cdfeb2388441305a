"""Whether a process that waits looks for what comes, over and over, before it sleeps: to wake a core that sleeps takes
50 to 150 µs on a virtual machine, at every hand-over between client, frontend and engine.

Pure: no clock, no sockets. `looking_loop.py` goes by it in a frontend, `engine/listener.py` in an engine.
"""

from __future__ import annotations

from collections.abc import Sequence

AUTO = "auto"
AUTO_US = 2000  # a small model's batch on a GPU, and what a client needs until its next request, take less
LEAST_CORES = 8  # below, what looks takes the core of what works


def choose_busy_poll_us(given: str, cores: int, frontends: int, devices: Sequence[str]) -> int:
    """For how long to look; `given` where it is a number, else by the cores.

    There must be more than two for each process that looks: one for it, one for a client or what else runs. Where a
    processor computes none is left over: its threads wait for each other, and one whose core is taken delays them all.
    """
    if given != AUTO:
        return int(given)
    computes_here = any(not device.startswith("cuda") for device in devices)
    is_plenty = cores >= LEAST_CORES and cores > 2 * (frontends + len(devices))
    return AUTO_US if is_plenty and not computes_here else 0


class Vigil:
    """Waiting of one kind: it pays to look where what was waited for the last time came within the limit.

    So somebody who asks again at once is met awake, and for one who asks now and then no core is kept busy. All times
    are nanoseconds.
    """

    def __init__(self, limit_ns: int) -> None:
        self._limit_ns = limit_ns
        self._since = 0
        self._pays = True

    def __repr__(self) -> str:
        return f"<Vigil of {self._limit_ns / 1e3:.0f} µs, which {'pays' if self._pays else 'does not pay'}>"

    def begin(self, now: int) -> int:
        """Waiting begins. Until when to look; 0: to sleep at once."""
        self._since = now
        return now + self._limit_ns if self._pays else 0

    def end(self, now: int) -> None:
        """It came."""
        if self._since:
            self._pays = now - self._since <= self._limit_ns
            self._since = 0

    def drop(self) -> None:
        """What is waited for now says nothing."""
        self._since = 0
