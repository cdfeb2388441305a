"""Which requests are traced: by ratio, by the caller's decision, by what clients set for all or for a model."""

from __future__ import annotations

import random
from typing import Any

import pytest

from service.observe.sampling import Sampler, Sampling, sampling_of, trace_defaults
from service.observe.traceparent import TraceContext
from service.tuning import trace_settings

SAMPLED = TraceContext(1, 2, True, "a=1")
UNSAMPLED = TraceContext(1, 2, False)


def sampler(ratio: float = 0.25, follows_parents: bool = True, **settings: dict[str, tuple[str, ...]]) -> Sampler:
    """`settings` are those that clients changed, by model, `everything` for all."""
    sampling = Sampling(ratio, follows_parents)
    made = Sampler(sampling, random.Random(1).getrandbits)
    change(made, sampling, settings)
    return made


def change(made: Sampler, sampling: Sampling, settings: dict[str, dict[str, tuple[str, ...]]]) -> None:
    kept = {name.replace("everything", ""): changed for name, changed in settings.items()}
    made.follow({model: trace_settings(kept, model, trace_defaults(sampling)) for model in {"", *kept}})


def count(made: Sampler, model: str = "double", requests: int = 4000, parent: TraceContext | None = None) -> int:
    return sum(made.choose(model, parent) is not None for _ in range(requests))


def test_the_ratio_holds_for_requests_without_a_trace() -> None:
    assert count(sampler(0.0)) == 0
    assert 900 < count(sampler(0.25)) < 1100
    assert count(sampler(1.0)) == 4000


def test_every_trace_has_ids_of_its_own() -> None:
    made = sampler(1.0)
    chosen = [made.choose("double", None) for _ in range(100)]
    assert len({each.trace_id for each in chosen if each}) == len({each.span_id for each in chosen if each}) == 100


def test_the_caller_decides_where_there_is_one() -> None:
    chosen = sampler(0.0).choose("double", SAMPLED)
    assert chosen is not None
    assert (chosen.trace_id, chosen.is_sampled, chosen.state) == (1, True, "a=1")
    assert chosen.span_id != SAMPLED.span_id
    assert count(sampler(1.0), parent=UNSAMPLED) == 0


def test_callers_that_are_not_believed_decide_nothing() -> None:
    assert count(sampler(0.0, follows_parents=False), parent=SAMPLED) == 0
    assert count(sampler(1.0, follows_parents=False), requests=10, parent=UNSAMPLED) == 10


def test_clients_set_it_for_a_model_or_for_all() -> None:
    made = sampler(1.0, everything={"trace_rate": ("0",)}, double={"trace_rate": ("1",)}, off={"trace_level": ("OFF",)})
    assert (count(made, requests=10), count(made, "other", 10)) == (10, 0)
    assert count(made, "off", 10, SAMPLED) == 0
    assert 300 < count(sampler(1.0, everything={"trace_rate": ("10",)})) < 500


def test_a_number_of_traces_is_a_limit_and_goes_on_counting_when_others_change() -> None:
    sampling, settings = Sampling(1.0), {"double": {"trace_count": ("3",)}}
    made = sampler(1.0, **settings)
    assert count(made, requests=2) == 2
    change(made, sampling, {**settings, "other": {"trace_rate": ("1",)}})
    assert count(made, requests=10) == 1
    assert count(made, "other", 10) == 10
    assert made.choose("double", SAMPLED) is None
    change(made, sampling, {"double": {"trace_count": ("1",)}})
    assert count(made, requests=10) == 1


def test_asked_beforehand_it_answers_the_same() -> None:
    made = sampler(0.25)
    before = [made.would_choose("double") and made.choose("double", None) is not None for _ in range(4000)]
    assert 900 < sum(before) < 1100
    assert not sampler(1.0, everything={"trace_level": ("OFF",)}).would_choose("double")
    for _ in range(100):
        if made.would_choose("double"):
            assert made.choose("double", None) is not None


@pytest.mark.parametrize(
    ("ratio", "environment", "expected"),
    [
        (None, {}, Sampling(0.01, True)),
        (0.5, {"OTEL_TRACES_SAMPLER": "always_on"}, Sampling(0.5, False)),
        (None, {"OTEL_TRACES_SAMPLER": "always_on"}, Sampling(1.0, False)),
        (None, {"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, Sampling(0.0, True)),
        (None, {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"}, Sampling(0.1)),
        (None, {"OTEL_TRACES_SAMPLER": "traceidratio"}, Sampling(1.0, False)),
    ],
)
def test_the_standard_variables_hold_where_no_setting_does(ratio: Any, environment: Any, expected: Sampling) -> None:
    assert sampling_of(ratio, environment) == expected


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"OTEL_TRACES_SAMPLER": "jaeger_remote"}, "OTEL_TRACES_SAMPLER is 'jaeger_remote': use parentbased"),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "2"}, "must be a number from 0 to 1"),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "x"}, "must be a number from 0 to 1"),
    ],
)
def test_variables_that_nobody_knows_are_refused(environment: dict[str, str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        sampling_of(None, environment)


def test_the_rate_is_the_ratio_in_tritons_words() -> None:
    assert [Sampling(ratio).rate for ratio in (0.0, 0.01, 0.3, 1.0)] == [0, 100, 3, 1]
