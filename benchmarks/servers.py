"""The servers that are measured, each started for one measurement and stopped after it.

`stack.py` measures them.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.running import RunningServer, free_ports

ROOT = Path(__file__).parents[1]
MODELS = ROOT / "benchmarks" / "models"
LISTEN_TIMEOUT_S = 60.0  # torch alone takes seconds to import
POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Server:
    """Where it listens, and its first process."""

    http: str
    grpc: str
    pid: int


@contextmanager
def plain_server() -> Iterator[Server]:
    """FastAPI and torch in one process: benchmarks/baseline."""
    with _uvicorn("benchmarks.baseline.app:app") as server:
        yield server


@contextmanager
def asgi_floor() -> Iterator[Server]:
    """An ASGI callable that does nothing, under uvicorn."""
    with _uvicorn("benchmarks.floors.asgi:app", "--lifespan", "off") as server:
        yield server


@contextmanager
def rpc_floor() -> Iterator[Server]:
    """A handler of bytes that does nothing, under grpc.aio."""
    (port,) = free_ports(1)
    with _running([sys.executable, "-m", "benchmarks.floors.rpc", str(port)], port) as pid:
        yield Server("", f"127.0.0.1:{port}", pid)


@contextmanager
def torchere_server() -> Iterator[Server]:
    """torchere with its defaults, every model compiled before it is measured."""
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder)
        with RunningServer(MODELS, logs / "cache", logs, "--startup", "wait", "--frontends", "0") as server:
            yield Server(server.http, f"127.0.0.1:{server.grpc_port}", server.process.pid)


@contextmanager
def _uvicorn(app: str, *options: str) -> Iterator[Server]:
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "uvicorn", app, "--port", str(port), "--no-access-log", "--log-level", "warning"]
    with _running([*command, *options], port) as pid:
        yield Server(f"http://127.0.0.1:{port}", "", pid)


@contextmanager
def _running(command: list[str], port: int) -> Iterator[int]:
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        _wait_until_listening(process, port)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def _wait_until_listening(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + LISTEN_TIMEOUT_S
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit("the server does not listen: see its message above")
        time.sleep(POLL_S)
