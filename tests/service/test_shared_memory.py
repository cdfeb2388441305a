"""Regions: what may be registered, reads and writes within bounds, files that change or go, the plane's use of them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.errors import AlreadyExists, InvalidInput, NotFound, ServiceError, Unsupported
from service.plane import Plane
from service.shared_memory import (
    MAX_REGIONS,
    OpenRegion,
    Region,
    Regions,
    read_placement,
    region_status,
    register,
    unregister,
)
from service.tensors import InferRequest, InferResponse, Placement, RequestedOutput, Tensor
from tests.fakes import FakeCounter, FakeEngines, catalog

ROWS = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], np.float32)
SECRET = "the-key-of-someone-else"


def region(folder: Path, name: str = "r", size: int = 64, **changes: int) -> Region:
    """A registered region over a new file of `size` bytes."""
    (folder / f"key-{name}").write_bytes(bytes(size))
    wanted = Region(name, f"/key-{name}", changes.get("offset", 0), changes.get("byte_size", size))
    return register((), wanted, is_on=True, folder=folder)[0]


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def refusal(folder: Path, wanted: Region, listed: tuple[Region, ...] = (), *, is_on: bool = True) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        register(listed, wanted, is_on=is_on, folder=folder)
    return caught.value


def test_it_is_off_unless_switched_on(tmp_path: Path) -> None:
    error = refusal(tmp_path, Region("r", "k", 0, 8), is_on=False)
    assert isinstance(error, Unsupported)
    assert "--shared-memory system" in str(error)


def test_a_region_is_listed_and_unregistered_by_name_or_all(tmp_path: Path) -> None:
    first = region(tmp_path, "a")
    (tmp_path / "k").write_bytes(bytes(8))
    listed = register((first,), Region("b", "k", 2, 6), is_on=True, folder=tmp_path)
    assert [(each.name, each.key, each.offset, each.byte_size) for each in listed] == [
        ("a", "/key-a", 0, 64),
        ("b", "k", 2, 6),
    ]
    assert region_status(listed, "b") == listed[1:]
    assert region_status(listed, "") == listed
    assert unregister(listed, "a") == listed[1:]
    assert unregister(listed, "nobody") == listed
    assert unregister(listed, "") == ()
    with pytest.raises(NotFound, match="'c' is not registered"):
        region_status(listed, "c")


@pytest.mark.parametrize(
    "key", ["../etc/passwd", "/a/b", "", "/", ".hidden", "sem.x", "torch_1", "a\0b", "torchere-1", "a" * 300]
)
def test_a_key_must_be_a_plain_name_and_is_never_repeated(tmp_path: Path, key: str) -> None:
    error = refusal(tmp_path, Region("r", key, 0, 8))
    assert "the key must be a plain name" in str(error)
    assert len(key) < 2 or key not in str(error)


def test_what_is_not_there_a_link_or_not_a_file_is_refused_without_its_key(tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(bytes(8))
    (tmp_path / f"{SECRET}-link").symlink_to(tmp_path / "outside")
    (tmp_path / f"{SECRET}-folder").mkdir()
    os.mkfifo(tmp_path / f"{SECRET}-pipe")
    for kind in ("gone", "link", "folder", "pipe"):
        error = refusal(tmp_path, Region("r", f"{SECRET}-{kind}", 0, 8))
        assert isinstance(error, InvalidInput)
        assert SECRET not in str(error)


@pytest.mark.parametrize(("offset", "size"), [(-1, 8), (0, 0), (0, -8), (0, 65), (60, 8), (1 << 63, 8), (8, 1 << 63)])
def test_a_region_lies_within_its_file(tmp_path: Path, offset: int, size: int) -> None:
    (tmp_path / "k").write_bytes(bytes(64))
    assert isinstance(refusal(tmp_path, Region("r", "k", offset, size)), InvalidInput)


@pytest.mark.parametrize("name", ["", "a/b", "a\nb", "x" * 201])
def test_a_name_is_one_that_fits_a_url(tmp_path: Path, name: str) -> None:
    assert "the name of a shared memory region" in str(refusal(tmp_path, Region(name, "k", 0, 8)))


def test_a_name_is_taken_once_and_regions_are_not_without_end(tmp_path: Path) -> None:
    first = region(tmp_path)
    assert isinstance(refusal(tmp_path, Region("r", "key-r", 0, 8), (first,)), AlreadyExists)
    many = tuple(Region(str(number), "k", 0, 1) for number in range(MAX_REGIONS))
    assert "256 regions are registered" in str(refusal(tmp_path, Region("r", "key-r", 0, 8), many))


def test_reads_and_writes_stay_within_the_region(tmp_path: Path) -> None:
    found = OpenRegion(region(tmp_path, offset=16, byte_size=8), tmp_path)
    found.write(2, memoryview(b"abc"))
    assert found.read(0, 8) == b"\0\0abc\0\0\0"
    assert (tmp_path / "key-r").read_bytes()[18:21] == b"abc"
    for offset, size in ((0, 9), (8, 1), (1 << 62, 1)):
        with pytest.raises(InvalidInput, match="'r' has 8 bytes"):
            found.read(offset, size)
        with pytest.raises(InvalidInput, match="'r' has 8 bytes"):
            found.write(offset, memoryview(bytes(size)))


def test_a_file_that_shrinks_is_an_error_and_never_a_crash(tmp_path: Path) -> None:
    found = OpenRegion(region(tmp_path), tmp_path)
    os.truncate(tmp_path / "key-r", 4)
    with pytest.raises(InvalidInput, match="has shrunk since it was registered"):
        found.read(0, 8)
    with pytest.raises(InvalidInput, match="has shrunk since it was registered"):
        found.write(0, memoryview(bytes(8)))
    assert (tmp_path / "key-r").stat().st_size == 4


def test_another_file_under_the_same_key_is_not_the_region(tmp_path: Path) -> None:
    regions, listed = Regions(tmp_path), region(tmp_path)
    (tmp_path / "keep").write_bytes(b"")  # so that the inode is not handed out again
    (tmp_path / "key-r").rename(tmp_path / "old")
    (tmp_path / "key-r").write_bytes(bytes(64))
    regions.follow((listed,))
    with pytest.raises(InvalidInput, match="was replaced since it was registered"):
        regions.find("input 'x'", "r")


def test_a_region_that_was_unlinked_serves_those_that_have_it_open(tmp_path: Path) -> None:
    regions, listed = Regions(tmp_path), region(tmp_path)
    regions.follow((listed,))
    (tmp_path / "key-r").unlink()
    regions.follow((listed, region(tmp_path, "s")))
    assert regions.find("input 'x'", "r").read(0, 1) == b"\0"


def test_files_are_closed_when_nobody_holds_them(tmp_path: Path) -> None:
    regions, before = Regions(tmp_path), open_files()
    regions.follow((region(tmp_path),))
    held = regions.find("input 'x'", "r")
    regions.follow(())
    assert held.read(0, 1) == b"\0", "a request under way keeps it"
    del held
    assert open_files() == before


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"shared_memory_region": ""}, "must be the name of a region"),
        ({"shared_memory_region": "r"}, "shared_memory_byte_size must be a number of bytes"),
        ({"shared_memory_region": "r", "shared_memory_byte_size": True}, "shared_memory_byte_size must be"),
        ({"shared_memory_region": "r", "shared_memory_byte_size": 1 << 63}, "shared_memory_byte_size must be"),
        ({"shared_memory_region": "r", "shared_memory_byte_size": 1, "shared_memory_offset": -1}, "offset must be"),
    ],
)
def test_placements_are_checked(parameters: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        read_placement("input 'x'", parameters)


class Door:
    """The real plane over numpy, with one region `r` of 64 bytes that holds ROWS at its beginning."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "key-r"
        self.engines = FakeEngines()
        self.plane = Plane(self.engines, FakeCounter())
        self.plane.catalog = catalog()
        self.plane.regions = Regions(folder)
        self.plane.regions.follow((region(folder),))
        self.file.write_bytes(ROWS.tobytes() + bytes(64 - ROWS.nbytes))

    def ask(self, source: Placement | None, target: Placement | None) -> InferResponse:
        return asyncio.run(self.plane.infer(request(source, target)))


def request(source: Placement | None, target: Placement | None) -> InferRequest:
    return InferRequest(
        "double",
        "1",
        (Tensor("x", "FP32", (2, 3), b"" if source else ROWS.tobytes()),),
        (RequestedOutput("y"),) if target else (),
        shared_inputs={"x": source} if source else {},
        shared_outputs={"y": target} if target else {},
    )


def test_tensors_come_from_and_go_to_regions(tmp_path: Path) -> None:
    door = Door(tmp_path)
    plain = door.ask(Placement("r", 24), None)
    assert bytes(plain.outputs[0].data) == (2 * ROWS).tobytes()
    answer = door.ask(Placement("r", 24), Placement("r", 40, offset=24))
    assert (answer.outputs[0].data, answer.outputs[0].shape) == (b"", (2, 3))
    assert answer.shared == {"y": Placement("r", 24, 24)}
    assert door.file.read_bytes()[24:48] == (2 * ROWS).tobytes()


@pytest.mark.parametrize(
    ("source", "target", "sentence"),
    [
        (Placement("nobody", 24), None, "input 'x': shared memory region 'nobody' is not registered"),
        (Placement("r", 20), None, r"shared_memory_byte_size is 20, FP32 \[2,3\] takes 24"),
        (Placement("r", 24, 48), None, "'r' has 64 bytes: 24 bytes from offset 48 end beyond it"),
        (None, Placement("nobody", 24), "output 'y': shared memory region 'nobody' is not registered"),
        (None, Placement("r", 24, 48), "output 'y': shared memory region 'r' has 64 bytes"),
        (None, Placement("r", 20), "output 'y' has 24 bytes, its shared_memory_byte_size is 20: make it 24"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, source: Placement | None, target: Placement | None, sentence: str
) -> None:
    door = Door(tmp_path)
    with pytest.raises(InvalidInput, match=sentence):
        door.ask(source, target)


def test_unregistering_during_inference_is_safe(tmp_path: Path) -> None:
    door = Door(tmp_path)
    compute = door.engines.infer

    async def infer(message: Any, blobs: Any) -> Any:
        door.plane.regions.follow(())
        return await compute(message, blobs)

    door.engines.infer = infer  # type: ignore[method-assign]
    door.ask(Placement("r", 24), Placement("r", 24, 24))
    assert door.file.read_bytes()[24:48] == (2 * ROWS).tobytes()
    with pytest.raises(InvalidInput, match="not registered"):
        door.ask(Placement("r", 24), None)
