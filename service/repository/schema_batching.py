"""What may stand under `batching` in model.yaml, and what contradicts itself there.

Knows nothing of other keys but the largest batch. `schema.py` asks it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from service.repository.schema_pad import PadPart
from service.repository.schema_tensors import Int, Part, Positive
from service.yaml_file import Location

Size = Annotated[Int, Field(ge=1)]
Switch = Annotated[bool, Field(strict=True)]


class BatchingPart(Part):
    max_queue_delay_us: Int = Field(0, ge=0)
    max_queue_size: Int = Field(1024, ge=1)
    timeout_us: Int = Field(0, ge=0)
    timeout_action: Literal["reject", "delay"] = "reject"
    batch_timeout_s: Positive | None = None
    preferred_batch_sizes: tuple[Size, ...] = ()
    split: Switch = True
    max_request_rows: Int | None = Field(None, ge=1)
    preserve_ordering: Switch = False
    buckets: tuple[Size, ...] | None = Field(None, min_length=1)
    pad: PadPart | None = None


def find_batching_flaws(batching: BatchingPart, max_batch_size: int | None) -> Iterator[tuple[Location, str]]:
    """`max_batch_size` None: the program says it."""
    yield from _bucket_flaws(batching, max_batch_size)
    preferred, rows = batching.preferred_batch_sizes, batching.max_request_rows
    at = ("batching", "preferred_batch_sizes")
    if list(preferred) != sorted(set(preferred)):
        yield at, f"batching.preferred_batch_sizes must rise, not {list(preferred)}"
    elif preferred and not batching.max_queue_delay_us:
        yield at, "batching.preferred_batch_sizes end a delay, and there is none: set batching.max_queue_delay_us"
    elif preferred and max_batch_size is not None and preferred[-1] > max_batch_size:
        yield at, f"batching.preferred_batch_sizes must not exceed max_batch_size, which is {max_batch_size}"
    at = ("batching", "max_request_rows")
    if rows is not None and not batching.split:
        yield at, "batching.max_request_rows has no meaning where requests are not split: remove one of both"
    elif rows is not None and max_batch_size is not None and rows < max_batch_size:
        yield at, f"batching.max_request_rows must not be below max_batch_size, which is {max_batch_size}, not {rows}"


def _bucket_flaws(batching: BatchingPart, max_batch_size: int | None) -> Iterator[tuple[Location, str]]:
    buckets = batching.buckets
    if buckets is None:
        return
    at = ("batching", "buckets")
    if max_batch_size == 0:
        yield at, "batching.buckets need a batch dimension: remove them, or set max_batch_size above 0"
    elif list(buckets) != sorted(set(buckets)):
        yield at, f"batching.buckets must rise, not {list(buckets)}"
    elif max_batch_size is not None and buckets[-1] != max_batch_size:
        yield at, f"batching.buckets must end with max_batch_size, which is {max_batch_size}, not {buckets[-1]}"
