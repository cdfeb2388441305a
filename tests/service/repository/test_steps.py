"""The steps of a version are kept as they are when it is loaded, where somebody trusts them."""

from pathlib import Path

import pytest

from compiler.errors import LoadFailed
from service.repository.config import ConfigError, read_config
from service.repository.steps import NEW_S, forget_steps, keep_steps
from service.repository.storage import FoundModel
from tests.fakes import contents

BEFORE = "preprocess: {inputs: [{name: text, datatype: BYTES, shape: [-1, 1]}]}\n"
GENERATE = """generate:
  inputs: [{name: text_input, datatype: BYTES, shape: [1]}]
  outputs: [{name: text_output, datatype: BYTES, shape: [1]}]
"""
MODEL = "max_batch_size: 4\ninputs: [{name: x, datatype: FP32, shape: [-1, 2]}]\n"
TRUSTED = MODEL + "trust: true\n"


class Bench:
    def __init__(self, folder: Path) -> None:
        self.runtime = folder / "runtime"
        self.model = folder / "models" / "m"
        self.version = self.model / "1"
        self.version.mkdir(parents=True)
        for name in ("model.py", "model.safetensors", "preprocess.py"):
            (self.version / name).write_text(name)
        (self.version / "vocabulary").mkdir()
        (self.version / "vocabulary" / "words.txt").write_text("one two")

    def keep(self, text: str = TRUSTED + BEFORE, trust_all: bool = False) -> Path | None:
        (self.model / "model.yaml").write_text(text)
        model = FoundModel("m", self.model, read_config(self.model), ("1",))
        steps = keep_steps(model, "1", trust_all, self.runtime).steps
        return Path(steps.folder) if steps is not None else None


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_all_that_lies_beside_the_model_is_kept_but_not_the_model(bench: Bench) -> None:
    (bench.version / "__pycache__").mkdir()
    (bench.version / "__pycache__" / "x.pyc").write_text("")
    (bench.version / ".hidden").write_text("")
    kept = bench.keep()
    assert kept is not None
    assert contents(kept) == {"preprocess.py": b"preprocess.py", "vocabulary/words.txt": b"one two"}


def test_other_files_are_another_folder_and_the_same_are_the_same(bench: Bench) -> None:
    first, again = bench.keep(), bench.keep()
    assert first == again
    (bench.version / "vocabulary" / "words.txt").write_text("three")
    second = bench.keep()
    assert second not in (None, first)
    assert first is not None
    assert (first / "vocabulary" / "words.txt").read_text() == "one two", "what serves goes on with its own"
    assert len(list(first.parent.iterdir())) == 2, "no copy is left behind"


def test_copies_that_are_not_in_use_are_removed_when_they_are_old(bench: Bench) -> None:
    first = bench.keep()
    (bench.version / "preprocess.py").write_text("other")
    second = bench.keep()
    assert first is not None
    now = first.stat().st_mtime + NEW_S / 2
    forget_steps(bench.runtime, ("m", "1"), [str(second)], now)
    assert first.exists(), "somebody may be about to load it"
    forget_steps(bench.runtime, ("m", "1"), [str(second)], now + NEW_S)
    assert list(first.parent.iterdir()) == [second]
    forget_steps(bench.runtime, ("other", "1"), [], now)


def test_a_model_without_steps_keeps_nothing(bench: Bench) -> None:
    assert bench.keep(MODEL) is None
    assert not bench.runtime.exists()


def test_a_file_that_is_not_declared_is_told_of(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.keep(MODEL)
    assert "preprocess.py is not used: model.yaml says nothing of it: declare `preprocess`" in caplog.text


def test_steps_are_code_and_need_trust(bench: Bench) -> None:
    with pytest.raises(LoadFailed, match=r"preprocess\.py can run code: it is Python code; if you trust where"):
        bench.keep(MODEL + BEFORE)
    assert bench.keep(MODEL + BEFORE, trust_all=True) is not None


def test_a_file_that_is_declared_must_be_there(bench: Bench) -> None:
    (bench.version / "preprocess.py").unlink()
    with pytest.raises(LoadFailed, match=r"lacks preprocess\.py: write it, or remove `preprocess` from model\.yaml"):
        bench.keep()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (BEFORE + GENERATE, "preprocess and generate exclude each other: let generate.py do it"),
        (GENERATE + "sequence: {}\n", "sequence and generate exclude each other: keep the state in generate.py"),
        (
            BEFORE.replace("}]}", "}, {name: text, datatype: FP32, shape: [-1]}]}"),
            "preprocess.inputs has the name 'text' twice: each needs its own",
        ),
        (BEFORE + "python: {processes: 0}\n", "python.processes must be greater than or equal to 1"),
    ],
)
def test_steps_that_make_no_sense_are_refused(bench: Bench, text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        bench.keep(TRUSTED + text)
    assert sentence in str(caught.value)
