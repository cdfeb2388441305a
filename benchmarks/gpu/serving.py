"""EfficientNet-B0 from uint8 images through the whole service on one GPU, beside what its engine can do without it.

    python -m benchmarks.gpu.serving            needs timm

The client is on the same machine and takes processors of its own. The images are normalised inside the compiled module.
"bare" is the same artifact in this process, its CUDA graph alone by the GPU's clock and with both copies by the host's.
"nothing" takes the same images and looks at ten bytes of each: what it takes is the way there and back. The result is
written after each step.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.common import arguments, device_ms, host_ms, write
from compiler import backends
from compiler.graphs import Graphs
from compiler.manifest import MANIFEST_NAME, read_manifest
from service.bench.results import describe_machine
from service.runtime.cuda import CudaCall
from service.runtime.device import Device
from tests.e2e.running import RunningServer

DEVICE = os.environ.get("DEVICE", "cuda:0")
FRONTENDS, CLIENTS = 5, 4
LEVELS = ("1", "32", "64", "256", "512")
PROTOCOLS = ("http", "grpc")
PROCESSES = {"engine": "service.engine.worker", "frontends": "service.frontend"}
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
MODEL = """
import timm
import torch
from torch import nn

class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.model = timm.create_model("efficientnet_b0", pretrained=False)
        self.register_buffer("mean", 255 * torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1))
        self.register_buffer("scale", 1 / (255 * torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)))

    def forward(self, image):
        return self.model((image.to(self.mean.dtype) - self.mean) * self.scale)

def create_model():
    return Classifier()
"""
CONFIG = """
trust: true
startup: wait
max_batch_size: 128
inputs:
  - {name: image, datatype: UINT8, shape: [-1, 3, 224, 224]}
batching: {buckets: [1, 8, 32, 64, 128], max_queue_size: 4096}
compile:
  backends: [torchscript]
"""
CLASSIFIER_CONFIG = f"""{CONFIG}
  precision: [fp16]
  tolerance: {{fp16: {{relative_l2: 0.1, max_abs: 0.2}}}}
"""
NOTHING = """
from torch import nn

class Nothing(nn.Module):
    def forward(self, image):
        return image[:, 0, 0, :10] * 2

def create_model():
    return Nothing()
"""


def processor_s(pids: list[int]) -> float:
    """What these processes have used so far."""
    fields = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids)
    return sum(int(each[11]) + int(each[12]) for each in fields) * TICK_S


def press(server: RunningServer, model: str, protocol: str, level: str, folder: Path) -> dict[str, Any]:
    """One run of `torchere bench`, and what the engine and the frontends spent for each request of it."""
    url = server.http if protocol == "http" else f"127.0.0.1:{server.grpc_port}"
    out = folder / f"{model}-{protocol}-{level}.json"
    command = [sys.executable, "-m", "service.cli", "bench", model, "--url", url, "--protocol", protocol]
    command += ["--concurrency", level, "--processes", str(CLIENTS), "--max-windows", "4", "--warm-up", "0.7"]
    pids = {kind: server.children(module) for kind, module in PROCESSES.items()}
    before, began = {kind: processor_s(each) for kind, each in pids.items()}, server.metric("torchere_rows_total")
    subprocess.run([*command, "--json", str(out)], check=True, stdout=sys.stderr)
    rows = max(1.0, server.metric("torchere_rows_total") - began)
    found: dict[str, Any]
    (found,) = json.loads(out.read_text())["results"]
    for kind, each in pids.items():
        found[f"{kind}_cpu_us_per_image"] = round(1e6 * (processor_s(each) - before[kind]) / rows, 1)
    return found


def bare(cache: Path) -> dict[str, Any]:
    """The artifact that was served, without a service."""
    folders = [path.parent for path in cache.rglob(MANIFEST_NAME)]
    folder, manifest = next(
        (folder, read) for folder in folders if (read := read_manifest(folder)).chosen.rung.precision == "fp16"
    )
    found: dict[str, Any] = {"chosen": manifest.chosen.rung.name, "stage_seconds": manifest.stage_seconds}
    model = backends.load(folder, manifest, DEVICE)
    call, graphs = CudaCall(model, Device(DEVICE, threads=2), manifest.chosen.graphs), Graphs(model, DEVICE)
    found["graphs"], found["race_ms"] = manifest.chosen.graphs, manifest.chosen.milliseconds
    found["device_ms"], found["host_to_host_ms"], found["graph_host_ms"] = {}, {}, {}
    found["limit_images_per_s"] = 0
    for batch in sorted(manifest.buckets, reverse=True):
        pinned = torch.randint(0, 256, (batch, 3, 224, 224), dtype=torch.uint8).pin_memory()
        why_plain = call.prepare((pinned,), batch) or graphs.capture((pinned.to(DEVICE),))
        graph = graphs.find((tuple(pinned.shape),))
        if graph is None:
            found.setdefault("plain", {})[batch] = why_plain
            continue
        spent = found["device_ms"][batch] = device_ms(graph.replay)
        found["limit_images_per_s"] = max(found["limit_images_per_s"], round(1e3 * batch / spent))
        found["graph_host_ms"][batch] = host_ms(graph.replay)
        found["host_to_host_ms"][batch] = host_ms(lambda pinned=pinned: call([pinned]))
    return found


def compare(service: dict[str, list[dict[str, Any]]], bare: dict[str, Any]) -> dict[str, Any]:
    """What the goals are about, for each protocol."""
    told = {}
    for protocol, levels in service.items():
        best = max(level["requests_per_s"] for level in levels)
        alone = next(level for level in levels if level["level"]["concurrency"] == 1)
        told[protocol] = {
            "share_of_limit": round(best / bare["limit_images_per_s"], 3),
            "added_ms_at_1": round(alone["latency_ms"]["p50"] - bare["graph_host_ms"][1], 3),
            "engine_cpu_us_per_image_at_best": next(
                level["engine_cpu_us_per_image"] for level in levels if level["requests_per_s"] == best
            ),
        }
    return told


def write_models(repository: Path) -> None:
    for model, code, config in (("classifier", MODEL, CLASSIFIER_CONFIG), ("nothing", NOTHING, CONFIG)):
        (repository / model / "1").mkdir(parents=True)
        (repository / model / "1" / "model.py").write_text(code)
        (repository / model / "model.yaml").write_text(config)


def main() -> None:
    given = arguments(__doc__)
    torch.backends.cudnn.benchmark = True
    started = time.monotonic()
    found: dict[str, Any] = {"cpu": describe_machine(), "frontends": FRONTENDS, "clients": CLIENTS}

    def note(**more: Any) -> None:
        found.update(more)
        write("gpu_serving", given.out, **found)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_models(folder / "models")
        flags = ("--device", DEVICE, "--startup", "wait", "--frontends", str(FRONTENDS))
        with RunningServer(folder / "models", given.cache, folder, *flags) as server:
            print(f"ready after {time.monotonic() - started:.0f} s", flush=True)
            service: dict[str, list[dict[str, Any]]] = {protocol: [] for protocol in PROTOCOLS}
            for protocol in PROTOCOLS:
                for level in LEVELS:
                    service[protocol].append(press(server, "classifier", protocol, level, folder))
                    note(service=service)
            note(nothing={protocol: press(server, "nothing", protocol, "1", folder) for protocol in PROTOCOLS})
            print(server.log()[-3000:], flush=True)
        if DEVICE == "cpu":
            return
        limits = bare(given.cache)
        note(bare=limits, goals=compare(service, limits))
        with RunningServer(folder / "models", given.cache, folder, *flags, "--busy-poll-us", "0") as server:
            alone = {model: press(server, model, "http", "1", folder) for model in ("classifier", "nothing")}
            note(without_busy_polling=alone)


if __name__ == "__main__":
    main()
