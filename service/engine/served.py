"""What an engine serves, seen from outside: requests go in, each is answered exactly once where it came from.

Knows neither batches nor devices. `worker.py` holds these, `opening.py` makes them: `models.py` is one that runs an
artifact, others call what is served beside them, found by `Lookup`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from service.engine.messages import Failure, Infer, Result
from service.repository.catalog import Entry


class Connection(Protocol):
    """Where the answers of a request go; `send` takes whole frames and never blocks.

    One that lies inside the engine gets the tensors as they are, uncopied. It is called by whatever thread answers,
    also from within `submit`.
    """

    def send(self, answers: Sequence[tuple[Result | Failure, Sequence[memoryview]]]) -> None: ...


class BatchCounter(Protocol):
    """What `observe/metrics.py` is told about each batch and the queue."""

    def batch(
        self, queue_ns: Sequence[int], phases_ns: tuple[int, int, int, int], rows: int, bucket: int, parts: int = 0
    ) -> None: ...
    def padded(self, own: int, padding: int) -> None: ...
    def depth(self, requests: int) -> None: ...
    def queued(self) -> None: ...
    def follow(self, length: Callable[[], int]) -> None: ...
    def dispatched(self, reason: str, requests: int) -> None: ...
    def settled(self, requests: int) -> None: ...
    def loaded(self, device: str, memory_bytes: int, queue_limit: int) -> None: ...


class Pending(msgspec.Struct, frozen=True):
    """A request that waits: its message, its tensors (one per input), and where its answer goes.

    An answer has all outputs in the order of the entry; its id is the message's, which is unique on its connection.
    The connection also takes bytes on the GPU (a torch.Tensor of them) of the outputs whose indices are in `on_gpu`.
    `within` is the id of the client's request that this is a part of; 0: it is that request. Where it `is_alone`, the
    thread that submits it has nothing else to do for the moment, and may run it.
    """

    message: Infer
    tensors: Sequence[memoryview]
    connection: Connection
    on_gpu: frozenset[int] = frozenset()
    within: int = 0
    is_alone: bool = False

    @property
    def root(self) -> int:
        """The id of the client's request."""
        return self.within or self.message.id


class Served(Protocol):
    """One version under one contract. All but `start` and `close` return at once, and any thread may call them."""

    @property
    def entry(self) -> Entry:
        """What those who send requests see."""

    def start(self, on_broken: Callable[[str], None]) -> None:
        """Begin; `on_broken(reason)` is called when the device can no longer be used."""

    def submit(self, pending: Pending, now: float) -> None:
        """Take a request, or answer it at once with a Failure."""

    def cancel(self, connection: Connection, request_id: int) -> None:
        """The client left: forget its request if it still waits. It is not answered then."""

    def forget(self, connection: Connection) -> None:
        """Forget what waits for a connection that is gone."""

    def close(self) -> None:
        """Answer what was taken, refuse what comes, and return when all that was begun has ended."""


Lookup = Callable[[str, str], Served | None]  # name, version ("": the highest loaded) -> its newest contract
