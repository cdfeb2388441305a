"""Tokens and closed APIs: what a file may hold, who is let in, what a refusal says, a file that changes."""

from __future__ import annotations

import contextlib
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from service.cli import main
from service.errors import Forbidden, Unauthenticated
from service.security import (
    LOOK_EVERY_S,
    MAX_TOKENS,
    SCOPES,
    Guard,
    Operation,
    Restriction,
    TokenFile,
    TokenFileError,
    make_guard,
    read_restriction,
    read_tokens,
    token_line,
)

INFER = Operation("inference", "infer")
LOAD = Operation("model-repository", "control")
LIVE = Operation("health", None)


def guard_of(folder: Path, *lines: str) -> Guard:
    path = folder / "tokens"
    path.write_text("\n".join(lines))
    guard = make_guard(path, ())
    assert guard is not None
    return guard


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def test_nothing_is_guarded_where_nothing_is_set() -> None:
    assert make_guard(None, ()) is None


def test_a_token_lets_its_bearer_do_what_its_scopes_name(tmp_path: Path) -> None:
    guard = guard_of(tmp_path, "# who may what", "", token_line("abc", ["infer", "read"]) + "   the shop")
    guard.check(INFER, bearer("abc").get)
    guard.check(INFER, {"authorization": "bearer   abc "}.get)
    with pytest.raises(Forbidden, match="lacks the scope 'control' that this needs: it has infer, read"):
        guard.check(LOAD, bearer("abc").get)


@pytest.mark.parametrize(
    ("headers", "sentence"),
    [
        ({}, "a token is missing: send the header Authorization: Bearer TOKEN"),
        ({"authorization": "Basic abc"}, "must be Bearer and a token"),
        ({"authorization": "Bearer"}, "must be Bearer and a token"),
        ({"authorization": "Bearer "}, "is not known"),
        ({"authorization": "Bearer abcd"}, "is not known"),
        ({"authorization": "Bearer ab"}, "is not known"),
        ({"authorization": "Bearer \xff"}, "is not known"),
    ],
)
def test_who_has_none_or_another_is_told_so(tmp_path: Path, headers: dict[str, str], sentence: str) -> None:
    guard = guard_of(tmp_path, token_line("abc", SCOPES))
    with pytest.raises(Unauthenticated, match=sentence) as caught:
        guard.check(INFER, headers.get)
    assert "abc" not in str(caught.value)


def test_health_needs_none(tmp_path: Path) -> None:
    guard_of(tmp_path, token_line("abc", SCOPES)).check(LIVE, {}.get)


def test_an_empty_file_lets_nobody_in(tmp_path: Path) -> None:
    with pytest.raises(Unauthenticated):
        guard_of(tmp_path, "").check(INFER, bearer("").get)


def test_a_token_that_stands_twice_has_both_scopes(tmp_path: Path) -> None:
    guard = guard_of(tmp_path, token_line("abc", ["infer"]), token_line("abc", ["control"]))
    guard.check(INFER, bearer("abc").get)
    guard.check(LOAD, bearer("abc").get)


FAULTS = [
    ("secret infer", "line 1: write sha256:DIGEST SCOPES"),
    ("sha256:abcd infer", "line 1: write sha256:DIGEST SCOPES"),
    (f"\n{token_line('abc', ['infer', 'write'])}", "line 2: 'write' is no scope: choose of infer, read, control"),
    (f"sha256:{'0' * 64}", "line 1: write sha256:DIGEST SCOPES"),
    ("\n".join(token_line(str(each), ["infer"]) for each in range(MAX_TOKENS + 1)), "257 tokens, 256 are the most"),
]


@pytest.mark.parametrize(("text", "sentence"), FAULTS)
def test_a_file_that_is_wrong_says_where_and_never_repeats_a_token(text: str, sentence: str) -> None:
    with pytest.raises(TokenFileError, match=sentence) as caught:
        read_tokens(text)
    assert "secret" not in str(caught.value)


@given(st.text(max_size=200))
def test_whatever_the_file_holds_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(TokenFileError):
        assert len(read_tokens(text)) <= MAX_TOKENS


def test_a_missing_file_names_it(tmp_path: Path) -> None:
    with pytest.raises(TokenFileError, match=r"the token file .*/nowhere cannot be read: No such file"):
        TokenFile(tmp_path / "nowhere")
    (tmp_path / "binary").write_bytes(b"\xff")
    with pytest.raises(TokenFileError, match="it is not UTF-8"):
        TokenFile(tmp_path / "binary")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_file_that_changes_is_read_again_and_one_that_is_spoilt_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, clock = tmp_path / "tokens", Clock()
    path.write_text(token_line("one", ["infer"]))
    file = TokenFile(path, clock)
    path.write_text(f"{token_line('one', ['infer'])}\n{token_line('two', ['infer'])}\n")
    assert len(file.tokens) == 1, "it looks once a second"
    clock.now += LOOK_EVERY_S
    assert len(file.tokens) == 2
    path.write_text("spoilt")
    clock.now += LOOK_EVERY_S
    assert len(file.tokens) == 2
    assert "cannot be used" in caplog.text
    path.unlink()
    clock.now += LOOK_EVERY_S
    assert len(file.tokens) == 2
    path.write_text("")
    clock.now += LOOK_EVERY_S
    assert file.tokens == (), "a token that is taken away opens nothing any more"


def test_a_closed_group_is_closed_to_everybody_and_to_no_other_group() -> None:
    guard = Guard(None, [Restriction("model-repository")])
    with pytest.raises(Forbidden, match="This API is restricted: model-repository is closed on this server"):
        guard.check(LOAD, {}.get)
    guard.check(INFER, {}.get)


def test_a_restricted_group_asks_for_its_header() -> None:
    guard = Guard(None, [read_restriction("model-repository:Admin-Key=a=b:c")])
    guard.check(LOAD, {"admin-key": "a=b:c"}.get)
    for headers in ({}, {"admin-key": "a"}, {"admin-key": "é"}):
        with pytest.raises(Forbidden, match="This API is restricted, expecting header 'admin-key'") as caught:
            guard.check(LOAD, headers.get)
        assert "a=b" not in str(caught.value)


def test_two_restrictions_of_a_group_both_hold() -> None:
    guard = Guard(None, [Restriction("inference", "one", "1"), Restriction("inference", "two", "2")])
    guard.check(INFER, {"one": "1", "two": "2"}.get)
    with pytest.raises(Forbidden):
        guard.check(INFER, {"one": "1"}.get)


@pytest.mark.parametrize("text", ["", "health,metadata", "inference:key", "inference:=x", "inference:key=", "nothing"])
def test_a_restriction_that_is_wrong_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be GROUP or GROUP:HEADER=VALUE|is no group of APIs"):
        read_restriction(text)


def test_the_command_makes_tokens_that_the_file_knows(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    made = [
        CliRunner().invoke(main, ["token", *scopes, "--file", str(path), "--note", "the\nshop"]).output.strip()
        for scopes in (["infer"], ["read", "control"])
    ]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert made[0] not in path.read_text()
    guard = make_guard(path, ())
    assert guard is not None
    guard.check(INFER, bearer(made[0]).get)
    guard.check(LOAD, bearer(made[1]).get)
    with pytest.raises(Forbidden):
        guard.check(LOAD, bearer(made[0]).get)


def test_the_command_mends_a_last_line_without_an_end_and_prints_the_line_where_there_is_no_file(
    tmp_path: Path,
) -> None:
    path = tmp_path / "tokens"
    path.write_text(token_line("abc", ["infer"]))
    CliRunner().invoke(main, ["token", "read", "--file", str(path)])
    assert len(read_tokens(path.read_text())) == 2
    printed = CliRunner().invoke(main, ["token", "read"])
    assert len(read_tokens(printed.stderr)) == 1
    refused = CliRunner().invoke(main, ["token", "read", "--file", str(tmp_path / "no" / "where")])
    assert "cannot be written: No such file" in refused.output
