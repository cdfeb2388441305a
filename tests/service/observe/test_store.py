"""Words in files: growth, threads, the living and the dead, and that no counter ever goes backwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from service.observe import metrics
from service.observe.adding import series
from service.observe.merge import Reader
from service.observe.metrics import Metric
from service.observe.recorders import RequestRecorder
from service.observe.store import DIRECTORY_VARIABLE, FILE_PREFIX, Store, metrics_folder

KEY = ("digits", "1")


def read(directory: Path, metric: Metric) -> dict[tuple[str, ...], int]:
    return {labels: int(words[0]) for labels, words in Reader(directory).read()[metric.name].items()}


def files(directory: Path) -> int:
    return len(list(directory.glob(f"{FILE_PREFIX}*")))


def test_series_survive_the_growth_of_the_file(tmp_path: Path) -> None:
    store, reader = Store(tmp_path), Reader(tmp_path)
    found = []
    for number in range(300):
        found.append(series(store, metrics.LATENCY, "digits", str(number), "http"))
        if number % 100 == 0:
            assert len(reader.read()[metrics.LATENCY.name]) == number + 1
    for each in found:
        each.add(7)
    merged = reader.read()[metrics.LATENCY.name]
    assert len(merged) == 300
    assert all(words[0] == 7 for words in merged.values())


def test_a_series_is_found_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert series(store, metrics.PADDING, *KEY) is series(store, metrics.PADDING, *KEY)


def test_threads_lose_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    padding = series(store, metrics.PADDING, *KEY)

    def add() -> None:
        for _ in range(2000):
            with store.lock:
                padding.add(1)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read(tmp_path, metrics.PADDING) == {KEY: 8000}


def test_counters_of_the_dead_count_on_and_their_gauges_end(tmp_path: Path) -> None:
    parent, dead = Store(tmp_path), Store(tmp_path)
    for store in (parent, dead):
        series(store, metrics.PADDING, *KEY).add(5)
        series(store, metrics.QUEUE_DEPTH, *KEY).set(3)
        series(store, metrics.LAST, *KEY).set(10 if store is dead else 4)
    reader = Reader(tmp_path)

    def seen() -> tuple[int, int, int]:
        merged = reader.read()
        words = [merged[metric.name][KEY][0] for metric in (metrics.PADDING, metrics.QUEUE_DEPTH, metrics.LAST)]
        return int(words[0]), int(words[1]), int(words[2])

    assert seen() == (10, 6, 10)
    dead.close()
    assert seen() == (10, 3, 10), "before anybody has taken it over"
    assert parent.absorb_dead(metrics.merge_of) == 1
    assert (seen(), files(tmp_path)) == ((10, 3, 10), 1)
    assert parent.absorb_dead(metrics.merge_of) == 0


def test_exemplars_of_the_dead_stay_whole(tmp_path: Path) -> None:
    parent, dead = Store(tmp_path), Store(tmp_path)
    requests = RequestRecorder(dead)
    requests.finished(*KEY, "http", "success", 0.002, 1)
    requests.traced(*KEY, "http", 0.002, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    dead.close()
    before = Reader(tmp_path).read()[metrics.LATENCY.name]
    parent.absorb_dead(metrics.merge_of)
    after = Reader(tmp_path).read()[metrics.LATENCY.name]
    assert {key: words.tolist() for key, words in before.items()} == {
        key: words.tolist() for key, words in after.items()
    }


def test_restarts_leave_no_files_behind(tmp_path: Path) -> None:
    parent = Store(tmp_path)
    for number in range(5):
        child = Store(tmp_path)
        series(child, metrics.PADDING, *KEY).add(number)
        child.close()
        parent.absorb_dead(metrics.merge_of)
        assert files(tmp_path) == 1
    assert read(tmp_path, metrics.PADDING) == {KEY: 10}


def test_a_process_that_is_killed_is_known_as_dead(tmp_path: Path) -> None:
    program = """if True:
        import time
        from service.observe import metrics
        from service.observe.adding import series
        from service.observe.store import process_store
        series(process_store(), metrics.PADDING, "digits", "1").add(5)
        series(process_store(), metrics.QUEUE_DEPTH, "digits", "1").set(3)
        print("counted", flush=True)
        time.sleep(60)
    """
    environment = {**os.environ, DIRECTORY_VARIABLE: str(tmp_path)}
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "counted\n"
        assert read(tmp_path, metrics.QUEUE_DEPTH) == {KEY: 3}
        assert Store(tmp_path).absorb_dead(metrics.merge_of) == 0
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert read(tmp_path, metrics.QUEUE_DEPTH) == {}
    parent = Store(tmp_path)
    assert parent.absorb_dead(metrics.merge_of) >= 1
    assert read(tmp_path, metrics.PADDING) == {KEY: 5}


def test_where_the_disk_is_full_counting_goes_on_unpublished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path)
    kept = series(store, metrics.PADDING, *KEY)

    def full(file: int, offset: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    for number in range(100):
        series(store, metrics.LATENCY, "digits", str(number), "http").add(1)
    kept.add(1)
    assert "No space left on device: what is new from now on is not published" in caplog.text
    assert read(tmp_path, metrics.PADDING) == {KEY: 1}


def test_what_the_next_version_declares_otherwise_is_passed_over(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.series(("torchere_of_tomorrow", "x")).add(1)
    store.series((metrics.PADDING.name, "digits")).add(1)
    assert read(tmp_path, metrics.PADDING) == {}


def test_the_folder_is_the_chosen_one_or_a_temporary_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DIRECTORY_VARIABLE, raising=False)
    with metrics_folder(tmp_path / "a" / "b") as chosen:
        assert (chosen.is_dir(), os.environ[DIRECTORY_VARIABLE]) == (True, str(chosen))
    assert chosen.is_dir()
    with metrics_folder(None) as temporary:
        assert temporary.is_dir()
    assert not temporary.exists()
