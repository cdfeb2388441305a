"""Tracing is there where it is asked for, and nothing of it where not."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from service.observe.sampling import Sampling, trace_defaults
from service.settings import Settings, SettingsError, load_settings
from service.tracing import make_watched


def test_where_nothing_is_wanted_nobody_watches() -> None:
    watched = make_watched(Settings(), lambda outcome, requests: None, lambda model, version: "")
    assert watched.watcher is None
    assert watched.defaults == {}
    watched.follow({"": {"trace_rate": ("1",)}})
    watched.close()


def test_where_traces_are_wanted_the_extension_has_its_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_on")
    settings = Settings(tracing=True, trace_endpoint="http://127.0.0.1:9")
    watched = make_watched(settings, lambda outcome, requests: None, lambda model, version: "")
    assert watched.watcher is not None
    assert watched.defaults == trace_defaults(Sampling(1.0))
    assert not watched.watcher.passes_by("double")
    watched.follow({"": {"trace_level": ("OFF",)}})
    assert watched.watcher.passes_by("double")
    watched.close()


def test_a_frontend_without_tracing_imports_nothing_of_it() -> None:
    program = "import sys, service.frontend; print([name for name in sys.modules if name[:17] == 'opentelemetry.sdk'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_the_packages_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"pip install 'torchere\[otel\]'"):
        load_settings(tracing=True)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"trace_endpoint": "localhost:4317"}, "must be a URL, as http://localhost:4317, not"),
        ({"trace_ratio": 1.5}, "--trace-ratio: "),
        ({"slow_request_ms": -1.0}, "--slow-request-ms: "),
    ],
)
def test_settings_that_cannot_be_are_refused(given: dict[str, object], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        load_settings(**given)
