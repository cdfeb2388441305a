"""Memory is registered piece by piece as it is used, and no longer than it is mapped."""

import ctypes
import mmap
import os
from typing import Any

import numpy as np
import pytest
import torch

from compiler.spec import TensorSpec
from service.engine.arena import Guest, Loan, make_memory
from service.runtime.buffers import Scattered, Staging, bring
from service.runtime.fetching import Fetch
from service.runtime.registered import PIECE_BYTES, Registered

BASE = 0x7F00_0000_0000
SPEC = TensorSpec("x", "UINT8", (-1, 40_000))


class Owner:
    """Whoever keeps memory mapped."""


class Runtime:
    """Copies at once, within the memory of this process; what was asked for is in `calls`."""

    def __init__(self, version: int = 13000, batch_code: int = 0, code: int = 0) -> None:
        self.version, self.batch_code, self.code = version, batch_code, code
        self.calls: list[str] = []

    def cudaRuntimeGetVersion(self, found: Any) -> int:  # CUDA's names
        found._obj.value = self.version
        return 0

    def cudaGetLastError(self) -> int:
        self.calls.append("error")
        return 0

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: int, stream: int) -> int:
        self.calls.append("one")
        if not self.code:
            ctypes.memmove(target, source, size)
        return self.code

    def cudaMemcpyBatchAsync(self, targets: int, sources: int, sizes: int, count: int, *rest: int) -> int:
        self.calls.append("all")
        if not self.batch_code:
            each = [(ctypes.c_uint64 * count).from_address(address) for address in (targets, sources, sizes)]
            for target, place, size in zip(*each, strict=True):
                ctypes.memmove(target, place, size)
        return self.batch_code


class Cuda:
    """Takes note of what is registered."""

    def __init__(self, refuses: bool = False, runtime: Runtime | None = None) -> None:
        self.now: dict[int, int] = {}
        self.refuses = refuses
        self.asked = 0
        self.registered = Registered(self.register, self.unregister, Fetch(runtime or Runtime()))

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
    target = torch.full((4, 40_000), 9, dtype=torch.uint8)
    bring(laid, target, 1)
    assert not target[2:].any()
    got = target[:2].flatten().numpy()
    np.testing.assert_array_equal(got, np.concatenate([owned[65536 * place :][:40_000] for place in (3, 1)]))
    del laid
    assert told == [7]
    assert cuda.now == {}


class Frontend:
    """Memory of 16 MB that is shared, and views of rows in it."""

    def __init__(self, cuda: Cuda) -> None:
        size = 16 << 20
        file = make_memory(size)
        self.own = np.frombuffer(mmap.mmap(file, size), np.uint8)
        self.own[:] = np.arange(size) % 253
        self.guest = Guest(file, size)
        os.close(file)
        cuda.registered.add(self.guest, *self.guest.span)

    def rows(self, places: list[int]) -> tuple[list[memoryview], np.ndarray[Any, Any]]:
        views = [self.guest.view(65536 * place, 40_000, Loan(1, lambda ticket: None)) for place in places]
        return views, np.concatenate([self.own[65536 * place :][:40_000] for place in places])


@pytest.mark.parametrize(
    ("runtime", "stream", "calls"),
    [
        (Runtime(), 1, ["all", "all", "one"]),
        (Runtime(), 0, ["one"] * 25),  # the default stream
        (Runtime(version=12080), 1, ["one"] * 25),
        (Runtime(batch_code=801), 1, ["all", "error"] + ["one"] * 25),
    ],
    ids=["in one call", "default stream", "older", "refused"],
)
def test_rows_are_fetched_in_one_call_where_cuda_can(runtime: Runtime, stream: int, calls: list[str]) -> None:
    cuda = Cuda(runtime=runtime)
    frontend = Frontend(cuda)
    staging = Staging(SPEC, pinned=False, registered=cuda.registered)
    for places in (list(range(0, 120, 10)), [200, 3, 77, 78, 9, 64, 65, 0, 1, 150, 30, 31], [5]):
        parts, want = frontend.rows(places)
        laid = staging.lay(parts, (len(places), 40_000))
        assert isinstance(laid, Scattered)
        target = torch.zeros(len(places), 40_000, dtype=torch.uint8)
        bring(laid, target, stream)
        np.testing.assert_array_equal(target.flatten().numpy(), want)
    assert runtime.calls == calls


def test_a_part_of_what_is_lent_is_fetched_from_where_it_is() -> None:
    cuda = Cuda()
    frontend = Frontend(cuda)
    (whole,), want = frontend.rows([3])
    spec = TensorSpec("x", "UINT8", (-1, 10_000))
    laid = Staging(spec, pinned=False, registered=cuda.registered).lay(
        [whole[20_000:30_000], whole[:10_000]], (2, 10_000)
    )
    target = torch.zeros(2, 10_000, dtype=torch.uint8)
    bring(laid, target, 1)
    np.testing.assert_array_equal(target[0].numpy(), want[20_000:30_000])
    np.testing.assert_array_equal(target[1].numpy(), want[:10_000])


def test_where_cuda_does_not_copy_the_batch_fails() -> None:
    cuda = Cuda(runtime=Runtime(batch_code=700, code=700))
    frontend = Frontend(cuda)
    laid = Staging(SPEC, pinned=False, registered=cuda.registered).lay(frontend.rows([0, 1])[0], (2, 40_000))
    with pytest.raises(RuntimeError, match="error 700"):
        bring(laid, torch.zeros(2, 40_000, dtype=torch.uint8), 1)


def test_many_rows_are_looked_for_at_once_and_what_is_not_registered_yet_is() -> None:
    cuda, owner, other = Cuda(), Owner(), Owner()
    cuda.registered.add(owner, BASE, 4 * PIECE_BYTES)
    cuda.registered.add(other, BASE + 8 * PIECE_BYTES, PIECE_BYTES + 8192)
    sizes = [1000] * 20
    within = [BASE + PIECE_BYTES * (each % 4) + 1000 * each for each in range(20)]
    assert cuda.registered.cover(within, sizes)
    assert (len(cuda.now), cuda.asked) == (4, 4)
    assert cuda.registered.cover(within, sizes)
    last = BASE + 9 * PIECE_BYTES + 8192
    beyond = BASE + 4 * PIECE_BYTES
    for address, is_covered in ((last - 1000, True), (last - 999, False), (BASE - 1, False), (beyond, False)):
        assert cuda.registered.cover([*within[:-1], address], sizes) == is_covered, address
    assert not cuda.registered.cover([*within[:-1], BASE + PIECE_BYTES - 1], sizes), "it lies in two pieces"
    del other
    assert not cuda.registered.cover([*within[:-1], last - 1000], sizes)
    assert cuda.registered.cover(within, sizes)


def test_rows_without_bytes_are_laid() -> None:
    cuda = Cuda()
    (row,), _ = Frontend(cuda).rows([2])
    spec = TensorSpec("x", "UINT8", (-1, 0))
    assert isinstance(Staging(spec, False, cuda.registered).lay([row[:0], row[:0]], (2, 0)), torch.Tensor)


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
