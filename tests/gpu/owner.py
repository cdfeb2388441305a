"""Run as a process of its own: owns memory of a GPU, as a client does, and fills and reads it as it is told.

python -m tests.gpu.owner BYTES      answers each line of JSON with one; the first it prints has the handle
"""

from __future__ import annotations

import base64
import ctypes
import json
import sys
from typing import Any

import torch

from service.runtime.memory import Exported, load_runtime


class Owner:
    """`size` bytes from cudaMalloc."""

    def __init__(self, size: int) -> None:
        torch.zeros(1, device="cuda:0")
        self._runtime = load_runtime()
        self._address = ctypes.c_void_p()
        self._check(self._runtime.cudaMalloc(ctypes.byref(self._address), ctypes.c_size_t(size)))
        assert self._address.value is not None
        self._bytes = torch.as_tensor(Exported(self._address.value, size), device="cuda:0")

    def _check(self, code: int) -> None:
        assert code == 0, f"CUDA error {code}"

    def handle(self) -> str:
        handle = (ctypes.c_char * 64)()
        self._check(self._runtime.cudaIpcGetMemHandle(ctypes.byref(handle), self._address))
        return base64.b64encode(handle.raw).decode()

    def answer(self, asked: dict[str, Any]) -> str:
        at = asked["at"]
        if "write" in asked:
            data = bytearray(base64.b64decode(asked["write"]))
            self._bytes[at : at + len(data)].copy_(torch.frombuffer(data, dtype=torch.uint8))
            torch.cuda.synchronize()
            return ""
        torch.cuda.synchronize()
        return base64.b64encode(self._bytes[at : at + asked["read"]].cpu().numpy().tobytes()).decode()


def main(size: int) -> None:
    owner = Owner(size)
    print(json.dumps(owner.handle()), flush=True)
    for line in sys.stdin:
        print(json.dumps(owner.answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
