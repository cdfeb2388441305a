"""CUDA shared memory in an engine, with host memory in its place: inputs, outputs, what does not fit, what is gone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from compiler.spec import TensorSpec
from service.engine.messages import CloseRegions, Failure, Infer, OpenRegion, RegionOpened, Result
from service.engine.regions import OpenRegions
from service.engine.served import Pending
from service.errors import Code, InvalidInput
from service.runtime.buffers import Staging
from service.runtime.memory import CannotOpen
from service.shared_memory import CudaRegion
from service.tensors import Place, Places
from tests.fakes import FakeConnection, entry

ROW = np.array([[1.0, 2.0, 3.0]], np.float32)
REGION = CudaRegion("r", 3, 64, id=5)  # the machine's fourth GPU, the only one of its engine


class Gpu:
    """Host memory in place of a GPU's."""

    def __init__(self) -> None:
        self.bytes = torch.zeros(64, dtype=torch.uint8)
        self.regions = OpenRegions("cuda:0", self._open)
        self.connection = FakeConnection()

    def _open(self, handle: bytes, size: int, device: str) -> torch.Tensor:
        assert device == "cuda:0"
        if handle == b"wrong":
            raise CannotOpen("CUDA does not open its handle (error 1)")
        return self.bytes[:size]

    def open(self, handle: bytes = b"right") -> RegionOpened:
        return self.regions.open(OpenRegion(REGION, handle))

    def pending(self, inputs: tuple[Place, ...] = (), outputs: tuple[Place, ...] = ()) -> Pending:
        data = memoryview(b"" if inputs else ROW.tobytes())
        message = Infer(9, "double", "1", 1, ((1, 3),), (len(data),), places=Places("cuda:0", inputs, outputs))
        return Pending(message, [data], self.connection)

    def take(self, pending: Pending, *, stays: bool = False) -> Pending:
        return self.regions.take(pending, entry(), stays=stays)

    def written(self, at: int) -> np.ndarray[Any, Any]:
        return self.bytes[at : at + ROW.nbytes].numpy().view(np.float32)


def answer(pending: Pending, *, is_final: bool = True) -> None:
    """As a model does, with ROW."""
    data = memoryview(ROW.tobytes())
    result = Result(9, ((1, 3),), (len(data),), (1, 2, 3, 4, 5), 1, 1, is_final=is_final)
    pending.connection.send([(result, [data])])


def test_inputs_are_read_to_the_host_or_stay_where_they_are() -> None:
    gpu = Gpu()
    assert gpu.open() == RegionOpened(5)
    gpu.bytes[4:16].copy_(torch.from_numpy(ROW.view(np.uint8).reshape(-1).copy()))
    read = gpu.take(gpu.pending(inputs=(Place(0, 5, 4, 12),)))
    assert bytes(read.tensors[0]) == ROW.tobytes()
    assert read.connection is gpu.connection
    stays: Any = gpu.take(gpu.pending(inputs=(Place(0, 5, 4, 12),)), stays=True).tensors[0]
    assert stays.data_ptr() == gpu.bytes.data_ptr() + 4


def test_outputs_are_written_and_not_sent() -> None:
    gpu = Gpu()
    gpu.open()
    taken = gpu.take(gpu.pending(outputs=(Place(0, 5, 16, 48),)))
    answer(taken)
    np.testing.assert_array_equal(gpu.written(16), ROW[0])
    message, blobs = gpu.connection.answers[9]
    assert isinstance(message, Result)
    assert (message.shapes, message.sizes, blobs) == (((1, 3),), (0,), [b""])


def test_outputs_that_stayed_on_the_gpu_are_written_from_there() -> None:
    gpu = Gpu()
    gpu.open()
    assert gpu.take(gpu.pending(outputs=(Place(0, 5, 0, 12),))).on_gpu == frozenset()
    taken = gpu.take(gpu.pending(outputs=(Place(0, 5, 32, 12),)), stays=True)
    assert taken.on_gpu == {0}
    there: Any = torch.from_numpy(ROW.view(np.uint8).reshape(-1))
    taken.connection.send([(Result(9, ((1, 3),), (12,), (1, 2, 3, 4, 5), 1, 1), [there])])
    np.testing.assert_array_equal(gpu.written(32), ROW[0])
    assert gpu.connection.answers[9][1] == [b""]


def test_an_output_that_does_not_fit_is_an_error_of_that_request() -> None:
    gpu = Gpu()
    gpu.open()
    answer(gpu.take(gpu.pending(outputs=(Place(0, 5, 0, 8),))))
    message, _ = gpu.connection.answers[9]
    assert isinstance(message, Failure)
    assert (message.code, message.message) == (
        Code.INVALID,
        "output 'y' has 12 bytes, its shared_memory_byte_size is 8: make it 12 or more",
    )
    assert not gpu.bytes.any()


def test_memory_is_kept_for_what_is_under_way_and_gone_for_what_comes() -> None:
    gpu = Gpu()
    gpu.open()
    taken = gpu.take(gpu.pending(outputs=(Place(0, 5, 0, 12),)))
    gpu.regions.close(CloseRegions((5, 77)))
    with pytest.raises(InvalidInput, match="input 'x': its shared memory region is not registered any more"):
        gpu.take(gpu.pending(inputs=(Place(0, 5, 0, 12),)))
    answer(taken)
    np.testing.assert_array_equal(gpu.written(0), ROW[0])


def test_one_that_a_new_engine_cannot_open_is_told_of_where_it_is_used() -> None:
    gpu = Gpu()
    opened = gpu.open(b"wrong")
    assert opened.reason == "shared memory region 'r': CUDA does not open its handle (error 1)"
    with pytest.raises(InvalidInput, match=r"error 1\): register it again"):
        gpu.take(gpu.pending(inputs=(Place(0, 5, 0, 12),)))


def test_a_request_is_cancelled_by_the_connection_it_came_from() -> None:
    gpu = Gpu()
    gpu.open()
    assert gpu.regions.leave(gpu.connection, 9) is gpu.connection
    taken = gpu.take(gpu.pending(outputs=(Place(0, 5, 0, 12),)))
    assert gpu.regions.leave(gpu.connection, 8) is gpu.connection
    assert gpu.regions.leave(gpu.connection, 9) is taken.connection
    assert gpu.regions.forget(gpu.connection) == [], "whether it is answered or not, it holds no memory any more"
    taken = gpu.take(gpu.pending(outputs=(Place(0, 5, 0, 12),)))
    answer(taken, is_final=False)
    assert gpu.regions.forget(FakeConnection()) == []
    assert gpu.regions.forget(gpu.connection) == [taken.connection]
    assert gpu.regions.leave(gpu.connection, 9) is gpu.connection
    again = gpu.take(gpu.pending(outputs=(Place(0, 5, 0, 12),)))
    again.connection.send([(Failure(10, Code.FAILED, "no"), ())])
    assert gpu.regions.leave(gpu.connection, 9) is gpu.connection


def test_rows_on_the_gpu_and_rows_that_came_are_one_batch() -> None:
    spec = TensorSpec("x", "FP32", (-1, 3))
    rows = [np.full((1, 3), number, np.float32) for number in (1, 2, 3)]
    staging = Staging(spec, pinned=False)
    staging.lay([memoryview(np.full((4, 3), 9, np.float32).tobytes())], (4, 3))
    there = [torch.from_numpy(row.view(np.uint8).reshape(-1)) for row in rows]
    mixed = staging.lay([there[0], memoryview(rows[1].tobytes()), there[2]], (4, 3))
    assert mixed[:, 0].tolist() == [1, 2, 3, 0]
    alone = staging.lay(there, (4, 3))
    assert alone[:, 0].tolist() == [1, 2, 3, 0]
    assert staging.lay(there[:1], (1, 3)).tolist() == rows[0].tolist()
