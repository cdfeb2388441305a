"""Log lines cannot be forged, and machines can read them."""

import json
import logging
import re
import sys

import pytest

from service.observe.logs import LogSettings, follow_log_settings, log_settings_of, set_up_logging


@pytest.fixture(autouse=True)
def root_logger_as_it_was() -> object:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:], root.level = handlers, level


def test_a_clients_text_cannot_begin_a_new_line(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("human", "info", "frontend")
    logging.getLogger("torchere").info("model '%s' is unknown", "x\n12:00:00 ERROR forged\x1b[31m")
    (line,) = capsys.readouterr().err.splitlines()
    assert "frontend: model 'x\\x0a12:00:00 ERROR forged\\x1b[31m' is unknown" in line


def test_json_lines_carry_their_fields(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("json", "info", "engine cpu")
    logging.getLogger("torchere").warning("two\nlines", extra={"model": "digits"})
    try:
        raise ValueError("inner")
    except ValueError:
        logging.getLogger("torchere").exception("it failed")
    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (first["level"], first["process"], first["message"], first["model"]) == (
        "warning",
        "engine cpu",
        "two\nlines",
        "digits",
    )
    assert "ValueError: inner" in second["exception"]


def test_the_level_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("human", "warning", "x")
    logging.getLogger("torchere").info("quiet")
    assert capsys.readouterr().err == ""
    assert logging.getLogger().handlers[0].stream is sys.stderr  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("settings", "written"),
    [
        (LogSettings(), ["info", "warning", "error", "critical"]),
        (LogSettings(log_info=False), ["warning", "error", "critical"]),
        (LogSettings(log_warning=False), ["info", "error", "critical"]),
        (LogSettings(log_error=False, log_verbose_level=1), ["debug", "info", "warning", "critical"]),
        (LogSettings(log_error=False, log_warning=False, log_info=False), ["critical"]),
    ],
)
def test_what_is_logged_follows_the_settings(
    settings: LogSettings, written: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    set_up_logging("json", "error", "x")
    follow_log_settings(settings)
    for level in ("debug", "info", "warning", "error", "critical"):
        getattr(logging.getLogger("torchere"), level)("a line")
    assert [json.loads(line)["level"] for line in capsys.readouterr().err.splitlines()] == written


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_a_level_of_the_service_is_the_same_in_the_extensions_words(level: str) -> None:
    assert log_settings_of(level).level == logging.getLevelName(level.upper())


def test_the_date_is_written_where_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("human", "info", "x")
    follow_log_settings(LogSettings(log_format="ISO8601"))
    logging.getLogger("torchere").info("a line")
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO", capsys.readouterr().err)
