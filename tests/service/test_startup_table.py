"""The table and the lines of a start say how each model runs, and whether something faster is to come."""

import logging

import pytest

from service.repository.catalog import State
from service.startup_table import print_startup, startup_line
from tests.fakes import entry

ADDRESSES = {
    "http": "http://127.0.0.1:8000",
    "grpc": "127.0.0.1:8001",
    "metrics": "http://127.0.0.1:8002/metrics",
}
SERVING = "double version 1: eager fp32 on cpu, from cache in 0.0 s: ready"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"optimization": "optimised"}, SERVING),
        ({"optimization": "compiling"}, f"{SERVING}; a faster artifact is being compiled"),
        ({"optimization": "fallback", "progress": "it crashed"}, f"{SERVING}, not compiled: it crashed"),
        ({"state": State.UNAVAILABLE, "reason": "no memory"}, "double version 1: unavailable: no memory"),
        ({"variant": "onednn"}, SERVING.replace("fp32 on", "fp32 onednn on")),
    ],
)
def test_one_line_for_each_model(changes: dict[str, object], line: str) -> None:
    assert startup_line(entry(**changes)) == line


def test_a_table_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    print_startup((entry(optimization="compiling"),), ADDRESSES, "human")
    printed = capsys.readouterr().err
    assert "ready; a faster artifact is being compiled" in printed
    assert "http://127.0.0.1:8000" in printed


def test_records_for_machines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    print_startup((entry(optimization="compiling"),), ADDRESSES, "json")
    assert caplog.records[0].getMessage().endswith("a faster artifact is being compiled")
