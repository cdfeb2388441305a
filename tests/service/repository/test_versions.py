"""Versions: which folder names are versions, and which of them a policy serves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.repository.versions import (
    Every,
    Latest,
    Specific,
    VersionPolicy,
    choose_versions,
    find_versions,
    missing_versions,
)


def test_versions_are_positive_integers_without_leading_zeros() -> None:
    names = ["10", "9", "01", "0", "-1", "1.5", "v1", " 1", "٣", "notes", "", "1\n", "20240131123000"]
    assert find_versions(names) == ("9", "10", "20240131123000")


@pytest.mark.parametrize(
    ("policy", "chosen"),
    [
        (Latest(), ("11",)),
        (Latest(2), ("3", "11")),
        (Latest(9), ("2", "3", "11")),
        (Every(), ("2", "3", "11")),
        (Specific(("3", "2")), ("2", "3")),
        (Specific(("4", "3")), ("3",)),
    ],
)
def test_a_policy_chooses(policy: VersionPolicy, chosen: tuple[str, ...]) -> None:
    assert choose_versions(policy, ["11", "3", "2", "old"]) == chosen


def test_what_a_policy_names_may_be_missing() -> None:
    assert missing_versions(Specific(("4", "3")), ["3"]) == ("4",)
    assert missing_versions(Latest(5), ["3"]) == ()


@given(st.lists(st.text(st.characters(categories=["Nd", "Ll"]), max_size=4)), st.integers(1, 5))
def test_the_latest_are_never_lower_than_the_rest(names: list[str], count: int) -> None:
    chosen = choose_versions(Latest(count), names)
    rest = [int(name) for name in find_versions(names) if name not in chosen]
    assert len(chosen) <= count
    assert all(int(name) > other for name in chosen for other in rest)
