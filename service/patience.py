"""How long a request may wait: its client's deadline, its timeout, or its model's, and what becomes of it then.

Pure. `plane.py` asks, engines act on the answer.
"""

from __future__ import annotations

from service.repository.catalog import Entry
from service.tensors import InferRequest


def deadline_of(request: InferRequest, entry: Entry, now: float) -> float | None:
    """When it must not run any more: the client's own deadline or the end of its timeout, whichever is first."""
    due = _timeout(request, entry, now) if entry.batching.timeout_action == "reject" else None
    if due is None or request.deadline is None:
        return request.deadline if due is None else due
    return min(due, request.deadline)


def late_of(request: InferRequest, entry: Entry, now: float) -> float | None:
    """When its timeout lets others go first, where the model has that in place of refusing it."""
    return _timeout(request, entry, now) if entry.batching.timeout_action == "delay" else None


def _timeout(request: InferRequest, entry: Entry, now: float) -> float | None:
    timeout_us = request.timeout_us or entry.batching.timeout_us
    return now + timeout_us / 1e6 if timeout_us else None
