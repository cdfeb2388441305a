"""tritonclient's four clients, unmodified, each in a process of its own: every public call, and what it must give."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from typing import Any

import pytest

from tests.e2e import times
from tests.e2e.foreign.conftest import documented
from tests.e2e.running import RunningServer

CLIENTS = ("http", "grpc", "http.aio", "grpc.aio")
SUM = [[0, 2, 4, 6]]
OTHER_WAYS = {"http": 4 + 6, "grpc": 2}
INVALID, NOT_FOUND = ("400", "StatusCode.INVALID_ARGUMENT"), ("404", "StatusCode.NOT_FOUND")
UNSUPPORTED = ("501", "StatusCode.UNIMPLEMENTED")


@functools.cache
def calls(client: str, address: str) -> dict[str, Any]:
    """What came of every call; the program runs once for all the tests of a client."""
    arguments = [client, address, times.code(9), times.CONFIG]
    command = [sys.executable, "-m", "tests.e2e.foreign.triton_calls", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def came(client: str, open_server: RunningServer) -> dict[str, Any]:
    port = open_server.http_port if client.startswith("http") else open_server.grpc_port
    return calls(client, f"127.0.0.1:{port}")


def shapes(tensors: list[dict[str, Any]]) -> list[tuple[str, str, list[int]]]:
    return [(each["name"], each["datatype"], [int(size) for size in each["shape"]]) for each in tensors]


def test_describes_the_service_and_its_models(came: dict[str, Any]) -> None:
    seen = came["describe"]
    assert (seen["live"], seen["ready"]) == (True, True)
    assert seen["models"] == [True, True, False, False, False], "of affine, its version 1 and 9, times, nobody"
    assert seen["server"]["name"] == "torchere"
    assert {"statistics", "model_repository", "system_shared_memory"} <= set(seen["server"]["extensions"])
    assert (seen["metadata"]["name"], seen["metadata"]["versions"]) == ("affine", ["1"])
    assert shapes(seen["metadata"]["inputs"]) == [("x", "FP32", [-1, 4]), ("y", "FP32", [-1, 4])]
    assert shapes(seen["metadata"]["outputs"]) == [("sum", "FP32", [-1, 4]), ("scaled", "FP32", [-1, 4])]
    assert (seen["config"]["name"], seen["config"]["max_batch_size"]) == ("affine", 16)
    assert [int(size) for size in seen["config"]["input"][0]["dims"]] == [4]
    states = {each["name"]: each["state"] for each in seen["index"]}
    assert (states["affine"], states["times"]) == ("READY", "UNAVAILABLE")


def test_infers_with_every_option(client: str, came: dict[str, Any]) -> None:
    seen = came["infer"]
    assert seen["sum"] == seen["scaled"] == seen["unasked"] == SUM
    assert seen["outputs"] == ["scaled", "sum"], "in the order in which they were asked for"
    assert seen["output"] is True
    assert seen["answered by"] == ["42", "affine", "1"]
    assert seen["in other ways"] == [SUM] * OTHER_WAYS[client.removesuffix(".aio")]
    assert seen["labels"] == ["6.000000:1:right", "2.000000:0:left"]


def test_mistakes_have_their_status_and_the_service_lives_on(came: dict[str, Any]) -> None:
    seen = came["errors"]
    for mistake, statuses, sentence in (
        ("unknown model", NOT_FOUND, "unknown model 'nobody'"),
        ("unknown version", NOT_FOUND, "its versions are 1"),
        ("missing input", INVALID, "missing input 'y'"),
        ("too late", ("TimeoutError", "timeout", "StatusCode.DEADLINE_EXCEEDED"), ""),
    ):
        status, message = seen[mistake]
        assert status in statuses, (mistake, message)
        assert sentence in message
    assert seen["lives on"] == SUM


def test_many_requests_at_once_and_one_given_up(client: str, came: dict[str, Any]) -> None:
    assert came["at once"] == [[[0, 2 * factor, 4 * factor, 6 * factor]] for factor in range(8)]
    assert came["cancel"] == ("StatusCode.CANCELLED" if client.startswith("grpc") else "no such call")


def test_a_stream_goes_on_after_a_mistake(client: str, came: dict[str, Any]) -> None:
    if client.startswith("http"):
        assert came["stream"] == [], "HTTP has no streams"
        return
    first, second, third = came["stream"]
    assert first == third == SUM
    assert "unknown model 'nobody'" in second


def test_statistics_grow(came: dict[str, Any]) -> None:
    assert came["statistics"]["grown"] == 3
    assert {"affine", "digits", "patient", "poison"} <= set(came["statistics"]["models"])


def test_system_shared_memory_carries_tensors(came: dict[str, Any]) -> None:
    seen = came["system memory"]
    (region,) = seen["status"]
    assert (region["name"], int(region["byte_size"])) == ("r", 48)
    assert seen["sum"] == [[0, 5, 10, 15]]
    assert seen["left"] in ([], {})


def test_cuda_shared_memory_is_refused_cleanly(came: dict[str, Any]) -> None:
    seen = came["CUDA memory"]
    assert seen["status"] in ([], {})
    status, message = seen["register"]
    assert status in UNSUPPORTED
    assert "CUDA shared memory" in message


def test_settings_of_traces_and_logs(client: str, came: dict[str, Any]) -> None:
    seen = came["settings"]

    def setting(answer: dict[str, Any], name: str) -> list[str]:
        value = answer[name] if client.startswith("http") else answer["settings"][name]["value"]
        return value if isinstance(value, list) else [value]

    for answer in (seen["changed"], seen["trace"]):
        assert (setting(answer, "trace_level"), setting(answer, "trace_rate")) == (["TIMESTAMPS"], ["3"])
    assert setting(seen["cleared"], "trace_level") == ["OFF"]
    for answer in (seen["log"], seen["logs"]):
        if client.startswith("grpc"):
            answer = {name: next(iter(value.values())) for name, value in answer["settings"].items()}
        assert (answer["log_verbose_level"], answer["log_info"]) == (1, True)


def test_models_are_loaded_changed_and_unloaded(came: dict[str, Any]) -> None:
    seen = came["models"]
    assert seen["answers"] == [[[2, 4]], [[9, 18]]], "of the repository's file, and of the call's"
    assert seen["max_batch_size"] == [8, 2]
    assert seen["unknown"][0] in NOT_FOUND
    assert seen["ready"] is False


def test_a_plugin_adds_its_header(came: dict[str, Any]) -> None:
    assert came["plugin"] == [True, SUM]


def test_bodies_that_something_else_carries(client: str, came: dict[str, Any]) -> None:
    assert came["without connection"] == (SUM if client.startswith("http") else None)


def test_texts_in_and_out(client: str, came: dict[str, Any]) -> None:
    seen = came["texts"]
    assert seen["moods"] == [["glad", "sad"]] * (2 if client.startswith("http") else 1)
    assert "write at least one word" in seen["empty"][1]


def test_one_request_answered_in_parts(client: str, came: dict[str, Any]) -> None:
    seen = came["story"]
    assert seen["refused"][0] in INVALID + UNSUPPORTED
    if client.startswith("grpc"):
        assert seen["said"] == list(" quic")
        assert set(seen["ids"]) == {"s"}
        asks_for_the_last = client == "grpc"  # grpc.aio does not pass enable_empty_final_response on
        assert seen["finals"] == [False] * 5 + [True] * asks_for_the_last


def test_sequences_keep_their_state_apart(client: str, came: dict[str, Any]) -> None:
    seen = came["sequences"]
    assert seen["sums"] == {"7": [[[1, 1]], [[3, 3]], [[6, 6]]], "named": [[[10, 10]], [[30, 30]], [[60, 60]]]}
    for mistake in ("no start", "no id"):
        status, message = seen[mistake]
        assert status in INVALID, message
        assert "sequence" in message
    if client.startswith("grpc"):
        assert seen["on a stream"] == [[[1, 1]], [[3, 3]], [[6, 6]]]


def test_no_public_call_was_left_out(came: dict[str, Any]) -> None:
    assert came["called"] == came["public"]
    assert set(came["public"]) - documented("tritonclient") == set(), "docs/clients.md has a row for each"
