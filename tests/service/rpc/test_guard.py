"""No call of the gRPC port is open without a token, whatever its service; closed APIs answer as the settings say."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from protos import inference_pb2 as messages
from protos.inference_pb2_grpc import GRPCInferenceServiceStub
from service.rpc.guard import CALLS, READING
from service.security import GROUPS, SCOPES, Guard, make_guard, token_line
from tests.service.rpc.fakes import FakePlane, serving

SERVICES = (messages.DESCRIPTOR, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR)
RIGHT = (("authorization", "Bearer right"),)


def calls() -> Iterator[tuple[str, bool, bool]]:
    """Every call of every service: its path, and whether requests and responses are streams."""
    for file in SERVICES:
        for service in file.services_by_name.values():
            for method in service.methods:
                yield f"/{service.full_name}/{method.name}", method.client_streaming, method.server_streaming


def guard_of(folder: Path, *scopes: str) -> Guard | None:
    path = folder / "tokens"
    path.write_text(token_line("right", scopes))
    return make_guard(path, ())


async def status_of(channel: Any, call: tuple[str, bool, bool], metadata: Any = ()) -> tuple[str, str]:
    """What an empty request, or a stream without any, is answered; a stream that is let in is cancelled."""
    path, takes_stream, gives_stream = call
    make = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, True): channel.stream_stream,
    }[takes_stream, gives_stream]
    asked = make(path)(*(() if takes_stream else (b"",)), metadata=metadata, timeout=10)
    try:
        if takes_stream:
            await asked.done_writing()
        if gives_stream:
            await asked.read()
            asked.cancel()
            return "OK", ""
        await asked
    except grpc.aio.AioRpcError as error:
        return error.code().name, error.details() or ""
    return "OK", ""


def statuses(guard: Guard | None, metadata: Any = (), **options: Any) -> dict[str, tuple[str, str]]:
    """By the name of the call."""

    async def scenario() -> dict[str, tuple[str, str]]:
        async with serving(FakePlane(), guard=guard, **options) as (_, _, channel):
            return {call[0].rpartition("/")[2]: await status_of(channel, call, metadata) for call in calls()}

    return asyncio.run(scenario())


def test_every_call_is_known_to_the_table() -> None:
    names = [path.rpartition("/")[2] for path, _, _ in calls()]
    assert set(names) <= set(CALLS)
    assert len(names) == len(set(names)), "no two services have a call of the same name"
    assert len(names) >= 22


def test_without_a_token_every_call_but_health_is_unauthenticated(tmp_path: Path) -> None:
    for name, (status, sentence) in statuses(guard_of(tmp_path, *SCOPES)).items():
        if CALLS[name].scope is None:
            assert status not in ("UNAUTHENTICATED", "PERMISSION_DENIED"), name
        else:
            assert status == "UNAUTHENTICATED", name
            assert sentence == "a token is missing: send the header Authorization: Bearer TOKEN"


@pytest.mark.parametrize("scope", SCOPES)
def test_a_scope_opens_its_calls_alone(tmp_path: Path, scope: str) -> None:
    for name, (status, _) in statuses(guard_of(tmp_path, scope), RIGHT).items():
        scopes = {CALLS[name].scope, READING[name].scope if name in READING else CALLS[name].scope}  # these read here
        assert (status == "PERMISSION_DENIED") == (scopes != {None} and scope not in scopes), name
        assert status != "UNAUTHENTICATED"


def test_settings_are_read_with_one_scope_and_changed_with_another(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(FakePlane(), guard=guard_of(tmp_path, "read")) as (_, _, channel):
            stub = GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]
            found = await stub.LogSettings(messages.LogSettingsRequest(), metadata=RIGHT)
            assert "log_info" in found.settings
            change = messages.LogSettingsRequest()
            change.settings["log_info"].bool_param = False
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.LogSettings(change, metadata=RIGHT)
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
            assert "lacks the scope 'control'" in (caught.value.details() or "")

    asyncio.run(scenario())


def test_a_call_that_is_let_in_is_answered_as_ever(tmp_path: Path) -> None:
    async def scenario() -> None:
        plane = FakePlane()
        async with serving(plane, guard=guard_of(tmp_path, "infer")) as (_, stub, _):
            await stub.ModelInfer(messages.ModelInferRequest(model_name="m"), metadata=RIGHT)
            request = messages.ModelInferRequest(model_name="m")
            request.inputs.add(name="x", datatype="UINT8", shape=[1])
            request.raw_input_contents.append(b"1")
            stream = stub.ModelStreamInfer(iter([request]), metadata=RIGHT)
            assert [answer.infer_response.model_name async for answer in stream] == ["m"]
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.ModelInfer(messages.ModelInferRequest(), metadata=(("authorization", "Bearer wrong"),))
        assert len(plane.asked) == 2

    asyncio.run(scenario())


@pytest.mark.parametrize("group", GROUPS)
def test_a_closed_group_is_closed_in_every_call_of_it(group: str) -> None:
    for name, (status, sentence) in statuses(make_guard(None, [group])).items():
        assert (status == "PERMISSION_DENIED") == (CALLS[name].group == group), name
        if status == "PERMISSION_DENIED":
            assert sentence == f"This API is restricted: {group} is closed on this server"


@pytest.mark.parametrize("key", ["infer-key", "triton-grpc-protocol-infer-key"])
def test_a_restricted_group_opens_with_its_header_as_triton_names_it_too(key: str) -> None:
    guard = make_guard(None, ["inference:infer-key=x"])
    assert statuses(guard, ((key, "x"),))["ModelInfer"][0] == "OK"
    assert statuses(guard, ((key, "y"),))["ModelInfer"] == (
        "PERMISSION_DENIED",
        "This API is restricted, expecting header 'infer-key'",
    )


def test_a_restricted_group_is_unavailable_where_it_is_to_be_as_with_triton() -> None:
    found = statuses(make_guard(None, ["inference"]), restricted_status="unavailable")
    assert found["ModelInfer"][0] == found["ModelStreamInfer"][0] == "UNAVAILABLE"
    assert found["ModelMetadata"][0] == "NOT_FOUND"


def test_without_a_guard_nothing_is_asked() -> None:
    assert not {status for status, _ in statuses(None).values()} & {"UNAUTHENTICATED", "PERMISSION_DENIED"}
