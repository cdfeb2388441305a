"""Lines about requests: what they carry, how many there are, and that no client can forge or overfill them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.observe.logs import MOST_CHARACTERS, RateLimit, plain, set_up_logging
from service.observe.watching import Asking, Watcher, fields_of
from service.tensors import InferRequest, InferResponse, Tensor

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-00"
OUTPUTS = (Tensor("y", "FP32", (1,), b"abcd"),)
PHASES = (100_000_000, 1_000_000, 2_000_000, 300_000_000, 4_000_000)
# A new line, a colour, the line separator of JSON's readers, text that turns around, one that is not seen, half a pair.
FORGED = "x\r\n12:00:00 ERROR forged\x1b[31m\u2028\u202e\u2066\u200b\x85\x9b1m\ud800 status=200"


@pytest.fixture(autouse=True)
def root_logger_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:], root.level = handlers, level


def asking(arrived: float = 0.0, **changes: str) -> Asking:
    given_ = {"protocol": "http", "operation": "POST /v2/models/{model}/infer", "model": "double", "version": ""}
    return Asking(**{**given_, **changes}, arrived=arrived)  # type: ignore[arg-type]


def serve(watcher: Watcher, about: Asking, request_id: str = "r1") -> None:
    """One request, answered at once; with `arrived` 0 it has taken as long as the machine is up."""
    watch = watcher.begin(about)
    assert watch is not None
    watch.mark(InferRequest(about.model, "", (), id=request_id))
    watch.answered(InferResponse(about.model, "1", request_id, OUTPUTS, PHASES, batch=3, bucket=4))
    watch.encoded(1.0, 0.005)
    watcher.finish(watch, 200)


def test_a_request_has_one_line_with_all_that_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("json", "info", "frontend")
    serve(Watcher(logs_access=True), asking(traceparent=PARENT))
    (line,) = map(json.loads, capsys.readouterr().err.splitlines())
    assert line.pop("seconds") > 0
    assert line.pop("message").startswith("POST /v2/models/double/infer 200 in ")
    assert {name: line[name] for name in line if name not in ("time", "logger", "level", "process")} == {
        "request_id": "r1",
        "trace_id": TRACE,
        "model": "double",
        "version": "1",
        "protocol": "http",
        "status": 200,
        "batch": 3,
    }


def test_lines_for_people_end_with_what_names_the_request(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("human", "info", "frontend")
    serve(Watcher(logs_access=True), asking(traceparent=PARENT), "a b")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f'batch 3 [request_id="a b" trace_id={TRACE} model=double version=1]')


def test_slow_requests_are_told_of_with_where_the_time_went(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("json", "info", "frontend")
    watcher = Watcher(slow_s=0.5)
    serve(watcher, asking())
    serve(watcher, asking(arrived=float("inf")))  # took no time
    (line,) = map(json.loads, capsys.readouterr().err.splitlines())
    assert "queue 100.0, stack 1.0, copy_in 2.0, compute 300.0, copy_out 4.0, encode 5.0, other " in line["message"]
    assert line["phases_ms"]["compute"] == 300.0
    assert (line["level"], line["request_id"]) == ("warning", "r1")


def test_a_server_that_is_slow_throughout_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    watcher = Watcher(slow_s=1e-9)
    for _ in range(100):
        serve(watcher, asking())
    assert len(caplog.messages) == 10


def test_what_was_left_out_is_told_of_later() -> None:
    limit = RateLimit(2, 10.0)
    assert [limit.take(now) for now in (0.0, 1.0, 2.0, 3.0, 10.0, 10.5)] == [0, 0, None, None, 2, 0]


@pytest.mark.parametrize("log_format", ["human", "json"])
def test_no_client_can_forge_a_line(log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging(log_format, "info", "frontend")
    watcher = Watcher(logs_access=True, slow_s=1e-9)
    serve(watcher, asking(model=FORGED, traceparent=FORGED, tracestate=FORGED), FORGED)
    watcher.note(asking(operation=f"GET /{FORGED}"), 404)
    logging.getLogger("torchere").error("model '%s': %s", FORGED, FORGED, extra={"request_id": FORGED})
    try:
        raise ValueError(FORGED)
    except ValueError:
        logging.getLogger("torchere").exception("it failed")
    text = capsys.readouterr().err
    lines = text.split("\n")[:-1]
    begun = [line for line in lines if not line.startswith("    ")]
    assert len(begun) == 5
    assert all(line.isprintable() for line in lines)
    assert not any(line.startswith("12:00:00 ERROR forged") for line in lines)
    if log_format == "json":
        assert all(json.loads(line)["level"] for line in lines)
    else:
        assert 'request_id="x\\r\\n12:00:00' in begun[0]


@given(st.text())
def test_nothing_but_ordinary_characters_is_written(text: str) -> None:
    assert plain(text).isprintable()
    assert not text.isprintable() or plain(text) == text


def test_what_is_written_is_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("human", "info", "frontend")
    long = "m" * 1_000_000
    serve(Watcher(logs_access=True), asking(model=long), long)
    logging.getLogger("torchere").error("%s", long)
    first, second = capsys.readouterr().err.splitlines()
    assert len(first) < 1024
    assert len(second) < MOST_CHARACTERS + 100
    assert len(fields_of(InferRequest(long, "", (), id=long, trace=long))["request_id"]) == 128


def test_of_a_request_that_nobody_asked_about_nothing_is_kept() -> None:
    assert Watcher().begin(asking()) is None
    assert Watcher().passes_by("double")
    assert not Watcher(logs_access=True).passes_by("double")
