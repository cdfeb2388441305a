"""The pure parts of telling what came of it: windows, summary, phases, plot, table, file."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bench import processor
from service.bench.levels import Level
from service.bench.outcomes import OK
from service.bench.phases import Phases, phases_between
from service.bench.plot import Point, Series, draw, fit, round_step, series_of
from service.bench.records import Records
from service.bench.results import describe_machine, write_results
from service.bench.show import notes, table_of
from service.bench.summary import Meter, Observed, Result, latencies, summarize
from service.bench.windows import Window, complete, cut, spread

SECOND = 1_000_000_000
TWO_AT_ONCE = Level(2)


def records_of(*rows: tuple[int, int, int]) -> Records:
    """Begin, latency and outcome of each request, in nanoseconds."""
    begun, latency, outcome = (np.array(column) for column in zip(*rows, strict=True))
    return Records(begun, latency, np.zeros_like(begun), outcome.astype(np.int16))


def steady_windows(*rates: float, p50_ms: float = 1.0) -> list[Window]:
    return [Window(index, index + 1, rate, p50_ms) for index, rate in enumerate(rates)]


def test_a_request_counts_where_it_ends_and_in_an_open_loop_its_latency_where_it_was_meant_to_begin() -> None:
    records = records_of((10, 5, OK), (12, 90, OK), (50, 20, 503), (105, 5, OK))
    closed = cut(records, False, 0, 100, 2)
    assert [window.requests_per_s for window in closed] == [1e9 / 100, 2e9 / 100]
    assert [window.p50_ms for window in closed] == [5e-6, 47.5e-6]
    opened = cut(records, True, 0, 100, 2)
    assert [window.requests_per_s for window in opened] == [1e9 / 100, 2e9 / 100]
    assert [window.p50_ms for window in opened] == [47.5e-6, 5e-6]


def test_windows_are_complete_up_to_the_watermark() -> None:
    assert [complete(100, 10, watermark) for watermark in (0, 100, 109, 110, 139)] == [0, 0, 0, 1, 3]


def test_the_spread_is_of_the_last_three_windows() -> None:
    assert spread(steady_windows(100, 100)) == float("inf")
    assert spread(steady_windows(1, 95, 100, 105)) == pytest.approx(0.1)
    assert spread(steady_windows(100, 0, 100)) == float("inf")
    slower = [*steady_windows(100, 100), Window(2, 3, 100, 2.0)]
    assert spread(slower) == pytest.approx(0.75)


def test_percentiles_are_seen_values_and_absent_where_too_few_lie_beyond() -> None:
    found = latencies(np.arange(1, 101) * 1_000_000)
    assert found == {"mean": 50.5, "p50": 50, "p90": 90, "p99": 99, "max": 100}
    assert latencies(np.array([3_000_000])) == {"mean": 3, "max": 3}
    assert latencies(np.array([], np.int64)) == {}
    assert latencies(np.arange(1, 1001) * 1_000_000)["p99.9"] == 999


@given(st.lists(st.integers(1, 10**10), min_size=1, max_size=300))
def test_percentiles_never_run_backwards(values: list[int]) -> None:
    found = latencies(np.array(values))
    ordered = [found[name] for name in ("p50", "p90", "p99", "p99.9", "max") if name in found]
    assert ordered == sorted(ordered)


def test_a_meter_is_read_between_its_readings() -> None:
    meter = Meter([0, 100, 200], [0, 50, 250])
    assert meter.between(50, 150) == 125


def statistics(count: int, queue_us: int, batches: int) -> dict[str, Any]:
    phase = {"count": count, "ns": count * queue_us * 1000}
    parts = {"queue": phase, "compute_infer": {"count": str(count), "ns": str(count * 7000)}}
    return {"model_stats": [{"inference_count": count, "execution_count": batches, "inference_stats": parts}]}


def test_phases_are_the_difference_of_two_statistics() -> None:
    found = phases_between(statistics(10, 100, 10), statistics(30, 100, 15))
    assert found == Phases({"queue": 100.0, "compute_infer": 7.0}, 4.0)
    assert phases_between(statistics(10, 100, 10), statistics(10, 100, 10)) is None
    assert phases_between({}, {}) is None


def summary(level: Level = TWO_AT_ONCE, *, lag_ns: int = 0) -> Result:
    """Three windows of a second with a hundred requests of 5 ms each, one of them refused."""
    begun = np.arange(300) * (SECOND // 100)
    outcome = np.zeros(300, np.int16)
    outcome[150] = 503
    records = Records(begun, np.full(300, 5_000_000), np.full(300, lag_ns), outcome)
    observed = Observed(level, rows=4, clients={0: Meter([0, 3 * SECOND], [0, 3 * SECOND])})
    observed.server = Meter([0, 3 * SECOND], [0, SECOND * 3 // 10])
    observed.statistics = [(0, statistics(0, 0, 0)), (3 * SECOND, statistics(1200, 50, 400))]
    windows = cut(records, level.is_open, 0, SECOND, 3)
    return summarize(observed, records, windows, limit=0.1)


def test_a_summary_tells_rates_errors_and_costs() -> None:
    result = summary()
    assert result.is_steady
    assert result.requests == 299
    assert result.requests_per_s == pytest.approx(99.7)
    assert result.rows_per_s == pytest.approx(398.7)
    assert result.errors == {"HTTP 503 Service Unavailable": 1}
    assert result.error_p99_ms == 5
    assert result.latency_ms["p99"] == 5
    assert result.client_cpu_us == 10_000
    assert result.server_cpu_us == 1_000
    assert result.phases == Phases({"queue": 50.0, "compute_infer": 7.0}, 3.0)
    assert result.late_p99_ms is None
    assert result.is_client_bound
    with pytest.raises(ValueError, match="no window"):
        summarize(Observed(Level(1), 1), records_of((0, 1, OK)), [], 0.1)


def test_the_notes_say_what_to_mind() -> None:
    told = "\n".join(notes([summary(Level(8, 100.0), lag_ns=2_000_000)]))
    assert "100 requests/s: 1 × HTTP 503 Service Unavailable" in told
    assert "give more --processes" in told
    assert "sent 2 ms late" in told
    calm = msgspec.structs.replace(summary(), errors={}, client_core_share=0.5)
    assert notes([calm]) == []
    assert "too few windows" in notes([msgspec.structs.replace(calm, is_steady=False, spread=None)])[0]


def test_the_table_leaves_out_columns_that_say_nothing() -> None:
    full = [str(column.header) for column in table_of("t", [summary()]).columns]
    assert {"rows/s", "errors", "queue µs", "server µs", "p99 ms"} <= set(full)
    assert "p99.9 ms" not in full
    bare = msgspec.structs.replace(summary(), errors={}, phases=None, server_cpu_us=None, rows_per_s=99.7)
    assert not {"rows/s", "errors", "queue µs", "server µs"} & {
        str(column.header) for column in table_of("t", [bare]).columns
    }


def test_the_plot_is_one_well_formed_picture_with_every_point() -> None:
    results = [summary(Level(1)), msgspec.structs.replace(summary(Level(64)), requests_per_s=2e4)]
    text = draw("a <model> & more", series_of(results))
    root = ElementTree.fromstring(text)  # our own text
    space = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f"{space}polyline")) == 3
    told = [node.text or "" for node in root.iter(f"{space}title")]
    assert told[0] == "a <model> & more"
    assert "p50 ×64: 20,000 requests/s, 5 ms" in told
    assert "prefers-color-scheme: dark" in text


@given(st.lists(st.tuples(st.floats(0, 1e7), st.floats(0, 1e6)), max_size=8))
def test_every_point_lies_within_the_axes(values: list[tuple[float, float]]) -> None:
    series = [Series("s", tuple(Point(rate, latency) for rate, latency in values))]
    frame = fit(series)
    for rate, latency in values:
        assert 0 <= rate <= frame.high_rate
        assert frame.low_ms <= max(latency, 1e-3) <= frame.high_ms
    ElementTree.fromstring(draw("t", series))  # our own text


def test_steps_are_round() -> None:
    assert [round_step(high) for high in (0.9, 7, 60, 23_456)] == [0.2, 1, 10, 5000]


def test_results_are_written_whole(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    write_results(file, {"machine": describe_machine(), "results": [summary()]})
    written = json.loads(file.read_text())
    assert written["machine"]["cores"] >= 1
    assert written["results"][0]["requests"] == 299
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_processor_time_is_of_the_whole_family(tmp_path: Path) -> None:
    for pid, parent, ticks in ((10, 1, 5), (11, 10, 7), (12, 11, 100), (99, 1, 1000)):
        (tmp_path / str(pid)).mkdir()
        fields = ["S", str(parent), *["0"] * 9, str(ticks), "1"]
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (a (strange) name) {' '.join(fields)}")
    assert processor.family(10, tmp_path) == [10, 11, 12]
    usage = processor.Usage(10, tmp_path)
    for _ in range(2):
        assert usage.read_ns() == 115 * SECOND // processor.TICKS_PER_S
        (tmp_path / "12" / "stat").unlink(missing_ok=True)  # what an ended process has used stays used
