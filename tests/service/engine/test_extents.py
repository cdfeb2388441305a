"""No byte of memory is lent twice, none is lost, and all of it is one again when it is free."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from service.engine.extents import SMALLEST_BYTES, Extent, Extents

WHOLE = 64 * SMALLEST_BYTES


class Memory(RuleBasedStateMachine):
    """Parts are taken and given back in any order."""

    @initialize(pages=st.integers(8, 80))
    def begin(self, pages: int) -> None:
        self.extents = Extents(pages * SMALLEST_BYTES + 7)
        self.taken: list[Extent] = []

    @rule(size=st.integers(1, WHOLE))
    def take(self, size: int) -> None:
        extent = self.extents.take(size)
        if extent is not None:
            assert 1 << extent.order >= size
            assert 0 <= extent.place <= self.extents.byte_size - (1 << extent.order)
            assert extent.place % (1 << extent.order) == 0 or extent.place % SMALLEST_BYTES == 0
            self.taken.append(extent)

    @rule(which=st.integers(0, 1000))
    def give(self, which: int) -> None:
        if self.taken:
            self.extents.give(self.taken.pop(which % len(self.taken)))

    @rule()
    def give_all(self) -> None:
        """Then there is room again for the largest that there may be."""
        while self.taken:
            self.extents.give(self.taken.pop())
        largest = 1 << (self.extents.largest.bit_length() - 1)
        extent = self.extents.take(largest)
        assert extent is not None
        self.extents.give(extent)

    @invariant()
    def nobody_shares(self) -> None:
        at = 0
        for extent in sorted(self.taken, key=lambda extent: extent.place):
            assert extent.place >= at, "two have the same bytes"
            at = extent.place + (1 << extent.order)
        assert self.extents.taken_bytes == sum(1 << extent.order for extent in self.taken)


TestMemory = Memory.TestCase


def test_what_was_given_back_last_is_taken_first() -> None:
    extents = Extents(WHOLE)
    one, other = extents.take(SMALLEST_BYTES), extents.take(SMALLEST_BYTES)
    assert one is not None
    assert other is not None
    extents.give(other)
    extents.give(one)
    assert extents.take(1) == one


def test_there_is_no_room_beyond_the_whole_nor_for_what_would_push_out_all_others() -> None:
    extents = Extents(WHOLE)
    assert extents.take(WHOLE) is None
    assert [extents.take(WHOLE // 4) is not None for _ in range(5)] == [True, True, True, True, False]
