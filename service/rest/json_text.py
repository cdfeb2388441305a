"""JSON of requests and answers: read within the limits of nesting and values, NaN and Infinity both ways.

Pure. `codec.py` and the other doors read and write their JSON through it.
"""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

from service.errors import InvalidInput, TooLarge
from service.limits import Limits
from service.tensors import Buffer

DEFAULT_LIMITS = Limits()
ESCAPES = re.compile(rb"\\.", re.DOTALL)
STRINGS = re.compile(rb'"[^"]*"')
HALVES = re.compile(rb"\\u[dD][89a-fA-F]")  # orjson refuses half a character, Python's json takes it
NOT_STRUCTURE = bytes(set(range(256)) - set(b'[]{}"'))


def parse_json(text: Buffer, limits: Limits = DEFAULT_LIMITS) -> dict[str, Any]:
    """The JSON object of a request. NaN and Infinity are taken, as clients write them. Raises InvalidInput."""
    value = parse_value(text, limits)
    if not isinstance(value, dict):
        raise InvalidInput(f"the request must be a JSON object, got {kind(value)}")
    return value


def parse_value(text: Buffer, limits: Limits = DEFAULT_LIMITS) -> Any:
    """Any JSON value, as TorchServe's clients send lists. Raises InvalidInput, TooLarge."""
    text = bytes(text)
    _check_size(text, limits)
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return _parse_with_nan(text, error)


def _check_size(text: bytes, limits: Limits) -> None:
    """Nesting and values, counted in the text, since parsing makes an object of each. The length settles most."""
    if len(text) > 2 * limits.elements and text.count(b",") >= limits.elements:
        raise TooLarge(
            f"the JSON holds {text.count(b',') + 1} values or more, this server takes {limits.elements} "
            "(setting max_json_values): send tensors as binary data"
        )
    if len(text) <= limits.json_depth or text.count(b"[") + text.count(b"{") <= limits.json_depth:
        return
    depth = find_depth(text, limits.json_depth)
    if depth > limits.json_depth:
        raise InvalidInput(
            f"the JSON is nested {depth} levels deep or more, this server takes {limits.json_depth} "
            "(setting max_json_depth)"
        )


def find_depth(text: bytes, enough: int) -> int:
    """How deep arrays and objects are nested; counting stops beyond `enough`. Brackets inside strings do not count."""
    if b"\\" in text:
        text = ESCAPES.sub(b"", text)
    deepest = depth = 0
    for character in STRINGS.sub(b"", text.translate(None, NOT_STRUCTURE)):
        if character in b"[{":
            depth += 1
            if depth > deepest:
                deepest = depth
                if depth > enough:
                    break
        else:
            depth -= 1
    return deepest


def _parse_with_nan(text: bytes, error: orjson.JSONDecodeError) -> Any:
    if (b"NaN" in text or b"Infinity" in text) and not HALVES.search(text):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            pass
    raise InvalidInput(f"the request is not valid JSON: {error}") from error


def dump_json(value: Any, has_nan: bool) -> bytes:
    """JSON text; NaN and Infinity as the literals that Python's, JavaScript's and Triton's clients know."""
    if not has_nan:
        return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    return json.dumps(value, default=lambda array: array.tolist()).encode()


def kind(value: Any) -> str:
    """`a list`: what a JSON value is, in words."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "nothing"}
    return names.get(type(value), "a number")


def short(value: Any) -> str:
    """A value as it was written, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
