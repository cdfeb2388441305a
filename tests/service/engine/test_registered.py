"""Memory is registered piece by piece as it is used, and no longer than it is mapped."""

import mmap
import os

import numpy as np
import torch

from compiler.spec import TensorSpec
from service.engine.arena import Guest, Loan, make_memory
from service.runtime.buffers import Scattered, Staging
from service.runtime.registered import PIECE_BYTES, Registered

BASE = 0x7F00_0000_0000
SPEC = TensorSpec("x", "UINT8", (-1, 40_000))


class Owner:
    """Whoever keeps memory mapped."""


class Cuda:
    """Takes note of what is registered."""

    def __init__(self, refuses: bool = False) -> None:
        self.now: dict[int, int] = {}
        self.refuses = refuses
        self.asked = 0
        self.registered = Registered(self.register, self.unregister)

    def register(self, address: int, size: int) -> bool:
        self.asked += 1
        if not self.refuses:
            self.now[address] = size
        return not self.refuses

    def unregister(self, address: int) -> None:
        del self.now[address]


def test_pieces_are_registered_as_they_are_used_and_once() -> None:
    cuda, owner = Cuda(), Owner()
    size = 2 * PIECE_BYTES + 8192
    cuda.registered.add(owner, BASE, size)
    assert cuda.now == {}
    assert cuda.registered.covers(BASE + 100, 50)
    assert cuda.registered.covers(BASE + PIECE_BYTES - 1, 1)
    assert cuda.now == {BASE: PIECE_BYTES}
    assert cuda.registered.covers(BASE + size - 10, 10)
    assert cuda.now == {BASE: PIECE_BYTES, BASE + 2 * PIECE_BYTES: 8192}
    assert cuda.asked == 2


def test_what_lies_elsewhere_or_in_two_pieces_is_not_covered() -> None:
    cuda, owner = Cuda(), Owner()
    cuda.registered.add(owner, BASE, 2 * PIECE_BYTES)
    assert not cuda.registered.covers(BASE - 1, 1)
    assert not cuda.registered.covers(BASE + 2 * PIECE_BYTES, 1)
    assert not cuda.registered.covers(BASE + 2 * PIECE_BYTES - 1, 2)
    assert not cuda.registered.covers(BASE + PIECE_BYTES - 1, 2)
    assert cuda.now == {}


def test_with_its_owner_memory_is_registered_no_more() -> None:
    cuda, owner, other = Cuda(), Owner(), Owner()
    cuda.registered.add(owner, BASE, PIECE_BYTES)
    cuda.registered.add(other, BASE + PIECE_BYTES, PIECE_BYTES)
    for address in (BASE, BASE + PIECE_BYTES):
        assert cuda.registered.covers(address, 1)
    del owner
    assert cuda.now == {BASE + PIECE_BYTES: PIECE_BYTES}
    assert not cuda.registered.covers(BASE, 1)
    assert cuda.registered.covers(BASE + PIECE_BYTES, 1)


def test_what_is_refused_is_not_asked_for_again() -> None:
    cuda, owner = Cuda(refuses=True), Owner()
    cuda.registered.add(owner, BASE, 4 * PIECE_BYTES)
    assert not cuda.registered.covers(BASE, 1)
    assert not cuda.registered.covers(BASE + PIECE_BYTES, 1)
    assert cuda.asked == 1


def test_rows_in_shared_memory_stay_where_they_are_as_long_as_they_are_seen() -> None:
    told: list[int] = []
    cuda, size = Cuda(), 1 << 20
    file = make_memory(size)
    owned = np.frombuffer(mmap.mmap(file, size), np.uint8)
    owned[:] = np.arange(size) % 251
    guest = Guest(file, size)
    os.close(file)
    cuda.registered.add(guest, *guest.span)
    loan = Loan(7, told.append)
    parts = [guest.view(65536 * place, 40_000, loan) for place in (3, 1)]
    laid = Staging(SPEC, pinned=False, registered=cuda.registered).lay(parts, (4, 40_000))
    assert isinstance(laid, Scattered)
    assert (laid.shape, laid.dtype, laid.nbytes) == ((4, 40_000), torch.uint8, 160_000)
    del guest, loan, parts
    assert len(cuda.now) == 1, "its rows are still to be read"
    got = torch.cat(list(laid.parts)).numpy()
    np.testing.assert_array_equal(got, np.concatenate([owned[65536 * place :][:40_000] for place in (3, 1)]))
    del laid
    assert told == [7]
    assert cuda.now == {}


def test_rows_of_which_some_came_in_a_message_are_laid() -> None:
    cuda, size = Cuda(), 1 << 20
    file = make_memory(size)
    guest = Guest(file, size)
    os.close(file)
    cuda.registered.add(guest, *guest.span)
    parts = [guest.view(0, 40_000, Loan(1, lambda ticket: None)), memoryview(bytearray(b"\1" * 40_000))]
    laid = Staging(SPEC, pinned=False, registered=cuda.registered).lay(parts, (2, 40_000))
    assert isinstance(laid, torch.Tensor)
    assert laid.sum(dim=1).tolist() == [0, 40_000]
