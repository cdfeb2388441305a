"""The one door: what it refuses and how it says so, what it asks of the engines, what it counts."""

import asyncio
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest

from service.errors import (
    DeadlineExceeded,
    ExecutionFailed,
    InvalidInput,
    NotFound,
    QueueFull,
    ServiceError,
    Unavailable,
    Unsupported,
)
from service.plane import Plane
from service.repository.model_config import Batching
from service.tensors import InferRequest, InferResponse, RequestedOutput, Tensor, to_numpy, unpack_bytes
from tests.fakes import STORY_ENTRY, FakeCounter, FakeEngines, FakeStreams, catalog, entry


def plane(engines: FakeEngines | None = None, counter: FakeCounter | None = None, **more: Any) -> Plane:
    made = Plane(engines or FakeEngines(), counter or FakeCounter(), clock=lambda: 100.0)
    made.catalog = catalog(*more.get("entries", ()))
    return made


def x(*shape: int, name: str = "x", dtype: str = "FP32", data: bytes | None = None) -> Tensor:
    values = np.arange(int(np.prod(shape)), dtype=np.float32)
    return Tensor(name, dtype, shape, values.tobytes() if data is None else data)


def ask(subject: Plane, *inputs: Tensor, **more: Any) -> Any:
    request = InferRequest(more.pop("model", "double"), more.pop("version", ""), inputs, **more)
    return asyncio.run(subject.infer(request))


def test_answers_with_the_default_version_the_highest_that_is_ready() -> None:
    response = ask(plane(), x(2, 3), id="mine")
    assert (response.model, response.version, response.id) == ("double", "2", "mine")
    np.testing.assert_array_equal(to_numpy(response.outputs[0]), [[0, 2, 4], [6, 8, 10]])
    assert response.phases_ns == (1, 2, 3, 4, 5)


REFUSALS = [
    ([], "missing input 'x'"),
    ([x(3)], r"expected FP32 \[-1,3\] \(batch up to 8\), got FP32 \[3\]: add the batch dimension"),
    ([x(1, 1, 1, 3)], r"got FP32 \[1,1,1,3\]: send 2 dimensions"),
    ([x(2, 4)], "dimension 1 must be 3"),
    ([x(0, 3)], "the batch is empty"),
    ([x(513, 3)], "batch of 513 rows is larger than max_request_rows 512 of model 'double': split the request"),
    ([x(1, 3, dtype="FP64", data=bytes(24))], r"got FP64 \[1,3\]: send the data as FP32"),
    ([x(1, 3, data=bytes(11))], "with 11 bytes: this shape takes 12 bytes"),
    ([x(1, 3, name="z")], r"has no input 'z': its inputs are 'x' FP32 \[-1,3\]"),
    ([x(1, 3), x(1, 3)], "input 'x' is given twice"),
]


@pytest.mark.parametrize(("inputs", "sentence"), REFUSALS)
def test_says_what_was_expected_what_came_and_what_to_do(inputs: list[Tensor], sentence: str) -> None:
    engines, counter = FakeEngines(), FakeCounter()
    with pytest.raises(InvalidInput, match=sentence):
        ask(plane(engines, counter), *inputs)
    assert engines.asked == []
    assert counter.ended == [("double", "2", "http", "invalid", 0)]


def test_a_request_of_a_trace_is_told_of_when_it_was_answered() -> None:
    counter = FakeCounter()
    door = plane(counter=counter)
    asyncio.run(door.infer(InferRequest("double", "", (x(1, 3),), trace="00-1-2-01")))
    with pytest.raises(InvalidInput):
        asyncio.run(door.infer(InferRequest("double", "", (x(1, 4),), trace="00-3-4-01")))
    assert counter.traces == ["00-1-2-01"]


def test_all_inputs_share_the_batch() -> None:
    pair = entry(name="pair", inputs=(entry().inputs[0], entry().inputs[0].__class__("z", "FP32", (-1, 3))))
    with pytest.raises(InvalidInput, match="'z' has 2 rows, another input has 1"):
        ask(plane(entries=[pair]), x(1, 3), x(2, 3, name="z"), model="pair")


def test_a_dimension_that_varies_takes_any_size() -> None:
    free = entry(name="free", inputs=(entry().inputs[0].__class__("x", "FP32", (-1, -1)),))
    engines = FakeEngines(free=lambda arrays: [arrays[0]])
    engines.know(free)
    response = ask(plane(engines, entries=[free]), x(1, 0), model="free")
    assert response.outputs[0].shape == (1, 0)


@pytest.mark.parametrize(
    ("outputs", "sentence"),
    [((RequestedOutput("z"),), "no output 'z': its outputs are y"), ((RequestedOutput("y"),) * 2, "asked for twice")],
)
def test_refuses_outputs_it_cannot_give(outputs: tuple[RequestedOutput, ...], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        ask(plane(), x(1, 3), outputs=outputs)


def test_names_the_nearest_model_and_the_versions() -> None:
    with pytest.raises(NotFound, match="unknown model 'doubel': did you mean 'double'"):
        ask(plane(), x(1, 3), model="doubel")
    with pytest.raises(NotFound, match="no version '7': its versions are 1, 2"):
        ask(plane(), x(1, 3), version="7")


def test_a_model_that_loads_is_unavailable_with_its_reason_and_a_time_to_come_back() -> None:
    with pytest.raises(Unavailable, match="'slow_start' version 1 is not ready: compiling: inductor") as caught:
        ask(plane(), x(1, 3), model="slow_start")
    assert caught.value.retry_after_s is not None


def test_a_draining_service_takes_nothing_new() -> None:
    draining = plane()
    draining.is_draining = True
    assert not draining.is_ready
    with pytest.raises(Unavailable, match="shutting down"):
        ask(draining, x(1, 3))


def test_the_earliest_of_timeout_and_deadline_travels_with_the_request() -> None:
    engines = FakeEngines()
    subject = plane(engines, entries=[entry(version="2", batching=Batching(timeout_us=3_000_000))])
    ask(subject, x(1, 3))
    ask(subject, x(1, 3), timeout_us=500_000)
    ask(subject, x(1, 3), timeout_us=500_000, deadline=100.25)
    assert [message.deadline for message in engines.asked] == [103.0, 100.5, 100.25]


def test_a_timeout_that_delays_is_no_deadline() -> None:
    engines = FakeEngines()
    batching = Batching(timeout_us=3_000_000, timeout_action="delay")
    subject = plane(engines, entries=[entry(version="2", batching=batching)])
    ask(subject, x(1, 3))
    ask(subject, x(1, 3), timeout_us=500_000, deadline=100.25)
    assert [(message.deadline, message.late) for message in engines.asked] == [(None, 103.0), (100.25, 100.5)]


def test_rows_beyond_a_batch_are_taken_unless_the_model_says_no() -> None:
    strict, generous = Batching(split=False), Batching(max_request_rows=10)
    for batching, rows, word in ((strict, 9, "max_batch_size 8"), (generous, 11, "max_request_rows 10")):
        subject = plane(entries=[entry(version="2", batching=batching)])
        with pytest.raises(InvalidInput, match=f"batch of {rows} rows is larger than {word} of model 'double'"):
            ask(subject, x(rows, 3))
        assert ask(subject, x(8, 3)).outputs[0].shape == (8, 3)
    assert ask(plane(), x(512, 3)).outputs[0].shape == (512, 3)


def test_classification_gives_the_largest_values_with_labels() -> None:
    wanted = (RequestedOutput("color", classification=2),)
    pixels = np.zeros((1, 4, 4, 3), np.uint8)
    pixels[..., 1] = 200
    pixels[..., 2] = 100
    response = ask(
        plane(), Tensor("image", "UINT8", pixels.shape, pixels.tobytes()), model="mean_color", outputs=wanted
    )
    (output,) = response.outputs
    assert (output.datatype, output.shape) == ("BYTES", (1, 2))
    assert unpack_bytes(output.data, 2) == [b"200.000000:1:green", b"100.000000:2:blue"]


OUTCOMES: list[tuple[ServiceError, str]] = [
    (QueueFull("full"), "rejected"),
    (DeadlineExceeded("late"), "timeout"),
    (ExecutionFailed("broke"), "failed"),
    (Unavailable("died"), "failed"),
]


@pytest.mark.parametrize(("error", "outcome"), OUTCOMES)
def test_counts_each_request_once_by_its_outcome(error: ServiceError, outcome: str) -> None:
    engines, counter = FakeEngines(), FakeCounter()
    engines.error = error
    subject = plane(engines, counter)
    with pytest.raises(type(error)):
        ask(subject, x(2, 3))
    assert counter.ended == [("double", "2", "http", outcome, 2)]
    assert subject.in_flight == 0


def test_a_name_that_no_model_has_never_becomes_a_label() -> None:
    counter = FakeCounter()
    with pytest.raises(NotFound):
        ask(plane(counter=counter), x(1, 3), model="x" * 5000)
    assert counter.ended == [("", "", "http", "invalid", 0)]


def stream(subject: Plane, count: int, leave_after: int = 1_000_000, **more: Any) -> list[InferResponse]:
    """The responses of `story`, of which so many are taken."""
    tensor = Tensor("count", "INT32", (1,), np.array([count], np.int32).tobytes())
    request = InferRequest("story", "", (tensor,), **more)

    async def take() -> list[InferResponse]:
        found = []
        async with aclosing(subject.stream(request)) as responses:
            async for response in responses:
                found.append(response)
                if len(found) == leave_after:
                    break
        return found

    return asyncio.run(take())


def test_several_responses_come_one_by_one_and_the_last_only_says_so() -> None:
    counter = FakeCounter()
    found = stream(plane(FakeStreams(), counter, entries=[STORY_ENTRY]), 2, id="mine")
    assert [(each.id, each.is_final, len(each.outputs)) for each in found] == [
        ("mine", False, 1),
        ("mine", False, 1),
        ("mine", True, 0),
    ]
    assert counter.ended == [("story", "1", "http", "success", 1)]


def test_who_leaves_before_the_end_ends_the_work_and_is_counted_as_cancelled() -> None:
    counter, engines = FakeCounter(), FakeStreams()
    subject = plane(engines, counter, entries=[STORY_ENTRY])
    assert len(stream(subject, 100, leave_after=3)) == 3
    assert (engines.given, engines.ended, subject.in_flight) == (3, ["left"], 0)
    assert counter.ended == [("story", "1", "http", "cancelled", 1)]


def test_a_stream_of_any_other_model_is_its_one_answer() -> None:
    subject = plane()

    async def take() -> list[InferResponse]:
        return [each async for each in subject.stream(InferRequest("double", "", (x(1, 3),)))]

    (response,) = asyncio.run(take())
    assert (response.is_final, response.outputs[0].name) == (True, "y")


def test_a_model_of_several_responses_is_not_asked_for_one() -> None:
    counter = FakeCounter()
    subject = plane(FakeStreams(), counter, entries=[STORY_ENTRY])
    with pytest.raises(Unsupported, match=r"model 'story' answers a request with any number of responses: use POST"):
        ask(subject, model="story")
    assert counter.ended == [("story", "1", "http", "invalid", 0)]


def test_a_stream_that_fails_says_why_and_is_counted() -> None:
    counter, engines = FakeCounter(), FakeStreams()
    engines.breaks_after = 0
    with pytest.raises(ExecutionFailed, match="failed on this input"):
        stream(plane(engines, counter, entries=[STORY_ENTRY]), 2)
    assert counter.ended == [("story", "1", "http", "failed", 1)]
    with pytest.raises(InvalidInput, match="missing input 'count'"):
        asyncio.run(anext(plane(engines, entries=[STORY_ENTRY]).stream(InferRequest("story", "", ()))))
