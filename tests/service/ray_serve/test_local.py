"""A model's whole service in one process: an ensemble with its model, a model that answers in several responses."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from service.engine.messages import Failure, Infer, Result
from service.ray_serve.local import CannotServe, LocalService
from service.settings import Settings
from tests.service.ray_serve.loop import in_loop

MODELS = Path(__file__).parents[2] / "models"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("local")
    for name in ("affine", "affine_twice", "story", "typo"):
        shutil.copytree(MODELS / name, folder / "models" / name)
    config = folder / "models/affine/model.yaml"
    config.write_text(config.read_text().replace("[eager, torchscript]", "[eager]"))
    return Settings(
        model_repository=folder / "models",
        cache_dir=folder / "cache",
        trust=True,
        device="cpu",
        threads=1,
        startup="wait",
    )


def body(*arrays: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> memoryview:
    return memoryview(b"".join(array.tobytes() for array in arrays))


@in_loop
async def test_an_ensemble_is_served_with_its_models(settings: Settings) -> None:
    service = LocalService("affine_twice", settings)
    await service.ready()
    (entry,) = service.entries()
    assert (entry.name, entry.is_ready) == ("affine_twice", True)
    values = np.arange(4, dtype=np.float32).reshape(1, 4)
    inputs = [values] * len(entry.inputs)
    shapes, sizes = ((1, 4),) * len(inputs), (16,) * len(inputs)
    message = Infer(1, entry.name, entry.version, 1, shapes, sizes, contract=entry.contract)
    first, blobs = await service.infer(message, body(*inputs))
    assert isinstance(first, Result)
    assert len(blobs) == len(entry.outputs)
    again, same = await service.infer(message, body(*inputs))  # ids of several frontends may be equal
    assert isinstance(again, Result)
    assert [bytes(blob) for blob in same] == [bytes(blob) for blob in blobs]
    unknown = Infer(1, entry.name, "7", 1, shapes, sizes)
    refused, _ = await service.infer(unknown, body(*inputs))
    assert isinstance(refused, Failure)
    assert "not loaded" in refused.message
    await service.close()


@in_loop
async def test_responses_come_one_by_one(settings: Settings) -> None:
    service = LocalService("story", settings)
    await service.ready()
    (entry,) = service.entries()
    tensors = memoryview(b"\x01\x00\x00\x00t" + np.int32(4).tobytes())
    message = Infer(1, "story", entry.version, 1, ((1,), (1,)), (5, 4), contract=entry.contract)
    answers = [answer async for answer in service.stream(message, tensors)]
    texts = [bytes(blobs[0])[4:].decode() for _, blobs in answers[:-1]]
    assert "".join(texts) == "he q"
    assert isinstance(answers[-1][0], Result)
    assert answers[-1][0].is_final
    await service.close()


@in_loop
async def test_a_model_that_cannot_be_served_says_why(settings: Settings) -> None:
    with pytest.raises(CannotServe, match=re.escape("unknown key 'max_batchsize'")):
        await LocalService("typo", settings).ready()
