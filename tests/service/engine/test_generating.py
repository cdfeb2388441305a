"""generate.py answers in the model's place: response by response, held back by who reads, ended by who leaves."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from compiler.spec import TensorSpec
from service.engine import generating
from service.engine.generating import GeneratingModel
from service.engine.messages import Failure, Infer, Result
from service.engine.served import Pending
from service.engine.steps.messages import WINDOW
from service.engine.surround import surround
from service.errors import Code
from service.repository.scheduling import Generation, Steps
from service.tensors import Place, Places, pack_bytes, unpack_bytes
from tests.fakes import entry
from tests.service.engine.doubling import Doubling, Replies, until

TEXT, WORD = TensorSpec("text", "BYTES", (1,)), TensorSpec("word", "BYTES", (1,))
GENERATE = """
import os, time
from pathlib import Path
import numpy as np

def generate(inputs, model):
    text = inputs["text"][0].decode()
    name, _, rest = text.partition(" ")
    try:
        if name == "words":
            for word in rest.split():
                yield {"word": [word]}
        if name == "count":
            for number in range(int(rest)):
                yield {"word": [str(number)]}
        if name == "model":
            values = np.array([[1, 2, 3]], np.float32)
            for _ in range(int(rest)):
                values = model(x=values)["y"]
                yield {"word": [f"{values[0, 0]:g}"]}
        if name == "wrong":
            model(x=np.zeros((1, 4), np.float32))
        if name == "other":
            model(z=np.zeros((1, 3), np.float32))
        if name == "refuse":
            raise ValueError("say more")
        if name == "break":
            yield {"word": ["one"]}
            raise KeyError("two")
        if name == "shape":
            yield {"word": ["one", "two"]}
        if name == "crash":
            yield {"word": ["one"]}
            os._exit(4)
        if name == "hang":
            time.sleep(60)
        if name == "deaf":
            yield {"word": ["one"]}
            time.sleep(60)
    finally:
        with open(os.environ["STEPS_NOTES"], "a") as notes:
            notes.write(name + "\\n")
"""


class Bench:
    """generate.py in real processes around a model that doubles."""

    def __init__(self, folder: Path, text: str = GENERATE, **python: Any) -> None:
        (folder / "generate.py").write_text(text)
        self.notes = folder / "notes"
        self.replies = Replies()
        self.inside = Doubling()
        values: dict[str, Any] = {"processes": 1, "timeout_s": 30.0} | python
        steps = Steps(generate=Generation((TEXT,), (WORD,)), folder=str(folder), **values)
        described = entry(inputs=(TEXT,), outputs=(WORD,), max_batch_size=0, buckets=(), steps=steps)
        model = surround(described, self.inside)
        assert isinstance(model, GeneratingModel)
        self.model = model
        self.model.start(on_broken=pytest.fail)

    def submit(self, number: int, text: str, **changes: Any) -> None:
        data = pack_bytes([text.encode()])
        message = Infer(number, "double", "1", 1, ((1,),), (len(data),), **changes)
        self.model.submit(Pending(message, [memoryview(data)], self.replies), time.monotonic())

    def words(self, number: int) -> list[str]:
        """Those that have come so far."""
        answers = self.replies.answers.get(number, [])
        return [unpack_bytes(blobs[0], 1)[0].decode() for message, blobs in answers if blobs]

    def ask(self, number: int, text: str, **changes: Any) -> tuple[list[str], Result | Failure]:
        """The words, and the last message."""
        self.submit(number, text, **changes)
        last, _ = self.replies.all_of(number)[-1]
        return self.words(number), last

    def noted(self) -> list[str]:
        return self.notes.read_text().split() if self.notes.exists() else []


Make = Callable[..., Bench]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    monkeypatch.setenv("STEPS_NOTES", str(tmp_path / "notes"))
    benches: list[Bench] = []

    def make(**python: Any) -> Bench:
        benches.append(Bench(tmp_path, **python))
        return benches[-1]

    yield make
    for bench in benches:
        bench.model.forget(bench.replies)
        bench.model.close()


def test_each_response_comes_by_itself_and_the_last_word_has_no_tensors(make: Make) -> None:
    bench = make()
    words, last = bench.ask(1, "words once upon a time")
    assert words == ["once", "upon", "a", "time"]
    assert isinstance(last, Result)
    assert (last.is_final, last.shapes) == (True, ())
    assert [message.is_final for message, _ in bench.replies.answers[1][:-1]] == [False] * 4  # type: ignore[union-attr]
    assert bench.ask(2, "words")[0] == [], "none at all"


def test_the_model_is_called_and_its_phases_add_up(make: Make) -> None:
    bench = make()
    words, last = bench.ask(1, "model 3")
    assert words == ["2", "4", "8"]
    assert isinstance(last, Result)
    assert last.phases[1:] == (6, 9, 12, 15)


def test_calls_of_several_generations_wait_for_the_model_together(make: Make) -> None:
    bench = make(processes=3)
    bench.inside.hold()
    for number in (1, 2, 3):
        bench.submit(number, "model 1")
    until(lambda: len(bench.inside.waiting) == 3)
    bench.inside.let_go()
    for number in (1, 2, 3):
        bench.replies.all_of(number)
        assert bench.words(number) == ["2"]
    assert bench.inside.batches == [3]


@pytest.mark.parametrize(
    ("text", "words", "code", "sentence"),
    [
        ("refuse", [], Code.INVALID, "generate.py of model 'double' refuses the input: say more"),
        ("break", ["one"], Code.FAILED, "generate.py of model 'double' failed on this input: KeyError: 'two'"),
        ("wrong", [], Code.FAILED, "RuntimeError: generate.py of model 'double' gave what the model does not take"),
        ("other", [], Code.FAILED, "a call of the model has 'z': it must have x"),
        ("shape", [], Code.FAILED, "output 'word' must be BYTES [1], got [2]"),
        ("crash", ["one"], Code.FAILED, "generate.py of model 'double' ended its process, which left with exit code 4"),
    ],
)
def test_what_goes_wrong_ends_one_generation(
    make: Make, text: str, words: list[str], code: Code, sentence: str
) -> None:
    bench = make()
    came, last = bench.ask(1, text)
    assert isinstance(last, Failure), last
    assert (came, last.code) == (words, code)
    assert sentence in last.message
    assert bench.ask(2, "words a")[0] == ["a"], "others go on"


def test_the_models_own_failure_reaches_the_code_that_asked(make: Make) -> None:
    bench = make()
    bench.inside.failure = "model 'double' failed on this input"
    _, last = bench.ask(1, "model 1")
    assert isinstance(last, Failure)
    assert last.message.endswith("RuntimeError: model 'double' failed on this input")


def test_no_more_is_made_than_the_client_takes(make: Make) -> None:
    bench = make()
    bench.submit(1, f"count {3 * WINDOW}")
    until(lambda: len(bench.words(1)) == WINDOW)
    bench.model.took(bench.replies, 1, 5)
    until(lambda: len(bench.words(1)) == WINDOW + 5)
    bench.model.took(bench.replies, 1, WINDOW)
    until(lambda: len(bench.words(1)) == 2 * WINDOW + 5)
    bench.model.took(bench.replies, 1, WINDOW)
    bench.replies.all_of(1)
    assert bench.words(1) == [str(number) for number in range(3 * WINDOW)]


def test_a_client_that_leaves_ends_the_generation_and_its_generator_is_closed(make: Make) -> None:
    bench = make()
    bench.submit(1, "count 1000000")
    until(lambda: len(bench.words(1)) == WINDOW)
    bench.model.cancel(bench.replies, 1)
    assert bench.ask(2, "words a")[0] == ["a"], "the process is free again"
    assert bench.noted() == ["count", "words"], "finally: was run"
    assert len(bench.words(1)) == WINDOW


def test_a_client_that_leaves_while_the_model_is_asked(make: Make) -> None:
    bench = make()
    bench.inside.hold()
    bench.submit(1, "model 5")
    until(lambda: len(bench.inside.waiting) == 1)
    bench.model.cancel(bench.replies, 1)
    until(lambda: bench.noted() == ["model"])
    assert not bench.inside.waiting
    bench.inside.let_go()
    assert bench.ask(2, "model 1")[0] == ["2"]
    assert 1 not in bench.replies.answers


def test_one_that_still_waits_for_a_process_is_forgotten(make: Make) -> None:
    bench = make()
    bench.submit(1, "count 100")
    until(lambda: len(bench.words(1)) == WINDOW)
    bench.submit(2, "words a")
    bench.model.cancel(bench.replies, 2)
    bench.model.cancel(bench.replies, 1)
    bench.model.close()
    assert 2 not in bench.replies.answers


def test_time_that_runs_out_ends_it(make: Make) -> None:
    bench = make()
    _, last = bench.ask(1, "count 1000", deadline=time.monotonic() + 0.3)
    assert isinstance(last, Failure)
    assert last.code == Code.DEADLINE
    assert bench.ask(2, "words a")[0] == ["a"]


def test_tensors_in_the_memory_of_a_gpu_are_refused(make: Make) -> None:
    bench = make()
    _, last = bench.ask(1, "words a", places=Places("cuda:0", (Place(0, 1, 0, 4),)))
    assert isinstance(last, Failure)
    assert (last.code, "cannot use CUDA shared memory" in last.message) == (Code.UNSUPPORTED, True)


def test_a_client_that_takes_nothing_is_let_go(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generating, "CLIENT_TIMEOUT_S", 0.2)
    bench = make()
    words, last = bench.ask(1, "count 1000")
    assert isinstance(last, Failure)
    assert (len(words), last.code, last.message) == (WINDOW, Code.CANCELLED, "the client took no response for 0.2 s")
    assert bench.ask(2, "words a")[0] == ["a"]


def test_code_that_hangs_is_ended(make: Make) -> None:
    bench = make(timeout_s=0.5)
    _, last = bench.ask(1, "hang")
    assert isinstance(last, Failure)
    assert "took longer than 0.5 s" in last.message
    bench.submit(2, "deaf")
    until(lambda: bench.words(2) == ["one"])
    bench.model.cancel(bench.replies, 2)
    assert bench.ask(3, "words a")[0] == ["a"], "it did not stop when it was told to, and was ended"


def test_to_close_waits_for_what_was_begun_and_refuses_what_comes(make: Make) -> None:
    bench = make()
    bench.submit(1, f"count {WINDOW + 1}")
    until(lambda: len(bench.words(1)) == WINDOW)
    closing = threading.Thread(target=bench.model.close)
    closing.start()
    until(lambda: bench.model._is_closing)
    _, last = bench.ask(2, "words a")
    assert isinstance(last, Failure)
    assert last.code == Code.UNAVAILABLE
    bench.model.took(bench.replies, 1, 2)
    closing.join(30)
    assert not closing.is_alive()
    assert len(bench.words(1)) == WINDOW + 1


def test_what_yields_nothing_of_use_is_told(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "def generate(inputs, model):\n    return {'word': ['a']}\n")
    _, last = bench.ask(1, "words")
    assert isinstance(last, Failure)
    assert "generate() in generate.py must yield dicts, it returned dict" in last.message
    bench.model.close()
