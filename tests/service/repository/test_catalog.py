"""Versions by number, label and default; what the service's readiness waits for; what is dropped."""

from __future__ import annotations

import pytest

from service.errors import NotFound
from service.repository.catalog import Catalog, State
from tests.fakes import entry


def catalog() -> Catalog:
    return Catalog(
        (entry(version="1", aliases=("stable",)), entry(version="2", aliases=("canary", "next")), entry(version="10"))
    )


def test_a_label_stands_for_its_version() -> None:
    found = catalog()
    assert found.entry("double", "stable").version == "1"
    assert found.entry("double", "next").version == "2"
    assert found.ready_entry("double").version == "10"
    with pytest.raises(NotFound, match="has no version 'newest': its versions are 1, 2, 10"):
        found.entry("double", "newest")


def test_what_is_dropped_is_unknown_and_the_default_is_chosen_anew() -> None:
    found = catalog()
    found.drop("double", "10")
    assert found.entry("double").version == "2"
    for version in ("1", "2", "2"):
        found.drop("double", version)
    assert not found.has("double")
    with pytest.raises(NotFound, match="the model repository is empty"):
        found.entry("double")
    assert found.is_ready


@pytest.mark.parametrize(
    ("states", "is_ready"),
    [
        ([(State.READY, True)], True),
        ([(State.LOADING, True), (State.READY, True)], False),
        ([(State.LOADING, False), (State.READY, True)], True),
        ([(State.UNAVAILABLE, True)], False),
        ([(State.UNAVAILABLE, False)], True),
        ([(State.UNAVAILABLE, True), (State.READY, False)], True),
        ([], True),
    ],
)
def test_only_what_is_awaited_keeps_the_service_from_being_ready(
    states: list[tuple[State, bool]], is_ready: bool
) -> None:
    entries = [
        entry(version=str(number), state=state, is_awaited=awaited)
        for number, (state, awaited) in enumerate(states, start=1)
    ]
    assert Catalog(tuple(entries)).is_ready is is_ready
