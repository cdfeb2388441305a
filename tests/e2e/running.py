"""A real service in its own processes, for the tests that talk to it as clients do."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from service.observe.adding import LAG_S

READY_TIMEOUT_S = 480.0  # a first start compiles on two busy cores
POLL_S = 0.05


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on just now."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class RunningServer:
    """`with RunningServer(repository, cache, logs) as server:` is ready inside the block, and gone after it."""

    def __init__(self, repository: Path, cache: Path, logs: Path, *flags: str, wait: bool = True) -> None:
        self.http_port, self.grpc_port, self.metrics_port = free_ports(3)
        self.http = f"http://127.0.0.1:{self.http_port}"
        self.log_file = logs / f"serve-{self.http_port}.log"
        self._wait = wait
        self._command = [
            *(sys.executable, "-m", "service.cli", "serve", "--model-repository", str(repository)),
            *("--cache-dir", str(cache), "--http-port", str(self.http_port)),
            *("--grpc-port", str(self.grpc_port), "--metrics-port", str(self.metrics_port), *flags),
        ]
        self.process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                self._command,
                stderr=log,
                stdout=log,
                stdin=subprocess.DEVNULL,
                env={"TORCHERE_FRONTENDS": "1", **os.environ},  # the same on any machine; a flag says otherwise
            )
        try:
            if self._wait:
                self.wait_until_ready()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise
        if error is not None:
            print(self.log())

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def get(self, path: str) -> tuple[int, Any]:
        """Status and JSON body; (0, None) where nobody answers."""
        return self.post(path, None)

    def post(self, path: str, body: bytes | None, **headers: str) -> tuple[int, Any]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.http + path, data=body, headers=named)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read() or b"null")
        except OSError:
            return 0, None

    def metrics(self) -> str:
        """What is published, with all that was answered before."""
        time.sleep(2 * LAG_S)
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of `name` that carry these labels."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        lines = [line for line in self.metrics().splitlines() if line.startswith((name + "{", name + " "))]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if all(label in line for label in wanted))

    def wait_until_ready(self, path: str = "/v2/health/ready") -> None:
        self.wait_for(lambda: self.get(path)[0] == 200, f"{path} to answer 200")

    def wait_for(self, condition: Any, what: str) -> None:
        """Poll until `condition()`; fails with the server's log where it does not come."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not condition():
            assert self.process.poll() is None, f"the server left while waiting for {what}:\n{self.log()}"
            assert time.monotonic() < deadline, f"waited too long for {what}:\n{self.log()}"
            time.sleep(POLL_S)

    def children(self, module: str) -> list[int]:
        """The pids of the service's processes that run `module`."""
        pids = []
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(status.read_text().rpartition(")")[2].split()[1])
                command = (status.parent / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue  # it ended meanwhile
            if parent == self.process.pid and module in command:
                pids.append(int(status.parent.name))
        return pids

    def kill(self, module: str, number: int = signal.SIGKILL) -> None:
        for pid in self.children(module):
            os.kill(pid, number)
