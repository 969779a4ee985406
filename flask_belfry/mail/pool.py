"""The pool of SMTP sessions that the threads of a process share, limited by what the server admits."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from flask_belfry.mail.errors import ServerBusyError, ServerUnreachableError

# Sessions that are idle for longer are closed: if the server limits their number, another process may need one.
IDLE_SECONDS = 5.0
# How long a thread waits for a session before it releases its mails.
WAIT_SECONDS = 10.0
POLL_SECONDS = 0.2
# How often one more session than the server last admitted is tried.
PROBE_SECONDS = 10.0


class Session(Protocol):
    """The part of a connection that the pool uses."""

    @property
    def is_open(self) -> bool: ...
    @property
    def idle_seconds(self) -> float: ...
    def open(self, *, is_only_one: bool = True) -> None: ...
    def close(self) -> None: ...


S = TypeVar("S", bound=Session)


@dataclass(eq=False)
class _Slot(Generic[S]):
    """One of the sessions that the server admits; `session` is None while it is being opened."""

    session: S | None = None


class SessionPool(Generic[S]):
    """Lends sessions to threads.

    If the server refuses a session while others work, it has reached its limit: threads then wait for one of those
    instead of using attempts of their mails, and one more is tried every PROBE_SECONDS.

    Args:
        make: creates a session that is not open yet.
    """

    def __init__(self, make: Callable[[], S]) -> None:
        self._make = make
        self._of_thread = threading.local()
        self._reset()

    def _reset(self) -> None:
        self._process = os.getpid()
        self._changed = threading.Condition()
        self._slots: set[_Slot[S]] = set()
        self._idle: list[S] = []
        self._closer: threading.Timer | None = None
        self._limit = math.inf
        self._probe_at = 0.0
        self._failures = 0
        self._failure: ServerUnreachableError | None = None

    @contextmanager
    def lend(self, should_stop: Callable[[], bool] = lambda: False) -> Iterator[S]:
        """Lend an open session to the block; nested blocks of the same thread get the same one.

        Args:
            should_stop: returns whether to stop waiting.

        Raises:
            ServerUnreachableError: no session can be opened, and no other one is open.
            ServerBusyError: all sessions that the server admits are in use.
        """
        if (lent := getattr(self._of_thread, "session", None)) is not None:
            yield lent
            return
        if self._process != os.getpid():  # a forked process must not use the parent's sockets
            self._reset()
        slot: _Slot[S] = _Slot()
        try:
            session = self._of_thread.session = self._acquire(slot, should_stop)
            yield session
        finally:
            self._of_thread.session = None
            self._release(slot)

    @property
    def is_working(self) -> bool:
        """Whether threads of this process have open sessions in use."""
        with self._changed:
            return self._has_open()

    def close(self) -> None:
        """Close the idle sessions."""
        self._close_idle(0.0)

    def _acquire(self, slot: _Slot[S], should_stop: Callable[[], bool]) -> S:
        ends_at, seen = time.monotonic() + WAIT_SECONDS, self._failures
        while True:
            session = self._enter(slot, ends_at, seen, should_stop)
            is_only_one = len(self._slots) == 1
            try:
                session.open(is_only_one=is_only_one)
            except ServerUnreachableError as error:
                if self._leave_refused(slot, error, is_only_one):
                    raise
            else:
                self._note_open(slot, session)
                return session

    def _enter(self, slot: _Slot[S], ends_at: float, seen: int, should_stop: Callable[[], bool]) -> S:
        """Wait for a slot; return an idle session or a new one."""
        with self._changed:
            while not self._has_free_slot():
                if (failure := self._failure) is not None and self._failures != seen:
                    # With the frames of the failure: one outage is one group of failures, whichever threads meet it.
                    again = ServerUnreachableError(failure.detail, failure.code)
                    raise again.with_traceback(failure.__traceback__) from failure.__cause__
                if should_stop() or (self._has_open() and time.monotonic() > ends_at):
                    raise ServerBusyError("all SMTP connections that the server admits are in use")
                self._changed.wait(POLL_SECONDS)
            self._slots.add(slot)
            while self._idle:
                session = self._idle.pop()
                if session.idle_seconds < IDLE_SECONDS:
                    return session
                session.close()
        return self._make()

    def _has_free_slot(self) -> bool:
        if self._idle or len(self._slots) < self._limit:
            return True
        if time.monotonic() < self._probe_at:
            return False
        self._probe_at = time.monotonic() + PROBE_SECONDS
        self._limit = len(self._slots) + 1
        return True

    def _has_open(self) -> bool:
        return any(slot.session is not None for slot in self._slots)

    def _leave_refused(self, slot: _Slot[S], error: ServerUnreachableError, was_only_one: bool) -> bool:
        """Free the slot of a refused session. Return whether the server admits none; waiting threads then fail too."""
        with self._changed:
            self._slots.discard(slot)
            # Idle sessions count towards the server's limit too.
            others = len(self._slots) + len(self._idle)
            self._limit = max(1, others)
            self._probe_at = time.monotonic() + (PROBE_SECONDS if others else 0.0)
            if is_unreachable := was_only_one and not others:
                self._failures, self._failure = self._failures + 1, error
            self._changed.notify_all()
        return is_unreachable

    def _note_open(self, slot: _Slot[S], session: S) -> None:
        with self._changed:
            slot.session = session
            self._failure = None
            if len(self._slots) >= self._limit:
                self._probe_at = time.monotonic()  # one more was admitted, so the next may be too
            self._changed.notify_all()

    def _release(self, slot: _Slot[S]) -> None:
        with self._changed:
            self._slots.discard(slot)
            if (session := slot.session) is not None:
                if session.is_open:
                    self._idle.append(session)
                    self._close_later()
                elif self._slots:  # closed by the server, which may admit fewer now
                    self._limit = len(self._slots)
                    self._probe_at = time.monotonic() + PROBE_SECONDS
            self._changed.notify_all()

    def _close_later(self) -> None:
        if self._closer is None:
            self._closer = threading.Timer(IDLE_SECONDS, self._close_idle, (IDLE_SECONDS,))
            self._closer.daemon = True
            self._closer.start()

    def _close_idle(self, least_seconds: float) -> None:
        with self._changed:
            if self._closer is not None:
                self._closer.cancel()
                self._closer = None
            old = [session for session in self._idle if session.idle_seconds >= least_seconds]
            self._idle = [session for session in self._idle if session not in old]
            if self._idle:
                self._close_later()
        for session in old:
            session.close()
