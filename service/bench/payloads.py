"""Tensors to the bytes of one request: HTTP with binary tensors, HTTP with JSON. Whole, with headers, made once.

Pure. `service/client/rpc.py` makes gRPC's message.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from service.tensors import Tensor, elements, to_numpy, unpack_bytes


def infer_path(model: str, version: str) -> str:
    """`/v2/models/digits/versions/3/infer`."""
    middle = f"/versions/{quote(version)}" if version else ""
    return f"/v2/models/{quote(model, safe='')}{middle}/infer"


def http_request(address: str, path: str, body: bytes, json_size: int | None = None) -> bytes:
    """A POST to `path`; `json_size` is the length of the JSON part before binary tensors, None where all is JSON."""
    kind = "application/json" if json_size is None else "application/octet-stream"
    header = "" if json_size is None else f"Inference-Header-Content-Length: {json_size}\r\n"
    named = f"Host: {address}\r\nContent-Type: {kind}\r\n{header}Content-Length: {len(body)}\r\n"
    head = f"POST {path} HTTP/1.1\r\n{named}\r\n"
    return head.encode() + body


def binary_body(tensors: Sequence[Tensor], deadline_s: float = 0.0) -> tuple[bytes, int]:
    """The body with every tensor as bytes and the answer asked for as bytes; and the length of its JSON part."""
    inputs = [{**_named(tensor), "parameters": {"binary_data_size": len(tensor.data)}} for tensor in tensors]
    head = _dump({"inputs": inputs, "parameters": {"binary_data_output": True, **_timeout(deadline_s)}})
    return b"".join([head, *(bytes(tensor.data) for tensor in tensors)]), len(head)


def json_body(tensors: Sequence[Tensor], deadline_s: float = 0.0) -> bytes:
    """The body with every tensor as a flat list of values."""
    inputs = [{**_named(tensor), "data": _values(tensor)} for tensor in tensors]
    return _dump({"inputs": inputs, **({"parameters": _timeout(deadline_s)} if deadline_s else {})})


def _timeout(deadline_s: float) -> dict[str, int]:
    return {"timeout": round(1e6 * deadline_s)} if deadline_s else {}  # the protocol counts in microseconds


def _named(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "shape": list(tensor.shape), "datatype": tensor.datatype}


def _values(tensor: Tensor) -> list[Any]:
    if tensor.datatype == "BYTES":
        return [value.decode() for value in unpack_bytes(tensor.data, elements(tensor.shape))]
    return list(to_numpy(tensor).reshape(-1).tolist())


def _dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
