"""The remedy for a name that is not known. Pure, and knows nothing of what the names are of: sentences end with it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """The remedy for a name that is not known: the one that was meant, or all of them.

    >>> nearest("max_batchsize", ["max_batch_size", "inputs"])
    "did you mean 'max_batch_size'?"
    """
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean '{near[0]}'?" if near else f"known are {', '.join(names)}"
