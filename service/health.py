"""Is a server on this machine live, or ready? The answer of `torchere health`, for the probes of containers.

Asks over HTTP with the server's own settings, so that a probe needs no port. Imports only what is quick to import: it
runs every few seconds. Knows nothing of models.
"""

from __future__ import annotations

import http.client
import json
import ssl
from typing import Literal

PATHS = {"live": "/v2/health/live", "ready": "/v2/health/ready"}
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # a server that listens everywhere is asked here
MAX_REASON_BYTES = 2048


def why_not(
    question: Literal["live", "ready"], address: tuple[str, int], *, tls: bool, timeout_s: float, prefix: str = ""
) -> str:
    """ "" where the server says yes within `timeout_s`, else what it said, or why it said nothing.

    `prefix` is what every path of the server begins with.
    """
    host, port = ANY_ADDRESS.get(address[0], address[0]), address[1]
    try:
        connection = _connect(host, port, tls, timeout_s)
        connection.request("GET", prefix + PATHS[question])
        answer = connection.getresponse()
        text = answer.read(MAX_REASON_BYTES).decode(errors="replace")
        connection.close()
    except (OSError, http.client.HTTPException) as error:
        return f"{host}:{port} does not answer: {error}"
    if answer.status == 200:
        return ""
    return f"{host}:{port} answers {answer.status}: {_reason(text)}"


def _connect(host: str, port: int, tls: bool, timeout_s: float) -> http.client.HTTPConnection:
    if not tls:
        return http.client.HTTPConnection(host, port, timeout=timeout_s)
    # To oneself, over loopback: the certificate is made out to another name.
    return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=ssl._create_unverified_context())


def _reason(text: str) -> str:
    try:
        value = json.loads(text)
    except ValueError:
        return text.strip()
    return str(value.get("error", text)) if isinstance(value, dict) else text
