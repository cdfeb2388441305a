"""What becomes of a request that was accepted when its engine died: pure, no clock, no sockets.

`blackbox.py` says which requests ran then. Those that only waited are given to the next engine as if nothing had been;
those that ran may be the ones that killed it, and run once more, alone, so that a deadly one takes no other with it.
`resend.py` acts on it, `quarantine.py` keeps the engine's side of it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from service.engine.blackbox import FROZEN, Sight
from service.errors import ExecutionFailed, NotLoaded

# What is known of a request, as `Infer.retry` has it; it only rises.
FIRST = 0  # it comes from its client
WAITED = 1  # it was accepted, and waited in an engine that died: a full queue must not refuse it
RAN = 2  # it ran in an engine that died: it runs alone, and not a third time


@dataclass(frozen=True, slots=True)
class Aftermath:
    """What ran in an engine when it died; `ran` None: nobody knows. `hung` ran longer than they may."""

    device: str
    ran: frozenset[int] | None = None
    hung: frozenset[int] = frozenset()
    is_killed: bool = False  # by the parent, for what hung: the others that ran are not to blame


class EngineGone(NotLoaded):
    """The engine died with the request in it. The sentence is for those requests that cannot be run again."""

    def __init__(self, aftermath: Aftermath) -> None:
        super().__init__(
            f"the engine on {aftermath.device} died while it had this request, and what it had begun is lost: it is "
            "being restarted, try again from the start"
        )
        self.aftermath = aftermath


def absent() -> NotLoaded:
    """What a request is told for which there is no engine just now."""
    return NotLoaded("no engine is running: it is being restarted, try again")


def look_back(device: str, sight: Sight | None) -> Aftermath:
    """What the black box of a dead engine says; None: it cannot be read."""
    if sight is None:
        return Aftermath(device)
    ran = frozenset(each for running in sight.running for each in running.ids)
    if sight.verdict in (0, FROZEN):
        return Aftermath(device, ran)
    hung = frozenset(each for running in sight.running if running.lane == sight.verdict for each in running.ids)
    return Aftermath(device, ran, hung, is_killed=True)


def next_retry(retry: int, request_id: int, aftermath: Aftermath) -> int:
    """What the request is to the next engine. Raises ExecutionFailed where it must not run again."""
    if request_id in aftermath.hung and len(aftermath.hung) == 1:
        raise ExecutionFailed(
            "the model did not come back from this request within its batch_timeout_s: the engine was ended for it, "
            "and it is not run again"
        )
    blamed: Collection[int] = aftermath.hung if aftermath.is_killed else aftermath.ran or ()
    is_blamed = request_id in blamed or aftermath.ran is None
    if not is_blamed:
        return max(retry, WAITED)
    if retry == RAN:
        raise ExecutionFailed(
            "two engines died while they ran this request, the second time alone: it is not run again, for it is "
            "likely to be the cause"
        )
    return RAN
