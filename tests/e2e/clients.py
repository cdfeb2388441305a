"""Unmodified tritonclient against a running server; run as a program in its own process, as a user's client is.

    python -m tests.e2e.clients http 127.0.0.1:8000 infer

Both this project's and tritonclient's generated messages claim the same protobuf names, so they cannot share a process.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import sys
from typing import Any

import ml_dtypes
import numpy as np
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

MODULES = {"http": tritonclient.http, "grpc": tritonclient.grpc}


def connect(protocol: str, url: str, concurrency: int = 1) -> Any:
    if protocol == "http":
        return tritonclient.http.InferenceServerClient(url, concurrency=concurrency)
    return tritonclient.grpc.InferenceServerClient(url)


def tensor(protocol: str, name: str, array: np.ndarray[Any, Any], datatype: str) -> Any:
    made = MODULES[protocol].InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def infer(protocol: str, url: str) -> dict[str, Any]:
    """Two inputs, one output asked for."""
    x, y = np.arange(8, dtype=np.float32).reshape(2, 4), np.ones((2, 4), np.float32)
    inputs = [tensor(protocol, "x", x, "FP32"), tensor(protocol, "y", y, "FP32")]
    outputs = [MODULES[protocol].InferRequestedOutput("sum")]
    answer = connect(protocol, url).infer("affine", inputs, outputs=outputs, request_id="42", model_version="1")
    response = answer.get_response()
    identity = response.id if protocol == "grpc" else response["id"]
    return {"sum": answer.as_numpy("sum").tolist(), "scaled": answer.as_numpy("scaled") is None, "id": identity}


def everything(protocol: str, url: str) -> dict[str, Any]:
    """Every datatype there and back; True for each that came back as it went."""
    generator = np.random.default_rng(3)
    arrays: dict[str, tuple[np.ndarray[Any, Any], str]] = {}
    for datatype, dtype in TYPES.items():
        values = generator.integers(0, 2 if datatype == "BOOL" else 100, (2, 5)).astype(dtype)
        arrays[datatype.lower()] = (values, datatype)
    inputs = [tensor(protocol, f"in_{name}", array, datatype) for name, (array, datatype) in arrays.items()]
    answer = connect(protocol, url).infer("typed", inputs)
    return {name: bool(np.array_equal(answer.as_numpy(f"out_{name}"), array)) for name, (array, _) in arrays.items()}


TYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "BF16": ml_dtypes.bfloat16,  # what this client takes since 26.06; before, it took float32
    "FP32": np.float32,
    "FP64": np.float64,
}


def errors(protocol: str, url: str) -> dict[str, list[str]]:
    """Status and sentence of each mistake; the server must live on."""
    client = connect(protocol, url)
    good = np.zeros((1, 4), np.float32)

    def mistake(model: str, *inputs: Any, **more: Any) -> list[str]:
        try:
            client.infer(model, list(inputs), **more)
        except InferenceServerException as error:
            return [str(error.status()), error.message()]
        return ["", "no error"]

    x, y = tensor(protocol, "x", good, "FP32"), tensor(protocol, "y", good, "FP32")
    return {
        "unknown model": mistake("nobody", x),
        "unknown version": mistake("affine", x, y, model_version="9"),
        "missing input": mistake("affine", x),
        "unknown input": mistake("affine", x, tensor(protocol, "z", good, "FP32")),
        "wrong shape": mistake("affine", x, tensor(protocol, "y", np.zeros((1, 5), np.float32), "FP32")),
        "no batch": mistake("affine", x, tensor(protocol, "y", np.zeros(4, np.float32), "FP32")),
        "wrong datatype": mistake("affine", x, tensor(protocol, "y", np.zeros((1, 4), np.float64), "FP64")),
        "batch too large": mistake(
            "affine", *(tensor(protocol, n, np.zeros((17, 4), np.float32), "FP32") for n in "xy")
        ),
        "unknown output": mistake("affine", x, y, outputs=[MODULES[protocol].InferRequestedOutput("z")]),
        "model fails": mistake("poison", tensor(protocol, "x", -np.ones((1, 2), np.float32), "FP32")),
        "broken model": mistake("broken", tensor(protocol, "x", np.ones((1, 2), np.float32), "FP32")),
    }


def crowd(protocol: str, url: str, data: str, clients: str) -> list[list[float]]:
    """Every image of `data` (an .npz) sent on its own by one of `clients` at once; the probabilities each one got."""
    images = np.load(data)["images"]
    count = int(clients)
    if protocol == "http":
        return asyncio.run(http_crowd(url, images, count))
    shared = connect(protocol, url)

    def ask(image: np.ndarray[Any, Any]) -> list[float]:
        answer = shared.infer("digits", [tensor(protocol, "image", image[None], "FP32")])
        return list(answer.as_numpy("probabilities")[0].tolist())

    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return list(pool.map(ask, images))


async def http_crowd(url: str, images: np.ndarray[Any, Any], count: int) -> list[list[float]]:
    """tritonclient's requests on `count` bare connections: its own HTTP layer is slower than the server and would
    never have two requests wait at the same time."""
    host, _, port = url.rpartition(":")
    answers: list[list[float]] = [[] for _ in images]

    async def client(start: int) -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        for index in range(start, len(images), count):
            wanted = tensor("http", "image", images[index][None], "FP32")
            body, size = tritonclient.http.InferenceServerClient.generate_request_body([wanted])
            head = f"POST /v2/models/digits/infer HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n"
            writer.write(f"{head}Inference-Header-Content-Length: {size}\r\n\r\n".encode() + body)
            lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
            assert lines[0].startswith("http/1.1 200"), lines
            headers = dict(line.split(": ", 1) for line in lines[1:] if line)
            answer = await reader.readexactly(int(headers["content-length"]))
            json_size = int(headers["inference-header-content-length"])
            result = tritonclient.http.InferenceServerClient.parse_response_body(answer, header_length=json_size)
            answers[index] = result.as_numpy("probabilities")[0].tolist()
        writer.close()

    await asyncio.gather(*(client(start) for start in range(count)))
    return answers


def texts(protocol: str, url: str, lengths: str) -> list[list[list[list[float]]]]:
    """A text of each of these lengths, all at once, every second with a mask: their states and means."""

    def inputs(number: int, length: int) -> list[Any]:
        ids = np.random.default_rng(number).integers(0, 100, (1, length))
        mask = [tensor(protocol, "mask", np.ones((1, length), np.int64), "INT64")] if number % 2 else []
        return [tensor(protocol, "ids", ids, "INT64"), *mask]

    wanted = [inputs(number, int(length)) for number, length in enumerate(lengths.split(","))]
    client = connect(protocol, url, concurrency=len(wanted))
    if protocol == "http":
        answers = [each.get_result() for each in [client.async_infer("texts", one) for one in wanted]]
    else:
        with concurrent.futures.ThreadPoolExecutor(len(wanted)) as pool:
            answers = list(pool.map(lambda one: client.infer("texts", one), wanted))
    return [[answer.as_numpy(name)[0].tolist() for name in ("states", "mean")] for answer in answers]


if __name__ == "__main__":
    _, chosen, address, action, *rest = sys.argv
    print(json.dumps(globals()[action](chosen, address, *rest)))
