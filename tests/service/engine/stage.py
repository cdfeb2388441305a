"""A rollout over engines that answer as the test says. Not a test."""

from service.engine.fleet import Key
from service.engine.messages import EngineAddress
from service.engine.offers import GivenUp, Offer, Swapped
from service.engine.rollout import Rollout
from service.repository.catalog import Entry, State
from tests.fakes import entry

KEY: Key = ("double", "1")


class Stage:
    """A rollout with its engines up, and short words for what happens to it."""

    def __init__(self, *devices: str) -> None:
        self.rollout = Rollout(devices or ("cpu",))
        self.rollout.announced(entry(state=State.LOADING, reason="waiting to be compiled", backend="", precision=""))
        self.changes: list[Swapped | GivenUp] = []
        for slot in range(len(devices) or 1):
            self.start(slot)

    def start(self, slot: int, generation: int = 1) -> list[int]:
        """A new process; the generations that it is told to load."""
        orders = self.rollout.orders(slot)
        self.rollout.fleet.started(slot, EngineAddress(f"cuda:{slot}", f"/run/{slot}-{generation}", generation))
        self.settle()
        return [order.generation for order in orders]

    def die(self, slot: int = 0) -> None:
        self.rollout.fleet.died(slot)
        self.settle()

    def offer(self, backend: str, *, is_final: bool, shortfall: str = "") -> Offer:
        offer = self.rollout.offered(
            entry(backend=backend, seconds=1.0), f"/cache/{backend}", is_final=is_final, shortfall=shortfall
        )
        for slot in range(len(self.rollout.fleet._engines)):
            self.rollout.order(slot, offer)
        self.settle()
        return offer

    def fallback(self) -> Offer:
        """One that every engine has loaded."""
        offer = self.offer("eager", is_final=False)
        for slot in range(len(self.rollout.fleet._engines)):
            self.load(offer, slot)
        return offer

    def load(self, offer: Offer, slot: int = 0) -> None:
        self.rollout.loaded(slot, KEY, offer.generation, 0.5)
        self.settle()

    def fail(self, offer: Offer, slot: int = 0) -> None:
        self.rollout.failed(slot, KEY, offer.generation, "out of memory")
        self.settle()

    def settle(self) -> None:
        self.changes += self.rollout.settle()

    def told(self) -> list[str]:
        """The changes since the last call, in words."""
        words = []
        for change in self.changes:
            match change:
                case Swapped(before, after):
                    words.append(f"{before.entry.backend if before else 'nothing'} -> {after.entry.backend}")
                case GivenUp(offer, stays, _):
                    words.append(f"{offer.entry.backend} given up for {stays.entry.backend}")
        self.changes.clear()
        return words

    @property
    def entry(self) -> Entry:
        (found,) = self.rollout.entries()
        return found

    def status(self) -> tuple[str, str, str]:
        return self.entry.state, self.entry.optimization, self.entry.backend
