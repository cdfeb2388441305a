"""What tritonclient's four clients have in common and where they differ: HTTP or gRPC, waiting or awaited.

It knows no test and no model but `affine`. The programs that use it: triton_calls.py, triton_models.py.
"""

from __future__ import annotations

import importlib
import inspect
import urllib.request
from collections.abc import Callable
from typing import Any

import numpy as np
from tritonclient.utils import InferenceServerException

ROW = np.arange(4, dtype=np.float32).reshape(1, 4)
TIMEOUT_S = 30


async def now(value: Any) -> Any:
    """What a call gives, be its client one that waits or one that is awaited."""
    return await value if inspect.isawaitable(value) else value


async def failure(call: Callable[[], Any]) -> list[str]:
    try:
        await now(call())
    except InferenceServerException as error:
        return [str(error.status()), error.message()]
    except Exception as error:  # noqa: BLE001  # a client's own time-outs come in the classes of its libraries
        return [type(error).__name__, str(error)]
    return ["", "no error"]


class Recorder:
    """The client itself, and the names of its calls that were made."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.called: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        self.called.add(name)
        return getattr(self.client, name)


class Caller:
    """One of the four clients, and what of it differs from the others; `both` are the options that most calls have."""

    def __init__(self, flavour: str, url: str) -> None:
        self.is_http, self.is_aio = flavour.startswith("http"), flavour.endswith("aio")
        self.module = importlib.import_module(f"tritonclient.{flavour}")
        self.url = url
        self.client: Any = Recorder(self.connect())
        headers = {"x-user": "somebody"}
        self.both: dict[str, Any] = {"headers": headers, "query_params": {"a": "b c"}}
        if not self.is_http:
            self.both = {"headers": headers, "client_timeout": TIMEOUT_S}
        self.read = self.both if self.is_http else {**self.both, "as_json": True}

    def connect(self, **options: Any) -> Any:
        if self.is_http and not self.is_aio:
            options.setdefault("concurrency", 4)
        return self.module.InferenceServerClient(self.url, **options)

    def tensor(self, name: str, array: Any = ROW, is_binary: bool = True, datatype: str = "FP32") -> Any:
        made = self.module.InferInput(name, list(array.shape), datatype)
        made.set_data_from_numpy(array, **({"binary_data": is_binary} if self.is_http else {}))
        return made

    def output(self, name: str, is_binary: bool = True, **options: Any) -> Any:
        if self.is_http:
            options["binary_data"] = is_binary
        return self.module.InferRequestedOutput(name, **options)

    def rows(self, is_binary: bool = True) -> list[Any]:
        return [self.tensor("x", ROW, is_binary), self.tensor("y", ROW, is_binary)]


def carry(url: str, body: bytes, size: int) -> tuple[bytes, int]:
    """Send a body that the client made, of which `size` bytes are JSON: the answer, and how much of it is."""
    head = {"Inference-Header-Content-Length": str(size)}
    request = urllib.request.Request(f"http://{url}/v2/models/affine/infer", body, head)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        return answer.read(), int(answer.headers["Inference-Header-Content-Length"])
