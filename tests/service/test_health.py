"""`torchere health` against a server of three lines."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from click.testing import CliRunner

from service.cli import main
from service.health import why_not

ANSWERS = {
    "/v2/health/live": (200, b'{"live":true}'),
    "/v2/health/ready": (503, b'{"ready":false}'),
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status, body = ANSWERS[self.path]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_live_is_not_ready(port: int) -> None:
    assert CliRunner().invoke(main, ["health", "--live", "--http-port", str(port)]).exit_code == 0
    result = CliRunner().invoke(main, ["health", "--http-port", str(port)])
    assert result.exit_code == 1
    assert "answers 503" in result.output


def test_a_server_that_listens_everywhere_is_asked_on_this_machine(port: int) -> None:
    assert why_not("live", ("0.0.0.0", port), tls=False, timeout_s=5) == ""


def test_nobody_answers() -> None:
    assert "does not answer" in why_not("live", ("127.0.0.1", 1), tls=False, timeout_s=5)


def test_one_that_speaks_no_tls_is_no_healthy_server_of_tls(port: int) -> None:
    assert "does not answer" in why_not("live", ("127.0.0.1", port), tls=True, timeout_s=5)
