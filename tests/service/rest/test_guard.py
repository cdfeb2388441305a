"""No door of HTTP is open without a token: every route of the application, the fast lane, and a prefix before all."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.routing import Route

from service.control import Control
from service.errors import QueueFull
from service.rest.operations import UNKNOWN, operation_of
from service.rest.pages import create_pages
from service.security import GROUPS, SCOPES, token_line
from tests.service.rest.asking import Client
from tests.service.rest.test_protocol import BODY, talk

OPEN = {"/", "/ping", "/v2/health/live", "/v2/health/ready", "/v2/models/double/ready"}
OPEN |= {"/v2/models/double/versions/1/ready"}
INFER = [
    "/v1/models/double/infer",
    "/v2/models/double/versions/1/infer",
    "/v1/models/double:predict",
    "/v1/models/double/versions/1:classify",
    "/v1/models/double/labels/stable:predict",
    "/predictions/double",
    "/predictions/double/1",
]
# What a token needs for it; all other GETs read, all other POSTs control.
ASKING = {"/v2/repository/index": "read"}


def token_file(folder: Path, *scopes: str) -> Path:
    path = folder / "tokens"
    path.write_text(token_line("right", scopes or SCOPES))
    return path


def routes(client: Client) -> Iterator[tuple[str, str]]:
    """Every verb and path that the application has."""
    pending = list(create_pages(Control(client.plane)).routes)
    while pending:
        route: Any = pending.pop()
        if isinstance(route, Route):
            path = re.sub(r"\{version[^}]*\}", "1", route.path)
            for verb in route.methods or ():
                yield verb, re.sub(r"\{[^}]*\}", "double", path)
        else:
            inner = getattr(route, "routes", None) or getattr(route, "original_router", route).routes
            pending += inner


def everything(client: Client) -> list[tuple[str, str]]:
    return [*routes(client), *(("POST", path) for path in INFER)]


def test_the_walk_finds_the_routes() -> None:
    found = {path for _, path in routes(Client())}
    assert found >= {*OPEN, "/v2", "/v2/models/stats", "/v2/logging", "/docs", "/openapi.json", "/v1/models", "/models"}


def test_every_route_is_known_to_the_table() -> None:
    assert [each for each in everything(Client()) if operation_of(*each) == UNKNOWN] == []


def test_without_a_token_every_route_but_health_answers_401(tmp_path: Path) -> None:
    client = Client(token_file=token_file(tmp_path))
    for verb, path in everything(client):
        answer = client.ask(verb, path)
        if path in OPEN:
            assert answer.status_code in (200, 503), path
        else:
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), (verb, path)
            if verb != "HEAD":
                assert answer.json()["error"].startswith("a token is missing")
    assert client.engines.asked == []


@pytest.mark.parametrize("scope", SCOPES)
def test_a_scope_opens_its_routes_alone(tmp_path: Path, scope: str) -> None:
    client = Client(token_file=token_file(tmp_path, scope))
    for verb, path in everything(client):
        if path in OPEN:
            continue
        reads = "read" if verb in ("GET", "HEAD") else "control"
        needed = "infer" if operation_of(verb, path).group == "inference" else ASKING.get(path, reads)
        status = client.ask(verb, path, headers={"authorization": "Bearer right"}).status_code
        assert (status == 403) == (scope != needed), (verb, path, status)
        assert status != 401


@pytest.mark.parametrize("path", ["/nothing", "/v2/models/double/infer/", "//v2/models/double/infer", "/v2/repository"])
def test_what_there_is_not_is_no_secret_for_strangers(tmp_path: Path, path: str) -> None:
    client = Client(token_file=token_file(tmp_path))
    assert client.ask("POST", path).status_code == 401
    assert client.ask("POST", path, headers={"authorization": "Bearer right"}).status_code in (404, 405)


def head(path: str = "/v1/models/double/infer", *lines: str) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(BODY)}", *lines, "", ""]).encode()


def test_the_fast_lane_asks_too(tmp_path: Path) -> None:
    client = Client(token_file=token_file(tmp_path, "infer"))
    assert talk(head() + BODY, client=client).written.startswith(b"HTTP/1.1 401 ")
    wrong = talk(head("/v1/models/double/infer", "Authorization: Bearer wrong") + BODY, client=client)
    assert wrong.written.startswith(b"HTTP/1.1 401 ")
    assert client.engines.asked == []
    right = talk(head("/v1/models/double/infer", "Authorization: Bearer right") + BODY, client=client)
    assert right.written.startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_refused_request_is_answered_before_its_body_comes_and_the_next_one_is_served(tmp_path: Path) -> None:
    client = Client(token_file=token_file(tmp_path, "infer"))
    right = head("/v1/models/double/infer", "Authorization: Bearer right") + BODY
    transport = talk(head() + BODY, right, right + head() + BODY, client=client)
    assert re.findall(rb"HTTP/1.1 (\d+)", transport.written) == [b"401", b"200", b"200", b"401"]


@pytest.mark.parametrize("group", GROUPS)
def test_a_closed_group_is_closed_on_every_route_of_it(group: str) -> None:
    client = Client(restricted_api=(group,))
    for verb, path in everything(client):
        answer = client.ask(verb, path)
        assert (answer.status_code == 403) == (operation_of(verb, path).group == group), (verb, path)
        if answer.status_code == 403 and verb != "HEAD":
            assert answer.json()["error"] == f"This API is restricted: {group} is closed on this server"


def test_a_restricted_group_opens_with_its_header_on_both_ways() -> None:
    client = Client(restricted_api=("inference:Infer-Key=a b",))
    assert talk(head() + BODY, client=client).written.startswith(b"HTTP/1.1 403 ")
    opened = talk(head("/v1/models/double/infer", "infer-key: a b") + BODY, client=client)
    assert opened.written.startswith(b"HTTP/1.1 200 ")
    answer = client.ask("POST", "/v1/models/double/infer", content=BODY)
    assert answer.json() == {"error": "This API is restricted, expecting header 'infer-key'"}


def test_a_prefix_stands_before_every_path() -> None:
    client = Client(http_prefix="/ai/a/")
    for verb, path in everything(client):
        outside = client.ask(verb, path)
        assert outside.status_code == 404, path
        assert "there is no" not in client.ask(verb, f"/ai/a{path}").text, path
    assert "every path of this server begins with /ai/a" in outside.json()["error"]
    assert client.ask("GET", "/ai/a").status_code == 404
    assert client.ask("GET", "/ai/ab/v2").status_code == 404


def test_the_fast_lane_knows_the_prefix() -> None:
    client = Client(http_prefix="/ai")
    assert talk(head("/ai/v1/models/double/infer") + BODY, client=client).written.startswith(b"HTTP/1.1 200 ")
    assert talk(head() + BODY, client=client).written.startswith(b"HTTP/1.1 404 ")
    assert talk(head("/aiv1/models/double/infer") + BODY, client=client).written.startswith(b"HTTP/1.1 404 ")
    assert len(client.engines.asked) == 1


def test_pages_and_errors_know_the_prefix(tmp_path: Path) -> None:
    client = Client(http_prefix="/ai")
    assert client.ask("GET", "/ai/openapi.json").json()["servers"] == [{"url": "/ai"}]
    assert "/ai/openapi.json" in client.ask("GET", "/ai/docs").text
    assert client.ask("GET", "/ai/nothing").json()["error"].endswith("/ai/docs lists the routes")
    answer = client.ask("DELETE", "/ai/v2/logging")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")


def test_a_full_queue_is_429_where_the_server_is_set_to_say_so() -> None:
    def asked(says_exhausted: bool) -> httpx.Response:
        client = Client()
        client.engines.error = QueueFull("full")
        client.plane.says_exhausted = says_exhausted
        answer = client.ask("POST", "/v1/models/double/infer", content=BODY)
        assert [ended[3] for ended in client.counter.ended] == ["rejected"]
        return answer

    assert [(each.status_code, each.headers["retry-after"]) for each in map(asked, (False, True))] == [
        (503, "1"),
        (429, "1"),
    ]


def test_what_is_not_ready_says_when_to_ask_again() -> None:
    client = Client()
    for path in ("/v2/health/ready", "/v2/models/slow_start/ready"):
        assert client.ask("GET", path).headers["retry-after"] == "2"
    assert client.ask("POST", "/v1/models/slow_start/infer", content=BODY).headers["retry-after"] == "2"
