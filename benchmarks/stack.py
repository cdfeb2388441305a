"""What the stack around a model costs: torchere beside a plain FastAPI+torch server, on one machine, in one run.

    python -m benchmarks.stack [--seconds 4] [--out benchmarks/results/stack.json]

An MLP 64-64-10 over HTTP binary, HTTP JSON and gRPC at concurrency 1, 8 and 64. Ratios are to the plain server at the
same concurrency in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from protos.inference_pb2 import ModelInferRequest
from tests.e2e.running import RunningServer, free_ports

HERE = Path(__file__).parent
CONCURRENCIES = (1, 8, 64)
TICKS = os.sysconf("SC_CLK_TCK")


def bodies(folder: Path) -> dict[str, tuple[Path, int]]:
    """For each kind of request its body in a file, and the size of the JSON before binary data (0: none)."""
    row = np.random.default_rng(0).normal(size=(1, 64)).astype(np.float32)
    tensor = {"name": "x", "shape": [1, 64], "datatype": "FP32"}
    binary = json.dumps(
        {"inputs": [{**tensor, "parameters": {"binary_data_size": 256}}], "parameters": {"binary_data_output": True}}
    ).encode()
    call = ModelInferRequest(model_name="mlp", raw_input_contents=[row.tobytes()])
    call.inputs.add(name="x", datatype="FP32", shape=[1, 64])
    contents = {
        "plain": (json.dumps({"x": row.tolist()}).encode(), 0),
        "HTTP JSON": (json.dumps({"inputs": [{**tensor, "data": row.reshape(-1).tolist()}]}).encode(), 0),
        "HTTP binary": (binary + row.tobytes(), len(binary)),
        "gRPC": (call.SerializeToString(), 0),
    }
    files = {}
    for name, (content, json_size) in contents.items():
        file = folder / name.replace(" ", "-")
        file.write_bytes(content)
        files[name] = (file, json_size)
    return files


def measure(protocol: str, address: str, path: str, body: tuple[Path, int], concurrency: int, seconds: float) -> Any:
    file, json_size = body
    arguments = [protocol, address, path, str(file), str(json_size), str(concurrency), str(seconds)]
    command = [sys.executable, "-m", "benchmarks.client", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE.parent)
    return json.loads(done.stdout)


def cpu_seconds(pids: list[int]) -> float:
    """Processor time that these processes have used."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


@contextmanager
def plain_server() -> Iterator[tuple[str, int]]:
    """The baseline's address and pid."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "uvicorn", "benchmarks.baseline.app:app", "--port", str(port), "--no-access-log"]
    process = subprocess.Popen([*command, "--log-level", "warning"], cwd=HERE.parent)
    try:
        yield f"127.0.0.1:{port}", process.pid
    finally:
        process.terminate()
        process.wait()


def wait_for(address: str) -> None:
    import socket
    import time

    host, _, port = address.rpartition(":")
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex((host, int(port))) == 0:
                return
        time.sleep(0.1)
    raise SystemExit(f"nobody listens on {address}")


def run(seconds: float) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []

    def note(server: str, kind: str, concurrency: int, pids: list[int], measured: Any, cpu: float) -> None:
        used = 1e6 * (cpu_seconds(pids) - cpu) / (measured["requests_per_s"] * (seconds + 1.0))
        rows.append(
            {"server": server, "kind": kind, "concurrency": concurrency, **measured, "server_cpu_us": round(used)}
        )
        print(rows[-1], file=sys.stderr)

    with tempfile.TemporaryDirectory() as folder:
        files = bodies(Path(folder))
        with plain_server() as (address, pid):
            wait_for(address)
            for concurrency in CONCURRENCIES:
                cpu = cpu_seconds([pid])
                note("plain", "HTTP JSON", concurrency, [pid],
                     measure("http", address, "/infer", files["plain"], concurrency, seconds), cpu)  # fmt: skip
        with RunningServer(HERE / "models", Path(folder) / "cache", Path(folder)) as server:
            pids = [server.process.pid, *server.children("service.frontend"), *server.children("service.engine.worker")]
            roads = {"HTTP binary": ("http", server.http_port), "HTTP JSON": ("http", server.http_port),
                     "gRPC": ("grpc", server.grpc_port)}  # fmt: skip
            for kind, (protocol, port) in roads.items():
                for concurrency in CONCURRENCIES:
                    cpu = cpu_seconds(pids)
                    path = "/v2/models/mlp/infer"
                    measured = measure(protocol, f"127.0.0.1:{port}", path, files[kind], concurrency, seconds)
                    note("torchere", kind, concurrency, pids, measured, cpu)
    plain = {row["concurrency"]: row["requests_per_s"] for row in rows if row["server"] == "plain"}
    return [{**row, "ratio_to_plain": round(row["requests_per_s"] / plain[row["concurrency"]], 2)} for row in rows]


def show(rows: list[dict[str, Any]]) -> None:
    table = Table(title="MLP 64-64-10, one row a request")
    for column in rows[0]:
        table.add_column(column, justify="left" if column in ("server", "kind") else "right")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console(width=170).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = run(arguments.seconds)
    show(rows)
    if arguments.out:
        processor = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line)
        machine = {
            "processor": processor.partition(": ")[2],
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "torch": torch.__version__,
        }
        command = f"python -m benchmarks.stack --seconds {arguments.seconds}"
        arguments.out.write_text(json.dumps({"machine": machine, "command": command, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
