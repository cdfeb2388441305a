"""Prints, as JSON, every field, enum value and method of the package `inference` as the modules named declare them.

    python describe.py protos.inference_pb2

A process of its own: ours and a client's declare the same names, and protobuf takes a name once per process.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

from google.protobuf import descriptor_pb2 as pb

Field = pb.FieldDescriptorProto


def messages(scope: str, declared: Any) -> dict[str, str]:
    facts = {f"message {scope}{message.name}": "" for message in declared}
    for message in declared:
        name = f"{scope}{message.name}"
        for field in message.field:
            oneof = message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else ""
            facts[f"field {name}.{field.name}"] = " ".join(
                [
                    str(field.number),
                    Field.Label.Name(field.label),
                    Field.Type.Name(field.type),
                    field.type_name,
                    f"oneof={oneof}",
                    f"optional={field.proto3_optional}",
                    f"packed={field.options.packed if field.options.HasField('packed') else 'default'}",
                ]
            )
        facts[f"map entry {name}"] = str(message.options.map_entry)
        facts |= enums(f"{name}.", message.enum_type)
        facts |= messages(f"{name}.", message.nested_type)
    return facts


def enums(scope: str, declared: Any) -> dict[str, str]:
    return {f"value {scope}{enum.name}.{value.name}": str(value.number) for enum in declared for value in enum.value}


def services(declared: Any) -> dict[str, str]:
    return {
        f"rpc {service.name}.{method.name}": (
            f"{method.input_type} {method.client_streaming} {method.output_type} {method.server_streaming}"
        )
        for service in declared
        for method in service.method
    }


def main() -> None:
    facts: dict[str, str] = {}
    for name in sys.argv[1:]:
        file = pb.FileDescriptorProto()
        importlib.import_module(name).DESCRIPTOR.CopyToProto(file)
        facts |= {"package": file.package, "syntax": file.syntax}
        facts |= messages("", file.message_type) | enums("", file.enum_type) | services(file.service)
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
