"""Three formats say the same, and the parsers of others read them: text, OpenMetrics, protobuf."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal.decoder import _DecodeVarint32  # type: ignore[attr-defined]
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from service.observe.aliases import alias_families
from service.observe.buckets import SECONDS
from service.observe.exposition import OPENMETRICS_TYPE, TEXT_TYPE, choose_format, expose
from service.observe.families import Family, families
from service.observe.protobuf import PROTOBUF_TYPE
from tests.service.observe.counting import TRACE_ID, counted

PROTOBUF_ACCEPT = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
OPTIONAL, REPEATED = 1, 3
KINDS = {"double": 1, "uint64": 4, "string": 9, "message": 11, "uint32": 13, "int64": 3, "sint32": 17, "sint64": 18}
# Prometheus' own metrics.proto, as far as it is used: name, number, kind (or message), whether repeated.
MESSAGES: dict[str, list[tuple[str, int, str, int]]] = {
    "LabelPair": [("name", 1, "string", 1), ("value", 2, "string", 1)],
    "Value": [("value", 1, "double", 1)],
    "Timestamp": [("seconds", 1, "int64", 1), ("nanos", 2, "int64", 1)],
    "Exemplar": [("label", 1, "LabelPair", 3), ("value", 2, "double", 1), ("timestamp", 3, "Timestamp", 1)],
    "Bucket": [("cumulative_count", 1, "uint64", 1), ("upper_bound", 2, "double", 1), ("exemplar", 3, "Exemplar", 1)],
    "BucketSpan": [("offset", 1, "sint32", 1), ("length", 2, "uint32", 1)],
    "Histogram": [
        *(("sample_count", 1, "uint64", 1), ("sample_sum", 2, "double", 1), ("bucket", 3, "Bucket", 3)),
        *(("schema", 5, "sint32", 1), ("zero_threshold", 6, "double", 1), ("zero_count", 7, "uint64", 1)),
        *(("positive_span", 12, "BucketSpan", 3), ("positive_delta", 13, "sint64", 3)),
    ],
    "Metric": [
        *(("label", 1, "LabelPair", 3), ("gauge", 2, "Value", 1), ("counter", 3, "Value", 1)),
        ("histogram", 7, "Histogram", 1),
    ],
    "MetricFamily": [
        *(("name", 1, "string", 1), ("help", 2, "string", 1), ("type", 3, "uint32", 1), ("metric", 4, "Metric", 3)),
        ("unit", 5, "string", 1),
    ],
}


def family_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="metrics.proto", package="test", syntax="proto2")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, label in fields:
            is_message = kind not in KINDS
            added = message.field.add(name=field, number=number, type=KINDS["message" if is_message else kind])
            added.label = label
            if is_message:
                added.type_name = f".test.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("test.MetricFamily"))


def read_protobuf(body: bytes) -> dict[str, Any]:
    made, at, found = family_class(), 0, {}
    while at < len(body):
        size, at = _DecodeVarint32(body, at)
        family = made.FromString(body[at : at + size])
        found[family.name] = family
        at += size
    return found


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> list[Family]:
    merged = counted(tmp_path_factory.mktemp("counts"))
    return [*families(merged, has_native=True), *alias_families(merged, "all")]


def values(parsed: Any) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value for family in parsed for sample in family.samples
    }


def test_text_says_what_was_counted(own: list[Family]) -> None:
    text = expose(own, TEXT_TYPE).decode()
    assert 'torchere_requests_total{model="digits",version="1",protocol="http",outcome="success"} 2.0\n' in text
    assert 'torchere_request_seconds_bucket{model="digits",version="1",protocol="http",le="0.001"} 0\n' in text
    assert 'torchere_request_seconds_bucket{model="digits",version="1",protocol="http",le="0.0025"} 2\n' in text
    assert 'torchere_batch_rows_bucket{model="digits",version="1",le="4.0"} 2\n' in text
    assert 'torchere_padding_rows_total{model="digits",version="1"} 8.0\n' in text
    assert 'torchere_phase_seconds_sum{model="digits",version="1",phase="compute"} 0.006\n' in text
    assert "torchere_requests_in_flight 2.0\n" in text, "of the process that lives"
    assert "nosuch" not in text


def test_openmetrics_says_the_same_as_text(own: list[Family]) -> None:
    text = expose([family for family in own if not family.is_bare], TEXT_TYPE).decode()
    rich = expose([family for family in own if not family.is_bare], OPENMETRICS_TYPE).decode()
    assert values(read_text(text)) == values(read_openmetrics(rich))


def test_other_servers_counters_are_of_unknown_kind_in_openmetrics(own: list[Family]) -> None:
    parsed = {family.name: family for family in read_openmetrics(expose(own, OPENMETRICS_TYPE).decode())}
    assert parsed["nv_inference_count"].type == "unknown"
    assert parsed["torchere_requests"].type == "counter"


def test_a_latency_bucket_has_the_trace_of_its_last_request(own: list[Family]) -> None:
    families_read = read_openmetrics(expose(own, OPENMETRICS_TYPE).decode())
    found = [
        (sample.labels["le"], sample.exemplar.labels, sample.exemplar.value)
        for family in families_read
        for sample in family.samples
        if sample.exemplar is not None
    ]
    assert found == [("0.0025", {"trace_id": TRACE_ID}, 0.002)]


def test_protobuf_says_the_same_as_text(own: list[Family]) -> None:
    own = [family for family in own if not family.is_bare]  # that parser has no counters without _total
    text = values(read_text(expose(own, TEXT_TYPE).decode()))
    found = {}
    for family in read_protobuf(expose(own, PROTOBUF_TYPE)).values():
        for metric in family.metric:
            labels = frozenset((pair.name, pair.value) for pair in metric.label)
            if metric.HasField("histogram"):
                found[f"{family.name}_sum", labels] = metric.histogram.sample_sum
                found[f"{family.name}_count", labels] = metric.histogram.sample_count
                for bucket in metric.histogram.bucket:
                    bound = "+Inf" if bucket.upper_bound == float("inf") else repr(bucket.upper_bound)
                    found[f"{family.name}_bucket", labels | {("le", bound)}] = bucket.cumulative_count
            else:
                found[family.name, labels] = (metric.counter if metric.HasField("counter") else metric.gauge).value
    assert found == text


def test_native_buckets_hold_what_was_observed(own: list[Family]) -> None:
    family = read_protobuf(expose(own, PROTOBUF_TYPE))["torchere_request_seconds"]
    histogram = next(
        metric.histogram
        for metric in family.metric
        if ("protocol", "http") in ((p.name, p.value) for p in metric.label)
    )
    assert (histogram.schema, histogram.sample_count, histogram.zero_count) == (3, 2, 0)
    (span,) = histogram.positive_span
    assert (span.length, list(histogram.positive_delta)) == (1, [2])
    assert 2 ** ((span.offset - 1) / 8) < 0.002 <= 2 ** (span.offset / 8)
    assert next(b for b in histogram.bucket if b.upper_bound == 0.0025).exemplar.label[0].value == TRACE_ID


def test_every_observation_is_in_a_native_bucket_and_the_classic_one_that_holds_it() -> None:
    import numpy as np

    for nanoseconds in (0, 1, 953, 954, 99_999, 100_000, 100_001, 10**9, 60 * 10**9, 513 * 10**9, 10**13):
        fine = np.zeros((1, SECONDS.count), dtype=np.uint64)
        fine[0, next((i for i, bound in enumerate(SECONDS.bounds) if nanoseconds <= bound), len(SECONDS.bounds))] = 1
        (native,) = SECONDS.native(fine) or ()
        assert native.zero_count + native.counts.sum() == 1
        seconds = nanoseconds / 1e9
        if native.zero_count:
            assert seconds <= native.zero_threshold
        elif seconds <= 512:
            index = native.first + int(native.counts.argmax())
            assert 2 ** ((index - 1) / 8) - 1e-9 < seconds <= 2 ** (index / 8)
        (cumulated,) = SECONDS.cumulated(fine)
        assert cumulated == [int(seconds <= bound) for bound in SECONDS.classic] + [1]
        assert SECONDS.classic_of(nanoseconds) == cumulated.index(1)


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", TEXT_TYPE),
        ("*/*", TEXT_TYPE),
        ("text/html, q=x;;", TEXT_TYPE),
        ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3", OPENMETRICS_TYPE),
        ("application/openmetrics-text;q=0.2,text/plain;q=0.3", TEXT_TYPE),
        (f"{PROTOBUF_ACCEPT};q=0.6,application/openmetrics-text;q=0.5,*/*;q=0.1", PROTOBUF_TYPE),
        (f"{PROTOBUF_ACCEPT.replace('delimited', 'text')};q=0.6,text/plain;q=0.1", TEXT_TYPE),
    ],
)
def test_the_scrapers_first_choice_is_written(accept: str, content_type: str) -> None:
    assert choose_format(accept) == content_type


def test_labels_cannot_break_out(tmp_path: Path) -> None:
    nasty = Family("a", "gauge", "b\nc", ("x",), [(('"\n\\',), 1.0)])
    (family,) = read_text(expose([nasty], TEXT_TYPE).decode())
    assert family.samples[0].labels == {"x": '"\n\\'}
