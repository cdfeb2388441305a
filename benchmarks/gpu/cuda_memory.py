"""What it takes to bring images to a model on the GPU: in the message, in /dev/shm, in the GPU's own memory.

    python -m benchmarks.gpu.cuda_memory

One client on the same machine, one request after the other over gRPC; the model does next to nothing. The images that
go through CUDA shared memory are on the GPU already, as those of a client that decodes there.
"""

from __future__ import annotations

import ctypes
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import torch

from benchmarks.gpu.common import CALLS, WARM_UP_CALLS, arguments, write
from protos import inference_pb2 as pb
from protos.inference_pb2_grpc import GRPCInferenceServiceStub
from service.runtime.memory import load_runtime

ROWS = (1, 8, 32)
IMAGE = (3, 224, 224)
KEY = "benchmark-images"
SIZE = 64 << 20
START_TIMEOUT_S = 120.0
UNLIMITED = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))

MODEL = """
import torch

class Means(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"mean": image[:, :, ::32, ::32].mean(dim=(2, 3))}

def create_model() -> torch.nn.Module:
    return Means()
"""
CONFIG = """
trust: true
startup: wait
max_batch_size: 32
inputs:
  - {name: image, datatype: FP32, shape: [-1, 3, 224, 224]}
compile: {backends: [eager], precision: [fp32]}
"""


@contextmanager
def serving(folder: Path) -> Iterator[Any]:
    """The stub of a service with the model."""
    (folder / "models" / "means" / "1").mkdir(parents=True)
    (folder / "models" / "means" / "1" / "model.py").write_text(MODEL)
    (folder / "models" / "means" / "model.yaml").write_text(CONFIG)
    http, rpc, metrics = (str(port) for port in free_ports(3))
    command = [sys.executable, "-m", "service.cli", "serve", "--model-repository", str(folder / "models")]
    command += ["--cache-dir", str(folder / "cache"), "--device", "cuda:0", "--shared-memory", "all"]
    command += ["--http-port", http, "--grpc-port", rpc, "--metrics-port", metrics, "--frontends", "1"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_until_ready(f"http://127.0.0.1:{http}/v2/models/means/ready")
        with grpc.insecure_channel(f"127.0.0.1:{rpc}", options=UNLIMITED) as channel:
            yield GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]
    finally:
        process.terminate()
        process.wait()


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise SystemExit(f"{url} did not answer within {START_TIMEOUT_S:.0f} s")


def register(stub: Any, on_gpu: torch.Tensor) -> None:
    """`on_gpu` as region `cuda`, a file of the same bytes as region `system`."""
    handle = (ctypes.c_char * 64)()
    code = load_runtime().cudaIpcGetMemHandle(ctypes.byref(handle), ctypes.c_void_p(on_gpu.data_ptr()))
    assert code == 0, f"CUDA error {code}"
    stub.CudaSharedMemoryRegister(
        pb.CudaSharedMemoryRegisterRequest(name="cuda", raw_handle=handle.raw, device_id=0, byte_size=SIZE)
    )
    Path("/dev/shm", KEY).write_bytes(on_gpu.cpu().numpy().tobytes())
    stub.SystemSharedMemoryRegister(pb.SystemSharedMemoryRegisterRequest(name="system", key=KEY, byte_size=SIZE))


def requests(rows: int, images: torch.Tensor) -> dict[str, Any]:
    """The same request in each of the ways."""
    size = images[:rows].numel() * images.element_size()
    found = {}
    for way in ("message", "system", "cuda"):
        request = pb.ModelInferRequest(model_name="means")
        tensor = request.inputs.add(name="image", datatype="FP32", shape=[rows, *IMAGE])
        if way == "message":
            request.raw_input_contents.append(images[:rows].numpy().tobytes())
        else:
            tensor.parameters["shared_memory_region"].string_param = way
            tensor.parameters["shared_memory_byte_size"].int64_param = size
        found[way] = request
    return found


def median_ms(stub: Any, request: Any) -> tuple[float, bytes]:
    times = []
    for call in range(WARM_UP_CALLS + CALLS):
        start = time.perf_counter()
        answer = stub.ModelInfer(request)
        if call >= WARM_UP_CALLS:
            times.append((time.perf_counter() - start) * 1e3)
    return round(statistics.median(times), 3), answer.raw_output_contents[0]


def main() -> None:
    given = arguments(__doc__)
    images = torch.randn(max(ROWS), *IMAGE, generator=torch.Generator().manual_seed(0))
    on_gpu = torch.zeros(SIZE, dtype=torch.uint8, device="cuda:0")
    on_gpu[: images.numel() * 4].copy_(images.view(-1).view(torch.uint8))
    torch.cuda.synchronize()
    measured: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as stub:
        register(stub, on_gpu)
        for rows in ROWS:
            answers = set()
            for way, request in requests(rows, images).items():
                measured.setdefault(way, {})[str(rows)], answer = median_ms(stub, request)
                answers.add(answer)
            assert len(answers) == 1, "the same images give the same answer, however they come"
    Path("/dev/shm", KEY).unlink()
    image_bytes = images[0].numel() * 4
    write("gpu_cuda_memory", given.out, image_bytes=image_bytes, calls=CALLS, milliseconds_by_rows=measured)


if __name__ == "__main__":
    main()
