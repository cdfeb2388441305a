"""Which of the infer routes a path is, and the model it names.

    find_route(b"/v1/models/digits/versions/2:predict")  ->  Route("predict", "digits", "2")

Pure. `protocol.py` and `app.py` ask, `infer.py` answers what matches; all other paths are FastAPI's.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal
from urllib.parse import unquote_to_bytes

import msgspec

# v2: Open Inference Protocol. v1: torchere's own. predict: TensorFlow Serving and KServe v1. predictions: TorchServe.
# generate, generate_stream: Triton's extension, for one response and for any number.
Door = Literal["v2", "v1", "predict", "predictions", "generate", "generate_stream"]

INFER = re.compile(r"/(v[12])/models/([^/]+)(?:/versions/([^/]+))?/infer")
GENERATE = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/(generate|generate_stream)")
PREDICT = re.compile(r"/v1/models/([^/]+?)(?:/versions/([^/:]+)|/labels/([^/:]+))?:(predict|classify|regress|explain)")
PREDICTIONS = re.compile(r"/predictions/([^/]+)(?:/([^/]+))?")
MAX_REMEMBERED = 512  # bytes of a path; longer ones are parsed each time, so that nobody fills memory with them


# What an operation is called in logs and traces: the same for all models.
PATTERNS: dict[Door, str] = {
    "v2": "/v2/models/{model}/infer",
    "v1": "/v1/models/{model}/infer",
    "predict": "/v1/models/{model}:predict",
    "predictions": "/predictions/{model}",
    "generate": "/v2/models/{model}/generate",
    "generate_stream": "/v2/models/{model}/generate_stream",
}


class Route(msgspec.Struct, frozen=True):
    """A path that asks for inference. `version` and `label` are "" where the path has none."""

    door: Door
    model: str
    version: str = ""
    label: str = ""
    verb: str = "predict"


def find_route(path: bytes) -> Route | None:
    """The route of a path as it came over the wire, percent-encoded; None where it is not one of these."""
    return _remembered(path) if len(path) <= MAX_REMEMBERED else _parse_raw(path)


def parse_route(path: str) -> Route | None:
    """The route of a path that is decoded already."""
    found = INFER.fullmatch(path)
    if found is not None:
        return Route("v2" if found[1] == "v2" else "v1", found[2], found[3] or "")
    found = GENERATE.fullmatch(path)
    if found is not None:
        return Route("generate" if found[3] == "generate" else "generate_stream", found[1], found[2] or "")
    found = PREDICT.fullmatch(path)
    if found is not None:
        return Route("predict", found[1], found[2] or "", found[3] or "", found[4])
    found = PREDICTIONS.fullmatch(path)
    if found is not None:
        return Route("predictions", found[1], found[2] or "")
    return None


def _parse_raw(path: bytes) -> Route | None:
    return parse_route(unquote_to_bytes(path).decode("utf-8", "replace"))


_remembered = lru_cache(maxsize=1024)(_parse_raw)
