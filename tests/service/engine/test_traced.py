"""What engines tell of traced requests: who shared a batch, what ran within; and nothing of the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from service.engine.dividing import join
from service.engine.marks import ran_in_parts
from service.engine.messages import Infer, Result
from service.engine.served import Pending
from service.traced import MOST_TOGETHER, Ran, pack_mark, ran_together, unpack_mark
from tests.service.engine import test_generating, test_steps
from tests.service.engine.test_ensemble import PHASES, Bench
from tests.service.engine.test_models import held

ONE, TWO = pack_mark(1 << 127, 2), pack_mark(3, 4)
RAN = Ran(7, (ONE,))


def test_a_mark_is_the_ids_of_a_span() -> None:
    assert unpack_mark(ONE) == (1 << 127, 2)
    assert len(ONE) == 24


def test_no_mark_no_answer_and_no_more_than_a_link_each() -> None:
    assert ran_together([b"", b""], 1.0) is None
    assert ran_together([b"", ONE], 1.5) == Ran(1_500_000_000, (ONE,))
    many = ran_together([ONE] * 1000, 1.0)
    assert many is not None
    assert len(many.together) == MOST_TOGETHER


def test_the_traced_requests_of_a_batch_hear_of_each_other() -> None:
    bench = held()
    for identity, mark in ((1, ONE), (2, b""), (3, TWO)):
        array = np.ones((1, 3), np.float32)
        message = Infer(identity, "double", "1", 1, (array.shape,), (array.nbytes,), mark=mark)
        bench.model.submit(Pending(message, [memoryview(array.tobytes())], bench.connection), now=0.0)
    bench.run(batches=2)
    told = {identity: message for identity, (message, _) in bench.connection.answers.items()}
    ran = {identity: message.ran for identity, message in told.items() if isinstance(message, Result)}
    assert ran[0] is None
    assert ran[2] is None
    assert ran[1] == ran[3]
    assert ran[1] is not None
    assert ran[1].together == (ONE, TWO)
    assert ran[1].began_ns > 0


def test_an_ensemble_tells_of_its_steps() -> None:
    bench = Bench()
    bench.double.ran = bench.negate.ran = RAN
    bench.ask(1, mark=ONE)
    traced = bench.connection.answers[1][0]
    bench.double.ran = bench.negate.ran = None
    bench.ask(2)
    plain = bench.connection.answers[2][0]
    assert isinstance(traced, Result)
    assert traced.ran is not None
    assert traced.ran.began_ns == 0, "it has no batch of its own"
    told = [(step.name, step.version, step.phases, step.ran) for step in traced.ran.steps]
    assert told == [("double", "1", PHASES, RAN), ("negate", "1", PHASES, RAN)]
    assert all(0 < step.began_ns <= step.ended_ns for step in traced.ran.steps)
    assert isinstance(plain, Result)
    assert plain.ran is None
    assert [message.mark for message in bench.double.seen] == [ONE, b""]


def test_python_files_are_told_of_and_so_is_the_model_between_them(tmp_path: Path) -> None:
    files = {"preprocess.py": test_steps.PREPROCESS, "postprocess.py": test_steps.POSTPROCESS}
    bench = test_steps.Bench(tmp_path, files)
    bench.inside.ran = RAN
    bench.submit(1, "hello", mark=ONE)
    message, _ = bench.replies.of(1)
    bench.model.close()
    assert isinstance(message, Result)
    assert message.ran is not None
    assert (message.ran.began_ns, message.ran.together) == (RAN.began_ns, RAN.together)
    assert [(step.name, step.version) for step in message.ran.steps] == [("preprocess.py", ""), ("postprocess.py", "")]
    assert all(0 < step.began_ns <= step.ended_ns for step in message.ran.steps)


def test_a_generation_tells_of_each_time_it_asked_its_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPS_NOTES", str(tmp_path / "notes"))
    bench = test_generating.Bench(tmp_path)
    bench.inside.ran = RAN
    _, last = bench.ask(1, "model 3", mark=ONE)
    bench.model.close()
    assert isinstance(last, Result)
    assert last.ran is not None
    assert [(step.name, step.ran) for step in last.ran.steps] == [("double", RAN)] * 3
    assert not any(message.ran for message, _ in bench.replies.answers[1][:-1])  # type: ignore[union-attr]


def test_a_request_in_parts_tells_of_each() -> None:
    result = Result(0, ((1, 3),), (12,), (5, 1, 2, 3, 4), 1, 1, ran=Ran(100, (ONE,)))
    whole, _ = join(7, [(result, [memoryview(bytes(12))]), (structs.replace(result, id=1), [memoryview(bytes(12))])])
    assert isinstance(whole, Result)
    assert whole.ran is not None
    assert [(step.name, step.began_ns, step.ended_ns) for step in whole.ran.steps] == [("part", 95, 110)] * 2
    assert ran_in_parts([structs.replace(result, ran=None)]) is None
