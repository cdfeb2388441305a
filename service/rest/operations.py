"""What an HTTP call does: its group of APIs and the scope it needs, by its verb and path.

    operation_of("POST", "/v2/models/digits/infer")  ->  Operation("inference", "infer")

Pure. `app.py` and `infer.py` ask before anything else; `security.py` decides. A path that no rule knows needs the most.
"""

from __future__ import annotations

import re

from service.rest.routes import parse_route
from service.security import Operation

INFERENCE = Operation("inference", "infer")
UNKNOWN = Operation("metadata", "control")
MODEL = r"/v2/models/[^/]+(?:/versions/[^/]+)?"
TRACE, LOGGING = r"/v2(?:/models/[^/]+)?/trace/setting", r"/v2/logging"

# The first that fits holds: a verb, a path, what it does.
RULES = [
    (re.compile(verb), re.compile(path), operation)
    for verb, path, operation in (
        ("GET", r"/|/ping|/v2/health/(live|ready)", Operation("health", None)),
        ("GET", rf"{MODEL}/ready", Operation("health", None)),
        ("POST", rf"{MODEL}/(generate|generate_stream)", INFERENCE),
        ("POST", r"/v2/repository/index", Operation("model-repository", "read")),
        ("POST", r"/v2/repository/models/[^/]+/(load|unload)", Operation("model-repository", "control")),
        ("GET", rf"/v2/models/stats|{MODEL}/stats", Operation("statistics", "read")),
        ("GET", rf"{MODEL}/config", Operation("model-config", "read")),
        ("GET", r"/v2/(system|cuda)sharedmemory/.*", Operation("shared-memory", "read")),
        ("POST", r"/v2/(system|cuda)sharedmemory/.*", Operation("shared-memory", "control")),
        ("GET", TRACE, Operation("trace", "read")),
        ("POST", TRACE, Operation("trace", "control")),
        ("GET", LOGGING, Operation("logging", "read")),
        ("POST", LOGGING, Operation("logging", "control")),
        ("GET", rf"/v2|/v2/models|{MODEL}", Operation("metadata", "read")),
        ("GET", r"/v1/models(/.*)?|/models", Operation("metadata", "read")),
        ("GET", r"/docs(/oauth2-redirect)?|/redoc|/openapi\.json", Operation("metadata", "read")),
    )
]


def operation_of(verb: str, path: str) -> Operation:
    """`path` decoded, without the server's own prefix."""
    if parse_route(path) is not None:
        return INFERENCE
    asked = "GET" if verb == "HEAD" else verb
    for verbs, paths, operation in RULES:
        if verbs.fullmatch(asked) and paths.fullmatch(path):
            return operation
    return UNKNOWN
