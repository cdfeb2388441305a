"""What belongs together goes on in the order in which it came."""

from hypothesis import given
from hypothesis import strategies as st

from service.engine.steps.order import Order


def test_what_is_ready_early_waits_for_those_before_it() -> None:
    order: Order[str] = Order()
    for item in ("a", "b", "c"):
        order.began(1, item)
    order.began(2, "other")
    assert order.ready(1, "c") == []
    assert order.ready(2, "other") == ["other"]
    assert order.ready(1, "a") == ["a"]
    assert order.left(1, "b") == ["c"]
    assert len(order) == 0


@given(st.permutations(range(8)), st.sets(st.integers(0, 7)))
def test_any_order_of_ends_gives_the_order_of_beginnings(ends: list[int], leave: set[int]) -> None:
    order: Order[int] = Order()
    for item in range(8):
        order.began("line", item)
    gone: list[int] = []
    for item in ends:
        gone += order.left("line", item) if item in leave else order.ready("line", item)
    assert gone == [item for item in range(8) if item not in leave]
    assert repr(order) == "<Order 0 lines, 0 ready>"
