"""The engine process: takes requests from frontends, lets each model's threads run them, loads what the parent says.

Imports torch; knows no HTTP, no gRPC. `models.py` holds the loop that batches, `listener.py` the sockets.

    python -m service.engine.worker     (started by the parent, with the link in the environment)
"""

from __future__ import annotations

import gc
import logging
import os
import queue
import sys
import threading
import time
from pathlib import Path

from compiler import backends
from compiler.manifest import read_manifest
from service.engine.link import BlockingLink, inherited_socket
from service.engine.listener import DataConnection, Listener
from service.engine.messages import (
    Cancel,
    Configure,
    Drain,
    Failure,
    Infer,
    Load,
    Loaded,
    LoadFailed,
    SetLogging,
    Started,
    Unload,
    Unloaded,
)
from service.engine.models import Pending, ServedModel
from service.engine.transport import split
from service.errors import Code
from service.observe.logs import follow_log_settings, set_up_logging
from service.observe.metrics import EngineMetrics
from service.repository.catalog import Entry
from service.runtime.device import Device
from service.runtime.runner import Runner
from service.statistics import METRICS_VARIABLE, BatchTotals, Tally

log = logging.getLogger("torchere.engine")

SWITCH_INTERVAL_S = 0.0005  # the default 5 ms lets the reading thread hold the lock while a finished batch waits
ARRIVAL_S = 1.0  # frontends send no more by now; what they sent may still lie in a socket
Order = Load | Unload | Drain | Configure | SetLogging
BROKEN_DEVICE_EXIT = 70  # EX_SOFTWARE: the parent starts a new process, the only cure for a poisoned CUDA context


class Engine:
    """All models of one device. `handle` runs on the listener's thread, loading on a thread of its own."""

    def __init__(
        self, configure: Configure, link: BlockingLink[Order], tally: Tally, arrival_s: float = ARRIVAL_S
    ) -> None:
        self._device = Device(configure.device, configure.threads)
        self._tally = tally
        self._arrival_s = arrival_s
        self._link = link
        self._models: dict[tuple[str, str, int], ServedModel] = {}  # by name, version and contract
        self._orders: queue.Queue[Load | Unload] = queue.Queue()
        threading.Thread(target=self._load_all, name="loader", daemon=True).start()

    def __repr__(self) -> str:
        return f"<Engine {self._device!r} {list(self._models.values())!r}>"

    def order(self, message: Load | Unload) -> None:
        """Queue the parent's word; it is answered with Loaded, LoadFailed or Unloaded."""
        self._orders.put(message)

    def handle(self, message: Infer | Cancel, body: memoryview, connection: DataConnection) -> None:
        """One message of a frontend."""
        match message:
            case Infer():
                model = self._models.get((message.model, message.version, message.contract))
                if model is None:
                    reason = f"model '{message.model}' version {message.version} is not loaded in this engine"
                    connection.send([(Failure(message.id, Code.UNAVAILABLE, reason), ())])
                    return
                model.submit(Pending(message, split(body, message.sizes), connection), time.monotonic())
            case Cancel():
                for model in list(self._models.values()):
                    model.cancel(connection, message.id)

    def forget(self, connection: DataConnection) -> None:
        """A frontend is gone: nothing of it needs to run."""
        for model in list(self._models.values()):
            model.forget(connection)

    def close(self) -> None:
        """Answer everything that waits."""
        for model in list(self._models.values()):
            model.close()

    def _load_all(self) -> None:
        with self._device.stream():  # warming up neither waits for the batches that run meanwhile, nor they for it
            while True:
                order = self._orders.get()
                if isinstance(order, Load):
                    self._load(order)
                else:
                    threading.Thread(target=self._unload, args=(order,), name="unloader", daemon=True).start()

    def _load(self, order: Load) -> None:
        """Load beside what serves and let it serve. Where that fails, what served before serves on."""
        entry, started = order.entry, time.monotonic()
        try:
            runners = self._open(entry, Path(order.folder))
        except Exception as error:
            log.exception("model %s version %s could not be loaded", entry.name, entry.version)
            reason = f"{type(error).__name__}: {error}"
            self._link.send(LoadFailed(entry.name, entry.version, order.generation, reason))
            return
        key = entry.name, entry.version, entry.contract
        served = self._models.get(key)
        if served is None:
            counter = BatchTotals(EngineMetrics(*key[:2]), self._tally, *key[:2])
            served = ServedModel(entry, runners, self._device, counter)
            served.start(on_broken=_leave)
            self._models[key] = served
        else:
            served.replace_runners(runners)
        self._link.send(Loaded(entry.name, entry.version, order.generation, time.monotonic() - started))

    def _unload(self, order: Unload) -> None:
        """Let go of a version once what was sent to it has been answered."""
        time.sleep(self._arrival_s)
        for key in [
            key for key in list(self._models) if key[:2] == (order.name, order.version) and key[2] != order.keep
        ]:
            self._models.pop(key).close()
        gc.collect()
        self._device.release()
        self._link.send(Unloaded(order.name, order.version))

    def _open(self, entry: Entry, folder: Path) -> list[Runner]:
        """Load every instance and warm it at every batch size before it may be asked."""
        manifest = read_manifest(folder)
        runners = []
        for _ in range(entry.instances):
            model = backends.load(folder, manifest, self._device.name)
            runner = Runner(model, self._device, entry.inputs, entry.outputs, manifest.chosen.graphs)
            for bucket in sorted(entry.buckets or (1,), reverse=True):
                why_plain = runner.warm_up(example_shapes(entry, bucket), bucket)
                if why_plain:
                    log.info("model %s runs batches of %d without a CUDA graph: %s", entry.name, bucket, why_plain)
            runners.append(runner)
        return runners


def example_shapes(entry: Entry, rows: int) -> list[tuple[int, ...]]:
    """A shape for each input with `rows` rows; dimensions that vary take the manifest's example size, else 1."""
    shapes = []
    for spec in entry.inputs:
        example = spec.example_shape or tuple(max(size, 1) for size in spec.shape)
        shapes.append((rows, *example[1:]) if entry.max_batch_size else tuple(example))
    return shapes


def _leave(reason: str) -> None:
    """The process is of no more use: end it at once, so that nothing more is lost; the parent starts another."""
    log.critical("%s: leaving", reason)
    logging.shutdown()
    os._exit(BROKEN_DEVICE_EXIT)


def main() -> None:
    """Serve until the parent says Drain or is gone."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    link: BlockingLink[Order] = BlockingLink(
        inherited_socket(),
        Order,  # type: ignore[arg-type]
    )
    engine: Engine | None = None
    for message in link:
        match message:
            case Configure():
                set_up_logging(message.log_format, message.log_level, f"engine {message.device}")
                engine = Engine(message, link, Tally(Path(os.environ[METRICS_VARIABLE])))
                Listener(message.socket_path, engine).start()
                link.send(Started(os.getpid(), path=message.socket_path))
            case SetLogging(settings):
                follow_log_settings(settings)
            case Load() | Unload() if engine is not None:
                engine.order(message)
            case Drain() if engine is not None:
                engine.close()
                break
    # All is answered, or the parent is gone and nobody can be. Not by returning: a model may be loading just now, and
    # the interpreter would take its libraries apart under it.
    logging.shutdown()
    os._exit(0)


if __name__ == "__main__":
    main()
