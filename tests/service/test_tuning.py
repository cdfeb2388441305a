"""Trace and log settings: what may be set, what null clears, what a model inherits, what a change of the log does."""

from __future__ import annotations

from typing import Any

import pytest

from service.errors import InvalidInput
from service.observe.logs import LogSettings
from service.tuning import change_log, change_trace, log_settings, read_trace_changes, trace_settings


def test_the_defaults_are_those_that_clients_expect() -> None:
    assert trace_settings({}, "") == {
        "trace_file": ("",),
        "trace_level": ("OFF",),
        "trace_rate": ("1000",),
        "trace_count": ("-1",),
        "log_frequency": ("0",),
        "trace_mode": ("triton",),
    }


def test_a_model_inherits_until_it_has_its_own_and_null_gives_it_back() -> None:
    kept = change_trace({}, "", read_trace_changes({"trace_rate": "5", "trace_level": ["TIMESTAMPS", "TENSORS"]}))
    kept = change_trace(kept, "double", read_trace_changes({"trace_rate": 9}))
    assert trace_settings(kept, "double")["trace_rate"] == ("9",)
    assert trace_settings(kept, "double")["trace_level"] == ("TIMESTAMPS", "TENSORS")
    assert trace_settings(kept, "other")["trace_rate"] == ("5",)
    kept = change_trace(kept, "double", read_trace_changes({"trace_rate": None}))
    assert trace_settings(kept, "double")["trace_rate"] == ("5",)
    kept = change_trace(kept, "", read_trace_changes({"trace_rate": [], "log_frequency": "3"}))
    assert trace_settings(kept, "double")["trace_rate"] == ("1000",)
    assert trace_settings(kept, "")["log_frequency"] == ("3",)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"trace_rat": "1"}, "unknown trace setting 'trace_rat': did you mean 'trace_rate'"),
        ({"trace_rate": "-1"}, "must be one whole number, 0 or more"),
        ({"trace_rate": "1.5"}, "must be one whole number"),
        ({"trace_rate": ["1", "2"]}, "must be one whole number"),
        ({"trace_rate": True}, "must be one whole number"),
        ({"trace_rate": "9" * 400}, "must be one whole number"),
        ({"trace_count": "-2"}, "must be one whole number, -1 or more"),
        ({"trace_level": ["LOUD"]}, "must be among OFF, TIMESTAMPS, TENSORS"),
        ({"trace_file": "/etc/passwd"}, "'trace_file' cannot be changed over the network"),
        ({"trace_mode": "opentelemetry"}, "'trace_mode' cannot be changed over the network"),
    ],
)
def test_trace_settings_are_checked(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        read_trace_changes(given)


def test_log_settings_change_one_by_one() -> None:
    log = change_log(LogSettings(), {"log_info": False, "log_verbose_level": 3, "log_file": ""})
    assert log_settings(change_log(log, {"log_format": "ISO8601"})) == {
        "log_file": "",
        "log_error": True,
        "log_warning": True,
        "log_info": False,
        "log_verbose_level": 3,
        "log_format": "ISO8601",
    }


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"log_file": "/tmp/x"}, "'log_file' cannot be changed over the network"),
        ({"log_infos": True}, "unknown log setting 'log_infos': did you mean 'log_info'"),
        ({"log_info": 1}, "'log_info' must be true or false"),
        ({"log_info": None}, "'log_info' must be true or false"),
        ({"log_verbose_level": True}, "'log_verbose_level' must be a whole number"),
        ({"log_verbose_level": -1}, "'log_verbose_level' must be a whole number"),
        ({"log_format": "xml"}, "'log_format' must be one of default, ISO8601"),
    ],
)
def test_log_settings_are_checked(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        change_log(LogSettings(), given)
