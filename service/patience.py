"""How long a request may wait: its client's deadline, its timeout, or its model's, and what becomes of it then.

Pure. `plane.py` asks, engines act on the answer.
"""

from __future__ import annotations

from service.repository.catalog import Entry
from service.tensors import InferRequest


def patience_of(request: InferRequest, entry: Entry) -> float | None:
    """The seconds after which it must not run any more, by its timeout; None: there is no such."""
    return _timeout_s(request, entry) if entry.batching.timeout_action == "reject" else None


def deadline_of(patience_s: float | None, deadline: float | None, now: float) -> float | None:
    """When it must not run any more: the client's own deadline or the end of its timeout, whichever is first."""
    if patience_s is None:
        return deadline
    return now + patience_s if deadline is None else min(now + patience_s, deadline)


def late_of(request: InferRequest, entry: Entry, now: float) -> float | None:
    """When its timeout lets others go first, where the model has that in place of refusing it."""
    timeout_s = _timeout_s(request, entry) if entry.batching.timeout_action == "delay" else None
    return None if timeout_s is None else now + timeout_s


def _timeout_s(request: InferRequest, entry: Entry) -> float | None:
    return (request.timeout_us or entry.batching.timeout_us) / 1e6 or None
