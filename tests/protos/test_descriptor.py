"""Our proto is the one that unmodified clients speak, and the stubs in the tree are made from it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from google.protobuf import descriptor_pb2

from protos import inference_pb2

ROOT = Path(__file__).parents[2]

# What only KServe's client knows: it reads these from replies that Triton's client expects to be empty.
OURS_ALONE = {
    "field RepositoryModelLoadResponse.model_name",
    "field RepositoryModelLoadResponse.isLoaded",
    "field RepositoryModelUnloadResponse.model_name",
    "field RepositoryModelUnloadResponse.isUnloaded",
}


def _describe(*modules: str) -> dict[str, str]:
    script = Path(__file__).with_name("describe.py")
    done = subprocess.run(
        [sys.executable, str(script), *modules],
        capture_output=True,
        check=True,
        text=True,
        env={"PYTHONPATH": str(ROOT)},
        timeout=60,
    )
    facts: dict[str, str] = json.loads(done.stdout)
    return facts


def test_every_field_has_the_name_number_and_type_that_tritonclient_expects() -> None:
    ours = _describe("protos.inference_pb2")
    theirs = _describe("tritonclient.grpc.model_config_pb2", "tritonclient.grpc.service_pb2")
    differences = {
        key: (ours.get(key, "absent"), theirs.get(key, "absent"))
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key) != theirs.get(key)
    }
    assert differences.keys() == OURS_ALONE, differences
    assert len(theirs) > 300, "the client's descriptors were read"


def test_kserve_reads_the_model_and_the_outcome_from_replies_to_load_and_unload() -> None:
    for reply, outcome in (
        (inference_pb2.RepositoryModelLoadResponse, "isLoaded"),
        (inference_pb2.RepositoryModelUnloadResponse, "isUnloaded"),
    ):
        fields = reply.DESCRIPTOR.fields_by_name
        assert {name: field.number for name, field in fields.items()} == {"model_name": 1, outcome: 2}


def test_committed_stubs_are_made_from_the_proto(tmp_path: Path) -> None:
    compiled = tmp_path / "inference.binpb"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            "-I.",
            f"--descriptor_set_out={compiled}",
            "protos/inference.proto",
        ],
        cwd=ROOT,
        check=True,
        timeout=60,
    )
    fresh = descriptor_pb2.FileDescriptorSet.FromString(compiled.read_bytes()).file[0]
    committed = descriptor_pb2.FileDescriptorProto.FromString(inference_pb2.DESCRIPTOR.serialized_pb)
    for file in (fresh, committed):
        _forget_json_names(file.message_type)
    assert fresh == committed, "run `make protos`"


def _forget_json_names(messages: object) -> None:
    """protoc writes json names into a descriptor set but not into stubs; they follow from the names."""
    for message in messages:  # type: ignore[attr-defined]
        for field in message.field:
            field.ClearField("json_name")
        _forget_json_names(message.nested_type)
