"""What the parent counts follows the catalog: what is wanted, what has gone, how the ladder ended."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from service.describe import not_loaded
from service.observe import metrics
from service.observe.catalog_recorder import CatalogRecorder
from service.observe.families import families
from service.observe.merge import Reader
from service.observe.metrics import Metric
from service.observe.store import Store
from service.repository.catalog import Catalog, Entry, State

Read = Callable[[Metric], dict[tuple[str, ...], float]]
KEY = "digits", "1"


@pytest.fixture
def recorder(tmp_path: Path) -> CatalogRecorder:
    return CatalogRecorder(Store(tmp_path))


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def samples(metric: Metric) -> dict[tuple[str, ...], float]:
        found = [family for family in families(Reader(tmp_path).read()) if family.name == metric.name]
        return {labels: value for family in found for labels, value in family.samples if isinstance(value, float)}

    return samples


def test_what_nobody_asked_for_is_not_missed(recorder: CatalogRecorder, read: Read) -> None:
    broken = Entry("broken", "1", State.UNAVAILABLE, "no such file")
    recorder.publish(Catalog((broken, not_loaded("other", "1", "nothing has asked for it"))))
    assert read(metrics.READY) == {("broken", "1"): 0, ("other", "1"): 0}
    assert read(metrics.WANTED) == {("broken", "1"): 1, ("other", "1"): 0}
    recorder.publish(Catalog((Entry("broken", "1", State.UNLOADING),)))
    assert read(metrics.WANTED)["broken", "1"] == 0


def test_what_has_gone_neither_serves_nor_is_missed(recorder: CatalogRecorder, read: Read) -> None:
    recorder.publish(Catalog((Entry(*KEY, State.READY, backend="eager", precision="fp32", device="cpu"),)))
    assert read(metrics.INFO) == {(*KEY, "eager", "fp32", "", "cpu"): 1}
    recorder.publish(Catalog())
    assert read(metrics.INFO) == {}
    assert read(metrics.READY) == read(metrics.WANTED) == {KEY: 0}


def test_the_ladder_of_what_serves_now(recorder: CatalogRecorder, read: Read) -> None:
    recorder.raced(KEY, [("eager", "fp32", "slower"), ("inductor", "fp32", "failed"), ("inductor", "fp32", "failed")])
    assert read(metrics.CANDIDATES) == {
        (*KEY, "eager", "fp32", "slower"): 1,
        (*KEY, "inductor", "fp32", "failed"): 2,
    }
    recorder.raced(KEY, [("eager", "fp32", "chosen")])
    assert read(metrics.CANDIDATES) == {(*KEY, "eager", "fp32", "chosen"): 1}


def test_the_size_of_the_cache(recorder: CatalogRecorder, read: Read) -> None:
    recorder.cached(300, 0)
    recorder.cached(200, 1000)
    assert read(metrics.CACHE_BYTES) == {(): 200}
    assert read(metrics.CACHE_LIMIT) == {(): 1000}
