"""ModelInfer messages that came before, byte for byte but for their id and their tensors: looked up, not parsed.

A client sends the same names, shapes and parameters again and again, and `raw_input_contents` last. What a request is
follows from what stands before them, so whoever sends that again gets what was found the first time. Only what is
plain is remembered: the fields in the order in which protobuf writes them, all tensors raw. All else, and whatever is
refused, goes the usual way of `codec.py`. Knows no call: `lane.py` asks, `service/template.py` sends.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

from google.protobuf.message import DecodeError

from protos.inference_pb2 import ModelInferRequest, ModelInferResponse
from service.engine.messages import Result
from service.errors import ServiceError
from service.repository.catalog import Catalog
from service.rpc.codec import decode, encode
from service.template import Template
from service.tensors import InferRequest, InferResponse

MAX_KINDS, MAX_FORMS = 1024, 1024  # all are forgotten where there are more: a few MB, whatever clients send
MAX_BYTES = 4096  # of what a form is known by
MAX_ID_BYTES = 4096  # a longer one is no id that clients count in
LONG_HEAD = 3  # bytes before an id whose length takes two
MAX_TRIES = 8  # messages of one kind that are looked into: some clients send another parameter each time
MAX_ANSWERS = 64  # to one form, of different shapes: some models answer in any number of them

# The first bytes of the fields of ModelInferRequest, all of which have a length. The id's is that of the answer too.
NAME, VERSION, ID, PARAMETER, INPUT, OUTPUT, RAW = (number << 3 | 2 for number in range(1, 8))
RAW_OUTPUT = 6 << 3 | 2
ONE_BYTE = 0x80  # lengths below take one byte

Kind = tuple[bytes, int]  # what stands before the id, and how many bytes follow it
# What stands before the id and after it, before each tensor, and the answer as it is counted.
Answer = tuple[bytes, bytes, list[bytes]]


class Maker(Protocol):
    """What is asked of `service/template.py`."""

    def make(self, request: InferRequest) -> Template | None: ...


class Plane(Protocol):
    """What is asked of `plane.py`."""

    @property
    def catalog(self) -> Catalog: ...
    @property
    def is_draining(self) -> bool: ...
    @property
    def templates(self) -> Maker: ...


class Form:
    """What follows the id, up to the first tensor; where the tensors lie behind it, and how its answers are written."""

    __slots__ = ("_answers", "_middle", "_rest", "_spans", "template")

    def __init__(self, template: Template, middle: bytes, raw: bytes, spans: list[tuple[int, int]]) -> None:
        self.template = template
        self._middle = middle
        self._spans = spans
        # What stands between two tensors: the next one's first byte and its length.
        self._rest = [(end, raw[end:start]) for (_, end), (start, _) in pairwise(spans)]
        self._answers: dict[object, Answer] = {}

    def find_tensors(self, data: bytes, at: int) -> list[memoryview] | None:
        """The tensors of a message of this kind whose id ends at `at`; None where it has another form."""
        if not data.startswith(self._middle, at):
            return None
        at += len(self._middle)
        for offset, between in self._rest:
            if not data.startswith(between, at + offset):
                return None
        view = memoryview(data)
        return [view[at + start : at + end] for start, end in self._spans]

    def answer(self, identity: bytes, result: Result, blobs: Sequence[memoryview]) -> bytes:
        """The whole ModelInferResponse; `identity` is the field of the id, as it came."""
        key = result.shapes, result.sizes
        names, outputs, marks = self._answers.get(key) or self._encode(key, result, blobs)
        parts: list[bytes | memoryview] = [names, identity, outputs]
        for mark, blob in zip(marks, self.template.pick(blobs), strict=True):
            parts += (mark, blob)
        return b"".join(parts)

    def _encode(self, key: object, result: Result, blobs: Sequence[memoryview]) -> Answer:
        entry = self.template.entry
        outputs = self.template.outputs(result, blobs)
        described = ModelInferResponse(outputs=encode(InferResponse("", "", "", outputs)).outputs).SerializeToString()
        marks = [bytes((RAW_OUTPUT,)) + _as_varint(len(tensor.data)) for tensor in outputs]
        names = ModelInferResponse(model_name=entry.name, model_version=entry.version).SerializeToString()
        if len(self._answers) >= MAX_ANSWERS:
            self._answers.clear()
        found = self._answers[key] = names, described, marks
        return found


class _Known:
    """The forms of one kind."""

    __slots__ = ("forms", "tries")

    def __init__(self) -> None:
        self.forms: list[Form] = []
        self.tries = 0


class Found:
    """A message whose like came before."""

    __slots__ = ("form", "identity", "tensors")

    def __init__(self, form: Form, identity: bytes, tensors: list[memoryview]) -> None:
        self.form = form
        self.identity = identity
        self.tensors = tensors

    @property
    def id(self) -> str:
        """The id alone, without the head of its field."""
        return self.identity[_read_varint(self.identity, 1)[1] :].decode()


class Familiar:
    """What one frontend remembers."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._kinds: dict[Kind, _Known] = {}
        self._catalog: Catalog | None = None  # by which the forms were checked
        self._form_count = 0

    def __repr__(self) -> str:
        return f"<Familiar {len(self._kinds)} kinds, {self._form_count} forms>"

    def find(self, data: bytes) -> Found | None:
        """What the message is, where its like came before. None: take the usual way."""
        if self._plane.is_draining:
            return None
        if self._plane.catalog is not self._catalog:
            self._forget()
        place = _find_id(data)
        if place is None:
            return None
        start, end = place
        identity = data[start:end]
        text = identity if end - start < ONE_BYTE + LONG_HEAD else identity[LONG_HEAD:]
        if not text.isascii():  # as the only check of UTF-8 that is cheap
            return None
        kind = data[:start], len(data) - end
        known = self._kinds.get(kind)
        if known is None:
            self._meet(kind)
            return None
        for form in known.forms:
            tensors = form.find_tensors(data, end)
            if tensors is not None:
                return Found(form, identity if end - start > 2 else b"", tensors)  # an empty id is none
        if known.tries < MAX_TRIES:
            known.tries += 1
            self._learn(known, data, end)
        return None

    def _forget(self) -> None:
        self._kinds.clear()
        self._form_count = 0
        self._catalog = self._plane.catalog

    def _meet(self, kind: Kind) -> None:
        """The first of its kind is not looked into: many stay the only one."""
        if len(self._kinds) >= MAX_KINDS:
            self._forget()
        if len(kind[0]) <= 2 * (ONE_BYTE + 1):
            self._kinds[kind] = _Known()

    def _learn(self, known: _Known, data: bytes, end: int) -> None:
        spans = _find_raw(data, end)
        if not spans or spans[0][0] - end > MAX_BYTES:
            return
        try:
            asked = decode(ModelInferRequest.FromString(data), deadline=None, arrived=0.0)
            template = self._plane.templates.make(asked)
        except (ServiceError, DecodeError):
            return  # the usual way says why
        if template is None:
            return
        if self._form_count >= MAX_FORMS:
            self._forget()
            return
        first = spans[0][0]
        behind = [(start - first, stop - first) for start, stop in spans]
        known.forms.append(Form(template, data[end:first], data[first:], behind))
        self._form_count += 1


def _find_id(data: bytes) -> tuple[int, int] | None:
    """Where the field of the id begins and ends, behind the two names of the model; nothing is between where it is not.

    None for what does not begin so, or has a name whose length takes several bytes. What is cut short may give numbers
    beyond its end.
    """
    at = 0
    try:
        if data[0] == NAME:
            at = 2 + data[1]
            if data[1] >= ONE_BYTE:
                return None
        if data[at] == VERSION:
            at += 2 + (size := data[at + 1])
            if size >= ONE_BYTE:
                return None
        if data[at] != ID:
            return at, at
        size = data[at + 1]
    except IndexError:
        return None
    if size < ONE_BYTE:
        return at, at + 2 + size
    size, begins = _read_varint(data, at + 1)
    return (at, begins + size) if ONE_BYTE <= size <= MAX_ID_BYTES else None


def _find_raw(data: bytes, at: int) -> list[tuple[int, int]]:
    """Where the raw contents lie in what follows the id; none where there is anything that is not expected there."""
    spans: list[tuple[int, int]] = []
    while at < len(data):
        tag = data[at]
        size, at = _read_varint(data, at + 1)
        if tag == RAW:
            spans.append((at, at + size))
        elif spans or tag not in (PARAMETER, INPUT, OUTPUT):
            return []
        at += size
    return spans if at == len(data) else []


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """(the number, where it ends); protobuf has looked at the message before."""
    number, shift = 0, 0
    while at < len(data):
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < ONE_BYTE:
            return number, at
        shift += 7
    return number, at


def _as_varint(number: int) -> bytes:
    written = bytearray()
    while number >= ONE_BYTE:
        written.append(number & 0x7F | ONE_BYTE)
        number >>= 7
    written.append(number)
    return bytes(written)
