"""Stand-ins with the real method names: engines that compute in Python, counters that remember."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compiler.spec import TensorSpec
from service.engine.messages import Answer, Failure, Infer, LoadModel, Result, Shared, UnloadModel
from service.engine.transport import FrameTemplate
from service.errors import ExecutionFailed, NotLoaded
from service.extensions import Extensions
from service.parent import ParentLink
from service.registrar import Registrar
from service.repository.catalog import Catalog, Entry, State
from service.repository.model_config import ImageInput
from service.repository.scheduling import Generation, Steps
from service.tensors import NUMPY_TYPES

Arrays = list[np.ndarray[Any, Any]]


def entry(**changes: Any) -> Entry:
    """A ready model `double`: FP32 [-1,3] in, twice that out."""
    values: dict[str, Any] = {
        "name": "double",
        "version": "1",
        "state": State.READY,
        "inputs": (TensorSpec("x", "FP32", (-1, 3)),),
        "outputs": (TensorSpec("y", "FP32", (-1, 3)),),
        "max_batch_size": 8,
        "buckets": (1, 2, 4, 8),
        "backend": "eager",
        "precision": "fp32",
        "device": "cpu",
        "origin": "cache",
    }
    return Entry(**{**values, **changes})


IMAGE_ENTRY = entry(
    name="mean_color",
    inputs=(TensorSpec("image", "UINT8", (-1, 4, 4, 3)),),
    outputs=(TensorSpec("color", "FP32", (-1, 3)),),
    images=(ImageInput("image", "stretch", 1.0, "RGB"),),
    labels={"color": ("red", "green", "blue")},
)

LOADING_ENTRY = entry(name="slow_start", state=State.LOADING, reason="compiling: inductor")


def catalog(*more: Entry) -> Catalog:
    return Catalog((entry(), entry(version="2"), IMAGE_ENTRY, LOADING_ENTRY, *more))


class FakeEngines:
    """Answers with numpy; `compute[name]` maps a model's input arrays to its outputs. `asked` keeps the messages."""

    def __init__(self, **compute: Callable[[Arrays], Arrays]) -> None:
        self.asked: list[Infer] = []
        self.error: Exception | None = None
        self._compute: dict[str, Callable[[Arrays], Arrays]] = {
            "double": lambda arrays: [2 * arrays[0]],
            "mean_color": lambda arrays: [arrays[0].mean(axis=(1, 2), dtype=np.float32)],
            **compute,
        }
        self._entries = {found.name: found for found in catalog().entries()}

    def computes(self, name: str, compute: Callable[[Arrays], Arrays]) -> None:
        self._compute[name] = compute

    def know(self, found: Entry) -> None:
        self._entries[found.name] = found

    def begin(
        self, number: int, frame: FrameTemplate, blobs: Sequence[Any], waiter: Any, deadline: float | None
    ) -> Callable[[int], None]:
        raise NotLoaded("these answer through `resend` alone")

    async def resend(self, message: Infer, blobs: Sequence[Any], error: NotLoaded) -> tuple[Result, list[memoryview]]:
        return await self.infer(message, blobs)

    async def infer(self, message: Infer, blobs: Sequence[Any]) -> tuple[Result, list[memoryview]]:
        self.asked.append(message)
        if self.error is not None:
            raise self.error
        specs = self._entries[message.model].inputs
        arrays = [
            np.frombuffer(blob, NUMPY_TYPES[spec.datatype]).reshape(shape)
            for spec, blob, shape in zip(specs, blobs, message.shapes, strict=True)
        ]
        outputs = [np.ascontiguousarray(array) for array in self._compute[message.model](arrays)]
        views = [memoryview(array.tobytes()) for array in outputs]
        shapes = tuple(array.shape for array in outputs)
        sizes = tuple(map(len, views))
        return Result(message.id, shapes, sizes, (1, 2, 3, 4, 5), message.rows, message.rows), views

    async def stream(self, message: Infer, blobs: Sequence[Any]) -> AsyncGenerator[tuple[Result, list[memoryview]]]:
        """One response, the last."""
        yield await self.infer(message, blobs)


class FakeStreams(FakeEngines):
    """Also answers in several responses: `story` gives each whole number below its first one, as [1]."""

    def __init__(self, **compute: Callable[[Arrays], Arrays]) -> None:
        super().__init__(**compute)
        self.given = 0
        self.ended: list[str] = []  # how each stream was left
        self.breaks_after: int | None = None

    async def stream(self, message: Infer, blobs: Sequence[Any]) -> AsyncGenerator[tuple[Result, list[memoryview]]]:
        self.asked.append(message)
        try:
            for value in range(int(np.frombuffer(blobs[0], np.int32)[0])):
                if value == self.breaks_after:
                    raise ExecutionFailed("generate.py of model 'story' failed on this input: KeyError: 'x'")
                self.given += 1
                data = memoryview(np.array([value], np.int32).tobytes())
                yield Result(message.id, ((1,),), (4,), (1, 2, 3, 4, 5), 1, 1, is_final=False), [data]
            yield Result(message.id, (), (), (1, 2, 3, 4, 5), 1, 1), []
        except GeneratorExit:
            self.ended.append("left")
            raise
        self.ended.append("final")


STORY_ENTRY = entry(
    name="story",
    inputs=(TensorSpec("count", "INT32", (1,)),),
    outputs=(TensorSpec("number", "INT32", (1,)),),
    max_batch_size=0,
    buckets=(),
    steps=Steps(
        generate=Generation((TensorSpec("count", "INT32", (1,)),), (TensorSpec("number", "INT32", (1,)),)), folder="x"
    ),
)


class FakeCounter:
    """Remembers what was counted: (model, version, protocol, outcome, rows), and (model, version, whether kept)."""

    def __init__(self) -> None:
        self.traces: list[str] = []
        self.lookups: list[tuple[str, str, bool]] = []
        self.ended: list[tuple[str, str, str, str, int]] = []

    def finished(self, model: str, version: str, protocol: str, outcome: str, seconds: float, rows: int) -> None:
        assert seconds >= 0
        self.ended.append((model, version, protocol, outcome, rows))

    def looked_up(self, model: str, version: str, is_kept: bool, seconds: float) -> None:
        assert seconds >= 0
        self.lookups.append((model, version, is_kept))

    def encoded(self, model: str, version: str, seconds: float) -> None:
        assert seconds >= 0

    def traced(self, model: str, version: str, protocol: str, seconds: float, traceparent: str) -> None:
        self.traces.append(traceparent)

    def tally(self, model: str, version: str, protocol: str, rows: int) -> FakeTally:
        return FakeTally(lambda: self.ended.append((model, version, protocol, "success", rows)))


class FakeTally:
    """Counts at once."""

    def __init__(self, count: Callable[[], None]) -> None:
        self._count = count

    def add(self, arrived: float) -> None:
        assert arrived > 0
        self._count()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class FakeModels:
    """Remembers what was to be loaded and unloaded; raises `error` where it is set."""

    def __init__(self) -> None:
        self.asked: list[LoadModel | UnloadModel] = []
        self.uploaded: dict[str, bytes] = {}
        self.error: Exception | None = None

    async def load(self, change: LoadModel) -> None:
        self.asked.append(change)
        if change.upload:
            self.uploaded = contents(Path(change.upload))
        if self.error is not None:
            raise self.error

    async def unload(self, change: UnloadModel) -> None:
        self.asked.append(change)


class ParentInProcess:
    """The parent's registrar with one frontend, whose extensions follow at once; `answers` keeps what was replied."""

    def __init__(self, has_shared_memory: bool = True) -> None:
        self.answers: list[Answer] = []
        self.models = FakeModels()
        self.link = ParentLink(lambda ask: self.registrar.ask(0, ask))
        self.registrar = Registrar(
            Shared(),
            models=lambda: self.models,
            has_shared_memory=has_shared_memory,
            publish=self._published,
            reply=self._replied,
        )
        self.registrar.began(0)

    def serve(self, plane: Any) -> Extensions:
        """The door of a frontend with this plane."""
        self._plane, self._extensions = plane, Extensions(plane, self.link)
        return self._extensions

    def _published(self) -> None:
        self._extensions.shared = self.registrar.shared
        self._plane.regions.follow(self.registrar.shared.regions)
        self.registrar.followed(0, self.registrar.shared.number)

    def _replied(self, frontend: int, answer: Answer) -> None:
        self.answers.append(answer)
        self.link.answered(answer)


class FakeBatchCounter:
    """Remembers the rows and bucket of each batch."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, int]] = []
        self.reasons: list[str] = []
        self.running = self.waited = self.parts = 0
        self.elements: list[tuple[int, int]] = []  # where sizes are padded: those of requests, those of padding

    def batch(
        self, queue_ns: Sequence[int], phases_ns: tuple[int, int, int, int], rows: int, bucket: int, parts: int = 0
    ) -> None:
        self.batches.append((rows, bucket))
        self.waited += len(queue_ns)
        self.parts += parts

    def padded(self, own: int, padding: int) -> None:
        self.elements.append((own, padding))

    def depth(self, requests: int) -> None:
        assert requests >= 0

    def queued(self) -> None:
        pass

    def follow(self, length: Callable[[], int]) -> None:
        assert length() == 0

    def dispatched(self, reason: str, requests: int) -> None:
        self.reasons.append(reason)
        self.running += requests

    def settled(self, requests: int) -> None:
        self.running -= requests

    def loaded(self, device: str, memory_bytes: int, queue_limit: int) -> None:
        assert memory_bytes >= 0


class FakeConnection:
    """Collects the answers of an engine, by request."""

    def __init__(self) -> None:
        self.answers: dict[int, tuple[Result | Failure, list[bytes]]] = {}

    def send(self, answers: Sequence[tuple[Result | Failure, Sequence[memoryview]]]) -> None:
        for message, blobs in answers:
            assert message.id not in self.answers, "a request is answered once"
            self.answers[message.id] = (message, [bytes(blob) for blob in blobs])
