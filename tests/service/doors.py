"""Both doors over TLS, as a frontend opens them. Knows no engine: what answers computes with numpy."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn

from service.certificates import Certificates
from service.control import Control
from service.rest.protocol import lane_protocol
from service.rpc.server import RpcOptions, start_rpc
from tests.service.rest.asking import Client


class Doors:
    """HTTP and gRPC as a frontend opens them, over engines that compute with numpy, in a thread of their own."""

    def __init__(self, certificates: Certificates, token_file: Path) -> None:
        self.http_port = self.grpc_port = 0
        self._client = Client(token_file=token_file)
        self._certificates = certificates
        self._up = threading.Event()

    async def _serve(self) -> None:
        self.loop, self.done = asyncio.get_running_loop(), asyncio.Event()
        control = Control(self._client.plane)
        options = RpcOptions(tls=self._certificates, guard=self._client.guard)
        rpc = await start_rpc(self._client.plane, control, "127.0.0.1", 0, options)
        app: Any = self._client.app
        config = uvicorn.Config(
            app,
            http=lane_protocol(self._client.app.lane),
            loop="none",
            lifespan="off",
            log_config=None,
        )
        http = uvicorn.Server(config)
        listening = socket.create_server(("127.0.0.1", 0))
        self.http_port, self.grpc_port = listening.getsockname()[1], rpc.port
        config.load()
        config.ssl = self._certificates.context
        http.lifespan = config.lifespan_class(config)
        await http.startup([listening])
        self._up.set()
        await self.done.wait()
        await rpc.stop(0)
        await http.shutdown([listening])

    @contextlib.contextmanager
    def open(self) -> Iterator[Doors]:
        thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        thread.start()
        assert self._up.wait(30)
        try:
            yield self
        finally:
            self.loop.call_soon_threadsafe(self.done.set)
            thread.join(30)

    def ask(self, *arguments: str | Path) -> Any:
        script = Path(__file__).with_name("tls_calls.py")
        words = [f"localhost:{self.http_port}", f"localhost:{self.grpc_port}", *map(str, arguments)]
        done = subprocess.run(
            [sys.executable, str(script), *words], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)
