"""Whether an engine hangs: decides from what its black box shows, look by look. Pure; the time is an argument.

What counts is time that was watched: a parent that was stopped itself, or got no turn on a busy machine, saw nothing
and blames nobody. `watchdog.py` looks and acts.
"""

from __future__ import annotations

from dataclasses import dataclass

from service.engine.blackbox import FROZEN, Sight

MAX_STEP_S = 1.0  # of watched time from one look to the next, whatever the clock says
BREATH_S = 3.0  # the heart beats every second: later than this something holds the whole process up
SHORTEST_FREEZE_S = 5.0  # a batch may be bound tighter than that, a process on a busy machine not
LOAD_FREEZE_S = 600.0  # libraries that load a model may stop all threads of the process for long


@dataclass(frozen=True, slots=True)
class Hang:
    """The engine must be ended. `verdict` is what the black box gets to tell."""

    verdict: int
    reason: str


class Watch:
    """One engine process, from its start to its end."""

    def __init__(self, freeze_s: float) -> None:
        self._freeze_s = max(freeze_s, SHORTEST_FREEZE_S) if freeze_s else 0.0
        self._looked_s: float | None = None
        self._beats = 0
        self._beat_ns = -1
        self._still_s = 0.0
        self._lanes: dict[int, tuple[int, float]] = {}  # lane -> since when its batch runs, how long that was watched

    def __repr__(self) -> str:
        return f"<Watch {len(self._lanes)} batches, still for {self._still_s:.1f} s>"

    def look(self, now_s: float, sight: Sight) -> Hang | None:
        """What the box shows at `now_s`."""
        step_s = 0.0 if self._looked_s is None else min(max(now_s - self._looked_s, 0.0), MAX_STEP_S)
        self._looked_s = now_s
        if sight.beat_ns != self._beat_ns:
            self._beats += 1
            self._beat_ns, self._still_s = sight.beat_ns, 0.0
        else:
            self._still_s += step_s
        is_loading = bool(sight.loading_ns) or self._beats < 2  # the first beat is the parent's own
        hang = self._find_overdue(sight, 0.0 if is_loading and self._still_s > BREATH_S else step_s)
        if hang is not None or not self._freeze_s:
            return hang
        limit_s = max(LOAD_FREEZE_S, self._freeze_s) if is_loading else self._freeze_s
        # What runs may hold the process up: then it is that which hangs, once its own time is over.
        limit_s = max([limit_s, *(running.bound_ns / 1e9 + BREATH_S for running in sight.running)])
        if self._still_s > limit_s:
            return Hang(FROZEN, f"it has shown no sign of life for {self._still_s:.0f} s")
        return None

    def _find_overdue(self, sight: Sight, step_s: float) -> Hang | None:
        lanes = {}
        hang = None
        for running in sight.running:
            began_ns, watched_s = self._lanes.get(running.lane, (0, 0.0))
            watched_s = watched_s + step_s if began_ns == running.began_ns else 0.0
            lanes[running.lane] = (running.began_ns, watched_s)
            if running.bound_ns and watched_s * 1e9 > running.bound_ns:
                count = len(running.ids)
                what = "a request" if count == 1 else f"a batch of {count} requests"
                hang = hang or Hang(running.lane, f"{what} has run for {watched_s:.1f} s, longer than batch_timeout_s")
        self._lanes = lanes
        return hang
