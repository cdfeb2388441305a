"""Families in Prometheus' protobuf format, the one with native histograms, written field by field.

Pure. It is one small message (io.prometheus.client.MetricFamily), each with its length before it; a generated module
would be read by every process that imports another version of it.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable, Iterator

import numpy as np

from service.observe.buckets import Native
from service.observe.families import Family, Histogram
from service.observe.merge import Exemplar, Labels

PROTOBUF_TYPE = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
TYPES = {"counter": 0, "gauge": 1, "histogram": 4}
CACHED = 65536  # of what is alike from series to series and from scrape to scrape
VARINT, DOUBLE, BYTES = 0, 1, 2  # wire types


def to_protobuf(families: Iterable[Family]) -> bytes:
    """One message after the other."""
    return b"".join(_delimited(_family(family)) for family in families)


def _family(family: Family) -> bytes:
    suffix = "_total" if family.kind == "counter" and not family.is_bare else ""
    parts = [
        _text(1, family.name + suffix),
        _text(2, family.help),
        _number(3, TYPES[family.kind]),
        *(_message(4, _metric(family, labels, value)) for labels, value in family.samples),
    ]
    if family.unit:
        parts.append(_text(5, family.unit))
    return b"".join(parts)


def _metric(family: Family, labels: Labels, value: float | Histogram) -> bytes:
    pairs = _pairs(family.labels, labels)
    if isinstance(value, Histogram):
        return pairs + _message(7, _histogram(family.bounds, value))
    return pairs + _message(3 if family.kind == "counter" else 2, _double(1, value))


@functools.lru_cache(maxsize=CACHED)
def _pairs(names: Labels, values: Labels) -> bytes:
    return b"".join(_pair(name, text) for name, text in zip(names, values, strict=True))


def _histogram(bounds: tuple[float, ...], found: Histogram) -> bytes:
    parts = [_number(1, found.cumulated[-1]), _double(2, found.sum)]
    for number, (bound, count) in enumerate(zip((*bounds, float("inf")), found.cumulated, strict=True)):
        example = found.exemplars.get(number)
        parts.append(_bucket(bound, count, b"" if example is None else _message(3, _exemplar(example))))
    if found.native is not None:
        parts.extend(_native(found.native))
    return b"".join(parts)


@functools.lru_cache(maxsize=CACHED)
def _bucket(bound: float, count: int, example: bytes) -> bytes:
    return _message(3, _number(1, count) + _double(2, bound) + example)


def _native(native: Native) -> Iterator[bytes]:
    yield _number(5, _zigzag(native.schema)) + _double(6, native.zero_threshold) + _number(7, native.zero_count)
    at, before, deltas = 0, 0, b""
    for start, counts in _runs(native):
        yield _message(12, _number(1, _zigzag(start - at)) + _number(2, len(counts)))
        at = start + len(counts)
        for count in counts:
            deltas += _number(13, _zigzag(count - before))
            before = count
    if not deltas and not native.zero_count:
        yield _message(12, _number(1, 0) + _number(2, 0))  # an empty one is told from a classic one by a span
    yield deltas


def _runs(native: Native) -> Iterator[tuple[int, list[int]]]:
    """Each run of indexes that occurred: its first index, its counts."""
    occurred = np.flatnonzero(native.counts)
    for run in np.split(occurred, np.flatnonzero(np.diff(occurred) > 1) + 1) if len(occurred) else ():
        yield native.first + int(run[0]), native.counts[run].tolist()


def _exemplar(found: Exemplar) -> bytes:
    seconds, fraction = divmod(found.seconds, 1)
    when = _number(1, int(seconds)) + _number(2, int(fraction * 1e9))
    return _pair("trace_id", found.trace_id) + _double(2, found.value) + _message(3, when)


def _pair(name: str, value: str) -> bytes:
    return _message(1, _text(1, name) + _text(2, value))


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | BYTES) + _delimited(content)


def _text(field: int, text: str) -> bytes:
    return _message(field, text.encode())


def _double(field: int, value: float) -> bytes:
    return _varint(field << 3 | DOUBLE) + struct.pack("<d", value)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3 | VARINT) + _varint(value)


def _delimited(content: bytes) -> bytes:
    return _varint(len(content)) + content


def _zigzag(value: int) -> int:
    return value << 1 if value >= 0 else (-value << 1) - 1


def _varint(value: int) -> bytes:
    if value < 128:
        return bytes((value,))
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)
