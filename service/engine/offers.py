"""An artifact that is offered for a version, what becomes of the offer, and when clients do not notice the next one.

Pure values. `rollout.py` decides with them, `deployment.py` acts on what came of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from service.engine.fleet import Key, Order
from service.repository.catalog import Entry

CONTRACT = (  # what requests are held to, and how they are run
    *("inputs", "outputs", "max_batch_size", "buckets", "instances", "batching"),
    *("sequencing", "hidden", "ensemble", "steps"),
)
DESCRIPTION = ("description", "labels", "images", "aliases", "response_cache")


@dataclass(frozen=True, slots=True)
class Offer:
    """An artifact that can serve a version, and the version's entry as it reads while this serves it.

    `is_final`: it came out of the race, or of the cache, and nothing better will come. `shortfall` says why the race
    gave nothing better than the model as it is.
    """

    entry: Entry
    folder: str
    generation: int
    is_final: bool
    shortfall: str = ""

    @property
    def key(self) -> Key:
        return self.entry.name, self.entry.version

    @property
    def order(self) -> Order:
        return self.key, self.generation


@dataclass(frozen=True, slots=True)
class Swapped:
    """`after` serves in place of `before`; None: the version had served nothing."""

    before: Offer | None
    after: Offer


@dataclass(frozen=True, slots=True)
class GivenUp:
    """No engine could load `offer`: the version stays with `stays`."""

    offer: Offer
    stays: Offer
    reason: str


def agree(one: Entry, other: Entry, fields: tuple[str, ...] = CONTRACT) -> bool:
    """Whether requests that fit one fit the other, and are run the same way."""
    return all(getattr(one, field) == getattr(other, field) for field in fields)
