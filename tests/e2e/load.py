"""Clients that ask without a pause and check every answer, as a program: what they saw is printed as JSON.

    python -m tests.e2e.load http 127.0.0.1:8000 held_out.npz stop-file

`held_out.npz` has `images` and the `probabilities` that each must get. They go on until the stop file is there.
"""

from __future__ import annotations

import asyncio
import json
import queue
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.http

CONNECTIONS = 3  # of one request at a time
BURST = 6  # requests sent at once on one connection, whose answers must come in order
TOLERANCE = 1e-4  # fp32 by another backend; two images differ by far more


class Record:
    """What all clients of this process saw."""

    def __init__(self, data: str, stop: str) -> None:
        held_out = np.load(data)
        self.images = held_out["images"]
        self._wanted = held_out["probabilities"]
        self._stop = Path(stop)
        self._lock = threading.Lock()
        self.seen: dict[str, Any] = {"answers": 0, "wrong": 0, "bursts": 0, "failures": []}

    @property
    def is_over(self) -> bool:
        return self._stop.exists()

    def answer(self, index: int, probabilities: np.ndarray[Any, Any]) -> None:
        """An answer that belongs to another request counts as wrong: no two images have the same."""
        is_right = np.allclose(probabilities, self._wanted[index], atol=TOLERANCE)
        with self._lock:
            self.seen["answers"] += 1
            self.seen["wrong"] += not is_right

    def burst(self) -> None:
        with self._lock:
            self.seen["bursts"] += 1

    def failure(self, what: object) -> None:
        with self._lock:
            self.seen["failures"].append(str(what)[:300])


def http_request(host: str, image: np.ndarray[Any, Any]) -> bytes:
    wanted = tritonclient.http.InferInput("image", [1, *image.shape], "FP32")
    wanted.set_data_from_numpy(image[None])
    body, size = tritonclient.http.InferenceServerClient.generate_request_body([wanted])
    head = f"POST /v2/models/digits/infer HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Inference-Header-Content-Length: {size}\r\n\r\n".encode() + bytes(body)


async def http_answer(reader: asyncio.StreamReader) -> np.ndarray[Any, Any]:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:] if line)
    body = await reader.readexactly(int(headers["content-length"]))
    if not lines[0].startswith("http/1.1 200"):
        raise RuntimeError(f"{lines[0]}: {body.decode()}")
    size = int(headers["inference-header-content-length"])
    result = tritonclient.http.InferenceServerClient.parse_response_body(body, header_length=size)
    return result.as_numpy("probabilities")[0]  # type: ignore[no-any-return]


async def http_client(url: str, record: Record, burst: int, start: int) -> None:
    """Sends `burst` requests at once, reads their answers, begins anew; the protocol promises their order."""
    host, _, port = url.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    index = start
    while not record.is_over:
        indices = [(index + offset) % len(record.images) for offset in range(burst)]
        index += burst
        writer.write(b"".join(http_request(host, record.images[each]) for each in indices))
        for each in indices:
            record.answer(each, await http_answer(reader))
        record.burst()
    writer.close()


async def over_http(url: str, record: Record) -> None:
    bursts = [1] * CONNECTIONS + [BURST]
    clients = (http_client(url, record, burst, 50 * number) for number, burst in enumerate(bursts))
    for outcome in await asyncio.gather(*clients, return_exceptions=True):
        if isinstance(outcome, BaseException):
            record.failure(repr(outcome))


def grpc_input(image: np.ndarray[Any, Any]) -> Any:
    made = tritonclient.grpc.InferInput("image", [1, *image.shape], "FP32")
    made.set_data_from_numpy(image[None])
    return made


def grpc_client(url: str, record: Record, start: int) -> None:
    client = tritonclient.grpc.InferenceServerClient(url)
    index = start
    while not record.is_over:
        index = (index + 1) % len(record.images)
        answer = client.infer("digits", [grpc_input(record.images[index])])
        record.answer(index, answer.as_numpy("probabilities")[0])
        record.burst()


def grpc_stream(url: str, record: Record) -> None:
    """Keeps a few requests under way on one stream; answers come in the order of the requests."""
    client = tritonclient.grpc.InferenceServerClient(url)
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    index = 0
    while not record.is_over:
        indices = [(index + offset) % len(record.images) for offset in range(BURST)]
        index += BURST
        for each in indices:
            client.async_stream_infer("digits", [grpc_input(record.images[each])], request_id=str(each))
        for each in indices:
            result, error = answers.get(timeout=60)
            if error is not None:
                raise error
            if result.get_response().id != str(each):
                record.failure(f"answer {result.get_response().id} came where {each} was due")
            record.answer(each, result.as_numpy("probabilities")[0])
        record.burst()
    client.stop_stream()


def over_grpc(url: str, record: Record) -> None:
    def guarded(run: Any, *arguments: Any) -> None:
        try:
            run(url, record, *arguments)
        except Exception as error:  # noqa: BLE001 - whatever a client meets is what the test is about
            record.failure(repr(error))

    threads = [threading.Thread(target=guarded, args=(grpc_client, 70 * number)) for number in range(CONNECTIONS)]
    threads.append(threading.Thread(target=guarded, args=(grpc_stream,)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    _, protocol, address, *rest = sys.argv
    kept = Record(*rest)
    if protocol == "http":
        asyncio.run(over_http(address, kept))
    else:
        over_grpc(address, kept)
    print(json.dumps(kept.seen))
