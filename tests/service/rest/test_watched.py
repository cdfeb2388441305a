"""Requests over HTTP are watched on every way in: traced as their caller is, with a line each, and no secret in it."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from service.errors import QueueFull
from service.observe.sampling import Sampler, Sampling
from service.observe.watching import Watch, Watcher
from service.rest.infer import Asked
from service.rest.routes import Route
from service.security import token_line
from service.traced import unpack_mark
from tests.fakes import STORY_ENTRY, FakeStreams
from tests.service.rest.asking import Client

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "a=1"}
BODY = {"id": "r1", "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}
INFER = "/v2/models/double/infer"


class Kept:
    """Where traced requests go."""

    def __init__(self) -> None:
        self.watches: list[Watch] = []

    def put(self, watch: Watch) -> None:
        self.watches.append(watch)


def watching(client: Client, ratio: float = 0.0, **wanted: Any) -> Kept:
    watcher, kept = Watcher(**wanted), Kept()
    watcher.trace(Sampler(Sampling(ratio), lambda bits: 5), kept, lambda model, version: "eager fp32")
    client.app.lane.watcher = watcher
    return kept


def access(caplog: pytest.LogCaptureFixture) -> list[tuple[str, Any]]:
    """The operation and the status of each line."""
    lines = [record for record in caplog.records if record.name == "torchere.access"]
    return [(line.getMessage().split(" in ")[0].rsplit(" ", 1)[0], line.status) for line in lines]  # type: ignore[attr-defined]


def test_a_traced_request_goes_on_to_the_engine_and_into_the_example_of_its_latency() -> None:
    client = Client()
    kept = watching(client)
    assert client.post(INFER, BODY, headers=PARENT).status_code == 200
    (watch,) = kept.watches
    assert watch.context is not None
    assert watch.parent is not None
    assert (watch.context.trace_text, f"{watch.parent.span_id:016x}", watch.context.state) == (TRACE, SPAN, "a=1")
    assert (watch.status, watch.request_id, watch.version, watch.backend) == (200, "r1", "2", "eager fp32")
    assert watch.phases_ns == (1, 2, 3, 4, 5)
    assert watch.encode_s > 0
    (message,) = client.engines.asked
    assert unpack_mark(message.mark) == (int(TRACE, 16), 5)
    assert client.counter.traces == [watch.context.traceparent]


def test_what_is_not_traced_leaves_no_mark() -> None:
    client = Client()
    kept = watching(client)
    client.post(INFER, BODY)
    client.post(INFER, BODY, headers={"traceparent": f"00-{TRACE}-{SPAN}-00"})
    assert not kept.watches
    assert [message.mark for message in client.engines.asked] == [b"", b""]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (INFER, BODY, 200),
        (INFER, b"{", 400),
        ("/v2/models/nobody/infer", BODY, 404),
        ("/v1/models/double:predict", {"instances": [[1, 2, 3]]}, 200),
        ("/predictions/double", {"data": "x"}, 400),
        ("/v2/models/double/generate", {"x": [[1, 2, 3]]}, 200),
    ],
)
def test_every_way_to_ask_has_a_line(path: str, body: Any, status: int, caplog: pytest.LogCaptureFixture) -> None:
    client = Client()
    kept = watching(client, ratio=1.0, logs_access=True)
    with caplog.at_level(logging.INFO):
        assert client.post(path, body).status_code == status
    assert access(caplog) == [(f"POST {path}", status)]
    assert [watch.status for watch in kept.watches] == [status]


def test_what_is_no_inference_has_a_line_and_no_trace(caplog: pytest.LogCaptureFixture) -> None:
    client = Client(max_body_bytes=2000)
    kept = watching(client, ratio=1.0, logs_access=True)
    with caplog.at_level(logging.INFO):
        client.ask("GET", "/v2/models/double?token=hush")
        client.ask("GET", "/nothing/here")
        client.ask("GET", INFER)
        client.post(INFER, b"x" * 3000)
    assert access(caplog) == [
        ("GET /v2/models/double", 200),
        ("GET /nothing/here", 404),
        ("GET " + INFER, 405),
        ("POST " + INFER, 413),
    ]
    assert not kept.watches
    assert not any("hush" in str(vars(record)) for record in caplog.records if record.name.startswith("torchere"))


def test_a_stream_has_one_line_and_one_trace(caplog: pytest.LogCaptureFixture) -> None:
    client = Client(STORY_ENTRY)
    client.plane._engines = FakeStreams()
    kept = watching(client, ratio=1.0, logs_access=True)
    with caplog.at_level(logging.INFO):
        answer = client.post("/v2/models/story/generate_stream", {"count": 3})
    assert answer.text.count("data:") == 3
    assert access(caplog) == [("POST /v2/models/story/generate_stream", 200)]
    assert [(watch.responses, watch.error) for watch in kept.watches] == [(3, "")]


def test_what_goes_wrong_is_told_with_its_reason() -> None:
    client = Client()
    client.engines.error = QueueFull("model 'double' has 8 requests waiting: try again later")
    kept = watching(client, ratio=1.0)
    assert client.post(INFER, BODY).status_code == 503
    assert [(watch.status, watch.error) for watch in kept.watches] == [(503, str(client.engines.error))]


def test_a_fault_of_ours_names_the_request(caplog: pytest.LogCaptureFixture) -> None:
    client = Client()
    client.engines.error = RuntimeError("inner")
    kept = watching(client)
    assert client.post(INFER, BODY, headers=PARENT).status_code == 500
    (line,) = [record for record in caplog.records if record.exc_info]
    assert (line.request_id, line.trace_id, line.model) == ("r1", TRACE, "double")  # type: ignore[attr-defined]
    assert "inner" not in kept.watches[0].error


def test_a_client_that_leaves_is_told_of() -> None:
    client = Client()
    kept = watching(client, ratio=1.0)

    async def leave() -> None:
        client.engines.infer = lambda message, blobs: asyncio.Event().wait()  # type: ignore[assignment]
        body = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}'
        asking = asyncio.create_task(client.app.lane.answer(Asked(Route("v2", "double"), b"", {}, body, 1.0)))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])

    asyncio.run(leave())
    assert [(watch.status, watch.error) for watch in kept.watches] == [(499, "the client left")]


def test_no_token_is_ever_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokens, secret = tmp_path / "tokens", "a-token-nobody-may-read-0123456789"
    tokens.write_text(token_line(secret, ["infer"]) + "\n")
    tokens.chmod(0o600)
    client = Client(token_file=tokens)
    kept = watching(client, ratio=1.0, logs_access=True, slow_s=1e-9)
    with caplog.at_level(logging.DEBUG):
        assert client.post(INFER, BODY, headers={"authorization": f"Bearer {secret}"}).status_code == 200
        assert client.post(INFER, BODY, headers={"authorization": f"Bearer {secret}x"}).status_code == 401
    assert [status for _, status in access(caplog)] == [200, 401]
    assert not any(secret in str(vars(record)) for record in caplog.records if record.name.startswith("torchere"))
    assert not any(
        secret in str(msg) for watch in kept.watches for msg in (watch.asking, watch.error, watch.request_id)
    )
