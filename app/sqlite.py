"""SQLite as a database for threads that write: how its connections are set up, and how their transactions begin."""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from contextvars import ContextVar
from functools import partial
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy import event

# Set where transactions mostly read (pages, `flask shell`): SQLite then begins them without the write lock.
reading_only: ContextVar[bool] = ContextVar("reading_only", default=False)


class Turns:
    """Who writes next, among the threads of this process.

    SQLite has one writer at a time, and whoever finds it busy sleeps and asks again, each time for longer, up to a
    tenth of a second: of eight threads that write, one waits for half a second where the others take milliseconds. A
    lock wakes the next at once. It is a courtesy: what keeps writers apart, those of other processes too, is SQLite.

    Args:
        timeout_seconds: how long a thread waits for its turn. Then it tries without, and whoever comes next no longer
            waits for a turn that was never given back: a job's timeout may strike where none can see to that.
    """

    def __init__(self, timeout_seconds: float) -> None:
        self.timeout_seconds = timeout_seconds
        self._lock = threading.Lock()
        # A fork may happen during somebody's turn, whose end the child never sees.
        renew = weakref.WeakMethod(self.renew)
        os.register_at_fork(after_in_child=lambda: (method := renew()) and method())

    def take(self) -> threading.Lock | None:
        """Waits for a turn; whoever has it releases the lock. None when it took too long."""
        lock = self._lock
        if lock.acquire(timeout=self.timeout_seconds):
            return lock
        if self._lock is lock:
            self.renew()
        return None

    def renew(self) -> None:
        """Forgets whose turn it is."""
        self._lock = threading.Lock()


class TurnTakingConnection(sqlite3.Connection):
    """A connection whose writing transactions wait for their turn. `turns` is set by whoever makes it."""

    turns: Turns
    _turn: threading.Lock | None = None

    def await_turn(self) -> None:
        """Call before a transaction that writes begins; its end, or that of the connection, passes the turn on."""
        if self._turn is None:
            self._turn = self.turns.take()

    def commit(self) -> None:
        """Commits."""
        try:
            super().commit()
        finally:
            self._pass_turn_on()

    def rollback(self) -> None:
        """Rolls back."""
        try:
            super().rollback()
        finally:
            self._pass_turn_on()

    def close(self) -> None:
        """Ends the connection, and its transaction with it."""
        try:
            super().close()
        finally:
            self._release()

    def _pass_turn_on(self) -> None:
        if not self.in_transaction:
            self._release()

    def _release(self) -> None:
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.release()


def engine_options(busy_timeout_seconds: float) -> dict[str, Any]:
    """SQLAlchemy's engine options.

    Args:
        busy_timeout_seconds: how long a connection waits for another writer.
    """
    connect = partial(_connect, Turns(busy_timeout_seconds))
    return {"connect_args": {"timeout": busy_timeout_seconds, "check_same_thread": False, "factory": connect}}


def prepare_engine(engine: sa.Engine) -> None:
    """Sets up whatever connections `engine` makes."""
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)


def _connect(turns: Turns, *args: Any, **options: Any) -> TurnTakingConnection:
    connection = TurnTakingConnection(*args, **options)
    connection.turns = turns
    return connection


def _configure(connection: sqlite3.Connection, record: object) -> None:
    # Without this the driver begins transactions on its own, late and never IMMEDIATE.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin(connection: sa.Connection) -> None:
    if reading_only.get():
        connection.exec_driver_sql("BEGIN")
        return
    # A transaction that reads first and writes later fails at once (SQLITE_BUSY_SNAPSHOT, whatever the
    # timeout) when somebody else wrote in between; one that takes the write lock first only waits.
    cast(TurnTakingConnection, connection.connection.dbapi_connection).await_turn()
    connection.exec_driver_sql("BEGIN IMMEDIATE")
