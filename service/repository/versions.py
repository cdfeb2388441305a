"""Which versions of a model are served, of those that are there.

Pure: names in, names out. `storage.py` lists the folders, `config.py` reads the policy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

VERSION = re.compile(r"[1-9][0-9]{0,18}")  # up to 19 digits: a time stamp in nanoseconds fits


@dataclass(frozen=True, slots=True)
class Latest:
    """The `count` highest versions."""

    count: int = 1


@dataclass(frozen=True, slots=True)
class Every:
    """All versions."""


@dataclass(frozen=True, slots=True)
class Specific:
    """These versions and no other."""

    versions: tuple[str, ...]


VersionPolicy = Latest | Every | Specific


def find_versions(names: Iterable[str]) -> tuple[str, ...]:
    """The names that are versions, a positive integer without leading zeros, lowest first.

    >>> find_versions(["10", "2", "01", "notes", "0"])
    ("2", "10")
    """
    return tuple(sorted((name for name in names if VERSION.fullmatch(name)), key=int))


def choose_versions(policy: VersionPolicy, names: Iterable[str]) -> tuple[str, ...]:
    """The versions among `names` that `policy` serves, lowest first."""
    versions = find_versions(names)
    match policy:
        case Latest(count):
            return versions[-count:]
        case Every():
            return versions
        case Specific(wanted):
            return tuple(version for version in versions if version in wanted)


def missing_versions(policy: VersionPolicy, names: Iterable[str]) -> tuple[str, ...]:
    """The versions that `policy` asks for by number and that are not among `names`."""
    if not isinstance(policy, Specific):
        return ()
    present = set(names)
    return tuple(version for version in policy.versions if version not in present)
