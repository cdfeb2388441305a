"""The gRPC calls of the extensions: loading models, statistics, shared memory, trace and log settings.

Translates only: `control.py` answers questions, `extensions.py` makes changes. `servicer.py` inherits these calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.json_format import ParseDict

from protos import inference_pb2 as messages
from protos.inference_pb2_grpc import GRPCInferenceServiceServicer
from service.control import Control
from service.errors import InvalidInput, Unsupported
from service.rpc.errors import Context, Refusals
from service.shared_memory import CudaRegion, Region

CONFIG, FILE, UNLOAD_DEPENDENTS = "config", "file:", "unload_dependents"


class AdminCalls(GRPCInferenceServiceServicer):
    """What operators and measuring clients call."""

    _control: Control

    async def RepositoryModelLoad(
        self, request: messages.RepositoryModelLoadRequest, context: Context
    ) -> messages.RepositoryModelLoadResponse:
        async with Refusals(context):
            name, config, files = _model_of(request), None, {}
            for key, parameter in request.parameters.items():
                kind = parameter.WhichOneof("parameter_choice")
                if key == CONFIG and kind == "string_param":
                    config = parameter.string_param
                elif key.startswith(FILE) and kind == "bytes_param":
                    files[key.removeprefix(FILE)] = parameter.bytes_param
                else:
                    raise InvalidInput(
                        f"parameter '{key[:100]}': a load call takes config, as text, and file:PATH, as bytes"
                    )
            await self._control.extensions.load(name, config, files)
            return messages.RepositoryModelLoadResponse(model_name=name, isLoaded=True)

    async def RepositoryModelUnload(
        self, request: messages.RepositoryModelUnloadRequest, context: Context
    ) -> messages.RepositoryModelUnloadResponse:
        async with Refusals(context):
            name = _model_of(request)
            for key, parameter in request.parameters.items():
                if key != UNLOAD_DEPENDENTS or parameter.WhichOneof("parameter_choice") != "bool_param":
                    raise InvalidInput(f"parameter '{key[:100]}': an unload call takes unload_dependents, a boolean")
            with_members = request.parameters[UNLOAD_DEPENDENTS].bool_param if request.parameters else False
            await self._control.extensions.unload(name, with_members=with_members)
            return messages.RepositoryModelUnloadResponse(model_name=name, isUnloaded=True)

    async def ModelStatistics(
        self, request: messages.ModelStatisticsRequest, context: Context
    ) -> messages.ModelStatisticsResponse:
        async with Refusals(context):
            found = await self._control.statistics(request.name, request.version)
            return ParseDict(found, messages.ModelStatisticsResponse())

    async def SystemSharedMemoryStatus(
        self, request: messages.SystemSharedMemoryStatusRequest, context: Context
    ) -> messages.SystemSharedMemoryStatusResponse:
        async with Refusals(context):
            answer = messages.SystemSharedMemoryStatusResponse()
            for region in self._control.extensions.regions(request.name):
                answer.regions[region.name].name = region.name
                answer.regions[region.name].key = region.key
                answer.regions[region.name].offset = region.offset
                answer.regions[region.name].byte_size = region.byte_size
            return answer

    async def SystemSharedMemoryRegister(
        self, request: messages.SystemSharedMemoryRegisterRequest, context: Context
    ) -> messages.SystemSharedMemoryRegisterResponse:
        async with Refusals(context):
            region = Region(request.name, request.key, request.offset, request.byte_size)
            await self._control.extensions.register_region(region)
            return messages.SystemSharedMemoryRegisterResponse()

    async def SystemSharedMemoryUnregister(
        self, request: messages.SystemSharedMemoryUnregisterRequest, context: Context
    ) -> messages.SystemSharedMemoryUnregisterResponse:
        async with Refusals(context):
            await self._control.extensions.unregister_regions(request.name)
            return messages.SystemSharedMemoryUnregisterResponse()

    async def CudaSharedMemoryStatus(
        self, request: messages.CudaSharedMemoryStatusRequest, context: Context
    ) -> messages.CudaSharedMemoryStatusResponse:
        async with Refusals(context):
            answer = messages.CudaSharedMemoryStatusResponse()
            for region in self._control.extensions.cuda_regions(request.name):
                answer.regions[region.name].name = region.name
                answer.regions[region.name].device_id = region.device_id
                answer.regions[region.name].byte_size = region.byte_size
            return answer

    async def CudaSharedMemoryRegister(
        self, request: messages.CudaSharedMemoryRegisterRequest, context: Context
    ) -> messages.CudaSharedMemoryRegisterResponse:
        async with Refusals(context):
            wanted = CudaRegion(request.name, request.device_id, request.byte_size)
            await self._control.extensions.register_cuda_region(wanted, bytes(request.raw_handle))
            return messages.CudaSharedMemoryRegisterResponse()

    async def CudaSharedMemoryUnregister(
        self, request: messages.CudaSharedMemoryUnregisterRequest, context: Context
    ) -> messages.CudaSharedMemoryUnregisterResponse:
        async with Refusals(context):
            await self._control.extensions.unregister_cuda_regions(request.name)
            return messages.CudaSharedMemoryUnregisterResponse()

    async def TraceSetting(
        self, request: messages.TraceSettingRequest, context: Context
    ) -> messages.TraceSettingResponse:
        async with Refusals(context):
            given = {name: list(setting.value) for name, setting in request.settings.items()}
            settings = await self._control.extensions.change_trace(request.model_name, given)
            answer = messages.TraceSettingResponse()
            for name, values in settings.items():
                answer.settings[name].value.extend(values)
            return answer

    async def LogSettings(self, request: messages.LogSettingsRequest, context: Context) -> messages.LogSettingsResponse:
        async with Refusals(context):
            given = {name: _chosen(setting) for name, setting in request.settings.items()}
            return _log_answer(await self._control.extensions.change_log(given))


def _model_of(request: messages.RepositoryModelLoadRequest | messages.RepositoryModelUnloadRequest) -> str:
    """KServe's clients send the model's name where Triton's send that of a repository."""
    if request.model_name and request.repository_name:
        raise Unsupported("repository_name is not supported, as there is one repository: leave it out")
    return request.model_name or request.repository_name


def _chosen(setting: messages.LogSettingsRequest.SettingValue) -> Any:
    kind = setting.WhichOneof("parameter_choice")
    return getattr(setting, kind) if kind else None


def _log_answer(settings: Mapping[str, Any]) -> messages.LogSettingsResponse:
    answer = messages.LogSettingsResponse()
    kinds = {bool: "bool_param", int: "uint32_param", str: "string_param"}
    for name, value in settings.items():
        setattr(answer.settings[name], kinds[type(value)], value)
    return answer
