"""A request of more rows than one batch holds: its parts wait and run each by itself, its answer is one.

Knows no queue and no device. `queues.py` cuts the parts, `models.py` runs them as any request; each is answered here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from msgspec import structs

from service.engine.marks import ran_in_parts
from service.engine.messages import Failure, Result
from service.engine.served import Pending
from service.errors import Code

Answer = tuple[Result | Failure, Sequence[memoryview]]


class Divided:
    """Where the parts are answered; the first failure is the answer of all. `over` is called before that is given.

    A part's id is its first row. Any thread may call `send`.
    """

    def __init__(self, pending: Pending, over: Callable[[], None]) -> None:
        self._pending = pending
        self._over = over
        self._rows = 0  # of the parts that were answered
        self._parts: list[tuple[Result, Sequence[memoryview]]] = []
        self._is_over = False
        self._changing = threading.Lock()
        rows = pending.message.rows
        self._row_bytes = [len(tensor) // rows for tensor in pending.tensors]

    def __repr__(self) -> str:
        return f"<Divided {self._rows} of {self._pending.message.rows} rows answered>"

    @property
    def whole(self) -> Pending:
        """The request, answered here too: by a failure, where it cannot run."""
        return Pending(self._pending.message, (), self, within=self._pending.within)

    def part(self, start: int, rows: int) -> Pending:
        """So many of its rows, as a request."""
        message = self._pending.message
        tensors = [
            tensor[start * size : (start + rows) * size]
            for tensor, size in zip(self._pending.tensors, self._row_bytes, strict=True)
        ]
        own = structs.replace(
            message,
            id=start,
            rows=rows,
            shapes=tuple((rows, *shape[1:]) for shape in message.shapes),
            sizes=tuple(map(len, tensors)),
        )
        return Pending(own, tensors, self, within=self._pending.root)

    def send(self, answers: Sequence[Answer]) -> None:
        """Keep the answers of parts; the last completes the request's."""
        for message, blobs in answers:
            answer = self._take(message, blobs)
            if answer is not None:
                self._over()
                self._pending.connection.send([answer])

    def _take(self, message: Result | Failure, blobs: Sequence[memoryview]) -> Answer | None:
        with self._changing:
            if self._is_over:
                return None
            if isinstance(message, Failure):
                self._is_over = True
                self._parts.clear()
                return structs.replace(message, id=self._pending.message.id), ()
            self._parts.append((message, blobs))
            self._rows += message.shapes[0][0]
            self._is_over = self._rows == self._pending.message.rows
            if not self._is_over:
                return None
            return self._misfit() or join(self._pending.message.id, self._parts)

    def _misfit(self) -> Answer | None:
        """The answer where the parts have outputs of different sizes, as some models cut theirs by what is in them."""
        sizes = {tuple(shape[1:] for shape in result.shapes) for result, _ in self._parts}
        if len(sizes) == 1:
            return None
        message, most = self._pending.message, max(result.shapes[0][0] for result, _ in self._parts)
        reason = (
            f"model '{message.model}' gave outputs of other sizes for some rows of this request than for others, as it "
            f"runs in parts: send at most {most} rows at once"
        )
        return Failure(message.id, Code.FAILED, reason), ()


def join(request_id: int, parts: Sequence[tuple[Result, Sequence[memoryview]]]) -> Answer:
    """One answer of those to the parts, in the order of their rows.

    It waited as long as its first part; what its batches took is summed; `batch` and `bucket` are the largest.
    """
    ordered = sorted(parts, key=lambda part: part[0].id)
    results = [result for result, _ in ordered]
    blobs = [memoryview(b"".join(columns)) for columns in zip(*(blobs for _, blobs in ordered), strict=True)]
    rows = sum(result.shapes[0][0] for result in results)
    steps = [sum(result.phases[index] for result in results) for index in range(1, 5)]
    whole = Result(
        id=request_id,
        shapes=tuple((rows, *shape[1:]) for shape in results[0].shapes),
        sizes=tuple(map(len, blobs)),
        phases=(results[0].phases[0], steps[0], steps[1], steps[2], steps[3]),
        batch=max(result.batch for result in results),
        bucket=max(result.bucket for result in results),
        ran=ran_in_parts(results),
    )
    return whole, blobs
