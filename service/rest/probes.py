"""Whether the server lives, and whether it or a model is ready, without FastAPI: probes come every few seconds.

Pure. `v2.py` has the same routes for the page that describes them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import orjson

from service.control import Control
from service.errors import ServiceError, Unavailable
from service.rest.errors import JSON, Headers, error_answer

MODEL_READY = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/ready")
NOT_READY = 503

ProbeAnswer = tuple[int, Headers, Sequence[bytes]]


def answer_probe(verb: str, path: str, control: Control) -> ProbeAnswer | None:
    """Status, headers and body; None where it is none of these questions."""
    if verb != "GET":
        return None
    if path == "/v2/health/live":
        return _as_answer({"live": True}, True)
    if path == "/v2/health/ready":
        return _as_answer({"ready": control.is_ready}, control.is_ready)
    asked = MODEL_READY.fullmatch(path)
    if asked is None:
        return None
    try:
        is_ready = control.is_model_ready(asked[1], asked[2] or "")
    except ServiceError as error:
        status, headers, body = error_answer(error)
        return status, headers, [body]
    return _as_answer({"name": asked[1], "ready": is_ready}, is_ready)


def _as_answer(answer: dict[str, Any], is_good: bool) -> ProbeAnswer:
    headers: Headers = [JSON]
    if not is_good:
        headers.append((b"retry-after", str(round(Unavailable.retry_after_s)).encode()))
    return 200 if is_good else NOT_READY, headers, [orjson.dumps(answer)]
