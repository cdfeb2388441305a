"""A client's process with memory of a GPU, and the words by which a service is told of it.

Knows no model. `owner.py` is what runs in that process; `test_cuda_memory.py` and `test_two_gpus.py` use both.
"""

from __future__ import annotations

import base64
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from tests.e2e.running import RunningServer

ROOT = Path(__file__).parents[2]
SIZE = 4096
SHAPE = (2, 4)
ROW = 4 * math.prod(SHAPE)  # bytes of FP32 in that shape
REGION = "/v2/cudasharedmemory/region/"


class Owner:
    """A client's process with memory of the GPU: `handle` is what it registers."""

    def __init__(self, size: int = SIZE, device: int = 0) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.gpu.owner", str(size)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": str(device)},
        )
        self.handle = self._answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.communicate(timeout=60)

    def write(self, at: int, *arrays: np.ndarray[Any, Any]) -> None:
        data = b"".join(array.tobytes() for array in arrays)
        self._ask({"at": at, "write": base64.b64encode(data).decode()})

    def read(self, at: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray[Any, Any]:
        """What is there, in this shape."""
        answer = base64.b64decode(self._ask({"at": at, "read": 4 * math.prod(shape)}))
        return np.frombuffer(answer, np.float32).reshape(shape)

    def _ask(self, asked: dict[str, Any]) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return str(json.loads(self._process.stdout.readline()))


def register(server: RunningServer, name: str, handle: str, size: int = SIZE, device: int = 0) -> tuple[int, Any]:
    body = {"raw_handle": {"b64": handle}, "device_id": device, "byte_size": size}
    return server.post(f"{REGION}{name}/register", json.dumps(body).encode())


def placed(name: str, offset: int, size: int = ROW) -> dict[str, Any]:
    return {"shared_memory_region": name, "shared_memory_byte_size": size, "shared_memory_offset": offset}
