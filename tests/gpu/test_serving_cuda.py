"""The runtime and the whole service on a real GPU: right answers, instances side by side, alive after a crash."""

from __future__ import annotations

import importlib.util
import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from compiler.spec import TensorSpec
from compiler.tools import find_tensorrt
from service.client.rpc import RpcClient
from service.runtime.device import Device
from service.runtime.runner import Runner
from tests.e2e.running import RunningServer

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

ROOT = Path(__file__).parents[2]
SPEC = TensorSpec("x", "FP32", (-1, 256))


def bytes_of(array: np.ndarray[Any, Any]) -> memoryview:
    return memoryview(array.tobytes())


def test_a_batch_is_laid_copied_computed_and_copied_back() -> None:
    device = Device("cuda:0", threads=2)
    runner = Runner(lambda inputs: (inputs[0] * 2 + 1,), device, [SPEC], [SPEC])
    generator = np.random.default_rng(0)
    with device.stream():
        for rows in (3, 7, 1, 8):  # the staging memory of one batch must not show in the next
            array = generator.normal(size=(rows, 256)).astype(np.float32)
            (output,), phases = runner.run([[bytes_of(array[:1]), bytes_of(array[1:])]], [(8, 256)])
            got = np.frombuffer(output.data, np.float32).reshape(output.shape)
            np.testing.assert_allclose(got[:rows], array * 2 + 1, rtol=1e-6)
            np.testing.assert_array_equal(got[rows:], 1.0)
            assert all(phase >= 0 for phase in phases)


def test_instances_on_streams_of_their_own_do_not_disturb_each_other() -> None:
    device = Device("cuda:0", threads=2)
    weight = torch.randn(256, 256, device="cuda:0")
    start = threading.Barrier(4)

    def instance(seed: int) -> bool:
        runner = Runner(lambda inputs: (inputs[0] @ weight,), device, [SPEC], [SPEC])
        generator = np.random.default_rng(seed)
        with device.stream():
            start.wait()
            for _ in range(50):
                array = generator.normal(size=(8, 256)).astype(np.float32)
                (output,), _ = runner.run([[bytes_of(array)]], [(8, 256)])
                want = array @ weight.cpu().numpy()
                if not np.allclose(np.frombuffer(output.data, np.float32).reshape(8, 256), want, rtol=1e-3, atol=1e-3):
                    return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(instance, range(4)))


def test_a_sound_device_is_called_sound() -> None:
    assert Device("cuda:0", threads=2).is_sound


@pytest.mark.parametrize("backend", ["torchscript", "tensorrt"])
def test_digits_served_from_the_gpu(tmp_path: Path, backend: str) -> None:
    """Compiled for this GPU, served over HTTP and gRPC to many clients at once, alive after a kill."""
    if backend == "tensorrt" and find_tensorrt() is None:
        pytest.skip("needs TensorRT")
    samples = np.random.default_rng(1).integers(0, 17, (64, 1, 8, 8)).astype(np.float32)
    want = eager_digits(samples)
    repository = tmp_path / "models"
    shutil.copytree(ROOT / "models" / "digits", repository / "digits")
    file = repository / "digits" / "model.yaml"
    precision = "tf32" if backend == "tensorrt" else "fp32"
    config = {**yaml.safe_load(file.read_text()), "compile": {"backends": [backend], "precision": [precision]}}
    file.write_text(yaml.safe_dump(config))
    flags = ("--device", "cuda:0", "--startup", "wait")
    with RunningServer(repository, tmp_path / "cache", tmp_path, *flags, wait=False) as server:
        wait_or_tell(server)
        (model,) = server.get("/v1/models")[1]["entries"]
        assert (model["device"], model["backend"]) == ("cuda:0", backend)
        ask_all(server, samples, want)
        tell_of_the_card(server)
        server.kill("service.engine.worker")
        server.wait_for(lambda: server.get("/v2/health/ready")[0] != 200, "the death to be noticed")
        server.wait_until_ready()
        ask_all(server, samples, want)


def ask_all(server: RunningServer, samples: np.ndarray[Any, Any], want: np.ndarray[Any, Any]) -> None:
    def ask(image: np.ndarray[Any, Any]) -> list[float]:
        status, answer = server.post(
            "/v1/models/digits/infer", json.dumps({"inputs": {"image": [image.tolist()]}}).encode()
        )
        assert status == 200, answer
        return list(answer["outputs"]["probabilities"][0])

    with ThreadPoolExecutor(16) as pool:
        np.testing.assert_allclose(np.array(list(pool.map(ask, samples))), want, atol=1e-3)
    with RpcClient(f"127.0.0.1:{server.grpc_port}") as client, ThreadPoolExecutor(16) as pool:
        rows = pool.map(lambda image: client.infer("digits", {"image": image[None]})["probabilities"][0], samples)
        np.testing.assert_allclose(np.array(list(rows)), want, atol=1e-3)


def tell_of_the_card(server: RunningServer) -> None:
    """Where the driver's library is there, the metrics have the card."""
    if importlib.util.find_spec("pynvml") is None:
        return
    used, total = (server.metric(f"torchere_gpu_memory_{which}_bytes") for which in ("used", "total"))
    assert 100e6 < used < total, "a CUDA context alone takes hundreds of megabytes"
    assert server.metric("torchere_gpu_power_watts") > 1
    assert server.metric("torchere_model_memory_bytes") > 0


def wait_or_tell(server: RunningServer) -> None:
    """A model that cannot be served is told of at once: nobody waits for it."""

    def is_decided() -> bool:
        states = {entry["state"] for entry in (server.get("/v1/models")[1] or {}).get("entries", [])}
        return bool(states) and "LOADING" not in states

    server.wait_for(is_decided, "the model to be compiled")
    assert server.get("/v2/health/ready")[0] == 200, server.get("/v1/models")


def eager_digits(samples: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    import runpy

    from safetensors.torch import load_file

    folder = ROOT / "models" / "digits" / "1"
    model = runpy.run_path(str(folder / "model.py"))["create_model"]()
    model.load_state_dict(load_file(folder / "model.safetensors"))
    with torch.inference_mode():
        return np.asarray(model.eval()(image=torch.from_numpy(samples))["probabilities"])
