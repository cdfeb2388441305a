"""Inputs that a request may leave out: filled in for all of its rows; a default that cannot be right is refused."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compiler.spec import Padding, TensorSpec
from service.checks import check_inputs
from service.control import Control
from service.defaults import fill_inputs
from service.errors import InvalidInput
from service.plane import Plane
from service.repository.config import ConfigError, read_config
from service.repository.model_config import Batching
from service.tensors import InferRequest, Tensor, to_numpy
from tests.fakes import FakeCounter, FakeEngines, catalog, entry
from tests.service.rest.asking import Client

WEIGHTED = entry(
    name="weighted",
    inputs=(TensorSpec("weight", "FP32", (-1, 1)), TensorSpec("x", "FP32", (-1, 2))),
    outputs=(TensorSpec("y", "FP32", (-1, 2)),),
    defaults={"weight": 3.0},
)
ROWS = np.array([[1, 2], [3, 4]], np.float32)


def client() -> Client:
    made = Client(WEIGHTED)
    made.engines.computes("weighted", lambda arrays: [arrays[0] * arrays[1]])
    return made


@pytest.mark.parametrize(
    ("path", "body", "read"),
    [
        ("/v1/models/weighted/infer", {"inputs": {"x": ROWS.tolist()}}, lambda answer: answer["outputs"]["y"]),
        (
            "/v1/models/weighted:predict",
            {"instances": [{"x": row} for row in ROWS.tolist()]},
            lambda a: a["predictions"],
        ),
        (
            "/v2/models/weighted/infer",
            {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 2], "data": ROWS.tolist()}]},
            lambda answer: np.reshape(answer["outputs"][0]["data"], (2, 2)).tolist(),
        ),
    ],
)
def test_what_is_left_out_is_filled_in_at_every_door(path: str, body: Any, read: Any) -> None:
    answer = client().post(path, body)
    assert answer.status_code == 200, answer.text
    assert read(answer.json()) == (3 * ROWS).tolist()


def test_what_is_given_counts() -> None:
    body = {"inputs": {"x": ROWS.tolist(), "weight": [[1], [2]]}}
    answer = client().post("/v1/models/weighted/infer", body)
    assert answer.json()["outputs"]["y"] == [[1, 2], [6, 8]]


def test_what_has_no_default_is_missed_by_name() -> None:
    answer = client().post("/v1/models/weighted/infer", {"inputs": {"weight": [[1]]}})
    assert answer.status_code == 400
    assert "missing input 'x'" in answer.json()["error"]
    assert "missing input 'x', 'weight'" not in answer.json()["error"]


def test_the_plane_fills_in_the_models_own_order() -> None:
    engines = FakeEngines(weighted=lambda arrays: [arrays[0] * arrays[1]])
    engines.know(WEIGHTED)
    plane = Plane(engines, FakeCounter())
    plane.catalog = catalog(WEIGHTED)
    request = InferRequest("weighted", "", (Tensor("x", "FP32", (2, 2), ROWS.tobytes()),))
    np.testing.assert_array_equal(to_numpy(asyncio.run(plane.infer(request)).outputs[0]), 3 * ROWS)
    config = Control(plane).model_config("weighted")
    assert [part.get("optional", False) for part in config["input"]] == [True, False]


@pytest.mark.parametrize(
    ("datatype", "default", "filled"),
    [
        ("BOOL", True, [[True, True]] * 2),
        ("INT64", 2**62 + 1, [[2**62 + 1] * 2] * 2),
        ("BF16", 1.5, [[1.5, 1.5]] * 2),
        ("BYTES", "né", [["né".encode()] * 2] * 2),
    ],
)
def test_every_datatype_can_have_a_default(datatype: str, default: Any, filled: Any) -> None:
    model = entry(inputs=(TensorSpec("x", datatype, (-1, 2)),), defaults={"x": default})
    (tensor,) = fill_inputs((), model, 2)
    assert (tensor.datatype, tensor.shape) == (datatype, (2, 2))
    assert to_numpy(tensor).tolist() == filled


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/models/text:predict", {"instances": [[1, 2], [3]]}),
        ("/v1/models/text:predict", {"instances": [{"ids": [1, 2]}, {"ids": [3]}]}),
        ("/v1/models/text/infer", {"inputs": {"ids": [[1, 2], [3]]}}),
    ],
)
def test_rows_of_different_sizes_are_no_request_even_where_sizes_are_padded(path: str, body: Any) -> None:
    """Its answer would have no one shape either, which other doors could not give."""
    answer = Client(entry_of_one_input()).post(path, body)
    assert answer.status_code == 400
    assert answer.json()["error"] == (
        "input 'ids': data is not a regular array, as some of its lists have other lengths than others: a request has "
        "one size of each dimension, so send rows of another size in a request of their own"
    )


def entry_of_one_input() -> Any:
    pad = Padding({"length": (4, 8)}, {"ids": {1: "length"}})
    return entry(name="text", inputs=(TensorSpec("ids", "INT64", (-1, -1)),), batching=Batching(pad=pad))


MODEL = "max_batch_size: {size}\ninputs: [{{name: x, datatype: {datatype}, shape: {shape}, default: {default}}}]\n"


@pytest.mark.parametrize(
    ("size", "datatype", "shape", "default", "sentence"),
    [
        (4, "FP32", "[-1, -1]", "0", "leaves open how much of it to fill in"),
        (0, "FP32", "[-1]", "0", "leaves open how much of it to fill in"),
        (4, "UINT8", "[-1, 2]", "256", "one value of UINT8, not 256"),
        (4, "INT32", "[-1, 2]", "0.5", "one value of INT32, not 0.5"),
        (4, "FP32", "[-1, 2]", "yes", "one value of FP32, not True"),
        (4, "BOOL", "[-1, 2]", "1", "one value of BOOL, not 1"),
        (4, "FP32", "[-1, 2]", "[1, 2]", "default"),
    ],
)
def test_a_default_that_cannot_be_is_refused(
    size: int, datatype: str, shape: str, default: str, sentence: str, tmp_path: Path
) -> None:
    text = MODEL.format(size=size, datatype=datatype, shape=shape, default=default)
    (tmp_path / "model.yaml").write_text(text)
    with pytest.raises(ConfigError, match="default") as raised:
        read_config(tmp_path)
    assert sentence in str(raised.value)


def test_a_default_is_read(tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text(MODEL.format(size=4, datatype="FP16", shape="[-1, 2]", default="1"))
    assert read_config(tmp_path).defaults == {"x": 1}


TEXT = entry(
    name="text",
    inputs=(TensorSpec("ids", "INT64", (-1, -1)), TensorSpec("mask", "BOOL", (-1, -1))),
    batching=Batching(pad=Padding({"length": (4, 8)}, {"ids": {1: "length"}, "mask": {1: "length"}}, masks=("mask",))),
)


def test_a_mask_that_is_left_out_lets_the_whole_request_count() -> None:
    ids = Tensor("ids", "INT64", (2, 3), bytes(48))
    assert check_inputs((ids,), TEXT) == 2
    _, mask = fill_inputs((ids,), TEXT, rows=2)
    assert (mask.name, mask.datatype, mask.shape, bytes(mask.data)) == ("mask", "BOOL", (2, 3), bytes([1] * 6))


@pytest.mark.parametrize(
    ("ids", "mask", "sentence"),
    [
        (9, None, r"input 'ids': dimension 1, length, must be from 1 to 8 for model 'text', got 9: shorten it"),
        (0, None, r"got 0: send one element or more"),
        (3, 4, r"input 'mask': dimension 1, length, is 4, but 3 in 'ids': all inputs of a request share it"),
    ],
)
def test_sizes_that_are_padded_have_a_limit_and_agree(ids: int, mask: int | None, sentence: str) -> None:
    inputs = [Tensor("ids", "INT64", (1, ids), bytes(8 * ids))]
    if mask is not None:
        inputs.append(Tensor("mask", "BOOL", (1, mask), bytes(mask)))
    with pytest.raises(InvalidInput, match=sentence):
        check_inputs(tuple(inputs), TEXT)


@pytest.mark.parametrize("given", [("x",), ("weight", "x"), ("x", "weight")])
def test_what_is_remembered_of_a_request_has_what_it_leaves_out(given: tuple[str, ...]) -> None:
    plane = Plane(FakeEngines(), FakeCounter())
    plane.catalog = catalog(WEIGHTED)
    data = {"x": bytes(16), "weight": np.full(2, 5, np.float32).tobytes()}
    shapes = {"x": (2, 2), "weight": (2, 1)}
    inputs = tuple(Tensor(name, "FP32", shapes[name], data[name]) for name in given)
    template = plane.templates.make(InferRequest("weighted", "", inputs))
    assert template is not None
    assert template.sizes == tuple(len(data[name]) for name in given), "what is read of the next"
    assert template.message.shapes == ((2, 1), (2, 2)), "what the engine gets"
    weight, x = template.arrange([b"now " * 4 if name == "x" else data["weight"] for name in given])
    assert bytes(x) == b"now " * 4
    assert np.frombuffer(weight, np.float32).tolist() == ([5, 5] if "weight" in given else [3, 3])


def test_clients_are_told_what_they_may_leave_out_and_what_is_padded() -> None:
    asked = Client(TEXT)
    config = asked.ask("GET", "/v2/models/text/config").json()
    assert [each.get("optional") for each in config["input"]] == [None, True]
    assert config["parameters"]["torchere_pad_length"] == {"string_value": "4, 8"}
    path = asked.ask("GET", "/openapi.json").json()["paths"]["/v1/models/text/versions/1/infer"]
    content = path["post"]["requestBody"]["content"]["application/json"]
    assert content["example"] == {"inputs": {"ids": [[0]]}}
    assert content["schema"]["properties"]["inputs"]["required"] == ["ids"]
