"""Queues keep order, priorities, shapes and deadlines apart."""

from service.engine.queues import Queue, Waiting


def waiting(rows: int = 1, arrived: float = 0.0, **more: object) -> Waiting:
    return Waiting(rows, more.pop("shape", (8,)), arrived, **more)  # type: ignore[arg-type]


def filled(*requests: Waiting) -> Queue:
    queue = Queue()
    for request in requests:
        queue.add(request)
    return queue


def test_takes_in_order_of_arrival_as_long_as_rows_fit() -> None:
    first, second, third = waiting(2, 0.0), waiting(3, 1.0), waiting(1, 2.0)
    queue = filled(first, second, third)
    assert queue.take([first.shape], max_rows=5) == (first, second)
    assert (queue.count, queue.rows) == (1, 1)


def test_a_request_that_does_not_fit_is_not_overtaken_by_a_smaller_one_behind_it() -> None:
    first, big, small = waiting(3), waiting(3), waiting(1)
    queue = filled(first, big, small)
    assert queue.take([first.shape], max_rows=4) == (first,)
    assert queue.first() is big


def test_other_shapes_are_left_for_their_own_batch() -> None:
    square, wide, square_too = (
        waiting(shape=(8, 8)),
        waiting(shape=(8, 9), arrived=1.0),
        waiting(shape=(8, 8), arrived=2.0),
    )
    queue = filled(square, wide, square_too)
    assert queue.take([square.shape], max_rows=8) == (square, square_too)
    assert queue.first() is wide


def test_priority_one_goes_before_two_and_the_default_comes_last() -> None:
    default, second, first = waiting(arrived=0.0), waiting(arrived=1.0, priority=2), waiting(arrived=2.0, priority=1)
    queue = filled(default, second, first)
    order = []
    while (head := queue.first()) is not None:
        order.extend(queue.take([head.shape], max_rows=1))
    assert order == [first, second, default]


def test_expires_only_what_is_due_and_still_waits() -> None:
    due, later, taken = waiting(deadline=1.0), waiting(deadline=2.0), waiting(deadline=0.5, priority=1)
    queue = filled(due, later, taken)
    queue.take([taken.shape], max_rows=1)
    assert queue.expire(now=1.0) == (due,)
    assert queue.next_deadline() == 2.0
    assert queue.first() is later


def test_a_removed_request_is_never_taken() -> None:
    first, second, third = waiting(), waiting(), waiting()
    queue = filled(first, second, third)
    assert queue.remove(second)
    assert not queue.remove(second)
    assert queue.take([first.shape], max_rows=8) == (first, third)
    assert queue.first() is None
    assert queue.count == queue.rows == 0


def test_rows_behind_counts_the_group_only() -> None:
    first = waiting(2)
    queue = filled(first, waiting(3), waiting(4, shape=(9,)))
    assert queue.rows_behind(first) == 5
