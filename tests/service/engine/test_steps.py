"""Python steps in their own processes: what they give is checked, what they do wrong hurts nobody else."""

import errno
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.engine.messages import Failure, Infer, Result
from service.engine.served import Pending
from service.engine.steps.process import StepsFailed
from service.errors import Code
from service.repository.model_config import Batching
from service.tensors import SequencePoint, unpack_bytes
from tests.service.engine.doubling import until
from tests.service.engine.stepping import POSTPROCESS, PREPROCESS, SLOW, Bench, Make


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    benches: list[Bench] = []

    def make(files: dict[str, str] | None = None, **changes: Any) -> Bench:
        both = {"preprocess.py": PREPROCESS, "postprocess.py": POSTPROCESS}
        benches.append(Bench(tmp_path, both if files is None else files, **changes))
        return benches[-1]

    yield make
    for bench in benches:
        bench.model.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("steps")
    bench = Bench(folder, {"preprocess.py": PREPROCESS, "postprocess.py": POSTPROCESS})
    yield bench
    bench.model.close()


def test_text_goes_in_and_text_comes_out(shared: Bench) -> None:
    assert shared.ask("hello", "ab") == ["hello=10", "ab=4"]
    assert shared.ask("é") == ["é=2"]


def test_what_is_loaded_once_is_there_at_the_next_call(shared: Bench) -> None:
    first, second = shared.ask("count"), shared.ask("count")
    assert isinstance(first, list)
    assert isinstance(second, list)
    assert float(second[0].partition("=")[2]) == float(first[0].partition("=")[2]) + 2


@pytest.mark.parametrize(
    ("text", "code", "sentence"),
    [
        ("refuse", Code.INVALID, "preprocess.py of model 'double' refuses the input: the text is empty"),
        (
            "open",
            Code.FAILED,
            "preprocess.py of model 'double' failed on this input: FileNotFoundError: [Errno 2] No such file or "
            "directory: 'secret.txt'",
        ),
        ("exit", Code.FAILED, "preprocess.py of model 'double' failed on this input: SystemExit: bye"),
        ("name", Code.FAILED, "what preprocess.py returns has 'z': it must have x"),
        ("list", Code.FAILED, "what preprocess.py returns must be a dict of arrays by name, not list"),
        ("dtype", Code.FAILED, "'x' must be float32, that is FP32, got float64: use .astype(np.float32)"),
        ("shape", Code.FAILED, "gave what the model does not take: input 'x': expected FP32 [-1,3] (batch up to 8)"),
        ("rows", Code.FAILED, "output 'answer' must be BYTES [-1,1] with 1 rows, got [2,1]"),
        ("value", Code.FAILED, "postprocess.py of model 'double' failed on this input: ValueError: not the client's"),
    ],
)
def test_what_a_step_does_wrong_is_one_sentence(shared: Bench, text: str, code: Code, sentence: str) -> None:
    failure = shared.failure(text)
    assert failure.code == code
    assert sentence in failure.message
    assert "\n" not in failure.message
    assert shared.ask("ab") == ["ab=4"], "the process serves on"


@pytest.mark.parametrize(
    ("text", "how"),
    [("crash", "which left with exit code 3"), ("kill", "which was killed by SIGKILL")],
)
def test_a_step_that_ends_its_process_fails_its_request_alone(shared: Bench, text: str, how: str) -> None:
    (before,) = shared.model._pool.pids  # type: ignore[attr-defined]
    shared.submit(1_000_000 + len(text), text)
    shared.submit(2_000_000 + len(text), "ab")
    message, _ = shared.replies.of(1_000_000 + len(text))
    assert isinstance(message, Failure)
    assert (message.code, how in message.message) == (Code.FAILED, True), message
    assert isinstance(shared.replies.of(2_000_000 + len(text))[0], Result), "what waits is done by the next process"
    assert shared.model._pool.pids != [before]  # type: ignore[attr-defined]


def test_a_process_that_died_while_idle_costs_no_request(shared: Bench) -> None:
    (pid,) = shared.model._pool.pids  # type: ignore[attr-defined]
    os.kill(pid, signal.SIGKILL)
    until(lambda: os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None)
    assert shared.ask("ab") == ["ab=4"]


def test_what_a_client_left_in_the_models_queue_is_let_go_of(make: Make) -> None:
    bench = make({"postprocess.py": POSTPROCESS})
    bench.inside.hold()
    sent = bytearray(np.ones((1, 3), np.float32).tobytes())
    message = Infer(1, "double", "1", 1, ((1, 3),), (len(sent),))
    bench.model.submit(Pending(message, [memoryview(sent)], bench.replies), time.monotonic())
    bench.model.cancel(bench.replies, 1)
    assert not bench.inside.waiting
    sent.append(0)  # not while anybody has a view of it


def test_where_no_process_can_be_had_another_try_is_made(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make()
    start, failures = subprocess.Popen, [OSError(errno.ENOMEM, "Cannot allocate memory")]

    def fail_first(*words: Any, **how: Any) -> Any:
        if failures:
            raise failures.pop()
        return start(*words, **how)

    monkeypatch.setattr(subprocess, "Popen", fail_first)
    bench.submit(1, "crash")
    assert isinstance(bench.replies.of(1)[0], Failure)
    until(lambda: not failures and bool(bench.model._pool.pids))  # type: ignore[attr-defined]
    assert bench.ask("ab") == ["ab=4"]


def test_a_step_that_hangs_is_ended(make: Make) -> None:
    bench = make(python={"timeout_s": 0.5, "processes": 2})
    bench.submit(1, "hang")
    assert bench.ask("ab") == ["ab=4"], "the other process goes on"
    message, _ = bench.replies.of(1)
    assert isinstance(message, Failure)
    assert message.message == (
        "preprocess.py of model 'double' took longer than 0.5 s (python.timeout_s in model.yaml) and was ended"
    )
    assert bench.ask("ab") == ["ab=4"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("import nothing_like_it", "preprocess.py: ModuleNotFoundError: No module named 'nothing_like_it'"),
        ("def prepare(): ...", "preprocess.py has no function preprocess(): write one"),
        ("def preprocess(:", "preprocess.py: SyntaxError"),
        ("import os; os._exit(1)", "the process of its Python steps ended its process, which left with exit code 1"),
    ],
)
def test_files_that_cannot_be_loaded_are_a_failure_of_the_model(make: Make, text: str, sentence: str) -> None:
    with pytest.raises(StepsFailed) as caught:
        make({"preprocess.py": text})
    assert sentence in str(caught.value)


FICKLE = """
import os
from pathlib import Path

FLAG = Path(__file__).parent / "broken"
if FLAG.exists():
    raise RuntimeError("no vocabulary")

def preprocess(inputs):
    if inputs["text"][0, 0] == b"crash":
        FLAG.write_text("")
        os._exit(1)
    return {"x": [[1.0, 0, 0]]}
"""


def test_while_no_process_can_be_started_again_requests_are_told_to_come_back(make: Make, tmp_path: Path) -> None:
    bench = make({"preprocess.py": FICKLE})
    bench.submit(1, "crash")
    bench.submit(2, "waits")
    message, _ = bench.replies.of(2)
    assert isinstance(message, Failure)
    assert (message.code, message.message) == (
        Code.UNAVAILABLE,
        "the Python steps of model 'double' are being restarted: preprocess.py: RuntimeError: no vocabulary",
    )
    assert bench.failure("comes later").code == Code.UNAVAILABLE
    (tmp_path / "broken").unlink()
    until(lambda: bool(bench.model._pool.pids))  # type: ignore[attr-defined]
    until(lambda: not bench.model._pool._failure)  # type: ignore[attr-defined]
    bench.submit(9, "again")
    assert isinstance(bench.replies.of(9)[0], Result)


def test_only_what_comes_after_the_model(make: Make) -> None:
    bench = make({"postprocess.py": "def postprocess(outputs):\n    return {'answer': [[str(outputs['y'].sum())]]}"})
    data = np.ones((1, 3), np.float32).tobytes()
    bench.model.submit(Pending(Infer(7, "double", "1", 1, ((1, 3),), (12,)), [memoryview(data)], bench.replies), 0.0)
    message, blobs = bench.replies.of(7)
    assert isinstance(message, Result)
    assert unpack_bytes(blobs[0], 1) == [b"6.0"]


def test_a_request_whose_time_runs_out_while_all_processes_are_busy_is_told_in_time(make: Make) -> None:
    bench = make(python={"timeout_s": 2.0})
    bench.submit(1, "hang", priority=1)
    bench.submit(2, "ab", deadline=time.monotonic() + 0.05)
    message, _ = bench.replies.of(2)
    assert isinstance(message, Failure)
    assert message.code == Code.DEADLINE
    assert 1 not in bench.replies.answers
    bench.model.cancel(bench.replies, 1)


def test_a_full_queue_refuses(make: Make) -> None:
    bench = make(python={"timeout_s": 1.0}, batching=Batching(max_queue_size=1))
    bench.submit(1, "hang")
    until(lambda: not bench.model._pool._queue.count)  # type: ignore[attr-defined]
    bench.submit(2, "ab")
    bench.submit(3, "ab")
    message, _ = bench.replies.of(3)
    assert isinstance(message, Failure)
    assert message.code == Code.QUEUE_FULL
    assert isinstance(bench.replies.of(2)[0], Result)


def test_what_a_client_left_behind_is_not_answered(make: Make) -> None:
    bench = make()
    bench.inside.hold()
    bench.submit(1, "ab")
    until(lambda: len(bench.inside.waiting) == 1)
    bench.model.cancel(bench.replies, 1)
    assert not bench.inside.waiting, "it is not run"
    bench.inside.let_go()
    assert bench.ask("abc") == ["abc=6"]
    assert 1 not in bench.replies.answers
    bench.submit(3, "ab")
    bench.model.forget(bench.replies)


def test_requests_of_one_sequence_reach_the_model_in_their_order(make: Make) -> None:
    bench = make({"preprocess.py": SLOW}, python={"processes": 2})
    for number, text in enumerate(("9", "0", "5", "0"), 1):
        bench.submit(number, text, sequence=SequencePoint(5, number == 1))
    for number in range(1, 5):
        bench.replies.of(number)
    assert bench.inside.seen == [9.0, 0.0, 5.0, 0.0]


def test_one_of_a_sequence_that_goes_no_further_holds_up_nobody(make: Make) -> None:
    bench = make({"preprocess.py": SLOW}, python={"processes": 2})
    for number, text in enumerate(("9", "wrong", "0", "20", "1"), 1):
        bench.submit(number, text, sequence=SequencePoint("a", number == 1))
    bench.model.cancel(bench.replies, 4)
    assert isinstance(bench.replies.of(2)[0], Failure)
    assert isinstance(bench.replies.of(5)[0], Result)
    assert bench.inside.seen == [9.0, 0.0, 1.0]
    assert len(bench.model._order) == 0  # type: ignore[attr-defined]


def test_many_requests_at_once_are_all_answered_right(make: Make) -> None:
    bench = make(python={"processes": 2})
    texts = ["x" * (1 + number % 7) for number in range(200)]

    def submit(part: int) -> None:
        for number in range(part, len(texts), 4):
            bench.submit(number + 1, texts[number])

    threads = [threading.Thread(target=submit, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, text in enumerate(texts, 1):
        message, blobs = bench.replies.of(number)
        assert isinstance(message, Result), message
        assert unpack_bytes(blobs[0], 1) == [f"{text}={2 * len(text)}".encode()]


def test_a_process_of_steps_is_small_and_has_no_torch(shared: Bench) -> None:
    shared.ask("ab")
    (pid,) = shared.model._pool.pids  # type: ignore[attr-defined]
    maps, status = Path(f"/proc/{pid}/maps").read_text(), Path(f"/proc/{pid}/status").read_text()
    assert "libtorch" not in maps
    resident_kb = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])
    assert resident_kb < 80_000
