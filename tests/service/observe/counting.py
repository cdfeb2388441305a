"""A small service's counts, for the tests of what is made of them."""

from __future__ import annotations

from pathlib import Path

from service.observe.batch_recorder import BatchRecorder
from service.observe.merge import Merged, Reader
from service.observe.recorders import RequestRecorder
from service.observe.store import Store

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"


def count(store: Store, model: str = "digits") -> None:
    """Two answers, one of each protocol, and one of each kind of failure; one batch of both answers."""
    requests = RequestRecorder(store)
    requests.finished(model, "1", "http", "success", 0.002, 3)
    requests.traced(model, "1", "http", 0.002, TRACE)
    requests.finished(model, "1", "grpc", "success", 0.3, 1)
    for outcome in ("invalid", "rejected", "timeout", "cancelled", "failed"):
        requests.finished(model, "1", "http", outcome, 0.001, 0)
    requests.finished("", "", "http", "invalid", 0.001, 0)
    requests.encoded(model, "1", 0.00002)
    requests.looked_up(model, "1", True, 0.0005)
    requests.looked_up(model, "1", False, 0.25)
    requests.in_flight(2)
    engine = BatchRecorder(store, model, "1")
    engine.dispatched("idle", 2)
    engine.batch([1000, 2000], (10_000, 20_000, 3_000_000, 40_000), rows=4, bucket=8)
    engine.settled(2)
    engine.depth(5)


def counted(directory: Path) -> Merged:
    """What two processes counted, one of which has ended."""
    first, second = Store(directory), Store(directory)
    count(first)
    count(second)
    first.close()
    return Reader(directory).read()
