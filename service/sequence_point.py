"""The parameters that say where in a sequence a request belongs, the same over HTTP and gRPC.

Pure. `rest/codec.py` and `rpc/parameters.py` take the values out of their messages and ask here what they mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.errors import InvalidInput
from service.tensors import SequencePoint

SEQUENCE_KEYS = ("sequence_id", "sequence_start", "sequence_end")
MAX_ID = 256  # characters; an engine keeps them, and a refusal repeats them


def read_sequence(values: Mapping[str, Any]) -> SequencePoint | None:
    """None: the request belongs to no sequence, as its id is 0, "" or missing. Raises InvalidInput.

    Whether the model has state is another question: one that has none lets sequences pass.
    """
    identity = values.get("sequence_id")
    is_start, is_end = (_flag(values.get(key), key) for key in SEQUENCE_KEYS[1:])
    if identity is None or (type(identity) in (int, str) and not identity):
        if is_start or is_end:
            raise InvalidInput(
                "sequence_start and sequence_end belong to a sequence: send its sequence_id too, a number above 0 or a "
                "text"
            )
        return None
    if type(identity) is str and len(identity) > MAX_ID:
        raise InvalidInput(f"parameter 'sequence_id' has {len(identity)} characters: at most {MAX_ID} are taken")
    if type(identity) is not str and not (type(identity) is int and 0 < identity < 1 << 64):
        raise InvalidInput(
            f"parameter 'sequence_id' must be a whole number from 0 to 2^64 - 1, or a text, not {str(identity)[:40]}"
        )
    return SequencePoint(identity, is_start, is_end)


def _flag(value: Any, key: str) -> bool:
    if value is None or type(value) is bool:
        return bool(value)
    raise InvalidInput(f"parameter '{key}' must be true or false, not {str(value)[:40]}")
