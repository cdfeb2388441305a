"""The engine's reading thread looks for the next request after one that it has answered itself, and then sleeps."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.engine.arena import Guest
from service.engine.counting import Count, Counted
from service.engine.listener import DataConnection, Listener
from service.engine.messages import Cancel, Infer, Result, Took
from service.engine.transport import FrameReader, frame

LIMIT_US = 20_000
REQUEST = b"".join(frame(Infer(1, "m", "1", 1, ((1, 3),), (12,)), [bytes(12)]))


class Echo:
    """Answers at once, or lets another thread do so."""

    def __init__(self) -> None:
        self.answers_here = True
        self.alone: list[bool] = []
        self.counted = 0
        self.entered, self.passed = threading.Semaphore(0), threading.Semaphore(1000)

    def handle(
        self, message: Infer | Cancel | Took, body: memoryview, connection: DataConnection, is_alone: bool
    ) -> None:
        self.alone.append(is_alone)
        self.entered.release()
        self.passed.acquire()
        answers = [(Result(message.id, ((1, 3),), (12,), (0, 0, 0, 0, 0), 1, 1), [memoryview(bytes(12))])]
        if self.answers_here:
            connection.send(answers)
        else:
            thread = threading.Thread(target=connection.send, args=(answers,))
            thread.start()
            thread.join()

    def beat(self) -> None:
        """Nobody watches."""

    def shares(self, guest: Guest) -> None:
        """Nothing copies by itself from there."""

    def count(self) -> None:
        self.counted += 1

    def forget(self, connection: DataConnection) -> None:
        """Nothing waits."""


class Client:
    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.reader = FrameReader(Result)

    def receive(self, count: int = 1) -> None:
        while count > 0:
            count -= len(list(self.reader.received(self.sock.recv_into(self.reader.buffer()))))


@contextlib.contextmanager
def talking(folder: Path, echo: Echo, limit_us: int | None) -> Iterator[tuple[Client, Listener]]:
    listener = Listener(str(folder / "engine"), echo, limit_us)
    listener.start()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(folder / "engine"))
        yield Client(sock), listener


def looks_no_more(listener: Listener) -> bool:
    """Whether it has stopped; waits for that for a hundred times as long as it should take."""
    until = time.monotonic() + 100 * LIMIT_US / 1e6
    while time.monotonic() < until:
        before, since = listener.looks, time.monotonic()
        while time.monotonic() < since + 2 * LIMIT_US / 1e6:
            os.sched_yield()
        if listener.looks == before:
            return True
    return False


def test_after_an_answer_of_its_own_it_looks_then_sleeps(tmp_path: Path) -> None:
    with talking(tmp_path, Echo(), LIMIT_US) as (client, listener):
        client.sock.sendall(REQUEST)
        client.receive()
        assert looks_no_more(listener)
        assert listener.looks > 0
        client.sock.sendall(REQUEST)  # it came late: looking did not pay
        client.receive()
        seen = listener.looks
        assert looks_no_more(listener)
        assert listener.looks == seen


@pytest.mark.parametrize(("limit_us", "answers_here"), [(None, True), (0, True), (LIMIT_US, False)])
def test_it_sleeps_at_once_where_it_may_not_look_or_others_answer(
    tmp_path: Path, limit_us: int | None, answers_here: bool
) -> None:
    echo = Echo()
    echo.answers_here = answers_here
    with talking(tmp_path, echo, limit_us) as (client, listener):
        for _ in range(3):
            client.sock.sendall(REQUEST)
            client.receive()
        assert listener.looks == 0


@pytest.mark.parametrize(("limit_us", "alone"), [(None, [True, True]), (LIMIT_US, [True, False])])
def test_what_waited_already_is_not_alone(tmp_path: Path, limit_us: int | None, alone: list[bool]) -> None:
    echo = Echo()
    with talking(tmp_path, echo, limit_us) as (client, listener):
        client.sock.sendall(REQUEST)
        client.receive()
        while limit_us and not listener.looks:
            os.sched_yield()
        echo.alone.clear()
        echo.entered, echo.passed = threading.Semaphore(0), threading.Semaphore(0)
        client.sock.sendall(REQUEST)
        echo.entered.acquire()
        client.sock.sendall(REQUEST)
        echo.passed.release(2)
        client.receive(2)
    assert echo.alone == alone


def test_without_descriptors_who_is_connected_is_served_and_who_comes_later_let_in(tmp_path: Path) -> None:
    with talking(tmp_path, Echo(), None) as (client, _), socket.socket(socket.AF_UNIX) as late:
        client.sock.sendall(REQUEST)
        client.receive()
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest = os.dup(late.fileno())
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
        try:
            late.connect(str(tmp_path / "engine"))
            for _ in range(3):
                client.sock.sendall(REQUEST)
                client.receive()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        late.sendall(REQUEST)
        late.settimeout(10)
        Client(late).receive()


def test_it_says_when_what_was_put_off_has_been_counted(tmp_path: Path) -> None:
    echo = Echo()
    with talking(tmp_path, echo, None) as (client, _):
        client.sock.sendall(b"".join(frame(Count(-5))))
        reader = FrameReader(Counted)
        ((answer, _),) = reader.received(client.sock.recv_into(reader.buffer()))
        assert answer == Counted(-5)
        assert echo.counted == 1
