"""Which requests of which sequences run together, and when; what becomes of a sequence when one of them does not run.

Pure state: no clock, no sockets, no tensors. `sequenced.py` asks `poll(instance, now)` and does what it says;
`slots.py` knows whose row is whose. The requests of one sequence run one after the other, in the order in which they
came. One that is not answered with a result has changed nothing; but where it was to start the sequence, this does not
begin, and what was sent behind it is refused.

    sequences.add(Turn(SequencePoint(5, is_start=True), shape, arrived=now), now)
    sequences.poll(0, now)                      # Run((that request,), rows=(0,), slots=(0,), bucket=1)
    sequences.finished(turn, now, has_run=True)
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from itertools import count, takewhile

from service.engine.batcher import WaitUntil
from service.engine.slots import Policy, Slots
from service.engine.turns import Expire, Id, Refuse, Run, Turn
from service.errors import InvalidInput, QueueFull, ServiceError, Unavailable, UnknownSequence

MAX_FORGOTTEN = 4096  # for so many it can be said that they were forgotten, and not only that they are unknown


@dataclass(slots=True, eq=False)
class _Sequence:
    """`turns` wait, in order of arrival; `ready` is the first of them, where it may run now."""

    id: Id
    turns: deque[Turn] = field(default_factory=deque)
    running: Turn | None = None
    ready: Turn | None = None
    slot: int | None = None

    @property
    def last(self) -> Turn | None:
        """The last request that has a say in what may follow."""
        waiting = (turn for turn in reversed(self.turns) if turn.point.is_start or turn.is_waiting)
        return next(waiting, self.running)


class Sequences:
    """The sequences of one model in one engine, and their requests."""

    def __init__(self, model: str, policy: Policy) -> None:
        self.policy = policy
        self.waiting = 0  # requests
        self._model = model
        self._slots = Slots(policy)
        self._all: dict[Id, _Sequence] = {}
        self._backlog: dict[Id, _Sequence] = {}  # those without a slot, in order
        self._idle: dict[Id, float] = {}  # those without a request -> since when, the longest first
        self._ready: dict[tuple[int, Hashable], list[tuple[float, int, _Sequence]]] = {}  # by group and shape, heaps
        self._deadlines: list[tuple[float, int, Turn]] = []
        self._refused: list[tuple[Turn, ServiceError]] = []
        self._forgotten: dict[Id, None] = {}
        self._numbers = count()
        self._is_stopping = False

    def __repr__(self) -> str:
        return f"<Sequences {len(self._all)}, {len(self._backlog)} in the backlog, {self.waiting} requests wait>"

    @property
    def living(self) -> int:
        """How many have begun, or may at once."""
        return len(self._all) - len(self._backlog)

    def add(self, turn: Turn, now: float) -> None:
        """Let a request wait. Raises UnknownSequence, InvalidInput or QueueFull."""
        self._forget(now)
        sequence = self._all.get(turn.point.id)
        if not turn.point.is_start:
            self._check_open(turn.point.id, sequence)
        if self.waiting >= self.policy.max_queue_size:
            raise QueueFull(
                f"the queue is full: {self.waiting} requests wait already (max_queue_size "
                f"{self.policy.max_queue_size}): try again later"
            )
        if sequence is None:
            sequence = self._all[turn.point.id] = _Sequence(turn.point.id)
            self._forgotten.pop(turn.point.id, None)
        sequence.turns.append(turn)
        self.waiting += 1
        if turn.deadline is not None:
            heapq.heappush(self._deadlines, (turn.deadline, next(self._numbers), turn))
        self._advance(sequence, now)

    def cancel(self, turn: Turn, now: float) -> None:
        """Forget a request that still waits."""
        if turn.is_waiting:
            self._lose(turn, now)

    def stop(self) -> None:
        """Sequences that have not begun shall not begin any more; what waits of others runs."""
        self._is_stopping = True

    def poll(self, instance: int, now: float) -> Run | Expire | Refuse | WaitUntil | None:
        """What this instance shall do at `now`; None: wait. Ask again after each answer but WaitUntil and None."""
        self._forget(now)
        expired = self._expire(now)
        if expired:
            return Expire(expired)
        if self._is_stopping:
            self._refuse_backlog()
        if self._refused:
            refused, self._refused = tuple(self._refused), []
            return Refuse(refused)
        group = self.policy.group(instance)
        key = min(
            (key for key in self._ready if key[0] == group), key=lambda key: self._ready[key][0][:2], default=None
        )
        if key is None:
            return self._wait()
        due = self._ready[key][0][0] + self.policy.max_queue_delay_s
        is_full = len(self._ready[key]) >= min(self.policy.rows, self.living)
        if now < due and not is_full:
            return self._wait(due)
        return self._take(key, "full" if is_full else "delay" if self.policy.max_queue_delay_s else "idle")

    def finished(self, turn: Turn, now: float, *, has_run: bool) -> None:
        """A request of a Run has been answered: with a result, or `has_run` is False."""
        sequence = self._all[turn.point.id]
        sequence.running = None
        if turn.point.is_end if has_run else turn.point.is_start:
            self._release(sequence)
        if turn.point.is_start and not has_run:
            self._refuse_behind(sequence, sequence.turns)
        self._advance(sequence, now)

    def _check_open(self, identity: Id, sequence: _Sequence | None) -> None:
        """Whether a request may follow that does not start a sequence."""
        title = f"sequence {_text(identity)} of model '{self._model}'"
        if sequence is None and identity in self._forgotten:
            raise UnknownSequence(
                f"{title} was forgotten after {self.policy.idle_timeout_s:g} s without a request (idle_timeout_s): "
                "start it again with sequence_start"
            )
        if sequence is None:
            raise UnknownSequence(
                f"{title} is not known: start it with sequence_start; where it was started, it has ended or the model "
                "was loaded anew"
            )
        last = sequence.last
        if last is not None and last is not sequence.running and not last.is_waiting:
            raise _not_begun(identity)
        if last is not None and last.point.is_end:
            raise InvalidInput(f"{title} has had its last request: start another with sequence_start")

    def _take(self, key: tuple[int, Hashable], reason: str) -> Run:
        heap = self._ready[key]
        taken = [heapq.heappop(heap)[2] for _ in range(min(len(heap), self.policy.rows))]
        if not heap:
            del self._ready[key]
        turns, rows, slots = [], [], []
        for index, sequence in enumerate(taken):
            assert sequence.slot is not None, "only what has a slot is ready"
            sequence.running, sequence.ready = sequence.turns.popleft(), None
            sequence.running.is_waiting = False
            turns.append(sequence.running)
            rows.append(self.policy.row_of(sequence.slot, index))
            slots.append(sequence.slot)
        self.waiting -= len(turns)
        return Run(tuple(turns), tuple(rows), tuple(slots), self.policy.bucket(max(rows) + 1), reason)

    def _advance(self, sequence: _Sequence, now: float) -> None:
        """Let the next request of a sequence be ready, or the sequence wait for one, or end it."""
        if sequence.running is not None:
            return
        while sequence.turns and not sequence.turns[0].is_waiting:
            if sequence.turns.popleft().point.is_start:
                self._release(sequence)
        if sequence.turns and sequence.slot is not None:
            self._idle.pop(sequence.id, None)
            self._make_ready(sequence)
        elif sequence.turns:
            self._backlog.setdefault(sequence.id, sequence)
        elif sequence.slot is not None:
            self._idle.setdefault(sequence.id, now)
        else:
            self._backlog.pop(sequence.id, None)
            del self._all[sequence.id]
        self._fill()

    def _make_ready(self, sequence: _Sequence) -> None:
        assert sequence.slot is not None, "it has begun"
        first = sequence.turns[0]
        if sequence.ready is not first:
            sequence.ready = first
            heap = self._ready.setdefault((self.policy.group_of(sequence.slot), first.shape), [])
            heapq.heappush(heap, (first.arrived, next(self._numbers), sequence))

    def _fill(self) -> None:
        """Let sequences begin that wait for it, as long as there is room."""
        while self._backlog:
            slot = self._slots.take()
            if slot is None:
                return
            sequence = self._backlog.pop(next(iter(self._backlog)))
            sequence.slot = slot
            self._make_ready(sequence)

    def _release(self, sequence: _Sequence) -> None:
        """Its state is no more."""
        self._idle.pop(sequence.id, None)
        if sequence.slot is not None:
            self._slots.free(sequence.slot)
            sequence.slot = None

    def _forget(self, now: float) -> None:
        """End the sequences that have had no request for too long."""
        while self._idle:
            identity, since = next(iter(self._idle.items()))
            if now < since + self.policy.idle_timeout_s:
                return
            self._release(self._all.pop(identity))
            self._forgotten[identity] = None
            if len(self._forgotten) > MAX_FORGOTTEN:
                del self._forgotten[next(iter(self._forgotten))]
            self._fill()

    def _expire(self, now: float) -> tuple[Turn, ...]:
        expired = []
        while self._deadlines and (self._deadlines[0][0] <= now or not self._deadlines[0][2].is_waiting):
            turn = heapq.heappop(self._deadlines)[2]
            if turn.is_waiting:
                self._lose(turn, now)
                expired.append(turn)
        return tuple(expired)

    def _lose(self, turn: Turn, now: float) -> None:
        """A request that waits will not run."""
        sequence = self._all[turn.point.id]
        self._drop(sequence, turn)
        if turn.point.is_start:
            behind = iter(sequence.turns)
            next(each for each in behind if each is turn)
            self._refuse_behind(sequence, behind)
        self._advance(sequence, now)

    def _drop(self, sequence: _Sequence, turn: Turn) -> None:
        turn.is_waiting = False
        self.waiting -= 1
        if sequence.ready is turn:
            assert sequence.slot is not None, "only what has a slot is ready"
            key = self.policy.group_of(sequence.slot), turn.shape
            self._ready[key] = [each for each in self._ready[key] if each[2] is not sequence]
            heapq.heapify(self._ready[key])
            if not self._ready[key]:
                del self._ready[key]
            sequence.ready = None

    def _refuse_behind(self, sequence: _Sequence, turns: Iterable[Turn]) -> None:
        """Those that were to follow a start that was not run, up to the next start."""
        for turn in takewhile(lambda turn: not turn.point.is_start, turns):
            if turn.is_waiting:
                self._drop(sequence, turn)
                self._refused.append((turn, _not_begun(sequence.id)))

    def _refuse_backlog(self) -> None:
        for sequence in self._backlog.values():
            for turn in [turn for turn in sequence.turns if turn.is_waiting]:
                self._drop(sequence, turn)
                self._refused.append((turn, Unavailable(f"model '{self._model}' is being unloaded: try again")))
            del self._all[sequence.id]
        self._backlog.clear()

    def _wait(self, due: float = float("inf")) -> WaitUntil | None:
        """Until something is due, a request's time runs out, or a sequence is forgotten."""
        if self._deadlines:
            due = min(due, self._deadlines[0][0])
        if self._idle:
            due = min(due, next(iter(self._idle.values())) + self.policy.idle_timeout_s)
        return None if due == float("inf") else WaitUntil(due)


def _not_begun(identity: Id) -> InvalidInput:
    return InvalidInput(
        f"sequence {_text(identity)} did not begin, as its first request was not run: send that again, with "
        "sequence_start"
    )


def _text(identity: Id) -> str:
    return str(identity) if isinstance(identity, int) else f"'{identity[:80]}'"
