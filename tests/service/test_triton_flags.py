"""Flags of tritonserver, as KServe's and ModelMesh's runtimes give them."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from service.cli import main
from service.triton_flags import translate, triton_options

KSERVE = ("--model-store=/mnt/models", "--allow-grpc=true", "--allow-http=true")
MODELMESH = ("--strict-readiness=false", "--strict-model-config=false")


def given(*words: str) -> dict[str, object]:
    found: dict[str, object] = {}

    @click.command()
    @triton_options
    def command(**values: object) -> None:
        found.update(translate(values))

    result = CliRunner().invoke(command, words, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return {name: str(value) for name, value in found.items() if value is not None}


def test_the_words_of_kserve_and_modelmesh() -> None:
    assert given(*KSERVE, *MODELMESH) == {"model_repository": "/mnt/models"}
    assert given("--http-address=0.0.0.0", "--grpc-address=0.0.0.0", "--log-verbose=1") == {
        "host": "0.0.0.0",
        "log_level": "debug",
    }


def test_our_own_words_go_first() -> None:
    assert translate({"model_repository": "ours", "triton_model_store": "theirs"}) == {"model_repository": "ours"}


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--allow-http=false",), "always served"),
        (("--http-address=1.1.1.1", "--grpc-address=2.2.2.2"), "both doors"),
        (("--allow-grpc=perhaps",), "not a valid boolean"),
    ],
)
def test_what_cannot_be_honoured_is_refused(words: tuple[str, ...], part: str) -> None:
    with pytest.raises(click.UsageError, match=part):
        given(*words)


def test_they_are_flags_of_serve() -> None:
    assert CliRunner().invoke(main, ["serve", *KSERVE, *MODELMESH, "--help"]).exit_code == 0
