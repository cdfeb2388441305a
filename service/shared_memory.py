"""Regions of system shared memory that clients register: which may be, and tensors read from them and written to them.

Reads and writes go through the file, never through a mapping: a client that shrinks its file would kill a process that
has it mapped. The parent keeps the list (`registrar.py`), every frontend opens what its snapshot lists (`Regions`), and
requests under way keep a region open that is unregistered meanwhile. No message repeats a key. Knows no protocol.
"""

from __future__ import annotations

import os
import re
import stat
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from compiler.spec import ITEM_SIZES
from service.errors import AlreadyExists, InvalidInput, NotFound, Unsupported
from service.tensors import (
    InferRequest,
    InferResponse,
    Placement,
    Tensor,
    byte_size,
    elements,
    shape_text,
    unpack_bytes,
)

FOLDER = Path("/dev/shm")  # where shm_open(3) puts what it is asked for
KEY = re.compile(r"/?([A-Za-z0-9_][A-Za-z0-9._-]{0,200})")
RESERVED_KEYS = ("sem.", "torch_", "torchere")  # semaphores, PyTorch's own regions, and ours
NAME = re.compile(r"[^\x00-\x1f\x7f/]{1,200}")
MAX_REGIONS = 256  # each is an open file in every frontend
MAX_BYTES = 1 << 62
CHUNK_BYTES = 1 << 30  # Linux reads and writes at most 2 GiB at once

OFF = "system shared memory is off: start the server with --shared-memory system"


class Region(msgspec.Struct, frozen=True):
    """`byte_size` bytes from `offset` on of the file `key`; `device` and `inode` say which file of that name it was."""

    name: str
    key: str
    offset: int
    byte_size: int
    device: int = 0
    inode: int = 0


class CudaRegion(msgspec.Struct, frozen=True):
    """Memory of a GPU; `id` is another each time that one is registered."""

    name: str
    device_id: int
    byte_size: int
    id: int = 0

    @property
    def device(self) -> str:
        return f"cuda:{self.device_id}"


Kind = TypeVar("Kind", Region, CudaRegion)


def register(regions: Sequence[Region], wanted: Region, *, is_on: bool, folder: Path = FOLDER) -> tuple[Region, ...]:
    """The list with `wanted` in it. Raises Unsupported, InvalidInput, AlreadyExists or NotFound."""
    if not is_on:
        raise Unsupported(OFF)
    where = check_name(wanted.name)
    check_free(wanted.name, regions)
    if not (0 <= wanted.offset <= MAX_BYTES and 0 < wanted.byte_size <= MAX_BYTES):
        raise InvalidInput(
            f"{where}: offset must be zero or more and byte_size above zero, got {wanted.offset} and {wanted.byte_size}"
        )
    descriptor = _open(where, wanted.key, folder)
    try:
        found = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if wanted.offset + wanted.byte_size > found.st_size:
        raise InvalidInput(
            f"{where}: offset {wanted.offset} and byte_size {wanted.byte_size} end beyond the shared memory, "
            f"which has {found.st_size} bytes"
        )
    return (*regions, replace(wanted, device=found.st_dev, inode=found.st_ino))


def check_free(name: str, regions: Sequence[Region | CudaRegion]) -> None:
    """Whether one more may be registered by this name. Raises AlreadyExists or InvalidInput."""
    if any(region.name == name for region in regions):
        raise AlreadyExists(f"{_title(name)} is registered already: unregister it first, or choose another name")
    if len(regions) >= MAX_REGIONS:
        raise InvalidInput(f"{_title(name)}: {MAX_REGIONS} regions are registered, which is the most: unregister some")


def unregister(regions: Sequence[Kind], name: str) -> tuple[Kind, ...]:
    """The list without that region, without any where `name` is ""; one that is not there is none to remove."""
    return tuple(region for region in regions if name and region.name != name)


def region_status(regions: Sequence[Kind], name: str) -> tuple[Kind, ...]:
    """That region, all where `name` is "". Raises NotFound."""
    found = tuple(region for region in regions if name in ("", region.name))
    if name and not found:
        raise NotFound(f"{_title(name)} is not registered")
    return found


def check_name(name: str) -> str:
    """What errors call a region of this name. Raises InvalidInput where none may have it."""
    if not NAME.fullmatch(name):
        raise InvalidInput(
            "the name of a shared memory region has 1 to 200 characters without '/' and control characters: rename it"
        )
    return _title(name)


def _open(where: str, key: str, folder: Path) -> int:
    """The file's descriptor. Never says more of `key` than that it is not right."""
    plain = KEY.fullmatch(key)
    if plain is None or plain[1].startswith(RESERVED_KEYS):
        raise InvalidInput(
            f"{where}: the key must be a plain name of letters, digits, '.', '_' and '-' that is not reserved"
        )
    try:
        descriptor = os.open(folder / plain[1], os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise InvalidInput(
            f"{where}: there is no shared memory of that key that this server may open: create it first, "
            "readable and writable for the server's user"
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InvalidInput(f"{where}: what the key names is not shared memory")
    return descriptor


class OpenRegion:
    """A region as a frontend uses it; its file is closed when nobody holds this any more."""

    def __init__(self, region: Region, folder: Path = FOLDER) -> None:
        self.region = region
        self._where = _title(region.name)
        self._file = _open(self._where, region.key, folder)
        weakref.finalize(self, os.close, self._file)
        found = os.fstat(self._file)
        if (found.st_dev, found.st_ino) != (region.device, region.inode):
            raise InvalidInput(f"{self._where}: its shared memory was replaced since it was registered: register again")

    def __repr__(self) -> str:
        return f"<OpenRegion {self.region.name} {self.region.byte_size} bytes>"

    def read(self, offset: int, size: int) -> bytes | bytearray:
        """`size` bytes. Raises InvalidInput where the region does not hold them."""
        at = self._check(offset, size)
        data = bytearray(size)
        view, filled = memoryview(data), 0
        while filled < size:
            count = os.preadv(self._file, [view[filled : filled + CHUNK_BYTES]], at + filled)
            if not count:
                raise InvalidInput(f"{self._where}: its shared memory has shrunk since it was registered")
            filled += count
        return data

    def write(self, offset: int, data: memoryview) -> None:
        """Put `data` there. Raises InvalidInput where the region does not hold as much."""
        at = self._check(offset, len(data))
        if os.fstat(self._file).st_size < at + len(data):  # writing would grow it: memory that nobody asked for
            raise InvalidInput(f"{self._where}: its shared memory has shrunk since it was registered")
        written = 0
        while written < len(data):
            written += os.pwrite(self._file, data[written : written + CHUNK_BYTES], at + written)

    def _check(self, offset: int, size: int) -> int:
        if offset + size > self.region.byte_size:
            raise InvalidInput(
                f"{self._where} has {self.region.byte_size} bytes: {size} bytes from offset {offset} end beyond it"
            )
        return self.region.offset + offset


class Regions:
    """The regions that a frontend knows, as the last snapshot told."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self.listed: tuple[Region, ...] = ()
        self._open: dict[Region, OpenRegion | InvalidInput] = {}
        self._folder = folder

    def __repr__(self) -> str:
        return f"<Regions {', '.join(region.name for region in self.listed) or 'none'}>"

    def follow(self, listed: tuple[Region, ...]) -> None:
        """Open what is new, let go of what is not listed any more."""
        self.listed = listed
        self._open = {region: self._open.get(region) or self._try(region) for region in listed}

    def _try(self, region: Region) -> OpenRegion | InvalidInput:
        try:
            return OpenRegion(region, self._folder)
        except InvalidInput as error:
            return error  # for whoever uses it; the others must be served

    def find(self, where: str, name: str) -> OpenRegion:
        """Raises InvalidInput."""
        for region, found in self._open.items():
            if region.name == name:
                if isinstance(found, InvalidInput):
                    raise found
                return found
        raise InvalidInput(f"{where}: shared memory region '{name[:200]}' is not registered: register it first")

    def read_inputs(self, request: InferRequest) -> InferRequest:
        """The request with the inputs that lie in regions. Raises InvalidInput."""
        inputs = tuple(
            self._read(tensor, request.shared_inputs[tensor.name]) if tensor.name in request.shared_inputs else tensor
            for tensor in request.inputs
        )
        return replace(request, inputs=inputs)

    def _read(self, tensor: Tensor, placement: Placement) -> Tensor:
        where = f"input '{tensor.name}'"
        region = self.find(where, placement.region)
        if tensor.datatype in ITEM_SIZES and placement.byte_size != byte_size(tensor.datatype, tensor.shape):
            raise InvalidInput(
                f"{where}: shared_memory_byte_size is {placement.byte_size}, {tensor.datatype} "
                f"{shape_text(tensor.shape)} takes {byte_size(tensor.datatype, tensor.shape)}"
            )
        data = region.read(placement.offset, placement.byte_size)
        if tensor.datatype == "BYTES":
            unpack_bytes(data, elements(tensor.shape))
        return replace(tensor, data=data)

    def targets(self, request: InferRequest) -> dict[str, OpenRegion]:
        """The regions of the outputs that go there, held open from now on. Raises InvalidInput."""
        found = {}
        for name, placement in request.shared_outputs.items():
            region = self.find(f"output '{name}'", placement.region)
            if placement.offset + placement.byte_size > region.region.byte_size:
                raise InvalidInput(
                    f"output '{name}': {_title(placement.region)} has {region.region.byte_size} bytes: "
                    f"{placement.byte_size} bytes from offset {placement.offset} end beyond it"
                )
            found[name] = region
        return found


def write_outputs(request: InferRequest, response: InferResponse, targets: Mapping[str, OpenRegion]) -> InferResponse:
    """The response without the tensors that were written to regions. Raises InvalidInput where one does not fit."""
    outputs, shared = [], {}
    for tensor in response.outputs:
        placement = request.shared_outputs.get(tensor.name)
        if placement is None:
            outputs.append(tensor)
            continue
        data = memoryview(tensor.data).cast("B")
        if len(data) > placement.byte_size:
            raise InvalidInput(
                f"output '{tensor.name}' has {len(data)} bytes, its shared_memory_byte_size is {placement.byte_size}: "
                f"make it {len(data)} or more"
            )
        targets[tensor.name].write(placement.offset, data)
        shared[tensor.name] = replace(placement, byte_size=len(data))
        outputs.append(replace(tensor, data=b""))
    return replace(response, outputs=tuple(outputs), shared=shared)


def read_placement(where: str, parameters: Mapping[str, Any]) -> Placement:
    """Where the parameters of an input or output, which name a region, place it. Raises InvalidInput."""
    region = parameters["shared_memory_region"]
    if not isinstance(region, str) or not region:
        raise InvalidInput(f"{where}: shared_memory_region must be the name of a region")
    sizes = []
    for key in ("shared_memory_byte_size", "shared_memory_offset"):
        value = parameters.get(key, None if key.endswith("size") else 0)
        if type(value) is not int or not 0 <= value <= MAX_BYTES:
            raise InvalidInput(f"{where}: {key} must be a number of bytes, zero or more")
        sizes.append(value)
    return Placement(region, sizes[0], sizes[1])


def _title(name: str) -> str:
    return f"shared memory region '{name[:200]}'"
