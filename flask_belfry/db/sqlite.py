"""SQLite as a database for threads that write: how its connections are set up, and when their transactions begin.

A transaction begins at its first statement that writes or locks (`FOR UPDATE`), with SQLite's write lock. What is read
before sees what is committed by then, as in PostgreSQL's READ COMMITTED, keeps no writer waiting however long it takes,
and does not stop a later write. A transaction that began with a read could not write (SQLITE_BUSY_SNAPSHOT, whatever
the timeout) once another writer has committed.
"""

from __future__ import annotations

import os
import re
import sqlite3
import threading
import weakref
from functools import partial
from typing import Any, Literal, cast

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler
from sqlalchemy.engine.cursor import FullyBufferedCursorFetchStrategy
from sqlalchemy.engine.default import DefaultExecutionContext
from sqlalchemy.engine.interfaces import DBAPICursor

# What needs no transaction: reads, and what SQLite refuses within one. Any other statement, known or not, begins one.
NEEDS_NO_TRANSACTION = re.compile(
    r"\s*(SELECT|VALUES|EXPLAIN|PRAGMA|BEGIN|VACUUM|ATTACH|DETACH|WITH(?!.*\b(INSERT|UPDATE|DELETE|REPLACE)\b))\b",
    re.IGNORECASE | re.DOTALL,
)


class WriteLock:
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


class SerializedConnection(sqlite3.Connection):
    """A connection whose transactions wait for their turn. `turns` is set by the function that makes it."""

    turns: WriteLock
    _turn: threading.Lock | None = None
    _has_begun: bool = False

    def await_turn(self) -> None:
        """Call before a transaction begins; its end, or that of the connection, passes the turn on."""
        if self._turn is None:
            self._turn = self.turns.take()

    def note_begin(self) -> None:
        """Call when a transaction has begun."""
        self._has_begun = True

    def check_transaction(self) -> None:
        """Raises sqlite3.OperationalError when SQLite has rolled back the transaction by itself.

        It does so after some errors of the disk. What follows would be a transaction without the first half.
        """
        if self._has_begun and not self.in_transaction:
            error = sqlite3.OperationalError("SQLite has rolled this transaction back after an error")
            error.sqlite_errorcode = sqlite3.SQLITE_ABORT_ROLLBACK
            raise error

    def commit(self) -> None:
        """Commits. Raises sqlite3.OperationalError when there is nothing left to commit."""
        try:
            self.check_transaction()
            super().commit()
        finally:
            self.pass_turn_on()

    def rollback(self) -> None:
        """Rolls back."""
        try:
            super().rollback()
        finally:
            self.pass_turn_on()

    def close(self) -> None:
        """Ends the connection, and its transaction with it."""
        try:
            super().close()
        finally:
            self._release()

    def pass_turn_on(self) -> None:
        """Lets the next writer begin, unless this connection's transaction is open."""
        if not self.in_transaction:
            self._has_begun = False
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
    connect = partial(_connect, WriteLock(busy_timeout_seconds))
    return {"connect_args": {"timeout": busy_timeout_seconds, "check_same_thread": False, "factory": connect}}


class _Compiler(SQLiteCompiler):
    """Notes which statements lock rows: SQLite has no `FOR UPDATE`, its one lock for all does instead."""

    locks_rows = False

    def for_update_clause(self, select: Any, **options: Any) -> Literal[""]:
        self.locks_rows = True
        return super().for_update_clause(select, **options)


def prepare_engine(engine: sa.Engine) -> None:
    """Sets up whatever connections `engine` makes."""
    engine.dialect.statement_compiler = _Compiler
    event.listen(engine, "connect", _configure)
    event.listen(engine, "before_cursor_execute", _begin_if_needed)
    event.listen(engine, "after_cursor_execute", _read_to_the_end)


def _connect(turns: WriteLock, *args: Any, **options: Any) -> SerializedConnection:
    connection = SerializedConnection(*args, **options)
    connection.turns = turns
    return connection


def _configure(connection: sqlite3.Connection, record: object) -> None:
    # Without this the driver begins transactions on its own, never IMMEDIATE and not for savepoints.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _driver_of(connection: sa.Connection) -> SerializedConnection:
    return cast(SerializedConnection, connection.connection.dbapi_connection)


def _begin_if_needed(
    connection: sa.Connection, cursor: object, statement: str, parameters: object, context: object, *_: object
) -> None:
    driver = _driver_of(connection)
    driver.check_transaction()
    locks_rows = getattr(getattr(context, "compiled", None), "locks_rows", False)
    if driver.in_transaction or (NEEDS_NO_TRANSACTION.match(statement) and not locks_rows):
        return
    driver.await_turn()
    try:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    except BaseException:
        driver.pass_turn_on()
        raise
    driver.note_begin()


def _read_to_the_end(
    connection: sa.Connection,
    cursor: DBAPICursor,
    statement: str,
    parameters: object,
    context: DefaultExecutionContext,
    *_: object,
) -> None:
    # Outside of a transaction, rows that are not fetched yet keep the read open that a write could not follow.
    if cursor.description is not None and not _driver_of(connection).in_transaction:
        context.cursor_fetch_strategy = FullyBufferedCursorFetchStrategy(cursor)
