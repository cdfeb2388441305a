"""Kept answers: what is the same question, what is too large, what is dropped, and what a request wants on top."""

from __future__ import annotations

import asyncio
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import ExecutionFailed
from service.plane import Plane
from service.repository.catalog import Catalog, Entry, State
from service.repository.scheduling import Ensemble, EnsembleStep
from service.response_cache import ENTRY_BYTES, IN_LOOP_BYTES, ResponseCache, digest_inputs, source_of
from service.tensors import InferRequest, InferResponse, Placement, RequestedOutput, SequencePoint, Tensor, to_numpy
from service.timing import server_timing
from tests.fakes import FakeCounter, FakeEngines, entry

KEEPING = entry(response_cache=True, labels={"y": ("ant", "bee", "cat")})


class Asked:
    """A plane that keeps answers, over engines that count."""

    def __init__(self, *entries: Entry, max_bytes: int = 1 << 20) -> None:
        self.engines, self.counter = FakeEngines(), FakeCounter()
        self.plane = Plane(self.engines, self.counter)
        self.plane.cache = ResponseCache(max_bytes)
        self.plane.follow(Catalog(entries or (KEEPING,)))

    def infer(self, *rows: float, **more: Any) -> InferResponse:
        data = np.array([rows or (1, 2, 3)], np.float32)
        request = InferRequest("double", "", (Tensor("x", "FP32", data.shape, data.tobytes()),), **more)
        return asyncio.run(self.plane.infer(request))

    @property
    def computed(self) -> int:
        return len(self.engines.asked)


def test_the_same_inputs_are_computed_once() -> None:
    asked = Asked()
    first, second = asked.infer(id="a"), asked.infer(id="b")
    assert asked.computed == 1
    assert (first.id, second.id) == ("a", "b")
    np.testing.assert_array_equal(to_numpy(second.outputs[0]), to_numpy(first.outputs[0]))
    assert (first.phases_ns, second.phases_ns, second.batch) == ((1, 2, 3, 4, 5), (), 0)
    asked.infer(1, 2, 4)
    assert asked.computed == 2


def test_the_answer_says_that_it_was_kept() -> None:
    asked = Asked()
    asked.infer()
    assert server_timing(asked.infer().phases_ns, 0.001, 0, 0, "eager fp32") == (
        b'cache;desc="hit", total;dur=1.000, backend;desc="eager fp32"'
    )


def test_hits_and_misses_are_counted_and_both_are_successes() -> None:
    asked = Asked()
    for _ in range(3):
        asked.infer()
    assert asked.counter.lookups == [("double", "1", False), ("double", "1", True), ("double", "1", True)]
    assert asked.counter.ended == [("double", "1", "http", "success", 1)] * 3


def test_a_model_that_does_not_ask_for_it_is_computed_each_time() -> None:
    asked = Asked(entry())
    asked.infer(), asked.infer()
    assert asked.computed == 2
    assert asked.counter.lookups == []


def test_a_cache_of_no_bytes_and_a_frontend_without_one_keep_nothing() -> None:
    asked = Asked(max_bytes=0)
    asked.infer(), asked.infer()
    asked.plane.cache = None
    asked.infer()
    assert asked.computed == 3


def test_classes_and_chosen_outputs_apply_on_top_of_what_is_kept() -> None:
    asked = Asked()
    asked.infer(outputs=(RequestedOutput("y", classification=1),))
    assert bytes(asked.infer(outputs=(RequestedOutput("y", 2),)).outputs[0].data).count(b":") == 4
    np.testing.assert_array_equal(to_numpy(asked.infer().outputs[0]), [[2, 4, 6]])
    assert asked.computed == 1


def test_shared_memory_is_written_on_a_hit_too(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked()
    asked.infer()
    written: list[bytes] = []

    class Region:
        def write(self, offset: int, data: memoryview) -> None:
            written.append(bytes(data))

    monkeypatch.setattr(asked.plane.regions, "targets", lambda request: {"y": Region()})
    response = asked.infer(shared_outputs={"y": Placement("region", 12)})
    assert asked.computed == 1
    assert written == [np.array([2, 4, 6], np.float32).tobytes()]
    assert response.outputs[0].data == b""


def test_a_failure_is_not_kept() -> None:
    asked = Asked()
    asked.engines.error = ExecutionFailed("no")
    with pytest.raises(ExecutionFailed):
        asked.infer()
    asked.engines.error = None
    asked.infer()
    assert asked.computed == 2


def test_a_request_of_a_sequence_is_never_answered_from_memory() -> None:
    asked = Asked()
    asked.infer(), asked.infer(sequence=SequencePoint(1)), asked.infer(sequence=SequencePoint(1))
    assert asked.computed == 3


@pytest.mark.parametrize("change", [{"artifact": 1}, {"contract": 1}, {"version": "2"}])
def test_what_another_artifact_answered_is_dropped(change: dict[str, Any]) -> None:
    asked = Asked()
    asked.infer()
    asked.plane.follow(Catalog((entry(response_cache=True, **change),)))
    assert len(asked.plane.cache or ()) == 0
    asked.infer()
    assert asked.computed == 2


def test_a_snapshot_that_changes_nothing_drops_nothing() -> None:
    asked = Asked()
    asked.infer()
    asked.plane.follow(Catalog((KEEPING, entry(name="other"))))
    asked.infer()
    assert asked.computed == 1


def test_what_is_unloaded_or_not_ready_is_dropped() -> None:
    for later in (Catalog(), Catalog((entry(response_cache=True, state=State.UNLOADING),))):
        asked = Asked()
        asked.infer()
        asked.plane.follow(later)
        assert (asked.plane.cache or ResponseCache(0)).bytes == 0


def test_the_late_answer_of_an_artifact_that_was_replaced_meanwhile_is_not_kept() -> None:
    asked = Asked()

    def swapped_while_computing(arrays: Any) -> Any:
        asked.plane.follow(Catalog((entry(response_cache=True, artifact=7),)))
        return [2 * arrays[0]]

    asked.engines.computes("double", swapped_while_computing)
    asked.infer()
    assert len(asked.plane.cache or ()) == 0


def test_an_ensemble_answers_anew_when_one_of_its_models_is_replaced() -> None:
    steps = (EnsembleStep("inner", {"x": "x"}, {"y": "y"}),)
    whole = entry(name="whole", ensemble=Ensemble(steps))
    before = source_of(whole, Catalog((whole, entry(name="inner", artifact=1))))
    assert before == source_of(whole, Catalog((whole, entry(name="inner", artifact=1))))
    assert before != source_of(whole, Catalog((whole, entry(name="inner", artifact=2))))
    assert before != source_of(whole, Catalog((whole, entry(name="inner", version="2", artifact=1))))


def digest(*tensors: Tensor) -> bytes:
    return asyncio.run(digest_inputs(tensors))


def test_everything_about_an_input_makes_another_question() -> None:
    plain = Tensor("x", "FP32", (1, 2), b"12345678")
    others = [
        Tensor("z", "FP32", (1, 2), b"12345678"),
        Tensor("x", "INT32", (1, 2), b"12345678"),
        Tensor("x", "FP32", (2, 1), b"12345678"),
        Tensor("x", "FP32", (1, 2), b"12345679"),
    ]
    assert len({digest(each) for each in (plain, *others)}) == 5
    assert digest(plain, others[0]) == digest(others[0], plain), "their order in the request does not matter"
    assert digest(Tensor("x", "FP32", (1, 2), bytearray(b"12345678"))) == digest(plain)


@given(st.binary(max_size=40), st.integers(0, 40))
def test_bytes_do_not_pass_from_one_tensor_to_the_next(data: bytes, cut: int) -> None:
    def split(at: int) -> bytes:
        return digest(Tensor("a", "BYTES", (1,), data[:at]), Tensor("b", "BYTES", (1,), data[at:]))

    cut = min(cut, len(data))
    assert (split(cut) == split(0)) == (cut == 0)


def test_large_inputs_are_digested_beside_the_loop_with_the_same_result() -> None:
    data = bytes(IN_LOOP_BYTES + 1)
    assert digest(Tensor("x", "UINT8", (len(data),), data)) == digest(
        Tensor("x", "UINT8", (len(data),), memoryview(data))
    )


def cache_of(max_bytes: int) -> tuple[ResponseCache, Any]:
    cache = ResponseCache(max_bytes)
    cache.follow(Catalog((KEEPING,)))
    return cache, cache.source(KEEPING)


def output(size: int) -> tuple[Tensor, ...]:
    return (Tensor("y", "UINT8", (1, size), memoryview(bytes(size))),)


def test_what_was_asked_for_longest_ago_goes_first() -> None:
    cache, source = cache_of(12_000)
    for name in (b"a", b"b", b"c", b"d", b"e", b"f", b"g"):
        cache.put(source, name, output(600))
        cache.get(source, b"a")
    assert cache.get(source, b"a") is not None
    cache.put(source, b"h", output(600)), cache.put(source, b"i", output(600))
    assert cache.get(source, b"a") is not None
    assert cache.get(source, b"b") is None
    assert cache.bytes <= cache.max_bytes


def test_an_answer_larger_than_a_part_of_the_cache_is_not_kept() -> None:
    cache, source = cache_of(16_000)
    cache.put(source, b"large", output(2000))
    assert len(cache) == 0
    cache.put(source, b"small", output(1000))
    assert len(cache) == 1


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 1500)), max_size=60))
def test_the_bound_holds_and_what_is_counted_is_what_is_there(puts: list[tuple[int, int]]) -> None:
    cache, source = cache_of(10_000)
    for name, size in puts:
        cache.put(source, bytes([name]), output(size))
        assert ENTRY_BYTES * len(cache) <= cache.bytes <= cache.max_bytes
    cache.follow(Catalog())
    assert (cache.bytes, len(cache)) == (0, 0)


@pytest.mark.parametrize("size", [0, 10, 1000])
def test_the_memory_that_is_used_is_not_more_than_is_counted(size: int) -> None:
    cache, source = cache_of(1 << 30)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(2000):
            cache.put(source, number.to_bytes(32, "big"), output(size))
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(cache) == 2000
    assert used <= cache.bytes
