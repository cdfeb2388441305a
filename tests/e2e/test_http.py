"""HTTP as it comes over the wire: pieces, pipelines, limits, clients that leave; byte by byte on a real connection."""

import json
import socket

import pytest

from tests.e2e.running import RunningServer

BODY = json.dumps({"inputs": {"x": [[1, 2, 3, 4]], "y": [[1, 1, 1, 1]]}}).encode()
ANSWER = (
    b'{"model_name":"affine","model_version":"1","outputs":{"sum":[[2.0,3.0,4.0,5.0]],"scaled":[[2.0,4.0,6.0,8.0]]}}'
)


def request(body: bytes = BODY, *headers: str, path: str = "/v1/models/affine/infer", version: str = "1.1") -> bytes:
    lines = [f"POST {path} HTTP/{version}", "Host: x", *headers]
    if not any(line.startswith("Transfer-Encoding") for line in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Wire:
    """One connection; `answer()` reads one whole answer."""

    def __init__(self, server: RunningServer) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.http_port), timeout=30)
        self._read = b""

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *parts: bytes) -> None:
        for part in parts:
            self.socket.sendall(part)

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        while b"\r\n\r\n" not in self._read:
            self._more()
        head, _, self._read = self._read.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        size = int(headers["content-length"])
        while len(self._read) < size:
            self._more()
        body, self._read = self._read[:size], self._read[size:]
        return int(status.split()[1]), headers, body

    def is_closed(self) -> bool:
        return self.socket.recv(1) == b""

    def _more(self) -> None:
        data = self.socket.recv(65536)
        assert data, f"the connection ended early: {self._read!r}"
        self._read += data


@pytest.fixture
def wire(zoo: RunningServer) -> Wire:
    with Wire(zoo) as opened:
        yield opened


def test_a_connection_serves_one_request_after_another(wire: Wire) -> None:
    for _ in range(3):
        wire.send(request())
        status, headers, body = wire.answer()
        assert (status, body, headers["content-type"]) == (200, ANSWER, "application/json")
        assert "connection" not in headers


def test_a_request_in_any_pieces(wire: Wire) -> None:
    whole = request()
    wire.send(*(whole[at : at + 7] for at in range(0, len(whole), 7)))
    assert wire.answer()[2] == ANSWER


def test_a_chunked_body(wire: Wire) -> None:
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (BODY[:10], BODY[10:])) + b"0\r\n\r\n"
    wire.send(request(chunks, "Transfer-Encoding: chunked"))
    assert wire.answer()[2] == ANSWER


def test_pipelined_requests_are_answered_in_order(wire: Wire) -> None:
    other = request(b"{}")
    health = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    wire.send(request() + other + health + request())
    assert [wire.answer()[0] for _ in range(4)] == [200, 400, 200, 200]


def test_a_client_that_wants_the_connection_closed(wire: Wire) -> None:
    wire.send(request(BODY, "Connection: close"))
    status, headers, _ = wire.answer()
    assert (status, headers["connection"]) == (200, "close")
    assert wire.is_closed()


def test_http_1_0(wire: Wire) -> None:
    wire.send(request(version="1.0"))
    assert wire.answer()[2] == ANSWER
    assert wire.is_closed()


def test_a_client_that_asks_before_it_sends(wire: Wire) -> None:
    whole = request(BODY, "Expect: 100-continue")
    wire.send(whole[: -len(BODY)])
    assert wire.socket.recv(65536).startswith(b"HTTP/1.1 100")
    wire.send(BODY)
    assert wire.answer()[2] == ANSWER


def test_a_path_that_is_percent_encoded(wire: Wire) -> None:
    wire.send(request(path="/v1/models/%61ffine/infer"))
    assert wire.answer()[2] == ANSWER


def test_a_body_announced_too_large_is_refused_unread(wire: Wire) -> None:
    wire.send(b"POST /v2/models/affine/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 200000000\r\n\r\n")
    status, headers, body = wire.answer()
    assert (status, headers["connection"]) == (413, "close")
    assert b"max_body_bytes" in body


def test_an_endless_body_is_refused_on_the_way(wire: Wire) -> None:
    chunk = b"%x\r\n%s\r\n" % (1 << 20, bytes(1 << 20))
    wire.send(request(b"", "Transfer-Encoding: chunked"))
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        wire.send(*[chunk] * 200)


@pytest.mark.parametrize(
    "garbage", [b"\x00\x01\x02\r\n\r\n", b"POST /v1/models/affine/infer HTTP/9.9\r\n\r\n", b"GET\r\n\r\n"]
)
def test_something_that_is_not_http(zoo: RunningServer, garbage: bytes) -> None:
    with Wire(zoo) as broken:
        broken.send(garbage)
        assert broken.socket.recv(65536).startswith(b"HTTP/1.1 400")
    with Wire(zoo) as sound:
        sound.send(request())
        assert sound.answer()[0] == 200


def test_a_client_that_leaves_is_counted_and_not_run(zoo: RunningServer) -> None:
    def cancelled() -> float:
        return zoo.metric("torchere_requests_total", model="patient", outcome="cancelled")

    body = json.dumps({"inputs": {"x": [[1, 1]]}}).encode()
    leaving = [Wire(zoo) for _ in range(8)]
    for client in leaving:
        client.send(request(body, path="/v1/models/patient/infer"))
    zoo.wait_for(lambda: zoo.metric("torchere_requests_in_flight") >= 6, "most to be under way")
    for client in leaving:
        client.socket.close()
    zoo.wait_for(lambda: cancelled() >= 6, "those that wait to be given up")
    with Wire(zoo) as staying:
        staying.send(request(body, path="/v1/models/patient/infer"))
        assert staying.answer()[0] == 200
    assert zoo.metric("torchere_batch_rows_sum", model="patient") <= 4, "what nobody waits for does not run"


def test_a_full_queue_is_refused_and_the_rest_answered(zoo: RunningServer) -> None:
    body = json.dumps({"inputs": {"x": [[1, 1]] * 8}}).encode()
    clients = [Wire(zoo) for _ in range(40)]  # one runs, 24 wait, the others are too many
    for client in clients:
        client.send(request(body, path="/v1/models/poison/infer"))
    answers = [client.answer() for client in clients]
    for client in clients:
        client.socket.close()
    statuses = [status for status, _, _ in answers]
    assert set(statuses) == {200, 503}
    refused = next(answer for answer in answers if answer[0] == 503)
    assert b"the queue is full" in refused[2]
    assert int(refused[1]["retry-after"]) >= 1
    assert statuses.count(200) >= 24
