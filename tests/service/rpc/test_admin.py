"""Statistics, shared memory, trace and log settings over gRPC: what comes back, and what is refused."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from protos import inference_pb2 as pb
from service.engine.messages import UnloadModel
from service.observe.recorders import RequestRecorder
from service.observe.store import Store
from service.plane import Plane
from service.statistics import Statistics
from tests.fakes import FakeCounter, FakeEngines, ParentInProcess, catalog
from tests.service.rpc.fakes import control_of, serving

ROWS = np.array([[1.0, 2.0, 3.0]], np.float32)


def run(folder: Path, scenario: Callable[[Any], Awaitable[None]], *, has_shared_memory: bool = True) -> None:
    async def main() -> None:
        plane = Plane(FakeEngines(), RequestRecorder(Store(folder)))
        plane.catalog = catalog()
        parent = ParentInProcess(has_shared_memory)
        control = control_of(plane, parent, totals=Statistics(folder).ask)
        async with serving(plane, control) as (_, stub, _):
            await scenario(stub)

    asyncio.run(main())


async def status_of(call: Awaitable[object]) -> tuple[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code().name, caught.value.details() or ""


def bytes_of(path: Path) -> bytes:
    return path.read_bytes()


@pytest.fixture
def shared_file() -> Iterator[Path]:
    """64 bytes of shared memory that begin with ROWS."""
    path = Path("/dev/shm") / f"of_an_rpc_test-{os.getpid()}"
    path.write_bytes(ROWS.tobytes().ljust(64, b"\0"))
    yield path
    path.unlink()


def test_statistics_count_what_was_asked(tmp_path: Path) -> None:
    async def scenario(stub: Any) -> None:
        message = pb.ModelInferRequest(model_name="double", model_version="1", raw_input_contents=[ROWS.tobytes()])
        message.inputs.add(name="x", datatype="FP32", shape=[1, 3])
        await stub.ModelInfer(message)
        (found,) = (await stub.ModelStatistics(pb.ModelStatisticsRequest(name="double", version="1"))).model_stats
        assert (found.name, found.version, found.inference_stats.success.count) == ("double", "1", 1)
        assert found.last_inference > 0
        assert len((await stub.ModelStatistics(pb.ModelStatisticsRequest())).model_stats) == 3
        code, _ = await status_of(stub.ModelStatistics(pb.ModelStatisticsRequest(name="duble")))
        assert code == "NOT_FOUND"

    run(tmp_path, scenario)


def test_a_region_is_registered_used_and_forgotten(tmp_path: Path, shared_file: Path) -> None:
    async def scenario(stub: Any) -> None:
        register = pb.SystemSharedMemoryRegisterRequest(name="r", key=f"/{shared_file.name}", byte_size=64)
        await stub.SystemSharedMemoryRegister(register)
        assert (await status_of(stub.SystemSharedMemoryRegister(register)))[0] == "ALREADY_EXISTS"
        regions = (await stub.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest())).regions
        found = regions["r"]
        assert (found.name, found.key, found.offset, found.byte_size) == ("r", f"/{shared_file.name}", 0, 64)
        message = pb.ModelInferRequest(model_name="double")
        source = message.inputs.add(name="x", datatype="FP32", shape=[1, 3]).parameters
        target = message.outputs.add(name="y").parameters
        for parameters, offset in ((source, 0), (target, 32)):
            parameters["shared_memory_region"].string_param = "r"
            parameters["shared_memory_byte_size"].int64_param = 12
            parameters["shared_memory_offset"].int64_param = offset
        answer = await stub.ModelInfer(message)
        assert list(answer.raw_output_contents) == [b""]
        assert list(answer.outputs[0].shape) == [1, 3]
        assert bytes_of(shared_file)[32:44] == (2 * ROWS).tobytes()
        await stub.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest(name="r"))
        code, sentence = await status_of(stub.ModelInfer(message))
        assert (code, "'r' is not registered" in sentence) == ("INVALID_ARGUMENT", True)
        code, _ = await status_of(stub.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest(name="r")))
        assert code == "NOT_FOUND"
        await stub.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest())

    run(tmp_path, scenario)


def test_shared_memory_is_off_unless_switched_on(tmp_path: Path) -> None:
    async def scenario(stub: Any) -> None:
        register = pb.SystemSharedMemoryRegisterRequest(name="r", key="k", byte_size=64)
        code, sentence = await status_of(stub.SystemSharedMemoryRegister(register))
        assert (code, "--shared-memory system" in sentence) == ("UNIMPLEMENTED", True)
        await stub.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest())
        assert not (await stub.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest())).regions

    run(tmp_path, scenario, has_shared_memory=False)


def test_cuda_shared_memory_has_no_regions_and_takes_none(tmp_path: Path) -> None:
    async def scenario(stub: Any) -> None:
        assert not (await stub.CudaSharedMemoryStatus(pb.CudaSharedMemoryStatusRequest())).regions
        await stub.CudaSharedMemoryUnregister(pb.CudaSharedMemoryUnregisterRequest())
        code, sentence = await status_of(
            stub.CudaSharedMemoryRegister(pb.CudaSharedMemoryRegisterRequest(name="r", byte_size=8))
        )
        assert (code, "run on no GPU" in sentence) == ("UNIMPLEMENTED", True)
        code, _ = await status_of(stub.CudaSharedMemoryStatus(pb.CudaSharedMemoryStatusRequest(name="r")))
        assert code == "NOT_FOUND"

    run(tmp_path, scenario)


def test_trace_settings_are_kept_by_model_and_cleared_by_an_empty_value(tmp_path: Path) -> None:
    async def scenario(stub: Any) -> None:
        async def settings(model: str = "", **changes: list[str]) -> dict[str, list[str]]:
            request = pb.TraceSettingRequest(model_name=model)
            for name, values in changes.items():
                request.settings[name].value.extend(values)
            answer = await stub.TraceSetting(request)
            return {name: list(setting.value) for name, setting in answer.settings.items()}

        assert (await settings())["trace_level"] == ["OFF"]
        assert (await settings(trace_level=["TIMESTAMPS"], trace_rate=["5"]))["trace_rate"] == ["5"]
        assert (await settings("double", trace_rate=["7"]))["trace_rate"] == ["7"]
        assert (await settings("double", trace_rate=[]))["trace_rate"] == ["5"]
        code, sentence = await status_of(settings(trace_file=["/tmp/x"]))
        assert (code, "cannot be changed over the network" in sentence) == ("INVALID_ARGUMENT", True)

    run(tmp_path, scenario)


def test_log_settings_change_and_the_file_does_not(tmp_path: Path) -> None:
    async def scenario(stub: Any) -> None:
        request = pb.LogSettingsRequest()
        assert (await stub.LogSettings(request)).settings["log_info"].bool_param
        request.settings["log_verbose_level"].uint32_param = 2
        request.settings["log_info"].bool_param = False
        settings = (await stub.LogSettings(request)).settings
        assert settings["log_verbose_level"].uint32_param == 2
        assert settings["log_info"].HasField("bool_param")
        assert not settings["log_info"].bool_param
        assert settings["log_format"].string_param == "default"
        request.settings["log_file"].string_param = "/tmp/x"
        assert (await status_of(stub.LogSettings(request)))[0] == "INVALID_ARGUMENT"

    run(tmp_path, scenario)


@pytest.mark.parametrize("field", ["model_name", "repository_name"])
def test_a_model_is_loaded_and_unloaded_by_either_clients_message(tmp_path: Path, field: str) -> None:
    async def main() -> None:
        plane = Plane(FakeEngines(), FakeCounter())
        plane.catalog = catalog()
        parent = ParentInProcess()
        control = control_of(plane, parent)
        control.extensions.is_explicit, control.extensions.runtime_directory = True, tmp_path
        async with serving(plane, control) as (_, stub, _):
            load = pb.RepositoryModelLoadRequest()
            setattr(load, field, "double")
            load.parameters["config"].string_param = '{"max_batch_size": 4}'
            load.parameters["file:1/model.safetensors"].bytes_param = b"weights"
            loaded = await stub.RepositoryModelLoad(load)
            assert (loaded.model_name, loaded.isLoaded) == ("double", True)
            unload = pb.RepositoryModelUnloadRequest()
            setattr(unload, field, "double")
            unload.parameters["unload_dependents"].bool_param = True
            unloaded = await stub.RepositoryModelUnload(unload)
            assert (unloaded.model_name, unloaded.isUnloaded) == ("double", True)
            load.parameters["file:../up"].bytes_param = b"x"
            assert (await status_of(stub.RepositoryModelLoad(load)))[0] == "INVALID_ARGUMENT"
            both = pb.RepositoryModelLoadRequest(model_name="double", repository_name="other")
            assert (await status_of(stub.RepositoryModelLoad(both)))[0] == "UNIMPLEMENTED"
            wrong = pb.RepositoryModelUnloadRequest(model_name="double")
            wrong.parameters["force"].bool_param = True
            assert (await status_of(stub.RepositoryModelUnload(wrong)))[0] == "INVALID_ARGUMENT"
        load_change, unload_change = parent.models.asked
        assert (load_change.name, unload_change) == ("double", UnloadModel("double", with_members=True))
        assert parent.models.uploaded == {"double/1/model.safetensors": b"weights"}

    asyncio.run(main())
