"""The device of an engine process: threads of the processor, or one GPU with its stream; and whether it still works.

Knows nothing of batches or requests. `runner.py` runs one batch on what this file prepares.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch

from service.runtime.memory import CannotOpen, load_runtime
from service.runtime.registered import Registered, registered_with


class Device:
    """`Device("cpu", threads=2)` or `Device("cuda:0", threads=2)`: owned by one engine process.

    `name` is what torch calls it here, `label` what clients and metrics call it.
    """

    def __init__(self, name: str, threads: int, label: str = "") -> None:
        self.name = name
        self.label = label or name
        self.is_cuda = name.startswith("cuda")
        self._thread = threading.local()
        self.registered: Registered | None = None  # memory from which it copies by itself
        torch.set_num_threads(threads)
        if self.is_cuda:
            torch.cuda.set_device(name)
            with contextlib.suppress(CannotOpen):
                self.registered = registered_with(load_runtime(), lambda: torch.cuda.set_device(name))

    def __repr__(self) -> str:
        return f"<Device {self.label}, {torch.get_num_threads()} threads>"

    @contextlib.contextmanager
    def stream(self) -> Iterator[torch.cuda.Stream | None]:
        """Enter once per instance thread: its own stream, so that instances do not wait for each other's copies."""
        if not self.is_cuda:
            yield None
            return
        torch.cuda.set_device(self.name)
        stream = torch.cuda.Stream(self.name)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            yield stream

    def enter(self, stream: torch.cuda.Stream | None) -> None:
        """What the calling thread does from now on goes there, in place of the thread whose stream that is.

        For good: to ask for the stream before and to return to it took 40 µs, of a request that a GPU answers in 700.
        """
        if stream is not None and getattr(self._thread, "stream", None) is not stream:
            torch.cuda.set_stream(stream)
            self._thread.stream = stream

    def synchronize(self) -> None:
        """Wait for what the calling thread's stream has been given. Raises RuntimeError where the device has failed."""
        if self.is_cuda:
            torch.cuda.current_stream(self.name).synchronize()

    @property
    def used_bytes(self) -> int:
        """Memory of the device in use, whoever uses it; of a CPU nothing is told."""
        if not self.is_cuda:
            return 0
        free, total = torch.cuda.mem_get_info(self.name)
        return int(total - free)

    def release(self) -> None:
        """Give the memory of what was let go back to the device."""
        if self.is_cuda:
            torch.cuda.empty_cache()

    @property
    def is_sound(self) -> bool:
        """False after an error that poisons the CUDA context: only a new process helps then.

        Asked of the calling thread's stream, which is told of such an error as any other: to wait for the whole device
        is forbidden, and spoils the recording, while another thread records a CUDA graph.
        """
        try:
            self.synchronize()
        except RuntimeError:
            return False
        return True
