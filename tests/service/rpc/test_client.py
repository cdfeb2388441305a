"""Our own client against a real server: arrays in and out, errors of the same tree."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from service.client.rpc import RpcClient
from service.errors import DeadlineExceeded, InvalidInput, NotFound, Unavailable
from tests.service.rpc.fakes import FakePlane, ThreadedServer, answer_with, real_plane


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with ThreadedServer(real_plane) as server:
        yield server.url


def test_arrays_go_in_and_come_out(url: str) -> None:
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    with RpcClient(url) as client:
        np.testing.assert_array_equal(client.infer("double", {"x": rows})["y"], 2 * rows)
        np.testing.assert_array_equal(
            client.infer("double", {"x": rows[:, ::-1]}, "1", outputs=["y"])["y"], 2 * rows[:, ::-1]
        )


def test_errors_are_those_of_the_service(url: str) -> None:
    rows = np.zeros((1, 3), np.float32)
    with RpcClient(f"grpc://{url}") as client:
        with pytest.raises(NotFound, match="did you mean 'double'"):
            client.infer("duble", {"x": rows})
        with pytest.raises(InvalidInput, match="expected FP32"):
            client.infer("double", {"x": rows.astype(np.float64)})
        with pytest.raises(Unavailable, match="compiling: inductor"):
            client.infer("slow_start", {"x": rows})


def test_text_travels_as_bytes_and_comes_back_as_bytes() -> None:
    with ThreadedServer(FakePlane) as server, RpcClient(server.url) as client:
        answer = client.infer("any", {"words": np.array([["a", "käse"]]), "blobs": np.array([b"\0\1", "x"], object)})
        assert answer["words"].tolist() == [[b"a", "käse".encode()]]
        assert answer["blobs"].tolist() == [b"\0\1", b"x"]
        with pytest.raises(InvalidInput, match="text and bytes only, got int"):
            client.infer("any", {"x": np.array([1, "x"], object)})


def test_readiness_is_a_question_and_not_an_error(url: str) -> None:
    with ThreadedServer(FakePlane) as server, RpcClient(server.url) as client:
        assert client.is_ready()
    with RpcClient(url) as client:
        assert not client.is_ready(), "a model still loads"
    with RpcClient("127.0.0.1:1") as client:
        assert not client.is_ready(), "nobody listens"


def test_a_server_that_cannot_be_reached_or_runs_out_of_time() -> None:
    rows = {"x": np.zeros((1, 3), np.float32)}
    with RpcClient("127.0.0.1:1") as client, pytest.raises(Unavailable):
        client.infer("double", rows)
    late = ThreadedServer(lambda: FakePlane(answer_with(DeadlineExceeded("too late: allow more time"))))
    with late as server, RpcClient(server.url) as client, pytest.raises(DeadlineExceeded, match="allow more time"):
        client.infer("double", rows, timeout_s=30)
