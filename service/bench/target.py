"""From a URL and a model's name to a target: asks the server what the model takes, builds the request, tries it once.

The one try shows whether server, model and inputs fit before any load is put on. `run.py` measures the target.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import httptools
import orjson

from service.bench.errors import BenchError
from service.bench.inputs import Shape, Spec, random_tensors, read_specs, read_tensors, rows
from service.bench.levels import is_loopback
from service.bench.messages import Protocol, Target
from service.bench.payloads import binary_body, http_request, infer_path, json_body
from service.client.rest import RestClient
from service.client.rpc import RpcClient, infer_message
from service.errors import ServiceError
from service.tensors import Tensor

SHOWN_BODY = 300  # characters of a refusal that are shown
READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Subject:
    """What is to be measured, as it was asked for."""

    url: str
    model: str
    protocol: Protocol = "http"
    version: str = ""
    batch: int = 1
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    input_file: Path | None = None
    seed: int = 0
    timeout_s: float = 10.0
    deadline_s: float = 0.0

    @property
    def address(self) -> tuple[str, int]:
        """Host and port. Raises BenchError where the URL has none, or wants what is not spoken here."""
        parts = urlsplit(self.url if "//" in self.url else f"//{self.url}")
        if parts.scheme not in ("", "http", "grpc"):
            raise BenchError(f"{parts.scheme} is not supported: give http://host:port or grpc://host:port")
        try:
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise BenchError(f"'{self.url}' is no address: {error}") from error
        if not host or not port:
            raise BenchError(f"'{self.url}' is no address: give host and port, as http://127.0.0.1:8000")
        return host, port


@dataclass(frozen=True, slots=True)
class Request:
    """A target, and how many rows each of its requests carries."""

    target: Target
    rows: int


def check_allowed(host: str, is_remote_allowed: bool) -> None:
    """Raises BenchError for load on another machine that was not allowed in so many words."""
    if not is_remote_allowed and not is_loopback(host):
        raise BenchError(
            f"{host} is not this machine: load only servers that are yours to load, and say so with --allow-remote"
        )


def door(subject: Subject) -> RestClient | RpcClient:
    """The client for what is asked beside the load: metadata and statistics."""
    host, port = subject.address
    return RpcClient(f"{host}:{port}") if subject.protocol == "grpc" else RestClient(f"http://{host}:{port}")


def build_request(subject: Subject) -> Request:
    """Ask the server what the model takes, and make the request. Raises BenchError with a sentence."""
    host, port = subject.address
    specs: tuple[Spec, ...] = ()
    try:
        with door(subject) as client:
            metadata = client.metadata(subject.model, subject.version)
    except ServiceError as error:
        raise BenchError(str(error)) from error
    if subject.input_file:
        specs = read_specs(metadata) if metadata.get("inputs") else ()
        tensors = read_tensors(subject.input_file, specs)
    else:
        specs = read_specs(metadata)
        tensors = random_tensors(specs, subject.batch, subject.shapes, subject.seed)
    target = Target(subject.protocol, host, port, payload(subject, tensors), subject.timeout_s, subject.deadline_s)
    return Request(target, rows(tensors, specs))


def payload(subject: Subject, tensors: tuple[Tensor, ...]) -> bytes:
    """The bytes of one request in the subject's protocol."""
    host, port = subject.address
    path, address = infer_path(subject.model, subject.version), f"{host}:{port}"
    match subject.protocol:
        case "grpc":
            return infer_message(subject.model, tensors, subject.version).SerializeToString()
        case "http-json":
            return http_request(address, path, json_body(tensors, subject.deadline_s))
        case "http":
            return http_request(address, path, *binary_body(tensors, subject.deadline_s))


async def try_once(target: Target) -> None:
    """Send the request once and look at the answer. Raises BenchError where it is not what it should be."""
    try:
        if target.protocol == "grpc":
            await asyncio.to_thread(_call_once, target)
        else:
            await asyncio.wait_for(_post_once(target), target.timeout_s)
    except TimeoutError as error:
        raise BenchError(f"no answer to a first request within {target.timeout_s:g} s") from error
    except OSError as error:
        raise BenchError(f"{target.host}:{target.port} does not answer: {error}") from error


async def _post_once(target: Target) -> None:
    reader, writer = await asyncio.open_connection(target.host, target.port)
    answer = _Answer()
    parser = httptools.HttpResponseParser(answer)
    try:
        writer.write(target.payload)
        while not answer.is_complete:
            data = await reader.read(READ_BYTES)
            if not data:
                raise BenchError("the server closed the connection before it had answered a first request")
            parser.feed_data(data)
    except httptools.HttpParserError as error:
        raise BenchError(f"the answer to a first request is not well-formed HTTP: {error}") from error
    finally:
        writer.close()
    _check_answer(parser.get_status_code(), bytes(answer.body), answer.json_size)


def _check_answer(status: int, body: bytes, json_size: int | None) -> None:
    if status != 200:
        text = body[:SHOWN_BODY].decode(errors="replace")
        raise BenchError(f"the server answers a first request with HTTP {status}: {text}")
    try:
        orjson.loads(body[:json_size])
    except orjson.JSONDecodeError as error:
        raise BenchError(f"the answer to a first request holds no JSON: {error}") from error


class _Answer:
    """llhttp's callbacks."""

    def __init__(self) -> None:
        self.body = bytearray()
        self.json_size: int | None = None
        self.is_complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"inference-header-content-length":
            self.json_size = int(value)

    def on_body(self, part: bytes) -> None:
        self.body += part

    def on_message_complete(self) -> None:
        self.is_complete = True


def _call_once(target: Target) -> None:
    import grpc

    from service.bench.rpc_wire import METHOD

    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(f"{target.host}:{target.port}", options) as channel:
        try:
            channel.unary_unary(METHOD, None, None)(target.payload, timeout=target.timeout_s)
        except grpc.RpcError as error:
            call = cast(grpc.Call, error)  # gRPC raises the call itself
            raise BenchError(f"the server answers a first request with {call.code().name}: {call.details()}") from error
