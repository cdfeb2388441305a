"""How hard to press: so many requests at once (closed loop), or so many a second (open loop).

Pure. `command.py` parses with it, `run.py` measures one level after the other.
"""

from __future__ import annotations

import ipaddress
import math

import msgspec

MAX_CONCURRENCY = 16_384  # connections; the ports of one client address end at about 28,000


class Level(msgspec.Struct, frozen=True):
    """Closed where `rate_per_s` is 0: `concurrency` requests are always under way. Open otherwise: requests begin at
    random moments, `rate_per_s` on average, over at most `concurrency` connections."""

    concurrency: int
    rate_per_s: float = 0.0

    @property
    def is_open(self) -> bool:
        return self.rate_per_s > 0

    def __str__(self) -> str:
        return f"{self.rate_per_s:g} requests/s" if self.is_open else f"concurrency {self.concurrency}"

    def share(self, index: int, processes: int) -> Level:
        """What process `index` of `processes` puts on; the shares add up to the level."""
        own = self.concurrency // processes + (index < self.concurrency % processes)
        return Level(own, self.rate_per_s * own / self.concurrency)


def parse_concurrency(text: str) -> tuple[int, ...]:
    """`8`, `1,8,64`, or `1:64`, which doubles: 1, 2, 4, ..., 64. Raises ValueError with a sentence."""
    first, is_range, last = text.partition(":")
    try:
        values = [int(part) for part in ([first, last] if is_range else text.split(","))]
    except ValueError:
        raise ValueError(f"'{text}' is no concurrency: give a number, a list 1,8,64 or a range 1:64") from None
    for value in values:
        if not 1 <= value <= MAX_CONCURRENCY:
            raise ValueError(f"concurrency {value} is not between 1 and {MAX_CONCURRENCY}")
    if not is_range:
        return tuple(values)
    low, high = values
    if low > high:
        raise ValueError(f"the range {text} runs backwards: write {high}:{low}")
    doubled = [low]
    while doubled[-1] * 2 < high:
        doubled.append(doubled[-1] * 2)
    return tuple(doubled if doubled[-1] == high else [*doubled, high])


def parse_rates(text: str) -> tuple[float, ...]:
    """`1000` or `500,1000,2000`, requests a second. Raises ValueError with a sentence."""
    try:
        rates = [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"'{text}' is no rate: give requests per second, or a list 500,1000,2000") from None
    for rate in rates:
        if not (math.isfinite(rate) and rate > 0):
            raise ValueError(f"rate {rate:g} is not above 0")
    return tuple(rates)


def is_loopback(host: str) -> bool:
    """True where `host` is certainly this machine; a name other than localhost is not looked up."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
