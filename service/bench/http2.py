"""As much of HTTP/2 (RFC 9113) and of its header compression (RFC 7541) as a gRPC call needs.

Pure: bytes in, bytes and numbers out. The peer is told to keep no table of headers, so that every block of headers can
be read alone. `rpc_slot.py` speaks it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, GO_AWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
HEADER_TABLE_SIZE, ENABLE_PUSH, INITIAL_WINDOW, MAX_FRAME = 1, 2, 4, 5  # names of settings
CANCEL = 8
FRAME_HEADER = struct.Struct(">BHBBI")  # length in 24 bits, kind, flags, stream
FRAME_HEADER_BYTES = FRAME_HEADER.size
STREAM_MASK = 0x7FFFFFFF
LARGEST_WINDOW = 0x7FFFFFFF
DEFAULT_WINDOW = 65_535
DEFAULT_MAX_FRAME = 16_384
GRPC_PREFIX = struct.Struct(">BI")  # not compressed, length of the message

# The static table's entries that a request needs, and the codes of the letters of "grpc-status" and of digits.
METHOD_POST, SCHEME_HTTP = b"\x83", b"\x86"
AUTHORITY, PATH, CONTENT_TYPE = b"\x01", b"\x04", b"\x0f\x10"
LETTERS = {"g": "100110", "r": "101100", "p": "101011", "c": "00100", "-": "010110", "s": "01000"}
LETTERS |= {"t": "01001", "a": "00011", "u": "101101"}
DIGITS = ("00000", "00001", "00010", "011001", "011010", "011011", "011100", "011101", "011110", "011111")
STATUS_NAME = "grpc-status"
LARGEST_STATUS = 16


def frame_header(length: int, kind: int, flags: int, stream: int) -> bytes:
    return FRAME_HEADER.pack(length >> 16, length & 0xFFFF, kind, flags, stream)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return frame_header(len(payload), kind, flags, stream) + payload


def greeting() -> bytes:
    """What a client says first: no header table, no pushes, windows as large as they can be."""
    settings = {HEADER_TABLE_SIZE: 0, ENABLE_PUSH: 0, INITIAL_WINDOW: LARGEST_WINDOW}
    body = b"".join(struct.pack(">HI", name, value) for name, value in settings.items())
    return PREFACE + frame(SETTINGS, 0, 0, body) + widen(LARGEST_WINDOW - DEFAULT_WINDOW)


def widen(size: int) -> bytes:
    """The connection may receive `size` bytes more."""
    return frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", size))


def read_settings(body: bytes) -> dict[int, int]:
    return dict(struct.iter_unpack(">HI", body))


def request_headers(authority: str, path: str, deadline_s: float = 0.0) -> bytes:
    """The headers of a gRPC call, as one block; without a deadline where it is 0."""
    fields = [PATH + _text(path), AUTHORITY + _text(authority), CONTENT_TYPE + _text("application/grpc")]
    if deadline_s:
        fields.append(b"\x00" + _text("grpc-timeout") + _text(f"{round(1000 * deadline_s)}m"))
    return METHOD_POST + SCHEME_HTTP + b"".join(fields) + b"\x00" + _text("te") + _text("trailers")


def header_block(body: bytes, flags: int) -> bytes:
    """What a HEADERS frame carries, without padding and priority."""
    first, last = 0, len(body)
    if flags & PADDED:
        first, last = 1, last - body[0]
    return body[first + 5 if flags & PRIORITY else first : last]


@lru_cache(maxsize=256)  # trailers are the same again and again
def find_status(block: bytes) -> int | None:
    """The grpc-status in a block of headers; None where there is none, or the block is not well-formed."""
    try:
        for name, value in _literals(block):
            if name in STATUS_NAMES:
                return STATUS_VALUES.get(value)
    except IndexError:
        return None
    return None


def _literals(block: bytes) -> Iterator[tuple[tuple[bool, bytes], tuple[bool, bytes]]]:
    """Fields that are written out, with names written out too; each text with whether it is Huffman-coded."""
    at = 0
    while at < len(block):
        first = block[at]
        if first & 0x80:  # a field of the static table
            _, at = _number(block, at, 7)
        elif first & 0xE0 == 0x20:  # the size of the table, which is none
            _, at = _number(block, at, 5)
        else:
            index, at = _number(block, at, 6 if first & 0x40 else 4)
            name = (False, b"")
            if index == 0:
                name, at = _read_text(block, at)
            value, at = _read_text(block, at)
            yield name, value


def _number(block: bytes, at: int, bits: int) -> tuple[int, int]:
    limit = (1 << bits) - 1
    value, at = block[at] & limit, at + 1
    if value < limit:
        return value, at
    shift = 0
    while True:
        byte, at = block[at], at + 1
        value += (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def _read_text(block: bytes, at: int) -> tuple[tuple[bool, bytes], int]:
    is_coded = bool(block[at] & 0x80)
    length, at = _number(block, at, 7)
    if at + length > len(block):
        raise IndexError("a text beyond the end of the block")
    return (is_coded, block[at : at + length]), at + length


def _text(text: str) -> bytes:
    raw = text.encode()
    assert len(raw) < 127, "longer texts need another form of length"
    return bytes([len(raw)]) + raw


def _coded(codes: Iterator[str]) -> bytes:
    bits = "".join(codes)
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


STATUS_NAMES = {(False, STATUS_NAME.encode()), (True, _coded(LETTERS[letter] for letter in STATUS_NAME))}
STATUS_VALUES = {
    text: status
    for status in range(LARGEST_STATUS + 1)
    for text in (
        (False, str(status).encode()),
        (True, _coded(DIGITS[int(digit)] for digit in str(status))),
    )
}
