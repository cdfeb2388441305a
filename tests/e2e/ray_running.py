"""A Ray cluster of two nodes in processes of its own, for those who talk to the application as clients do."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from tests.e2e.running import free_ports

ROOT = Path(__file__).parents[2]
RAY = ROOT / "build/ray"  # `make ray`
INGRESS = "_ingress"
# As deploy/ray/rayservice.yaml sets them for every process of Ray.
AS_DEPLOYED = {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_SERVE_PROXY_USE_GRPC": "1"}
READY_S, END_S, POLL_S = 240.0, 90.0, 0.25


class RayCluster:
    """`with RayCluster(logs) as cluster:` is up inside the block once `deploy` has returned, and gone after it.

    The ingress stays on the first node, which is never killed: two nodes of one machine cannot share its port.
    """

    def __init__(self, logs: Path) -> None:
        self.http_port, self.grpc_port = free_ports(2)
        self.http, self.grpc = f"http://127.0.0.1:{self.http_port}", f"127.0.0.1:{self.grpc_port}"
        self.log_file = logs / f"ray-{self.http_port}.log"
        self._lock = threading.Lock()
        self.process: subprocess.Popen[str]

    def __enter__(self) -> Self:
        return self

    def deploy(self, repository: Path, cache: Path, *flags: str, **scaling: float) -> None:
        """Deploy what `torchere deploy ray` makes of a repository, with `scaling` in place of what it says."""
        path = self.log_file.with_suffix(".yaml")
        given = ["--model-repository", str(repository), "--cache-dir", str(cache), "--trust", *flags]
        self._write(path, given, scaling)
        environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"} | AS_DEPLOYED
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [RAY / "bin/python", ROOT / "tests/e2e/ray_cluster.py", path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )
        self.head = self._read()["head"]
        self.wait(self.is_ready, READY_S)

    def _write(self, path: Path, given: list[str], scaling: dict[str, float]) -> None:
        import yaml
        from click.testing import CliRunner

        from service.cli import main

        command = ["deploy", "ray", *given, "--host", "127.0.0.1"]
        command += ["--http-port", str(self.http_port), "--grpc-port", str(self.grpc_port)]
        done = CliRunner().invoke(main, [*command, "--ingresses", "1", "--output", str(path)])
        assert done.exit_code == 0, done.output
        config = yaml.safe_load(path.read_text())
        config["proxy_location"] = "HeadOnly"
        for deployment in config["applications"][0]["deployments"]:
            if deployment["name"] == INGRESS:
                deployment["ray_actor_options"]["resources"] = {"head": 1}
            else:
                deployment["autoscaling_config"] |= scaling
        path.write_text(yaml.safe_dump(config))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.process.communicate("end\n", timeout=END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        if error is not None:
            print(self.log_file.read_text(errors="replace"))

    def ask(self, word: str) -> Any:
        """What `ray_cluster.py` answers."""
        with self._lock:
            assert self.process.stdin is not None
            self.process.stdin.write(f"{word}\n")
            self.process.stdin.flush()
            return self._read()

    def nodes(self, model: str) -> list[str]:
        """Where running replicas of a model are."""
        application = self.ask("status").get("torchere", {"deployments": {}})
        deployment = application["deployments"].get(model)
        return deployment["nodes"] if deployment is not None and deployment["running"] else []

    def wait(self, what: Callable[[], bool], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not what():
            assert time.monotonic() < deadline, self.ask("status")
            time.sleep(POLL_S)

    def is_ready(self) -> bool:
        """Whether every model is served."""
        try:
            return httpx.get(f"{self.http}/v2/health/ready", timeout=10).status_code == 200
        except httpx.TransportError:
            return False

    def _read(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log_file.read_text(errors="replace")[-4000:]
        return json.loads(line)
