"""Unmodified tritonclient as those use it who measure and operate a server; run as a program in its own process.

python -m tests.e2e.control_clients http 127.0.0.1:8000 statistics affine 40
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from tritonclient.utils import InferenceServerException
from tritonclient.utils import shared_memory as memory

from tests.e2e.clients import MODULES, connect, tensor

ROW = np.arange(4, dtype=np.float32).reshape(1, 4)


def ask(protocol: str, client: Any, model: str = "affine") -> Any:
    return client.infer(model, [tensor(protocol, "x", ROW, "FP32"), tensor(protocol, "y", ROW, "FP32")])


def failure(call: Callable[[], Any]) -> list[str]:
    try:
        call()
    except InferenceServerException as error:
        return [str(error.status()), error.message()]
    return ["", "no error"]


def plain(protocol: str, answer: Any) -> Any:
    """A gRPC answer as the JSON that HTTP answers with; protobuf writes 64 bit numbers as text."""
    if protocol == "http":
        return answer
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def statistics(protocol: str, url: str, model: str, count: str) -> dict[str, Any]:
    """Infer on many connections, which several frontends share between them; the totals before and after."""

    def totals(client: Any) -> Any:
        return plain(protocol, client.get_inference_statistics(model))["model_stats"][0]

    before = totals(connect(protocol, url))
    for _ in range(int(count)):
        client = connect(protocol, url)
        ask(protocol, client, model)
        with contextlib.suppress(InferenceServerException):
            client.infer(model, [tensor(protocol, "x", ROW, "FP32")])  # an input is missing
        client.close()
    seen = [totals(connect(protocol, url)) for _ in range(8)]
    everything = plain(protocol, connect(protocol, url).get_inference_statistics())["model_stats"]
    return {"before": before, "seen": seen, "models": [each["name"] for each in everything]}


def shared(protocol: str, url: str) -> dict[str, Any]:
    """Register on one connection, use on many others, unregister on one more."""
    key = f"/e2e-{threading.get_native_id()}"
    handle = memory.create_shared_memory_region("r", key, 96)
    try:
        return use_shared(protocol, url, key, handle)
    finally:
        memory.destroy_shared_memory_region(handle)


def use_shared(protocol: str, url: str, key: str, handle: Any) -> dict[str, Any]:
    memory.set_shared_memory_region(handle, [2 * ROW, 3 * ROW])
    first = connect(protocol, url)
    first.unregister_system_shared_memory()
    first.unregister_cuda_shared_memory()
    first.register_system_shared_memory("r", key, 96)
    module, results = MODULES[protocol], []
    for _ in range(12):
        inputs = [module.InferInput(name, [1, 4], "FP32") for name in "xy"]
        inputs[0].set_shared_memory("r", 16)
        inputs[1].set_shared_memory("r", 16, offset=16)
        output = module.InferRequestedOutput("sum")
        output.set_shared_memory("r", 16, offset=48)
        client = connect(protocol, url)
        client.infer("affine", inputs, outputs=[output])
        client.close()
        results.append(memory.get_contents_as_numpy(handle, np.float32, [1, 4], offset=48).tolist())
    statuses = [plain(protocol, connect(protocol, url).get_system_shared_memory_status()) for _ in range(6)]
    mixed = [tensor(protocol, "x", ROW, "FP32"), inputs[1]]
    mixture = connect(protocol, url).infer("affine", mixed).as_numpy("sum").tolist()
    small = module.InferRequestedOutput("sum")
    small.set_shared_memory("r", 8)
    taken = failure(lambda: connect(protocol, url).register_system_shared_memory("r", key, 96))
    secret = failure(lambda: connect(protocol, url).register_system_shared_memory("s", "/a-secret-key", 8))
    too_small = failure(lambda: connect(protocol, url).infer("affine", mixed, outputs=[small]))
    connect(protocol, url).unregister_system_shared_memory("r")
    gone = [failure(lambda: connect(protocol, url).infer("affine", mixed)) for _ in range(6)]
    return {
        "results": results,
        "statuses": statuses,
        "mixture": mixture,
        "taken": taken,
        "secret": secret,
        "too small": too_small,
        "gone": gone,
    }


def off(protocol: str, url: str) -> dict[str, Any]:
    """What a client does at its start, and a region, where shared memory is off."""
    client = connect(protocol, url)
    client.unregister_system_shared_memory()
    client.unregister_cuda_shared_memory()
    return {
        "status": plain(protocol, client.get_system_shared_memory_status()),
        "system": failure(lambda: client.register_system_shared_memory("r", "/k", 8)),
        "cuda": failure(lambda: client.register_cuda_shared_memory("r", b"aGFuZGxl", 0, 8)),
    }


def settings(protocol: str, url: str) -> dict[str, Any]:
    """Trace and log settings, changed on one connection and read on others."""
    client = connect(protocol, url)
    client.update_trace_settings("affine", {"trace_level": ["TIMESTAMPS"], "trace_rate": "3"})
    traces = [plain(protocol, connect(protocol, url).get_trace_settings("affine")) for _ in range(4)]
    client.update_trace_settings("affine", {"trace_level": None, "trace_rate": None})
    cleared = plain(protocol, client.get_trace_settings("affine"))
    client.update_log_settings({"log_verbose_level": 1, "log_info": False})
    logs = [plain(protocol, connect(protocol, url).get_log_settings()) for _ in range(4)]
    client.update_log_settings({"log_verbose_level": 0, "log_info": True})
    refused = failure(lambda: client.update_log_settings({"log_file": "/tmp/x"}))
    return {"traces": traces, "cleared": cleared, "logs": logs, "refused": refused}


if __name__ == "__main__":
    _, chosen, address, action, *rest = sys.argv
    print(json.dumps(globals()[action](chosen, address, *rest)))
