"""Forged .pt2 files run nothing: each would write a marker if torch opened it, and none gets that far."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compiler.errors import LoadFailed
from compiler.load import open_model
from compiler.pt2 import check_program
from tests.compiler.archives import Change, forge

BATCH = torch.export.Dim("batch", min=1, max=16)
PROGRAM, INPUTS = "models/model.json", "data/sample_inputs/model.pt"
WEIGHTS, CONSTANTS = "data/weights/model_weights_config.json", "data/constants/model_constants_config.json"

SIZE = "Symbol('s77', positive=True, integer=True)"  # of the batch, as torch writes it


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)
        self.constant = torch.ones(3)
        self.empty = torch.nn.Parameter(torch.zeros(0, 3))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": torch.relu(self.layer(x)) + self.constant + self.empty.sum(0), "n": x.flatten() * (x.shape[0] + 1)}


class Nested(torch.nn.Module):
    """Inputs by keyword, in lists and dicts, a branch, bit operators, sizes that are related."""

    def forward(self, x: torch.Tensor, *, more: list[torch.Tensor], named: dict[str, torch.Tensor]) -> Any:
        bits = (more[0] & 3) | (more[0] ^ 1)
        branch = torch.cond(x.sum() > 0, lambda x: x.sin(), lambda x: x.cos(), (x,))
        return branch, bits.reshape(bits.shape[0] // 2, -1), named["a key"].to(torch.bfloat16)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = torch.export.export(Model().eval(), (torch.rand(3, 4),), dynamic_shapes=({0: BATCH},))
    path = tmp_path_factory.mktemp("program") / "model.pt2"
    torch.export.save(program, path)
    return path


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "somebody was here"


class Evil:
    """Unpickled, it writes the marker."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def swap(old: str, new: str) -> Change:
    def change(data: bytes) -> bytes:
        assert old in data.decode()
        return data.decode().replace(old, new).encode()

    return change


def payload(key: str, **fields: object) -> Change:
    def change(data: bytes) -> bytes:
        config = json.loads(data)
        config["config"][key] |= fields
        return json.dumps(config).encode()

    return change


def test_what_torch_writes_is_opened(original: Path, tmp_path: Path) -> None:
    check_program(original)
    module = open_model(original.parent, "cpu").module
    assert module(torch.ones(5, 4))["y"].shape == (5, 3)
    inputs = torch.rand(4, 4), {"more": [torch.ones(4, 2, dtype=torch.int64)], "named": {"a key": torch.ones(1)}}
    shapes = {"x": None, "more": [{0: torch.export.Dim.AUTO}], "named": {"a key": None}}
    program = torch.export.export(Nested(), (inputs[0],), inputs[1], dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "model.pt2")
    check_program(tmp_path / "model.pt2")
    program._example_inputs = None
    torch.export.save(program, tmp_path / "model.pt2")
    check_program(tmp_path / "model.pt2")


FORGERIES: dict[str, Callable[[Path], tuple[dict[str, Change], str]]] = {
    "a pickle among the example inputs": lambda marker: (
        {INPUTS: lambda _: saved(((torch.ones(1),), {"x": Evil(marker)}))},
        "has example inputs that are more than plain tensors, and opening them would run code: export the model with",
    ),
    "a bare pickle as the example inputs": lambda marker: (
        {INPUTS: lambda _: pickle.dumps(Evil(marker)) + bytes(22)},
        "has example inputs that cannot be opened safely, in a member that is not a whole zip file",
    ),
    "a weight that asks to be unpickled": lambda marker: (
        {WEIGHTS: payload("layer.weight", use_pickle=True), "data/weights/weight_1": lambda _: saved(Evil(marker))},
        "keeps 'layer.weight' as a pickle: only plain tensors can be opened",
    ),
    "a weight that does not say": lambda marker: (
        {WEIGHTS: payload("layer.weight", use_pickle=None)},
        "keeps 'layer.weight' as a pickle",
    ),
    "a weight from somewhere else": lambda marker: (
        {WEIGHTS: payload("layer.weight", path_name="../sample_inputs/model.pt")},
        "keeps 'layer.weight' in '../sample_inputs/model.pt', which is no tensor in the file",
    ),
    "a weight without values": lambda marker: (
        {"data/weights/weight_1": lambda _: b""},
        "has no values for 'layer.weight': it was not saved whole",
    ),
    "an opaque object": lambda marker: (
        {
            CONSTANTS: payload("constant", path_name="opaque_obj_0", use_pickle=True),
            "data/constants/opaque_obj_0": lambda _: pickle.dumps(Evil(marker)),
        },
        "holds 'data/constants/opaque_obj_0', which torch.export.save does not write",
    ),
    "an opaque object under a tensor's key": lambda marker: (
        {CONSTANTS: payload("constant", path_name="opaque_obj_0")},
        "keeps 'constant' in 'opaque_obj_0', which is no tensor in the file",
    ),
    "weights in the older format": lambda marker: (
        {"data/weights/model.pt": lambda _: saved(Evil(marker))},
        "is a program in an older format, which is a pickle, or none",
    ),
    "a library": lambda marker: (
        {"data/aotinductor/model/model.so": lambda _: b"\x7fELF"},
        "holds compiled machine code, not a program",
    ),
    "a second program": lambda marker: ({"models/other.json": lambda _: b"{}"}, "holds 'models/other.json' beside its"),
    "a size that is code": lambda marker: (
        {PROGRAM: swap(SIZE, f"__import__('pathlib').Path('{marker}').touch()")},
        "has the expression",
    ),
    "a size with code inside": lambda marker: (
        {PROGRAM: swap(SIZE, f"Integer(open('{marker}', 'w').fileno())")},
        "has the expression",
    ),
    "a size of text that sympy would evaluate": lambda marker: (
        {PROGRAM: swap(SIZE, f'Add(\'__import__("pathlib").Path("{marker}").touch()\', 1)'.replace('"', '\\"'))},
        "has the expression",
    ),
    "a name that is code": lambda marker: (
        {PROGRAM: swap('"name": "x"', f"\"name\": \"x=open('{marker}', 'w')\"")},
        "has the name",
    ),
    "an argument that is code": lambda marker: (
        {PROGRAM: swap('"forward_arg_names": ["x"]', f"\"forward_arg_names\": [\"x=open('{marker}', 'w')\"]")},
        "has the name",
    ),
    "a keyword that is code": lambda marker: (
        {PROGRAM: swap(r"\"context\": \"[]\"", r"\"context\": \"[\\\"a=1/0\\\"]\"")},
        "has the name 'a=1/0'",
    ),
    "an operator that is none": lambda marker: (
        {PROGRAM: swap("torch.ops.aten.relu.default", "torch.hub.load")},
        "calls 'torch.hub.load', which is no operator",
    ),
    "an operator that loads a library": lambda marker: (
        {PROGRAM: swap("torch.ops.aten.relu.default", "torch.ops.load_library.__call__")},
        "calls 'torch.ops.load_library.__call__', which is no operator",
    ),
    "an operator that reads a file": lambda marker: (
        {PROGRAM: swap("torch.ops.aten.relu.default", "torch.ops.aten.from_file.default")},
        "calls 'torch.ops.aten.from_file.default', which is no operator",
    ),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forgery_runs_nothing(original: Path, tmp_path: Path, marker: Path, forgery: str) -> None:
    changes, message = FORGERIES[forgery](marker)
    path = forge(original, tmp_path / "model.pt2", changes)
    with pytest.raises(LoadFailed) as caught:
        open_model(tmp_path, "cpu")
    assert str(caught.value).startswith(f"{path} {message}")
    assert not marker.exists()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), flips=st.integers(1, 20), cut=st.booleans())
def test_a_damaged_file_is_refused_and_never_crashes_the_check(
    original: Path, tmp_path: Path, seed: int, flips: int, cut: bool
) -> None:
    chance = random.Random(seed)
    data = bytearray(original.read_bytes())
    for _ in range(flips):
        data[chance.randrange(len(data))] = chance.randrange(256)
    if cut:
        start = chance.randrange(len(data))
        del data[start : start + chance.randrange(1, 200)]
    path = tmp_path / "model.pt2"
    path.write_bytes(data)
    with contextlib.suppress(LoadFailed):  # what is damaged may be the value of a weight
        check_program(path)
