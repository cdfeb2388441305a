"""What is sent: shapes, values, bytes on the wire; and the command line's refusals."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

from service.bench.command import bench, default_processes, levels_of
from service.bench.errors import BenchError
from service.bench.inputs import Spec, parse_shape, random_tensors, read_specs, read_tensors, rows
from service.bench.levels import Level
from service.bench.payloads import binary_body, http_request, infer_path, json_body
from service.bench.target import Subject, check_allowed
from service.client.rpc import infer_message
from service.rest.codec import parse_infer
from service.tensors import NUMPY_TYPES, Tensor, to_numpy

IMAGE = Spec("image", "FP32", (-1, 3, -1, -1))
ROW = Spec("x", "FP32", (-1, 2))


def test_the_first_open_dimension_is_the_batch() -> None:
    (tensor,) = random_tensors([ROW], 3, {}, seed=1)
    assert tensor.shape == (3, 2)
    assert rows([tensor], [ROW]) == 3
    assert random_tensors([ROW], 3, {}, seed=1) == (tensor,)
    assert random_tensors([ROW], 3, {}, seed=2) != (tensor,)
    assert rows([tensor], [Spec("x", "FP32", (3, 2))]) == 1


@pytest.mark.parametrize(
    ("spec", "batch", "given", "words"),
    [
        (IMAGE, 1, {}, r"\[-1,3,-1,-1\] is open: give --shape image:1,3,N,N"),
        (IMAGE, 1, {"image": (1, 4, 8, 8)}, r"\[1,4,8,8\] is no case of \[-1,3,-1,-1\]"),
        (IMAGE, 1, {"image": (1, 3)}, "is no case of"),
        (IMAGE, 1, {"picture": (1, 3, 8, 8)}, "names 'picture'"),
        (Spec("x", "FP32", (2, 2)), 4, {}, "no batch dimension"),
        (Spec("x", "FP8", (1,)), 1, {}, "unknown datatype"),
    ],
)
def test_shapes_that_cannot_be_sent(spec: Spec, batch: int, given: dict[str, Any], words: str) -> None:
    with pytest.raises(BenchError, match=words):
        random_tensors([spec], batch, given, seed=0)


def test_a_given_shape_decides() -> None:
    (tensor,) = random_tensors([IMAGE], 1, {"image": (2, 3, 8, 9)}, seed=0)
    assert tensor.shape == (2, 3, 8, 9)


def test_shapes_are_written_with_their_name() -> None:
    assert parse_shape("a:b:1,3") == ("a:b", (1, 3))
    for text in ("1,3", "x:", "x:1,-1", "x:1,a", ":1"):
        with pytest.raises(ValueError, match="is no shape"):
            parse_shape(text)


def test_a_server_that_names_no_inputs() -> None:
    with pytest.raises(BenchError, match="give --input FILE"):
        read_specs({"name": "m", "inputs": []})


@pytest.mark.parametrize("datatype", [*NUMPY_TYPES, "BF16", "BYTES"])
def test_every_datatype_reaches_the_server_as_meant(datatype: str) -> None:
    (tensor,) = random_tensors([Spec("x", datatype, (2, 3))], 1, {}, seed=0)
    body, json_size = binary_body([tensor])
    (read,) = parse_infer(memoryview(body), json_size).inputs
    assert (read.name, read.datatype, read.shape, bytes(read.data)) == ("x", datatype, (2, 3), bytes(tensor.data))
    assert infer_message("m", [tensor]).raw_input_contents[0] == bytes(tensor.data)
    (as_json,) = parse_infer(memoryview(json_body([tensor])), None).inputs
    np.testing.assert_array_equal(to_numpy(as_json), to_numpy(tensor))


def test_a_deadline_is_told_in_microseconds() -> None:
    (tensor,) = random_tensors([Spec("x", "FP32", (1, 2))], 1, {}, seed=0)
    body, json_size = binary_body([tensor], 0.25)
    assert parse_infer(memoryview(body), json_size).timeout_us == 250_000
    assert parse_infer(memoryview(json_body([tensor], 0.25)), None).timeout_us == 250_000


def test_a_request_is_whole() -> None:
    request = http_request("h:1", infer_path("a b/c", "3"), b"12345", 3)
    head, _, body = request.partition(b"\r\n\r\n")
    assert head.splitlines()[0] == b"POST /v2/models/a%20b%2Fc/versions/3/infer HTTP/1.1"
    assert b"Content-Length: 5" in head.splitlines()
    assert b"Inference-Header-Content-Length: 3" in head.splitlines()
    assert body == b"12345"


def test_inputs_come_from_files(tmp_path: Path) -> None:
    array = np.arange(4, dtype=np.float32).reshape(2, 2)
    expected = (Tensor("x", "FP32", (2, 2), array.tobytes()),)
    save_file({"x": array, "label": np.zeros(2, np.int64)}, tmp_path / "a.safetensors")
    (tmp_path / "b.json").write_text(json.dumps({"inputs": {"x": array.tolist()}}))
    item = {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": array.reshape(-1).tolist()}
    (tmp_path / "c.json").write_text(json.dumps({"inputs": [item]}))
    for name in ("a.safetensors", "b.json", "c.json"):
        assert read_tensors(tmp_path / name, [ROW]) == expected
    assert read_tensors(tmp_path / "c.json", []) == expected
    (tmp_path / "d.json").write_text("[1]")
    for name in ("d.json", "absent.json"):
        with pytest.raises(BenchError, match="holds no inputs"):
            read_tensors(tmp_path / name, [ROW])
    with pytest.raises(BenchError, match="no value for input 'image': it has x"):
        read_tensors(tmp_path / "c.json", [IMAGE])


def test_addresses() -> None:
    assert Subject("http://localhost:8000", "m").address == ("localhost", 8000)
    assert Subject("127.0.0.1:8001", "m", "grpc").address == ("127.0.0.1", 8001)
    for url in ("https://h:1", "http://h", "h:x", ""):
        with pytest.raises(BenchError, match=r"is no address|not supported"):
            _ = Subject(url, "m").address


def test_other_machines_need_a_word() -> None:
    check_allowed("127.0.0.1", is_remote_allowed=False)
    check_allowed("10.0.0.1", is_remote_allowed=True)
    with pytest.raises(BenchError, match="--allow-remote"):
        check_allowed("10.0.0.1", is_remote_allowed=False)


def test_levels_follow_the_options() -> None:
    given = {"rate": None, "concurrency": None, "connections": 9}
    assert [level.concurrency for level in levels_of(given)] == [1, 2, 4, 8, 16, 32, 64]
    assert levels_of({**given, "concurrency": (3,)}) == [Level(3)]
    assert levels_of({**given, "rate": (5.0,)}) == [Level(9, 5.0)]


def test_client_processes_leave_cores_to_the_server() -> None:
    assert [default_processes(cores) for cores in (1, 2, 8, 16, 128)] == [1, 1, 2, 4, 4]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--url", "http://10.0.0.1:1"], "--allow-remote"),
        (["--rate", "5", "--concurrency", "1"], "give one of them"),
        (["--concurrency", "9:1"], "runs backwards"),
        (["--rate", "0"], "not above 0"),
        (["--shape", "x"], "is no shape"),
        (["--server-pid", "999999999"], "no process 999999999"),
        (["--url", "http://127.0.0.1:1"], "no answer from http://127.0.0.1:1"),
    ],
)
def test_the_command_says_what_is_wrong(options: list[str], words: str) -> None:
    done = CliRunner().invoke(bench, ["model", *options])
    assert done.exit_code != 0
    assert words in done.output
