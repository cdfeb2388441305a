"""What an engine has loaded: found by the contract of a request, or newest first for those who call a model by name.

Any thread may read, without waiting for one that changes something. `worker.py` puts in and takes out.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

from service.engine.served import Served

Key = tuple[str, str, int]  # name, version, contract


class Holdings:
    """`holdings.find("digits")` is every version under every contract, the best to call first."""

    def __init__(self) -> None:
        self._served: dict[Key, Served] = {}
        self._by_name: dict[str, tuple[Served, ...]] = {}
        self._changing = threading.Lock()

    def __repr__(self) -> str:
        return repr(self.all())

    def get(self, name: str, version: str, contract: int) -> Served | None:
        """What takes requests that were checked by this contract."""
        return self._served.get((name, version, contract))

    def find(self, name: str, version: str = "") -> tuple[Served, ...]:
        """Of that version, or of all: the highest version first, and of each the newest contract."""
        found = self._by_name.get(name, ())
        return tuple(each for each in found if each.entry.version == version) if version else found

    def lookup(self, name: str, version: str = "") -> Served | None:
        """The first of what `find` gives."""
        return next(iter(self.find(name, version)), None)

    def all(self) -> tuple[Served, ...]:
        """In the order in which they were put in."""
        return tuple(self._served.values())

    def put(self, served: Served) -> None:
        entry = served.entry
        with self._changing:
            self._served = {**self._served, (entry.name, entry.version, entry.contract): served}
            self._sort(entry.name)

    def take(self, name: str, version: str, keep: int) -> Iterator[Served]:
        """Take out a version, but for what serves the contract `keep`."""
        with self._changing:
            taken = {key for key in self._served if key[:2] == (name, version) and key[2] != keep}
            found = [self._served[key] for key in taken]
            self._served = {key: served for key, served in self._served.items() if key not in taken}
            self._sort(name)
        yield from found

    def _sort(self, name: str) -> None:
        own = [key for key in self._served if key[0] == name]
        own.sort(key=lambda key: (int(key[1]), key[2]), reverse=True)
        self._by_name = {**self._by_name, name: tuple(self._served[key] for key in own)}
