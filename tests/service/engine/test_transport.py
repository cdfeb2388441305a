"""Frames survive any way a socket may cut them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.messages import Cancel, Infer
from service.engine.transport import SCRATCH_BYTES, FrameReader, frame, split


def infer(identity: int, sizes: tuple[int, ...]) -> Infer:
    return Infer(identity, "m", "1", 1, tuple((1, size) for size in sizes), sizes)


def feed(reader: FrameReader[Infer | Cancel], stream: bytes, cuts: list[int]) -> list[tuple[Infer | Cancel, bytes]]:
    got, at, turn = [], 0, 0
    while at < len(stream):
        buffer = reader.buffer()
        count = min(len(buffer), len(stream) - at, cuts[turn % len(cuts)])
        buffer[:count] = stream[at : at + count]
        got.extend((message, bytes(body)) for message, body in reader.received(count))
        at, turn = at + count, turn + 1
    return got


@given(st.lists(st.integers(0, 700), min_size=1, max_size=12), st.lists(st.integers(1, 999), min_size=1, max_size=5))
def test_small_frames_in_any_pieces(sizes: list[int], cuts: list[int]) -> None:
    sent = [(infer(index, (size,)), bytes([index]) * size) for index, size in enumerate(sizes)]
    stream = b"".join(b"".join(frame(message, [body])) for message, body in sent)
    assert feed(FrameReader(Infer | Cancel), stream, cuts) == sent  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [SCRATCH_BYTES - 64, SCRATCH_BYTES, SCRATCH_BYTES + 1, 3 * SCRATCH_BYTES])
def test_a_large_frame_between_small_ones(size: int) -> None:
    sent = [
        (infer(1, (3,)), b"abc"),
        (infer(2, (size, 2)), b"x" * size + b"yz"),
        (Cancel(9), b""),
        (infer(3, (0,)), b""),
    ]
    stream = b"".join(b"".join(frame(message, [body])) for message, body in sent)
    assert feed(FrameReader(Infer | Cancel), stream, [100_000, 7]) == sent  # type: ignore[arg-type]


def test_a_peer_that_speaks_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match="not one of ours"):
        feed(FrameReader(Infer | Cancel), b"GET / HTTP/1.1\r\n\r\n", [100])  # type: ignore[arg-type]


def test_split_gives_each_tensor_its_bytes() -> None:
    body = memoryview(b"aabbbc")
    assert [bytes(part) for part in split(body, (2, 3, 1))] == [b"aa", b"bbb", b"c"]
    assert split(body, (6,)) == [body]
