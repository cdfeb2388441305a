"""Forms: the first file of a multipart/form-data body, as `curl -F data=@file` and perf_analyzer send it to TorchServe,
and the only field of an urlencoded one, as `requests.post(url, data={"data": ...})` sends it.

Pure. Only what is needed is read: the first part, its type and its bytes; nothing is written to a disk.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote_to_bytes

from service.errors import InvalidInput
from service.tensors import Buffer

CONTENT_TYPE = b"multipart/form-data"
URLENCODED = b"application/x-www-form-urlencoded"  # which curl -d says of whatever it sends
BOUNDARY = re.compile(rb'boundary="?([^";,\s]{1,70})"?', re.IGNORECASE)
MAX_PART_HEAD = 4096  # bytes; a name and a type


def first_part(content_type: bytes, body: Buffer) -> tuple[bytes, bytes]:
    """The type ("" where it says none) and the bytes of the first part. Raises InvalidInput."""
    found = BOUNDARY.search(content_type)
    if found is None:
        raise InvalidInput(
            "a multipart body needs its boundary in Content-Type: let the client library write the header"
        )
    content, mark = bytes(body), b"--" + found[1]
    start = content.find(mark + b"\r\n")
    head_end = content.find(b"\r\n\r\n", start, start + len(mark) + MAX_PART_HEAD) if start >= 0 else -1
    end = content.find(b"\r\n" + mark, head_end + 2) if head_end >= 0 else -1
    if end < 0:
        raise InvalidInput("the multipart body has no whole part: send one file, as curl -F data=@FILE does")
    head = content[start + len(mark) : head_end].lower()
    kind = re.search(rb"\r\ncontent-type:[ \t]*([^\r\n;]*)", head)
    return (kind[1].strip() if kind else b""), content[head_end + 4 : max(end, head_end + 4)]


def only_field(body: Buffer, names: Iterable[str]) -> bytes | None:
    """The value of a form whose only field has one of these names; None where the body is something else."""
    for name in names:
        start = name.encode() + b"="
        if bytes(body[: len(start)]) == start:
            value = bytes(body[len(start) :])
            return None if b"&" in value else unquote_to_bytes(value.replace(b"+", b" "))
    return None
