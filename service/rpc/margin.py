"""How much of a call's time is kept for the way back: what an engine finishes in the last moment comes too late.

Pure. An engine refuses at once what it cannot finish by a deadline, so under too much load all that it takes ends just
before that; gRPC then counts what is a millisecond late as lost. `lane.py` asks, and tells what came of it.
"""

from __future__ import annotations

STEP_S, MOST_S = 0.002, 0.25
LARGEST_SHARE = 0.25  # of the time that is left: a short deadline stays one
DECAY = 0.995  # with each answer in time; one that is late undoes about a hundred


class Margin:
    """Widens where answers come too late, narrows as they come in time."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __repr__(self) -> str:
        return f"<Margin {1000 * self.seconds:.1f} ms>"

    def within(self, left_s: float) -> float:
        """What of the seconds that are left the engine may use."""
        return left_s - min(self.seconds, LARGEST_SHARE * left_s)

    def kept(self) -> None:
        """An answer came in time."""
        self.seconds *= DECAY

    def missed(self) -> None:
        """A call's time was over before its answer."""
        self.seconds = min(MOST_S, 1.5 * self.seconds + STEP_S)
