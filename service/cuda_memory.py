"""Regions of CUDA shared memory that clients register: which may be, and what the parent does to have them opened.

The engine of a region's GPU opens it and holds it (`engine/regions.py`); the parent remembers the handles for engines
that are started later, and frontends know names, sizes and GPUs only. No message repeats a handle. Knows no CUDA.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable, Iterable, Sequence

import msgspec
from msgspec.structs import replace

from service.engine.messages import CloseRegions, OpenRegion, RegionOpened
from service.errors import InvalidInput, Unavailable, Unsupported
from service.shared_memory import MAX_BYTES, CudaRegion, check_name

HANDLE_BYTES = 64  # of a cudaIpcMemHandle_t
OPEN_TIMEOUT_S = 10.0  # an engine that is being started again opens nothing meanwhile
OFF = "CUDA shared memory is off: start the server with --shared-memory cuda, or with all"
NO_GPU = (
    "CUDA shared memory is not supported by this server, whose models run on no GPU: "
    "use system shared memory, or send tensors in the request"
)


def read_handle(text: str) -> bytes:
    """The handle that base64 says. Raises InvalidInput."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput("raw_handle must be a CUDA IPC handle in base64") from error


class Held(msgspec.Struct, frozen=True):
    """A region and the handle by which any process opens it."""

    region: CudaRegion
    handle: bytes

    def __repr__(self) -> str:
        return f"<Held {self.region!r}>"  # whoever has the handle has the memory


class CudaMemory:
    """In the parent. `devices` are those of the engines' slots, `send(slot, message)` reaches one engine."""

    def __init__(
        self,
        devices: Sequence[str],
        send: Callable[[int, OpenRegion | CloseRegions], None],
        *,
        is_on: bool,
        timeout_s: float = OPEN_TIMEOUT_S,
    ) -> None:
        self._slots = {device: slot for slot, device in enumerate(devices) if device.startswith("cuda")}
        self._send = send
        self._is_on = is_on
        self._timeout_s = timeout_s
        self._held: dict[int, Held] = {}
        self._opening: dict[int, asyncio.Future[str]] = {}
        self._last_id = 0

    def __repr__(self) -> str:
        return f"<CudaMemory {len(self._held)} regions>"

    @property
    def is_usable(self) -> bool:
        return self._is_on and bool(self._slots)

    async def open(self, wanted: CudaRegion, handle: bytes) -> CudaRegion:
        """The region as its GPU's engine has opened it. Raises Unsupported, InvalidInput or Unavailable."""
        self._check(wanted, handle)
        self._last_id += 1
        region = replace(wanted, id=self._last_id)
        self._held[region.id] = Held(region, handle)  # a successor of the engine is told too
        future = self._opening[region.id] = asyncio.get_running_loop().create_future()
        self._send(self._slots[region.device], OpenRegion(region, handle))
        try:
            async with asyncio.timeout(self._timeout_s):
                reason = await future
        except TimeoutError:
            self.close([region])
            raise Unavailable(
                f"the engine on {region.device} did not open the memory within {self._timeout_s:.0f} s: try again"
            ) from None
        finally:
            del self._opening[region.id]
        if reason:
            self.close([region])
            raise InvalidInput(reason)
        return region

    def _check(self, wanted: CudaRegion, handle: bytes) -> None:
        if not self._slots:
            raise Unsupported(NO_GPU)
        if not self._is_on:
            raise Unsupported(OFF)
        where = check_name(wanted.name)
        if wanted.device not in self._slots:
            known = ", ".join(device.removeprefix("cuda:") for device in self._slots)
            raise InvalidInput(f"{where}: device_id {wanted.device_id} is no GPU of this server: it has {known}")
        if not 0 < wanted.byte_size <= MAX_BYTES:
            raise InvalidInput(f"{where}: byte_size must be above zero, got {wanted.byte_size}")
        if len(handle) != HANDLE_BYTES:
            raise InvalidInput(f"{where}: a CUDA IPC handle has {HANDLE_BYTES} bytes, raw_handle has {len(handle)}")

    def close(self, regions: Iterable[CudaRegion]) -> None:
        """Forget these, and have their engines let go of them once nothing under way uses them."""
        for region in regions:
            if self._held.pop(region.id, None) is not None:
                self._send(self._slots[region.device], CloseRegions((region.id,)))

    def opened(self, answer: RegionOpened) -> None:
        """What an engine says; "" as its reason: it holds the region."""
        future = self._opening.get(answer.id)
        if future is not None and not future.done():
            future.set_result(answer.reason)

    def orders(self, slot: int) -> list[OpenRegion]:
        """What a new engine of this slot has to open."""
        return [
            OpenRegion(held.region, held.handle)
            for held in self._held.values()
            if self._slots[held.region.device] == slot
        ]
