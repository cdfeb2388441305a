"""Is a server on this machine live, or ready? The answer of `torchere health`, for the probes of containers.

Asks over HTTP with the server's own settings, so that a probe needs no port. Imports only what is quick to import: it
runs every few seconds. Knows nothing of models.
"""

from __future__ import annotations

import http.client
import json
import ssl
from pathlib import Path
from typing import Literal

PATHS = {"live": "/v2/health/live", "ready": "/v2/health/ready"}
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # a server that listens everywhere is asked here
MAX_REASON_BYTES = 2048

Identity = tuple[Path, Path | None]  # a certificate and its key, or both in one file


def why_not(
    question: Literal["live", "ready"],
    address: tuple[str, int],
    *,
    tls: bool,
    identity: Identity | None = None,
    timeout_s: float,
    prefix: str = "",
) -> str:
    """ "" where the server says yes within `timeout_s`, else what it said, or why it said nothing.

    `identity` is for a server that wants certificates of its clients; `prefix` is what every path of it begins with.
    """
    host, port = ANY_ADDRESS.get(address[0], address[0]), address[1]
    try:
        connection = _connection((host, port), tls, identity, timeout_s)
    except OSError as error:
        return f"the certificate {' and its key '.join(map(str, filter(None, identity or ())))} cannot be used: {error}"
    try:
        connection.request("GET", prefix + PATHS[question])
        answer = connection.getresponse()
        text = answer.read(MAX_REASON_BYTES).decode(errors="replace")
        connection.close()
    except (OSError, http.client.HTTPException) as error:
        return f"{host}:{port} does not answer: {error}"
    if answer.status == 200:
        return ""
    return f"{host}:{port} answers {answer.status}: {_reason(text)}"


def _connection(
    address: tuple[str, int], tls: bool, identity: Identity | None, timeout_s: float
) -> http.client.HTTPConnection:
    if not tls:
        return http.client.HTTPConnection(*address, timeout=timeout_s)
    # To oneself, over loopback: the certificate is made out to another name.
    context = ssl._create_unverified_context()
    if identity is not None:
        context.load_cert_chain(*identity)
    return http.client.HTTPSConnection(*address, timeout=timeout_s, context=context)


def _reason(text: str) -> str:
    try:
        value = json.loads(text)
    except ValueError:
        return text.strip()
    return str(value.get("error", text)) if isinstance(value, dict) else text
