"""What the infer doors share: the request as it came, and the way back that each door chooses.

Values only. `infer.py` makes them, `v1.py`, `tf_serving.py` and `torch_serve.py` translate them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from service.limits import Limits
from service.rest.errors import JSON, Headers
from service.rest.json_text import dump_json
from service.tensors import Buffer, InferRequest, InferResponse

Query = dict[str, list[str]]
Answer = tuple[int, Headers, Sequence[Buffer]]
Encode = Callable[[InferResponse], Answer]
Translated = tuple[InferRequest, Encode]


class Content(msgspec.Struct, frozen=True):
    """The body of a request, unpacked, with the headers and the query that say what it is."""

    headers: dict[bytes, bytes]
    body: Buffer
    query: Query
    limits: Limits

    @property
    def type(self) -> bytes:
        """The media type without its parameters, "" where there is none."""
        return self.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()


def json_answer(value: object, has_nan: bool) -> Answer:
    """200 with `value` as JSON."""
    return 200, [JSON], [dump_json(value, has_nan)]
