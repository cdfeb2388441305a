"""CUDA shared memory on a real GPU: another process owns the memory, models read and write it, over both doors."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch

from protos import inference_pb2 as pb
from protos.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.e2e.running import RunningServer
from tests.gpu.ownership import REGION, ROW, SIZE, Owner, placed, register

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

ROOT = Path(__file__).parents[2]
X = np.arange(8, dtype=np.float32).reshape(2, 4)
Y = X + 100
assert X.nbytes == ROW


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("cuda")
    shutil.copytree(ROOT / "tests" / "models" / "affine", folder / "models" / "affine")
    config = folder / "models" / "affine" / "model.yaml"
    config.write_text(config.read_text().replace("[eager, torchscript]", "[eager]\n  precision: [fp32]"))
    flags = ("--device", "cuda:0", "--shared-memory", "all", "--frontends", "2", "--startup", "wait")
    with RunningServer(folder / "models", folder / "cache", folder, *flags) as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_registered(server: RunningServer) -> None:
    assert server.post("/v2/cudasharedmemory/unregister", b"") == (200, {})


def unregister(server: RunningServer, name: str) -> tuple[int, Any]:
    return server.post(f"{REGION}{name}/unregister", b"")


def ask(server: RunningServer, inputs: list[Any], outputs: list[Any]) -> tuple[int, Any]:
    return server.post("/v2/models/affine/infer", json.dumps({"inputs": inputs, "outputs": outputs}).encode())


def in_region(name: str, region: str, offset: int) -> dict[str, Any]:
    return {"name": name, "shape": [2, 4], "datatype": "FP32", "parameters": placed(region, offset)}


def in_message(name: str, array: np.ndarray[Any, Any]) -> dict[str, Any]:
    return {"name": name, "shape": [2, 4], "datatype": "FP32", "data": array.tolist()}


def into(name: str, region: str, offset: int, size: int = ROW) -> dict[str, Any]:
    return {"name": name, "parameters": placed(region, offset, size)}


def test_tensors_stay_on_the_gpu_over_http(server: RunningServer) -> None:
    with Owner() as owner:
        assert "cuda_shared_memory" in server.get("/v2")[1]["extensions"]
        owner.write(0, X, Y)
        assert register(server, "r", owner.handle) == (200, {})
        expected = [{"name": "r", "device_id": 0, "byte_size": SIZE}]
        assert server.get("/v2/cudasharedmemory/status") == (200, expected)
        inputs, outputs = [in_region("x", "r", 0), in_region("y", "r", ROW)], [into("sum", "r", 512, 1024)]
        for _ in range(4):  # whichever frontend is asked
            status, answer = ask(server, inputs, [*outputs, {"name": "scaled"}])
            assert status == 200, answer
        by_name = {output["name"]: output for output in answer["outputs"]}
        assert by_name["sum"] == {"name": "sum", "datatype": "FP32", "shape": [2, 4]}
        np.testing.assert_array_equal(np.reshape(by_name["scaled"]["data"], X.shape), 2 * X)
        np.testing.assert_array_equal(owner.read(512), X + Y)
        status, answer = ask(server, [in_region("x", "r", 0), in_message("y", -X)], [into("sum", "r", 1024)])
        assert status == 200, answer
        np.testing.assert_array_equal(owner.read(1024), 0 * X)
        assert unregister(server, "r") == (200, {})
        assert server.get("/v2/cudasharedmemory/status") == (200, [])
        status, answer = ask(server, inputs, outputs)
        assert (status, "not registered" in answer["error"]) == (400, True)


def test_tensors_stay_on_the_gpu_over_grpc(server: RunningServer) -> None:
    with Owner() as owner, grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]
        owner.write(64, X, Y)
        raw = base64.b64decode(owner.handle)
        wanted = pb.CudaSharedMemoryRegisterRequest(name="g", raw_handle=raw, device_id=0, byte_size=SIZE)
        stub.CudaSharedMemoryRegister(wanted)
        with pytest.raises(grpc.RpcError) as taken:
            stub.CudaSharedMemoryRegister(wanted)
        assert taken.value.code() is grpc.StatusCode.ALREADY_EXISTS
        (found,) = stub.CudaSharedMemoryStatus(pb.CudaSharedMemoryStatusRequest()).regions.values()
        assert (found.name, found.device_id, found.byte_size) == ("g", 0, SIZE)
        request = pb.ModelInferRequest(model_name="affine")
        for name, offset in (("x", 64), ("y", 64 + ROW)):
            tensor = request.inputs.add(name=name, datatype="FP32", shape=[2, 4])
            place(tensor.parameters, "g", offset)
        place(request.outputs.add(name="scaled").parameters, "g", 2048)
        answer = stub.ModelInfer(request)
        assert answer.outputs[0].parameters["shared_memory_region"].string_param == "g"
        np.testing.assert_array_equal(owner.read(2048), 2 * X)
        stub.CudaSharedMemoryUnregister(pb.CudaSharedMemoryUnregisterRequest())
        assert not stub.CudaSharedMemoryStatus(pb.CudaSharedMemoryStatusRequest()).regions


def place(parameters: Any, region: str, offset: int) -> None:
    parameters["shared_memory_region"].string_param = region
    parameters["shared_memory_byte_size"].int64_param = ROW
    parameters["shared_memory_offset"].int64_param = offset


def test_what_cannot_be_is_refused_in_words_that_repeat_no_handle(server: RunningServer) -> None:
    garbage = base64.b64encode(b"\x07" * 64).decode()
    with Owner() as owner:
        assert register(server, "r", owner.handle)[0] == 200
        refusals = [
            (register(server, "s", garbage), "CUDA does not open its handle"),
            (register(server, "s", owner.handle, size=SIZE + 1), f"byte_size is {SIZE + 1}, the memory has {SIZE}"),
            (register(server, "s", owner.handle, size=0), "byte_size must be above zero"),
            (register(server, "s", owner.handle, device=7), "device_id 7 is no GPU of this server: it has 0"),
            (register(server, "s", owner.handle[:40]), "a CUDA IPC handle has 64 bytes, raw_handle has"),
            (ask(server, [in_region("x", "r", SIZE), in_message("y", Y)], []), "end beyond it"),
            (ask(server, [in_region("x", "r", 0), in_region("y", "nobody", 0)], []), "is not registered"),
            (ask(server, [in_message("x", X), in_message("y", Y)], [into("sum", "r", SIZE - 8)]), "end beyond it"),
            (
                ask(server, [in_message("x", X), in_message("y", Y)], [into("sum", "r", 0, 8)]),
                f"output 'sum' has {ROW} bytes, its shared_memory_byte_size is 8: make it {ROW} or more",
            ),
        ]
        for (status, answer), sentence in refusals:
            assert (status, sentence in answer["error"]) == (400, True), answer
            assert owner.handle[:20] not in answer["error"]
            assert garbage[:20] not in answer["error"]
        wanted = {"key": "/nothing", "byte_size": 8}
        server.post("/v2/systemsharedmemory/region/r/register", json.dumps(wanted).encode())
        assert register(server, "r", owner.handle)[0] in (400, 409), "a name is one region's, of either kind"
        status, _ = ask(server, [in_region("x", "r", 0), in_message("y", Y)], [])
        assert status == 200, "nothing of it harmed the engine"
        unregister(server, "r")


def test_a_region_goes_while_it_is_used_and_an_engine_that_dies_opens_it_again(server: RunningServer) -> None:
    with Owner() as owner:
        owner.write(0, X, Y)
        register(server, "r", owner.handle)
        inputs = [in_region("x", "r", 0), in_region("y", "r", ROW)]
        answers: list[tuple[int, Any]] = []

        def client(number: int) -> None:
            own = into("sum", "r", 1024 + 64 * number) if number % 2 else {"name": "sum"}
            answers.extend(ask(server, inputs, [own, {"name": "scaled"}]) for _ in range(50))

        clients = [threading.Thread(target=client, args=(number,)) for number in range(8)]
        for each in clients:
            each.start()
        for _ in range(5):
            assert unregister(server, "r") == (200, {})
            assert register(server, "r", owner.handle) == (200, {})
        for each in clients:
            each.join()
        for status, answer in answers:
            if status == 200:
                by_name = {output["name"]: output.get("data") for output in answer["outputs"]}
                np.testing.assert_array_equal(np.reshape(by_name["scaled"], X.shape), 2 * X)
                assert by_name["sum"] is None or np.array_equal(np.reshape(by_name["sum"], X.shape), X + Y)
            else:
                assert (status, "registered" in answer["error"]) == (400, True)
        for number in (1, 3, 5, 7):
            np.testing.assert_array_equal(owner.read(1024 + 64 * number), X + Y)
        server.kill("service.engine.worker")
        server.wait_for(lambda: server.get("/v2/health/ready")[0] != 200, "the death to be noticed")
        server.wait_until_ready()
        status, answer = ask(server, inputs, [into("sum", "r", 512)])
        assert status == 200, answer
        np.testing.assert_array_equal(owner.read(512), X + Y)
        owner.end()
        status, answer = ask(server, inputs, [{"name": "sum"}])
        assert status == 200, "the memory is there for as long as it is open here"
    server.kill("service.engine.worker")
    server.wait_for(lambda: server.get("/v2/health/ready")[0] != 200, "the death to be noticed")
    server.wait_until_ready()
    status, answer = ask(server, inputs, [{"name": "sum"}])
    assert (status, answer["error"].endswith("register it again")) == (400, True), answer
    assert unregister(server, "r") == (200, {})


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_tritons_client_with_its_own_helpers(server: RunningServer, protocol: str) -> None:
    pytest.importorskip("cuda.bindings.runtime")
    pytest.importorskip("tritonclient.utils")
    port = server.http_port if protocol == "http" else server.grpc_port
    command = [sys.executable, "-m", "tests.gpu.triton_memory", protocol, f"127.0.0.1:{port}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    came = json.loads(done.stdout.splitlines()[-1])
    assert came["sum"] == (2 * X + 1).tolist()
    assert came["scaled"] == (2 * X).tolist()
    assert came["left"] == 0
