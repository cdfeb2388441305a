"""Requests whose like came before: answered as in the usual way, and what is not quite the same is parsed."""

from __future__ import annotations

import gc
import time
from typing import Any
from unittest.mock import Mock

import pytest

from service.errors import NotLoaded, QueueFull
from service.observe.sampling import Sampler, Sampling
from service.observe.watching import Watcher
from service.repository.catalog import Catalog
from service.repository.model_config import Batching
from service.rest.familiar import MAX_FORMS, MAX_HEADS, Familiar
from service.rest.routes import find_route
from service.template import Sent
from tests.fakes import catalog, entry
from tests.service.rest.remembering import Scene, play, request, values
from tests.service.rest.test_protocol import status


def test_the_second_time_it_is_answered_without_a_task_and_with_the_same_bytes() -> None:
    async def act(scene: Scene) -> None:
        first = await scene.ask(request(1, 2, 3))
        assert scene.protocol.tasks == set()
        second = await scene.ask(request(1, 2, 3))
        third = await scene.ask(request(4, 5, 6))
        assert first == second
        assert values(third) == [8, 10, 12]
        assert (scene.engines.asked, scene.engines.begun) == (1, 2)
        assert scene.counter.ended == [("double", "2", "http", "success", 1)] * 3

    play(act)


@pytest.mark.parametrize(
    "other",
    [
        request(1, 2, 3, headers=b"traceparent: 00-1-2-01\r\n"),
        request(1, 2, 3, headers=b"Accept-Encoding: gzip\r\n"),
        request(1, 2, 3, headers=b"Connection: close\r\n"),
        request(1, 2, 3, headers=b"Endpoint-Load-Metrics-Format: TEXT\r\n"),
        request(1, 2, 3, parameters={"binary_data_output": False}),
        request(1, 2, 3, parameters={"binary_data_output": True, "sequence_id": 7}),
        request(1, 2, 3, outputs=[{"name": "y", "parameters": {"classification": 1, "binary_data": True}}]),
        request(1, 2),
        request(1, 2, 3, model=b"unknown"),
        request(1, 2, 3, model=b"slow_start"),
    ],
)
def test_what_is_not_plain_or_not_right_always_goes_the_usual_way(other: bytes) -> None:
    async def act(scene: Scene) -> None:
        answers = [await scene.ask(other) for _ in range(1 if b"close" in other else 3)]
        assert len(set(answers)) == 1
        assert scene.engines.begun == 0

    play(act)


def test_outputs_in_another_order_and_an_id_belong_to_the_form() -> None:
    async def act(scene: Scene) -> None:
        asked = request(1, 2, 3, id="mine", outputs=[{"name": "y", "parameters": {"binary_data": True}}])
        answers = [await scene.ask(asked) for _ in range(3)]
        assert len(set(answers)) == 1
        assert b'"id":"mine"' in answers[0]
        assert scene.engines.begun == 2

    play(act)


@pytest.mark.parametrize(("timeout_us", "own"), [(1_000_000, None), (1_000_000, 5_000_000), (None, 3_000_000)])
def test_a_timeout_counts_from_the_arrival_of_each(timeout_us: int | None, own: int | None) -> None:
    """The client's, else the model's."""
    given = request(1, 2, 3, parameters={"binary_data_output": True} | ({"timeout": timeout_us} if timeout_us else {}))

    async def act(scene: Scene) -> None:
        scene.plane.follow(Catalog((entry(version="2", batching=Batching(timeout_us=own or 0)),)))
        await scene.ask(given)
        deadlines = []
        for _ in range(2):
            began = time.monotonic()
            scene.protocol.data_received(given)
            ((message, _, _),) = scene.engines.waiting.values()
            assert message.deadline is not None
            assert began < message.deadline - (timeout_us or own or 0) / 1e6 < time.monotonic()
            deadlines.append(message.deadline)
            scene.engines.answer()
        assert deadlines[0] < deadlines[1]

    play(act)


def test_a_timeout_that_lets_others_go_first_goes_the_usual_way() -> None:
    async def act(scene: Scene) -> None:
        batching = Batching(timeout_us=3_000_000, timeout_action="delay")
        scene.plane.follow(Catalog((entry(version="2", batching=batching),)))
        for _ in range(3):
            await scene.ask(request(1, 2, 3))
        assert (scene.engines.asked, scene.engines.begun) == (3, 0)

    play(act)


def test_a_new_catalog_is_gone_by_at_once() -> None:
    async def act(scene: Scene) -> None:
        for _ in range(2):
            await scene.ask(request(1, 2, 3))
        scene.plane.follow(catalog(entry(version="3")))
        assert b'"model_version":"3"' in await scene.ask(request(1, 2, 3))
        scene.plane.is_draining = True
        assert status_of(await scene.ask(request(1, 2, 3))) == 503

    play(act)


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def test_pieces_and_pipelines_are_parsed() -> None:
    async def act(scene: Scene) -> None:
        whole = request(1, 2, 3)
        for _ in range(2):
            await scene.ask(whole)
        scene.protocol.data_received(whole[:-5])
        assert values(await scene.ask(whole[-5:])) == [2, 4, 6]
        assert scene.engines.begun == 1
        assert values(await scene.ask(whole)) == [2, 4, 6]
        assert scene.engines.begun == 2

    play(act)


def test_a_request_that_came_before_leaves_nothing_for_the_collector() -> None:
    async def act(scene: Scene) -> None:
        for _ in range(3):
            await scene.ask(request(1, 2, 3))
        gc.collect()
        gc.disable()
        try:
            for _ in range(20):
                await scene.ask(request(1, 2, 3))
            await scene.ask(request(1, 2, 3), error=QueueFull("no"))
            kept = [each for each in gc.get_objects() if type(each) is Sent]  # isinstance would ask torch, which warns
            assert len(kept) == 1, "the connection's last one alone"
        finally:
            gc.enable()

    play(act)


def test_an_error_of_the_engine_is_told_and_counted() -> None:
    async def act(scene: Scene) -> None:
        await scene.ask(request(1, 2, 3))
        assert status_of(await scene.ask(request(1, 2, 3), QueueFull("the queue is full"))) == 503
        scene.plane.says_exhausted = True
        assert status_of(await scene.ask(request(1, 2, 3), QueueFull("the queue is full"))) == 429
        assert status_of(await scene.ask(request(1, 2, 3))) == 200
        assert [outcome for *_, outcome, _ in scene.counter.ended] == ["success", "rejected", "rejected", "success"]

    play(act)


def test_where_the_engine_died_or_there_is_none_it_is_sent_again() -> None:
    async def act(scene: Scene) -> None:
        await scene.ask(request(1, 2, 3))
        assert values(await scene.ask(request(1, 2, 3), NotLoaded("it died"))) == [2, 4, 6]
        scene.engines.absent = True
        assert values(await scene.ask(request(4, 5, 6))) == [8, 10, 12]
        assert scene.engines.resent == 2

    play(act)


def test_a_client_that_leaves_takes_its_request_back() -> None:
    async def act(scene: Scene) -> None:
        await scene.ask(request(1, 2, 3))
        scene.protocol.data_received(request(1, 2, 3))
        ((number, _),) = scene.engines.waiting.items()
        scene.protocol.connection_lost(None)
        assert scene.engines.withdrawn == [number]
        assert scene.counter.ended[-1] == ("double", "2", "http", "cancelled", 1)

    play(act)


def test_a_slow_reader_gets_nothing_more_before_it_has_read() -> None:
    async def act(scene: Scene) -> None:
        await scene.ask(request(1, 2, 3))
        scene.protocol.pause_writing()
        assert values(await scene.ask(request(1, 2, 3))) == [2, 4, 6]
        assert not scene.protocol.cycle.response_complete
        scene.protocol.resume_writing()
        await scene.settle()
        assert scene.protocol.cycle.response_complete

    play(act)


def test_a_connection_that_idles_is_closed_and_one_that_works_is_not() -> None:
    async def act(scene: Scene) -> None:
        await scene.ask(request(1, 2, 3))
        scene.protocol.timeout_keep_alive = 0.0
        scene.protocol.data_received(request(1, 2, 3))
        scene.protocol.timeout_keep_alive_handler()
        assert not scene.transport.is_closed
        scene.engines.answer()
        scene.protocol.timeout_keep_alive_handler()
        assert scene.transport.is_closed

    play(act)


def test_what_is_remembered_is_bounded() -> None:
    scene = Scene()
    found: Familiar = scene.lane.familiar
    for number in range(MAX_HEADS + 5):
        data = request(1, 2, 3, headers=b"User-Agent: %d\r\n" % number)
        size = len(data.partition(b"\r\n\r\n")[2])
        found.remember(data, *_head_of(scene, data, size))
    assert repr(found) == "<Familiar 5 heads, 0 forms>"
    for number in range(MAX_FORMS + 5):
        data = request(1, 2, 3, id=f"{number:06}")
        end = data.index(b"\r\n\r\n") + 4
        found.remember(data, *_head_of(scene, data, len(data) - end))
        found.find(data, end)
    assert "forms" in repr(found)
    assert int(repr(found).split()[3]) <= MAX_FORMS


def _head_of(scene: Scene, data: bytes, size: int) -> tuple[Any, dict[bytes, bytes], int]:
    lines = data.partition(b"\r\n\r\n")[0].split(b"\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(b": ") for line in lines[1:])}
    return find_route(lines[0].split()[1]), headers, size


def test_it_is_what_the_usual_way_answers() -> None:
    async def act(scene: Scene) -> None:
        scene.plane.follow(catalog(entry(name="wide", inputs=entry().inputs, max_batch_size=0)))
        for sent in (request(1, 2, 3, model=b"wide"), request(7, 8, 9)):
            first, second = await scene.ask(sent), await scene.ask(sent)
            assert first == second
            assert status(scene.transport) == 200

    play(act)


@pytest.mark.parametrize(("ratio", "shorter_way"), [(0.0, 2), (1.0, 0)])
def test_what_is_traced_goes_the_usual_way(ratio: float, shorter_way: int) -> None:
    async def act(scene: Scene) -> None:
        watcher = Watcher()
        watcher.trace(Sampler(Sampling(ratio), lambda bits: 5), Mock(), lambda model, version: "eager")
        scene.lane.watcher = watcher
        answers = {await scene.ask(request(1, 2, 3)) for _ in range(3)}
        assert len(answers) == 1
        assert scene.engines.begun == shorter_way

    play(act)
