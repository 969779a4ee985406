"""The sockets of the web process: each round polls only those that may have changed."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from webserver import Sockets


class Entry:
    """The object that waitress has for a socket."""

    def __init__(self, sockets: Sockets) -> None:
        self.accepting, self.requests = False, []
        self.ours, self.theirs = socket.socketpair()
        self.theirs.settimeout(10)
        self.sockets, self.asked, self.received, self.output = sockets, 0, b"", b""
        sockets[self.ours.fileno()] = self

    def readable(self) -> bool:
        self.asked += 1
        return not (self.requests or self.output)

    def writable(self) -> bool:
        return bool(self.output)

    def handle_read_event(self) -> None:
        self.received += self.ours.recv(10)
        if not self.received:
            self.handle_close()

    def handle_write_event(self) -> None:
        self.output = self.output[self.ours.send(self.output) :]

    def handle_close(self) -> None:
        del self.sockets[self.ours.fileno()]
        self.ours.close()


@pytest.fixture
def sockets() -> Sockets:
    return Sockets()


@pytest.fixture
def entries(sockets) -> Iterator[list[Entry]]:
    made = [Entry(sockets) for _ in range(3)]
    sockets.handle_events(0)
    yield made
    for entry in made:
        entry.ours.close()
        entry.theirs.close()


def asked(entries: list[Entry]) -> list[int]:
    """Return how often each was polled since the last call."""
    counts = [entry.asked for entry in entries]
    for entry in entries:
        entry.asked = 0
    return counts


def test_a_round_asks_only_what_something_happened_to(sockets, entries):
    assert asked(entries) == [1, 1, 1], "each when it is new"
    entries[1].theirs.send(b"x")
    for _ in range(3):
        sockets.handle_events(0)
    assert entries[1].received == b"x"
    assert asked(entries) == [0, 1, 0]
    sockets.update_all()
    sockets.handle_events(0)
    assert asked(entries) == [1, 1, 1]


def test_what_a_thread_answers_is_asked_in_every_round_and_then_once_more(sockets, entries):
    entry = entries[0]
    entry.theirs.send(b"x")
    entry.requests.append("one")
    sockets.update_all()
    for _ in range(3):
        sockets.handle_events(0)
    assert (asked(entries)[0], entry.received) == (1 + 3, b"")
    entry.output = b"answer"
    entry.requests.clear()
    for _ in range(3):
        sockets.handle_events(0)
    assert (entry.theirs.recv(10), entry.received) == (b"answer", b"x")


def test_a_listener_is_asked_in_every_round(sockets, entries):
    entries[0].accepting = True
    sockets.update_all()
    for _ in range(3):
        sockets.handle_events(0)
    assert asked(entries) == [1 + 3, 1 + 1, 1 + 1]


def test_a_socket_that_was_closed_is_forgotten_and_its_number_free(sockets, entries):
    number = entries[0].ours.fileno()
    entries[0].theirs.close()
    sockets.handle_events(0)
    assert number not in sockets
    entries[0] = Entry(sockets)
    assert entries[0].ours.fileno() == number
    entries[0].theirs.send(b"x")
    sockets.handle_events(0)
    assert entries[0].received == b"x"
