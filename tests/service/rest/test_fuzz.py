"""Verbs, paths and bodies thrown together by a seed: every answer is one of ours, and the application serves on."""

from __future__ import annotations

import asyncio
import random
from typing import Any
from urllib.parse import unquote

import orjson
import pytest

from tests.service.rest.asking import Client

VERBS = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "CONNECT", "BREW", "", "GET\0"]
PARTS = [
    *(
        "v2",
        "v1",
        "models",
        "double",
        "double:predict",
        "mean_color",
        "slow_start",
        "nobody",
        "versions",
        "1",
        "2",
        "-1",
    ),
    *(
        "infer",
        "generate",
        "generate_stream",
        "config",
        "stats",
        "ready",
        "metadata",
        "labels",
        "stable",
        "predictions",
    ),
    *("health", "live", "repository", "index", "load", "unload", "systemsharedmemory", "cudasharedmemory", "region"),
    *("register", "unregister", "status", "trace", "setting", "logging", "docs", "openapi.json", "ping", "", ".", ".."),
    *(
        "%00",
        "%2e%2e",
        "%2f",
        "%ff%fe",
        "a%0d%0aX:1",
        "x" * 300,
        "{name}",
        "é",
        "*",
        "; ls",
        "' OR 1=1",
        "$HOME",
        "99" * 40,
    ),
]
ROW = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}
BODIES = [
    *(b"", b"{}", b"[]", b"null", b"\0" * 64, b"[" * 500, b'{"a":' * 500, b"\xff" * 32, b"9" * 500, b'"' * 99),
    *(b'{"inputs": [NaN]}', b'{"ready": 1}', b'{"parameters": {"config": "{"}}', b'{"key": "../x", "byte_size": -1}'),
    *(orjson.dumps(each) for each in ({"inputs": [ROW]}, {"inputs": {"x": [[1, 2, 3]]}}, {"instances": [[1, 2, 3]]})),
    orjson.dumps({"inputs": [{**ROW, "shape": [2**62] * 8}], "outputs": [{"name": "y"}] * 99}),
    orjson.dumps({"inputs": [{**ROW, "parameters": {"binary_data_size": 2**62}}]}),
]
NAMES = [
    *("content-type", "content-encoding", "accept", "accept-encoding", "inference-header-content-length", "host"),
    *("content-length", "tensor-shape", "server-timing", "authorization", "expect", "transfer-encoding", "traceparent"),
]
VALUES = [
    *("", "0", "-1", "9" * 99, "gzip", "deflate", "br", "*/*;q=x", "application/json", "application/octet-stream"),
    *(
        "application/x-npy",
        "image/png",
        "multipart/form-data; boundary=",
        "text/html; charset=\xff",
        "\0",
        "1,2,3",
        "%s%n",
    ),
]
DELIBERATE = {  # 503: a model that loads, and probes of readiness, whose bodies say so in their own words
    200,
    400,
    401,
    403,
    404,
    405,
    408,
    413,
    431,
    501,
    503,
}
ROUNDS = 1500
ANSWER_S = 5.0  # far beyond what any of these takes on a busy machine


def made(chance: random.Random) -> dict[str, Any]:
    """One request, as the ASGI server hands it over."""
    depth = chance.randint(1, 6)
    raw = "/" + "/".join(chance.choice(PARTS) for _ in range(depth))
    if chance.random() < 0.6:
        tail = chance.choice(PARTS[12:])
        raw = f"/{chance.choice(['v1', 'v2'])}/models/{chance.choice(['double', 'nobody', 'mean_color'])}/{tail}"
    body = bytearray(chance.choice(BODIES))
    for _ in range(chance.choice([0, 0, 1, 4]) if body else 0):
        body[chance.randrange(len(body))] = chance.randrange(256)
    headers = [
        (chance.choice(NAMES).encode(), chance.choice(VALUES).encode("latin-1")) for _ in range(chance.randint(0, 4))
    ]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": chance.choice(VERBS[:2] if chance.random() < 0.7 else VERBS),
        "scheme": "http",
        "path": unquote(raw, errors="replace"),
        "raw_path": raw.encode(),
        "query_string": chance.choice([b"", b"top=5", b"output=%ff", b"&&==", b"top=" + b"9" * 99]),
        "root_path": "",
        "headers": headers,
        "client": None,
        "server": ("test", 80),
    }
    return {"scope": scope, "body": bytes(body)}


async def answer_of(client: Client, request: dict[str, Any]) -> tuple[int, dict[bytes, bytes], bytes]:
    sent: list[Any] = []

    bodies = [request["body"]]

    async def receive() -> dict[str, Any]:
        if not bodies:
            await asyncio.Future()  # a client that stays and sends no more
        return {"type": "http.request", "body": bodies.pop(), "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await client.app(request["scope"], receive, send)
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], dict(sent[0]["headers"]), body


@pytest.mark.parametrize("seed", range(2))
def test_nothing_that_is_thrown_at_it_is_our_fault(seed: int) -> None:
    chance, client = random.Random(seed), Client()

    async def throw_all() -> None:
        for _ in range(ROUNDS):
            request = made(chance)
            status, headers, body = await asyncio.wait_for(answer_of(client, request), ANSWER_S)
            assert status in DELIBERATE, (status, body, request)
            if status >= 400 and request["scope"]["method"] != "HEAD":
                assert headers[b"content-type"] == b"application/json", (body, request)
                assert set(orjson.loads(body)) <= {"error"} or status == 503, (body, request)

    asyncio.run(throw_all())
    assert client.post("/v1/models/double/infer", {"inputs": {"x": [[1, 2, 3]]}}).status_code == 200
    assert client.plane.in_flight == 0
