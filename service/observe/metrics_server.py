"""The server of /metrics: threads, TLS and tokens where they are asked for; /live says that it lives, to anyone.

Knows who is asked for the text, not what it says. `sidecar.py` starts it.
"""

from __future__ import annotations

import gzip
import logging
import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import orjson

from service.certificates import Certificates
from service.errors import ServiceError, Unauthenticated
from service.security import Guard, Operation, TokenFile
from service.tls import Tls

READ_METRICS = Operation("statistics", "metrics")
REQUEST_TIMEOUT_S = 10  # a client that says nothing holds a thread no longer

FASTEST = 1  # of gzip: a tenth of the size already
PLAIN = ("Content-Type", "text/plain; charset=utf-8")

log = logging.getLogger("torchere.metrics")

Scrape = Callable[[str], tuple[str, bytes]]  # what is accepted -> content type and body
Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that fails, at the handshake say, is no concern of the log's."""


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_TIMEOUT_S

    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes are not logged."""


def serve_metrics(
    scrape: Scrape, host: str, port: int, tls: Tls | None = None, tokens: TokenFile | None = None
) -> WSGIServer:
    """Serve it in a thread. Raises OSError where the port is taken, TlsError where a certificate is unsound."""
    context = Certificates(tls).context if tls is not None else None
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    bound = type("BoundServer", (_Server,), {"address_family": found[0]})
    app = metrics_app(scrape)
    app = with_liveness(app if tokens is None else guarded(app, Guard(tokens)))
    server: WSGIServer = make_server(host, port, app, bound, _Handler)
    if context is not None:
        # The handshake is left to the request's own thread: a slow client must not hold up the others.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def metrics_app(scrape: Scrape) -> Application:
    """`/metrics` in the format that is asked for; packed where the scraper takes it."""

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ.get("PATH_INFO", "/") not in ("/", "/metrics"):
            start_response("404 Not Found", [PLAIN])
            return [b"the metrics are at /metrics\n"]
        try:
            content_type, body = scrape(environ.get("HTTP_ACCEPT", ""))
        except OSError as error:
            log.error("the metrics cannot be read: %s", error)
            start_response("503 Service Unavailable", [PLAIN])
            return [b"the metrics cannot be read: the log says why\n"]
        headers = [("Content-Type", content_type)]
        if "gzip" in environ.get("HTTP_ACCEPT_ENCODING", "").lower():
            headers.append(("Content-Encoding", "gzip"))
            body = gzip.compress(body, FASTEST)
        start_response("200 OK", [*headers, ("Content-Length", str(len(body)))])
        return [body]

    return answer


def with_liveness(app: Application) -> Application:
    """`/live` says that the process answers; all else is the app's."""

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ.get("PATH_INFO") == "/live":
            start_response("200 OK", [PLAIN])
            return [b"alive\n"]
        return app(environ, start_response)

    return answer


def guarded(app: Application, guard: Guard) -> Application:
    """`app` for those whose token has the scope `metrics`."""

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        try:
            guard.check(READ_METRICS, lambda name: environ.get(f"HTTP_{name.upper()}"))
        except ServiceError as error:
            is_unknown = isinstance(error, Unauthenticated)
            headers = [("Content-Type", "application/json"), *([("WWW-Authenticate", "Bearer")] if is_unknown else [])]
            start_response("401 Unauthorized" if is_unknown else "403 Forbidden", headers)
            return [orjson.dumps({"error": str(error)})]
        return app(environ, start_response)

    return answer
