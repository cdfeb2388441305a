"""The engine process: takes requests from frontends, lets each model's threads run them, loads what the parent says.

Imports torch; knows no HTTP, no gRPC. `opening.py` makes what is served, `models.py` holds the loop that batches,
`listener.py` the sockets.

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
from typing import Protocol

import msgspec

from compiler.orphan import die_with_parent
from service.engine.arena import Guest
from service.engine.blackbox import BlackBox, beside
from service.engine.generating import GeneratingModel
from service.engine.holdings import Holdings
from service.engine.link import BlockingLink, inherited_socket
from service.engine.listener import Listener
from service.engine.messages import (
    Cancel,
    CloseRegions,
    Configure,
    Drain,
    Failure,
    Infer,
    Load,
    Loaded,
    LoadFailed,
    OpenRegion,
    SetLogging,
    Started,
    Took,
    Unload,
    Unloaded,
)
from service.engine.models import ServedModel
from service.engine.opening import Facilities, open_served, renew
from service.engine.quarantine import Quarantine
from service.engine.regions import OpenRegions
from service.engine.rerun import RAN
from service.engine.served import BatchCounter, Connection, Pending, Served
from service.engine.transport import split
from service.engine.visibility import name_inside
from service.errors import Code, ServiceError
from service.observe.batch_recorder import BatchRecorder, Later
from service.observe.logs import follow_log_settings, set_up_logging
from service.observe.recorders import InnerRecorder
from service.observe.store import Store, process_store
from service.runtime.device import Device

log = logging.getLogger("torchere.engine")

SWITCH_INTERVAL_S = 0.0005  # the default 5 ms lets the reading thread hold the lock while a finished batch waits
ARRIVAL_S = 1.0  # frontends send no more by now; what they sent may still lie in a socket
Order = Load | Unload | Drain | Configure | SetLogging | OpenRegion | CloseRegions
BROKEN_DEVICE_EXIT = 70  # EX_SOFTWARE: the parent starts a new process, the only cure for a poisoned CUDA context


class Parent(Protocol):
    """Who gives the orders, and is told what became of them; any thread may call it."""

    def send(self, message: msgspec.Struct) -> None: ...


class Engine:
    """All models of one device. `handle` runs on the listener's thread, loading on a thread of its own."""

    def __init__(self, configure: Configure, link: Parent, store: Store, arrival_s: float = ARRIVAL_S) -> None:
        self._device = Device(name_inside(configure.device), configure.threads, configure.device)
        self._store = store
        self._later = Later()
        self._arrival_s = arrival_s
        self._link = link
        self._holdings = Holdings()
        self._quarantine = Quarantine()
        self.regions = OpenRegions(self._device.name)
        box = beside(configure.socket_path) if configure.socket_path else None
        self._box = BlackBox(box if box is not None and box.exists() else None)
        self._facilities = Facilities(
            self._device, self._counter, InnerRecorder(store), self._holdings, self._box, configure.batch_timeout_s
        )
        self._orders: queue.Queue[Load | Unload] = queue.Queue()
        threading.Thread(target=self._load_all, name="loader", daemon=True).start()

    def __repr__(self) -> str:
        return f"<Engine {self._device!r} {self._holdings!r}>"

    @property
    def is_beside_gpu(self) -> bool:
        return self._device.is_cuda

    def order(self, message: Load | Unload) -> None:
        """Queue the parent's word; it is answered with Loaded, LoadFailed or Unloaded."""
        self._orders.put(message)

    def handle(
        self, message: Infer | Cancel | Took, body: memoryview, connection: Connection, is_alone: bool = False
    ) -> None:
        """One message of a frontend; `is_alone` where the calling thread has nothing else to do for the moment."""
        match message:
            case Infer():
                model = self._holdings.get(message.model, message.version, message.contract)
                if model is None:
                    reason = f"model '{message.model}' version {message.version} is not loaded in this engine"
                    connection.send([(Failure(message.id, Code.NOT_LOADED, reason), ())])
                    return
                pending = Pending(message, split(body, message.sizes), connection, is_alone=is_alone)
                if message.places is not None:
                    self._submit_placed(model, pending)
                    return
                self._submit(model, pending)
            case Cancel():
                submitter = self.regions.leave(connection, message.id)
                self._quarantine.cancel(submitter, message.id)
                for model in self._holdings.all():
                    model.cancel(submitter, message.id)
            case Took(request_id, count):
                for model in self._holdings.all():
                    if isinstance(model, GeneratingModel):
                        model.took(connection, request_id, count)

    def _submit(self, model: Served, pending: Pending) -> None:
        if pending.message.retry == RAN:
            self._quarantine.submit(model, pending)
        else:
            model.submit(pending, time.monotonic())

    def _submit_placed(self, model: Served, pending: Pending) -> None:
        """Some tensors lie in CUDA shared memory. Only a model's own batches take them from there as they are."""
        try:
            pending = self.regions.take(pending, model.entry, stays=isinstance(model, ServedModel) and model.takes_gpu)
        except ServiceError as error:
            pending.connection.send([(Failure(pending.message.id, error.code, str(error)), ())])
        except RuntimeError as error:  # of CUDA; where it is broken, the next batch will find that out
            log.exception("CUDA shared memory could not be read")
            reason = f"CUDA shared memory could not be read: {type(error).__name__}"
            pending.connection.send([(Failure(pending.message.id, Code.FAILED, reason), ())])
        else:
            self._submit(model, pending)

    def beat(self) -> None:
        """The listener's thread gets its turn: the process has not stopped."""
        self._box.beat()

    def forget(self, connection: Connection) -> None:
        """A frontend is gone: nothing of it needs to run."""
        for submitter in (connection, *self.regions.forget(connection)):
            self._quarantine.forget(submitter)
            for model in self._holdings.all():
                model.forget(submitter)

    def shares(self, guest: Guest) -> None:
        """A frontend's tensors will lie there."""
        if self._device.registered is not None:
            self._device.registered.add(guest, *guest.span)

    def count(self) -> None:
        """Count now all that was put off."""
        self._later.finish()

    def lookup(self, name: str, version: str = "") -> Served | None:
        """What is loaded under this name, the highest version where none is named, by its newest contract."""
        return self._holdings.lookup(name, version)

    def close(self) -> None:
        """Answer everything that waits; what was loaded last comes first, for it may call what was there before."""
        for model in reversed(self._holdings.all()):
            model.close()
        self._later.finish()

    def _counter(self, name: str, version: str) -> BatchCounter:
        return BatchRecorder(self._store, name, version, self._later)

    def _load_all(self) -> None:
        with self._device.stream():  # warming up neither waits for the batches that run meanwhile, nor they for it
            while True:
                order = self._orders.get()
                if isinstance(order, Load):
                    with self._box.loading():
                        self._load(order)
                else:
                    threading.Thread(target=self._unload, args=(order,), name="unloader", daemon=True).start()

    def _load(self, order: Load) -> None:
        """Load beside what serves and let it serve. Where that fails, what served before serves on."""
        entry, started = order.entry, time.monotonic()
        used_bytes = self._device.used_bytes
        try:
            served = self._holdings.get(entry.name, entry.version, entry.contract)
            if served is not None:
                renew(served, order, self._facilities)
            else:
                served = open_served(order, self._facilities)
                served.start(on_broken=_leave)
                self._holdings.put(served)
        except Exception as error:
            log.exception("model %s version %s could not be loaded", entry.name, entry.version)
            reason = f"{type(error).__name__}: {error}"
            self._link.send(LoadFailed(entry.name, entry.version, order.generation, reason))
            return
        # What other models take or give back meanwhile is in it: the driver knows processes, not models.
        taken = max(0, self._device.used_bytes - used_bytes)
        counter = self._counter(entry.name, entry.version)
        counter.loaded(self._device.label, taken, entry.batching.max_queue_size)
        self._link.send(Loaded(entry.name, entry.version, order.generation, time.monotonic() - started))

    def _unload(self, order: Unload) -> None:
        """Let go of a version once what was sent to it has been answered."""
        time.sleep(self._arrival_s)
        for served in self._holdings.take(order.name, order.version, order.keep):
            served.close()
        gc.collect()
        self._device.release()
        self._link.send(Unloaded(order.name, order.version))


def _leave(reason: str) -> None:
    """The process is of no more use: end it at once, so that nothing more is lost; the parent starts another."""
    log.critical("%s: leaving", reason)
    logging.shutdown()
    os._exit(BROKEN_DEVICE_EXIT)


def main() -> None:
    """Serve until the parent says Drain or is gone."""
    die_with_parent()  # also while something in it hangs
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.freeze()  # what was imported stays: to walk it at each collection would stop all batches for 0.3 s
    link: BlockingLink[Order] = BlockingLink(
        inherited_socket(),
        Order,  # type: ignore[arg-type]
    )
    engine: Engine | None = None
    for message in link:
        match message:
            case Configure():
                set_up_logging(message.log_format, message.log_level, f"engine {message.device}")
                engine = Engine(message, link, process_store())
                looks = message.busy_poll_us or engine.is_beside_gpu
                Listener(message.socket_path, engine, message.busy_poll_us if looks else None).start()
                link.send(Started(os.getpid(), path=message.socket_path))
            case SetLogging(settings):
                follow_log_settings(settings)
            case OpenRegion() if engine is not None:
                link.send(engine.regions.open(message))
            case CloseRegions() if engine is not None:
                engine.regions.close(message)
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
