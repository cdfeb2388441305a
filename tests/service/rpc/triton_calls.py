"""Calls a server as an unmodified user of tritonclient does and prints what came back as JSON.

    python triton_calls.py 127.0.0.1:8001

A process of its own: tritonclient's messages and ours have the same names, and protobuf takes a name once per process.
"""

from __future__ import annotations

import json
import queue
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import tritonclient.grpc as triton

URL = sys.argv[1]
ROWS = np.array([[1.0, 2.5, -3.0], [4.0, 5.0, 6.0]], np.float32)


def tensor(name: str, array: np.ndarray[Any, Any], datatype: str) -> Any:
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def failure(call: Callable[[], Any]) -> list[str]:
    try:
        call()
    except triton.InferenceServerException as error:
        return [error.status(), error.message()]
    return ["no error", ""]


def stream(client: Any) -> list[Any]:
    found: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: found.put((result, error)))
    for name in ("double", "nobody", "double"):
        client.async_stream_infer(name, [tensor("x", ROWS, "FP32")], request_id=name, enable_empty_final_response=True)
    came = [found.get(timeout=20) for _ in range(3)]
    client.stop_stream()
    return [error.message() if error else result.as_numpy("y").tolist() for result, error in came]


def main() -> None:
    client = triton.InferenceServerClient(URL)
    double = client.get_model_metadata("double", as_json=True)
    config = client.get_model_config("scores", as_json=True)["config"]
    integers = np.array([[1, -2, 2**40]], np.int64)
    halves = np.array([[1, 3, -5]], np.float16)
    labels = triton.InferRequestedOutput("y", class_count=2)
    whole = client.infer("double", [tensor("x", ROWS, "FP32")], request_id="my-id", model_version="2")
    facts = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "models": [client.is_model_ready(name) for name in ("double", "slow_start", "nobody")],
        "server": client.get_server_metadata(as_json=True),
        "metadata": double,
        "config": config,
        "index": [[each.name, each.state] for each in client.get_model_repository_index().models],
        "FP32": whole.as_numpy("y").tolist(),
        "answer": [whole.get_response().id, whole.get_response().model_name, whole.get_response().model_version],
        "INT64": client.infer("negate", [tensor("x", integers, "INT64")]).as_numpy("y").tolist(),
        "FP16": client.infer("halve", [tensor("x", halves, "FP16")]).as_numpy("y").tolist(),
        "labels": [
            [each.decode() for each in row]
            for row in client.infer("scores", [tensor("x", ROWS, "FP32")], outputs=[labels]).as_numpy("y")
        ],
        "compressed": client.infer("double", [tensor("x", ROWS, "FP32")], compression_algorithm="gzip")
        .as_numpy("y")
        .tolist(),
        "options": client.infer("double", [tensor("x", ROWS, "FP32")], priority=1, timeout=9_000_000, client_timeout=20)
        .as_numpy("y")
        .tolist(),
        "stream": stream(client),
        "errors": {
            "unknown": failure(lambda: client.infer("duble", [tensor("x", ROWS, "FP32")])),
            "version": failure(lambda: client.infer("double", [tensor("x", ROWS, "FP32")], model_version="9")),
            "datatype": failure(lambda: client.infer("double", [tensor("x", integers, "INT64")])),
            "shape": failure(lambda: client.infer("double", [tensor("x", ROWS[:, :2], "FP32")])),
            "batch": failure(lambda: client.infer("double", [tensor("x", np.zeros((513, 3), np.float32), "FP32")])),
            "name": failure(lambda: client.infer("double", [tensor("z", ROWS, "FP32")])),
            "output": failure(
                lambda: client.infer(
                    "double", [tensor("x", ROWS, "FP32")], outputs=[triton.InferRequestedOutput("nothing")]
                )
            ),
            "not ready": failure(lambda: client.infer("slow_start", [tensor("x", ROWS, "FP32")])),
            "load": failure(lambda: client.load_model("double")),
            "shared memory": failure(lambda: client.register_system_shared_memory("r", "/key", 8)),
            "CUDA shared memory": failure(lambda: client.register_cuda_shared_memory("r", b"aGFuZGxl", 0, 8)),
        },
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
