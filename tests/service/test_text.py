"""Text as BYTES: empty, with NUL, with any byte, long; what its lengths get wrong is a sentence."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidInput
from service.rest.codec import encode_infer, parse_infer
from service.tensors import InferResponse, Tensor, pack_bytes, unpack_bytes

EDGES = [b"", b"\0", b"a\0b", b"\0" * 5, bytes(range(256)), "né€\U0001f600".encode(), b"x" * 100_000]


@given(st.lists(st.binary(max_size=8), max_size=8))
def test_any_bytes_are_packed_and_unpacked(values: list[bytes]) -> None:
    assert unpack_bytes(pack_bytes(values), len(values)) == values


def test_the_edges_travel_as_binary_data() -> None:
    packed = pack_bytes(EDGES)
    tensor = {"name": "t", "datatype": "BYTES", "shape": [7], "parameters": {"binary_data_size": len(packed)}}
    head = json.dumps({"inputs": [tensor]}).encode()
    (parsed,) = parse_infer(head + packed, len(head)).inputs
    assert unpack_bytes(parsed.data, 7) == EDGES


def test_text_with_nul_travels_as_json_both_ways() -> None:
    texts = ["", "\0", "a\0b", "né\0"]
    request = {"inputs": [{"name": "t", "datatype": "BYTES", "shape": [4], "data": texts}]}
    (parsed,) = parse_infer(json.dumps(request).encode(), None).inputs
    assert unpack_bytes(parsed.data, 4) == [text.encode() for text in texts]
    answer, _ = encode_infer(InferResponse("m", "1", "", (parsed,)), {}, False)
    assert json.loads(answer)["outputs"][0]["data"] == texts


def test_bytes_that_are_no_text_are_to_be_asked_for_as_binary_data() -> None:
    answer = InferResponse("m", "1", "", (Tensor("t", "BYTES", (1,), pack_bytes([b"\xff"])),))
    with pytest.raises(InvalidInput, match="ask for binary_data"):
        encode_infer(answer, {}, False)
    assert encode_infer(answer, {}, True)[1] == [b"\x01\0\0\0\xff"]


@pytest.mark.parametrize(
    ("data", "count", "sentence"),
    [
        (b"\x05\0\0\0abc", 1, "announces 5 bytes but only 3 are left"),
        (b"\xff\xff\xff\xffabc", 1, "announces 4294967295 bytes but only 3"),
        (b"\x01\0", 1, "ends inside the length"),
        (struct.pack("<I", 0) * 3, 2, "holds 3 elements, the shape asks for 2"),
        (b"", 1, "holds 0 elements, the shape asks for 1"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(data: bytes, count: int, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        unpack_bytes(data, count)
