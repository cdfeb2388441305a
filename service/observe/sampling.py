"""Which requests are traced: by the ratio, by what the caller decided, and by the settings of Triton's trace extension.

Pure but for the counting of traces. `tuning.py` keeps those settings, `watching.py` asks for each request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from service.observe.traceparent import TraceContext

LOW = (1 << 64) - 1  # the half of a trace id by which everybody samples, so that all agree on a trace
DEFAULT_RATIO = 0.01
ON_SAMPLERS = {"always_on": 1.0, "always_off": 0.0}
Settings = Mapping[str, tuple[str, ...]]
TraceSettings = dict[str, dict[str, tuple[str, ...]]]  # as clients set them: by model, "" for all of them, then by name


class Sampling(msgspec.Struct, frozen=True):
    """`ratio` of the requests are traced; of those that belong to a trace, where `follows_parents`, as it says."""

    ratio: float = DEFAULT_RATIO
    follows_parents: bool = True

    @property
    def rate(self) -> int:
        """One in so many, as Triton's extension says it; 0: none."""
        return max(1, round(1 / self.ratio)) if self.ratio > 0 else 0


def sampling_of(ratio: float | None, environment: Mapping[str, str]) -> Sampling:
    """As the setting says, or else the standard variables. Raises ValueError for values that no one knows."""
    sampler = environment.get("OTEL_TRACES_SAMPLER", "")
    kind = sampler.removeprefix("parentbased_")
    follows = not sampler or kind != sampler
    if ratio is not None:
        return Sampling(ratio, follows)
    if not sampler:
        return Sampling()
    if kind in ON_SAMPLERS:
        return Sampling(ON_SAMPLERS[kind], follows)
    if kind != "traceidratio":
        raise ValueError(f"OTEL_TRACES_SAMPLER is '{sampler}': use parentbased_traceidratio, or set trace_ratio")
    text = environment.get("OTEL_TRACES_SAMPLER_ARG") or "1.0"
    try:
        given = float(text)
    except ValueError:
        given = -1.0
    if not 0 <= given <= 1:
        raise ValueError(f"OTEL_TRACES_SAMPLER_ARG is '{text}': it must be a number from 0 to 1")
    return Sampling(given, follows)


def trace_defaults(sampling: Sampling) -> dict[str, tuple[str, ...]]:
    """The settings of Triton's extension that hold where tracing is on and no client has changed any."""
    return {
        "trace_level": ("TIMESTAMPS",),
        "trace_rate": (str(sampling.rate),),
        "trace_count": ("-1",),
        "trace_mode": ("opentelemetry",),
    }


class _Policy:
    """What holds for a model, or for all that have no settings of their own. `left` counts down from trace_count."""

    __slots__ = ("bound", "follows_parents", "is_on", "left")

    def __init__(self, settings: Settings, sampling: Sampling) -> None:
        level, rate = settings["trace_level"], int(settings["trace_rate"][0])
        ratio = sampling.ratio if rate == sampling.rate else 1 / rate if rate else 0.0
        self.is_on = "TIMESTAMPS" in level
        self.bound = round(ratio * (LOW + 1))
        self.left = int(settings["trace_count"][0])
        self.follows_parents = sampling.follows_parents


class Sampler:
    """`draw` gives random bits. Settings that clients change hold after `follow`."""

    def __init__(self, sampling: Sampling, draw: Callable[[int], int]) -> None:
        self._sampling = sampling
        self._draw = draw
        self._drawn: list[int] = []  # for the next requests
        self._policies: dict[str, tuple[Settings, _Policy]] = {}
        self._of_all = _Policy(trace_defaults(sampling), sampling)

    def follow(self, settings: Mapping[str, Settings]) -> None:
        """What holds for all ("") and for each model that has settings; those that stay go on counting."""
        before, self._policies = self._policies, {}
        for model, held in settings.items():
            known = before.get(model)
            is_same = known is not None and dict(known[0]) == dict(held)
            self._policies[model] = known if known and is_same else (held, _Policy(held, self._sampling))
        if "" in self._policies:
            self._of_all = self._policies[""][1]

    def would_choose(self, model: str) -> bool:
        """Whether a request without a parent is traced; where it is, `choose` says so of the next it is asked about."""
        policy = self._policy_of(model)
        if not policy.is_on or not policy.left:
            return False
        if self._drawn:
            return True
        low = self._draw(64)
        if low < policy.bound:
            self._drawn.append(low)
            return True
        return False

    def choose(self, model: str, parent: TraceContext | None) -> TraceContext | None:
        """The span that the request shall have, or None where it is not traced."""
        policy = self._policy_of(model)
        if not policy.is_on or not policy.left:
            return None
        if parent is not None and policy.follows_parents:
            if not parent.is_sampled:
                return None
            return TraceContext(parent.trace_id, self._span_id(), True, parent.state)
        low = self._next_low() if parent is None else parent.trace_id & LOW
        if low >= policy.bound:
            return None
        if policy.left > 0:
            policy.left -= 1
        if parent is None:
            return TraceContext((self._draw(64) << 64 | low) or 1, self._span_id(), True)
        return TraceContext(parent.trace_id, self._span_id(), True, parent.state)

    def _policy_of(self, model: str) -> _Policy:
        own = self._policies.get(model) if self._policies else None
        return self._of_all if own is None else own[1]

    def _next_low(self) -> int:
        return self._drawn.pop() if self._drawn else self._draw(64)

    def _span_id(self) -> int:
        return self._draw(64) or 1
