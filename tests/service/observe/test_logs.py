"""Log lines cannot be forged, and machines can read them."""

import json
import logging
import sys

import pytest

from service.observe.logs import set_up_logging


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
