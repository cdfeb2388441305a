"""Asks the server for a model's statistics while the load runs, where it has them.

Knows nothing of what they hold; `phases.py` reads that.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from service.bench.target import Subject, door
from service.errors import ServiceError


class StatisticsReader:
    """`read()` answers None from the first refusal on: a server without statistics is not asked again."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._client = door(subject)
        self._is_refused = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def read(self) -> dict[str, Any] | None:
        if self._is_refused:
            return None
        try:
            return self._client.statistics(self._subject.model, self._subject.version)
        except (ServiceError, ValueError):  # ValueError: an answer that is no JSON
            self._is_refused = True
            return None
