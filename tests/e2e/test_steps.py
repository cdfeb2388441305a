"""Python steps in a real service: text both ways, a crash and a hang under load, code that changes, streams."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest

from protos import inference_pb2 as pb
from protos.inference_pb2_grpc import GRPCInferenceServiceStub
from service.client.rpc import RpcClient
from tests.e2e.conftest import ROOT
from tests.e2e.running import RunningServer

OK = (200, "glad")


@pytest.fixture(scope="module")
def server(cache: Path, logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    repository = tmp_path_factory.mktemp("steps")
    for name in ("mood", "story"):
        shutil.copytree(ROOT / "tests/models" / name, repository / name)
    flags = ("--model-control-mode", "poll", "--poll-interval-s", "0.5")
    with RunningServer(repository, cache, logs, *flags) as running:
        running.repository = repository  # type: ignore[attr-defined]
        yield running


def ask_mood(client: httpx.Client, *texts: str) -> tuple[int, str]:
    """The status, and the mood of the first text or what is wrong."""
    answer = client.post("/v1/models/mood/infer", json={"inputs": {"text": [[text] for text in texts]}})
    body = answer.json()
    return answer.status_code, body["outputs"]["mood"][0][0] if answer.status_code == 200 else body["error"]


class Load:
    """Clients that ask the same until the block ends; `seen` counts their answers."""

    def __init__(self, server: RunningServer, clients: int) -> None:
        self.seen: Counter[tuple[int, str]] = Counter()
        self._server = server
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        with httpx.Client(base_url=self._server.http, timeout=60) as client:
            while not self._is_over.is_set():
                self.seen[ask_mood(client, "a good day")] += 1


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it never was so"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("crash", "preprocess.py of model 'mood' ended its process, which left with exit code 3"),
        ("hang", "preprocess.py of model 'mood' took longer than 2 s (python.timeout_s in model.yaml) and was ended"),
    ],
)
def test_a_step_that_crashes_or_hangs_under_load_fails_alone(server: RunningServer, text: str, sentence: str) -> None:
    with Load(server, clients=2) as load, httpx.Client(base_url=server.http, timeout=60) as client:
        assert ask_mood(client, text) == (500, sentence)
        before = load.seen[OK]
        until(lambda: load.seen[OK] > before + 20)
    assert set(load.seen) == {OK}, load.seen


def test_text_goes_in_and_out_by_every_door(server: RunningServer) -> None:
    with httpx.Client(base_url=server.http, timeout=60) as client:
        assert ask_mood(client, "awful day") == (200, "sad")
        refused = ask_mood(client, "")
        assert refused == (
            400,
            "preprocess.py of model 'mood' refuses the input: a text is empty: write at least one word",
        )
        predicted = client.post("/v1/models/mood:predict", json={"instances": [{"text": [{"b64": "Z29vZA=="}]}]}).json()
        assert predicted == {"predictions": [{"mood": ["glad"], "score": [1.0]}]}
        generated = client.post("/v2/models/mood/generate", json={"text": "great"}).json()
        assert (generated["mood"], generated["score"]) == ("glad", 2.0)
    with RpcClient(f"127.0.0.1:{server.grpc_port}") as rpc:
        found = rpc.infer("mood", {"text": np.array([[b"bad"], [b"calm"]], object)})
    assert found["mood"].tolist() == [[b"sad"], [b"calm"]]
    assert found["score"].tolist() == [[-1.0], [0.0]]


def test_other_code_takes_over_without_a_failed_request(server: RunningServer) -> None:
    step = server.repository / "mood/1/postprocess.py"  # type: ignore[attr-defined]
    before = step.read_text()
    try:
        with Load(server, clients=2) as load:
            until(lambda: load.seen[OK] > 20)
            step.write_text(before.replace("glad", "happy"))
            until(lambda: load.seen[200, "happy"] > 20)
        assert set(load.seen) == {OK, (200, "happy")}, load.seen
    finally:
        step.write_text(before)


def test_each_response_comes_as_an_event_before_the_next_is_made(server: RunningServer) -> None:
    body = {"text_input": "t", "max_tokens": 4}
    with httpx.stream("POST", f"{server.http}/v2/models/story/generate_stream", json=body, timeout=60) as answer:
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        events = [json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line]
    assert "".join(event["text_output"] for event in events) == "he q"


def test_an_error_amid_the_events_is_an_event(server: RunningServer) -> None:
    body = {"text_input": "stop", "max_tokens": 9}
    with httpx.stream("POST", f"{server.http}/v2/models/story/generate_stream", json=body, timeout=60) as answer:
        *_, last = (json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line)
    assert last == {"error": "generate.py of model 'story' failed on this input: RuntimeError: for tests of this"}


def test_clients_that_leave_free_the_processes(server: RunningServer) -> None:
    body = {"text_input": "t", "max_tokens": 4_000}
    for _ in range(6):  # three times as many as there are processes
        with httpx.stream("POST", f"{server.http}/v2/models/story/generate_stream", json=body, timeout=60) as answer:
            assert next(answer.iter_lines()).startswith("data: ")
    until(lambda: server.metric("torchere_requests_total", model="story", outcome="cancelled") >= 6)


def test_a_stream_ends_with_the_last_response(server: RunningServer) -> None:
    request = pb.ModelInferRequest(model_name="story", id="a")
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    text = request.inputs.add(name="text_input", datatype="BYTES", shape=[1])
    text.contents.bytes_contents.append(b"t")
    request.inputs.add(name="max_tokens", datatype="INT32", shape=[1]).contents.int_contents.append(3)
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        answers = list(GRPCInferenceServiceStub(channel).ModelStreamInfer(iter([request]), timeout=60))
    found = [answer.infer_response for answer in answers]
    assert [each.raw_output_contents[0][4:] for each in found[:3]] == [b"h", b"e", b" "]
    assert [each.parameters["triton_final_response"].bool_param for each in found] == [False, False, False, True]
    assert not found[3].outputs
