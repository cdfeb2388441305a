"""A model with Python steps, over processes of the pool, and a model that computes in this one. Not a test."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compiler.spec import TensorSpec
from service.engine.messages import Failure, Infer
from service.engine.served import Pending
from service.engine.stepped import SteppedModel
from service.engine.surround import surround
from service.repository.catalog import Entry
from service.repository.scheduling import Steps
from service.tensors import pack_bytes, unpack_bytes
from tests.fakes import entry
from tests.service.engine.doubling import Doubling, Replies

TEXT = TensorSpec("text", "BYTES", (-1, 1))


ANSWER = TensorSpec("answer", "BYTES", (-1, 1))


PREPROCESS = """
import os, sys, time
import numpy as np

print("loaded")
COUNT = {"calls": 0}

def preprocess(inputs):
    texts = [row[0].decode() for row in inputs["text"]]
    COUNT["calls"] += 1
    print("asked", texts)
    sys.stdout.write("no end of line")
    if "crash" in texts:
        os._exit(3)
    if "exit" in texts:
        sys.exit("bye")
    if "kill" in texts:
        os.kill(os.getpid(), 9)
    if "hang" in texts:
        time.sleep(60)
    if "refuse" in texts:
        raise ValueError("the text is empty\\nsecond line")
    if "open" in texts:
        open("/nowhere/at/all/secret.txt")
    if "name" in texts:
        return {"z": np.zeros((1, 3), np.float32)}
    if "list" in texts:
        return [1]
    if "dtype" in texts:
        return {"x": np.zeros((1, 3))}
    if "shape" in texts:
        return {"x": np.zeros((1, 4), np.float32)}
    if "count" in texts:
        return {"x": [[COUNT["calls"], os.getpid(), 0.0]]}
    return {"x": [[float(len(text)), 0, 0] for text in texts]}
"""


POSTPROCESS = """
import numpy as np

def postprocess(outputs, inputs):
    rows = [f"{text.decode()}={row[0]:g}" for text, row in zip(inputs["text"][:, 0], outputs["y"])]
    if rows[0].startswith("rows"):
        rows.append("one more")
    if rows[0].startswith("value"):
        raise ValueError("not the client's fault")
    return {"answer": np.array(rows, object).reshape(-1, 1)}
"""


SLOW = """
import time

def preprocess(inputs):
    value = float(inputs["text"][0, 0])
    time.sleep(value / 100)
    return {"x": [[value, 0, 0]]}
"""


class Bench:
    """A model that doubles, with text before and after it, in real processes."""

    def __init__(self, folder: Path, files: dict[str, str], **changes: Any) -> None:
        for name, text in files.items():
            (folder / name).write_text(text)
        self.replies = Replies()
        self.inside = Doubling()
        values: dict[str, Any] = {"processes": 1, "timeout_s": 30.0} | changes.pop("python", {})
        has_before, has_after = "preprocess.py" in files, "postprocess.py" in files
        steps = Steps((TEXT,) if has_before else None, (ANSWER,) if has_after else None, folder=str(folder), **values)
        self.entry: Entry = entry(
            inputs=(TEXT,) if has_before else entry().inputs,
            outputs=(ANSWER,) if has_after else entry().outputs,
            steps=steps,
            **changes,
        )
        self.model = surround(self.entry, self.inside)
        assert isinstance(self.model, SteppedModel)
        self.model.start(on_broken=pytest.fail)

    def submit(self, number: int, *texts: str, **changes: Any) -> None:
        data = pack_bytes([text.encode() for text in texts])
        message = Infer(number, "double", "1", len(texts), ((len(texts), 1),), (len(data),), **changes)
        self.model.submit(Pending(message, [memoryview(data)], self.replies), time.monotonic())

    def ask(self, *texts: str, number: int = 0) -> list[str] | Failure:
        number = number or len(self.replies.answers) + 1000
        self.submit(number, *texts)
        message, blobs = self.replies.of(number)
        if isinstance(message, Failure):
            return message
        return [value.decode() for value in unpack_bytes(blobs[0], message.shapes[0][0])]

    def failure(self, *texts: str) -> Failure:
        answer = self.ask(*texts)
        assert isinstance(answer, Failure), answer
        return answer


Make = Callable[..., Bench]
