"""Requests over HTTP whose head and JSON came before, byte for byte: they are looked up, not parsed.

A client sends the same head and the same JSON again and again, and only its tensors' bytes change. What a request is
follows from those two, so whoever sends them again gets what was found the first time. `protocol.py` asks with what
came, `service/template.py` sends. Only what is plain is remembered: a POST to a v2 route with binary tensors both ways,
whole in one piece. All else, and whatever is refused, goes the usual way.
"""

from __future__ import annotations

from collections.abc import Sequence

from service.engine.lending import LENT_BYTES
from service.engine.messages import Result
from service.errors import ServiceError
from service.limits import Limits
from service.plane import Plane
from service.repository.catalog import Catalog
from service.rest.body import choose_encoding
from service.rest.codec import ParsedRequest, encode_infer, parse_infer
from service.rest.routes import Route
from service.template import Template
from service.tensors import InferRequest, InferResponse

MAX_HEADS, MAX_FORMS = 1024, 1024  # all are forgotten where there are more: a few MB, whatever clients send
MAX_BYTES = 4096  # of a head or a JSON text that is remembered
MAX_ANSWERS = 64  # to one form, of different shapes: some models answer in any number of them
MAX_DIGITS = 18
HEAD_END = b"\r\n\r\n"
JSON_SIZE = b"inference-header-content-length"
# Headers that change nothing for a request of which the length is known. One that is not among them is not plain.
PLAIN = frozenset(
    (
        *(b"accept", b"accept-encoding", b"accept-language", b"authorization", b"connection", b"content-length"),
        *(b"content-type", b"cookie", b"host", b"keep-alive", b"origin", b"referer", b"user-agent", JSON_SIZE),
    )
)


class Head:
    """A head that came before, with the sizes that it says: of the body, and of the JSON in it."""

    __slots__ = ("body_bytes", "forms", "headers", "json_bytes", "route", "tensor_bytes")

    def __init__(self, route: Route, headers: dict[bytes, bytes], body_bytes: int) -> None:
        self.route = route
        self.headers = headers
        self.body_bytes = body_bytes
        self.json_bytes = int(headers[JSON_SIZE])
        self.tensor_bytes = body_bytes - self.json_bytes
        self.forms: dict[bytes, Form | None] = {}


class Form:
    """A JSON text under a head: where its tensors lie behind it, and how its answers begin."""

    __slots__ = ("_answers", "_parsed", "_spans", "head", "template")

    def __init__(self, head: Head, template: Template, parsed: ParsedRequest) -> None:
        self.head = head
        self.template = template
        self._parsed = parsed
        self._spans: list[tuple[int, int]] = []
        at = 0
        for size in template.sizes:
            self._spans.append((at, at + size))
            at += size
        self._answers: dict[object, bytes] = {}

    def tensors(self, blobs: memoryview) -> list[memoryview]:
        """The tensors in what follows the JSON, in the order of the request."""
        if len(self._spans) == 1:
            return [blobs]
        return [blobs[start:end] for start, end in self._spans]

    def answer(self, result: Result, blobs: Sequence[memoryview]) -> tuple[bytes, Sequence[memoryview]]:
        """What follows the status and the server's own headers: the rest of the head with the JSON, and the tensors."""
        key = result.shapes, result.sizes
        return self._answers.get(key) or self._encode(key, result, blobs), self.template.pick(blobs)

    def _encode(self, key: object, result: Result, blobs: Sequence[memoryview]) -> bytes:
        entry, request = self.template.entry, self.template.request
        outputs = self.template.outputs(result, blobs)
        response = InferResponse(entry.name, entry.version, request.id, outputs)
        text, tensors = encode_infer(response, self._parsed.binary, self._parsed.binary_default)
        lines = (
            b"content-type: application/octet-stream",
            JSON_SIZE + b": %d" % len(text),
            b"content-length: %d" % (len(text) + sum(map(len, tensors))),
            b"",
            text,
        )
        if len(self._answers) >= MAX_ANSWERS:
            self._answers.clear()
        found = self._answers[key] = b"\r\n".join(lines)
        return found


class Familiar:
    """What one frontend remembers."""

    def __init__(self, plane: Plane, limits: Limits) -> None:
        self._plane = plane
        self._limits = limits
        self._heads: dict[bytes, Head] = {}
        self._catalog: Catalog | None = None  # by which the forms were checked
        self._form_count = 0

    def __repr__(self) -> str:
        return f"<Familiar {len(self._heads)} heads, {self._form_count} forms>"

    def find(self, data: bytes, end: int) -> Form | None:
        """The form of a request whose head ends at `end`. None: take the usual way.

        All of it has come, or all but a part of its tensors where they are large.
        """
        head = self._heads.get(data[:end])
        if head is None or self._plane.is_draining:
            return None
        missing = end + head.body_bytes - len(data)
        if missing and not (0 < missing <= head.tensor_bytes >= LENT_BYTES):
            return None
        if self._plane.catalog is not self._catalog:
            self._forget(self._plane.catalog)
            head = self._heads[data[:end]] = Head(head.route, head.headers, head.body_bytes)
        text = data[end : end + head.json_bytes]
        if text in head.forms:
            return head.forms[text]
        return self._learn(head, text, memoryview(data)[end:]) if not missing else None

    def holds(self, form: Form) -> bool:
        """Whether requests of this form may still be sent by it."""
        return self._plane.catalog is self._catalog and not self._plane.is_draining

    def learn(self, opening: bytes, body: memoryview, route: Route, headers: dict[bytes, bytes]) -> None:
        """A request has come in the usual way, piece by piece: its head and its body."""
        if self._plane.catalog is not self._catalog:
            self._forget(self._plane.catalog)
        self._remember(opening, route, headers, len(body))
        head = self._heads.get(opening)
        if (
            head is not None
            and head.json_bytes <= MAX_BYTES
            and (text := bytes(body[: head.json_bytes])) not in head.forms
        ):
            self._learn(head, text, body)

    def remember(self, data: bytes, route: Route, headers: dict[bytes, bytes], size: int) -> None:
        """A request has come in the usual way, by this data, with a body of `size` bytes: is it plain, and whole?"""
        end = data.find(HEAD_END, 0, MAX_BYTES) + len(HEAD_END)
        if end >= len(HEAD_END) and len(data) == end + size:
            self._remember(data[:end], route, headers, size)

    def _remember(self, opening: bytes, route: Route, headers: dict[bytes, bytes], size: int) -> None:
        if JSON_SIZE not in headers or route.door not in ("v2", "v1") or not headers.keys() <= PLAIN:
            return
        if len(opening) > MAX_BYTES or opening in self._heads:
            return
        if headers.get(b"content-length") != b"%d" % size or not _is_size(headers[JSON_SIZE], size):
            return
        if choose_encoding(headers.get(b"accept-encoding", b""), size, is_text=False) is not None:
            return  # its answer must be packed
        if len(self._heads) >= MAX_HEADS:
            self._forget(self._plane.catalog)
        self._heads[opening] = Head(route, headers, size)

    def _forget(self, catalog: Catalog) -> None:
        self._heads.clear()
        self._form_count = 0
        self._catalog = catalog

    def _learn(self, head: Head, text: bytes, body: memoryview) -> Form | None:
        if len(text) > MAX_BYTES:
            return None
        if self._form_count >= MAX_FORMS:
            self._forget(self._plane.catalog)
            return None
        try:
            parsed = parse_infer(body, head.json_bytes, self._limits)
            template = self._plane.templates.make(
                parsed.asked_of(InferRequest(head.route.model, head.route.version, ()))
            )
        except ServiceError:
            return None  # the usual way says why
        if template is not None and not template.answers_in(parsed.binary, parsed.binary_default):
            template = None
        self._form_count += 1
        form = head.forms[text] = None if template is None else Form(head, template, parsed.bare())
        return form


def _is_size(text: bytes, limit: int) -> bool:
    return text.isdigit() and len(text) <= MAX_DIGITS and 0 < int(text) <= limit
