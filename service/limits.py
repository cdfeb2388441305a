"""How much one HTTP request may hold: each bound is a setting, checked before memory is taken for what it bounds.

Knows no HTTP. `settings.py` has the fields, `rest/protocol.py`, `rest/body.py` and `rest/codec.py` do the checking.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from pydantic import Field

KIB = 1024
MIB = 1024 * KIB

HeaderBytes = Annotated[
    int, Field(ge=KIB, le=MIB, description="Largest head of an HTTP request, its first line and headers, in bytes.")
]
Chunks = Annotated[int, Field(ge=1, le=2**31 - 1, description="Most chunks in which an HTTP request body may come.")]
JsonDepth = Annotated[
    int,
    Field(ge=8, le=256, description="Deepest nesting of a JSON request."),  # le: far from where Python's own stack ends
]
Tensors = Annotated[
    int, Field(ge=1, le=65_536, description="Most inputs, and most outputs, that an HTTP request may name.")
]
Elements = Annotated[int, Field(ge=1, le=2**31 - 1, description="Most values that a JSON request may hold.")]


class Limits(msgspec.Struct, frozen=True):
    """The bounds of one server; the defaults are those of the settings."""

    body_bytes: int = 128 * MIB  # 128 images FP32 of 3x224x224 are 77 MB: a full batch should fit into one request
    header_bytes: int = 64 * KIB  # eight times what most proxies let pass
    chunks: int = 65_536
    json_depth: int = 64  # numpy's arrays have no more dimensions
    tensors: int = 1024
    elements: int = 1 << 25  # as Python objects they take eight times the memory of the text they came in
