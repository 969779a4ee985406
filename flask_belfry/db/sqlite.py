"""SQLite for threads that write: the setup of its connections, and the beginning of their transactions.

A transaction begins at its first statement that writes or locks (`FOR UPDATE`), with SQLite's write lock. Reads before
it see what was committed by then, as in PostgreSQL's READ COMMITTED; they do not block a writer, and do not prevent a
later write. A transaction that began with a read could not write once another writer has committed
(SQLITE_BUSY_SNAPSHOT, with any timeout).
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

# These need no transaction: reads, and what SQLite refuses within one. Any other statement begins one.
NEEDS_NO_TRANSACTION = re.compile(
    r"\s*(SELECT|VALUES|EXPLAIN|PRAGMA|BEGIN|VACUUM|ATTACH|DETACH|WITH(?!.*\b(INSERT|UPDATE|DELETE|REPLACE)\b))\b",
    re.IGNORECASE | re.DOTALL,
)


class WriteLock:
    """The lock of the next writer, among the threads of this process.

    SQLite has one writer at a time. A connection that finds it busy sleeps and tries again, each time for longer, up to
    a tenth of a second: of eight threads that write, one waits for half a second while the others take milliseconds. A
    lock wakes the next thread immediately. It only orders the threads: SQLite itself keeps writers apart, also those
    of other processes.

    Args:
        timeout_seconds: how long a thread waits for the lock. Then it writes without, and a new lock replaces one that
            was never released: a job's time limit may interrupt a thread before it can release it.
    """

    def __init__(self, timeout_seconds: float) -> None:
        self.timeout_seconds = timeout_seconds
        self._lock = threading.Lock()
        # A fork may happen while a thread has the lock, which the child would never see released.
        replace = weakref.WeakMethod(self.replace)
        os.register_at_fork(after_in_child=lambda: (method := replace()) and method())

    def acquire(self) -> threading.Lock | None:
        """Wait for the lock and return it: the caller releases it. None after the timeout."""
        lock = self._lock
        if lock.acquire(timeout=self.timeout_seconds):
            return lock
        if self._lock is lock:
            self.replace()
        return None

    def replace(self) -> None:
        """Replace the lock by a new one."""
        self._lock = threading.Lock()


class SerializedConnection(sqlite3.Connection):
    """A connection whose transactions wait for the write lock. `_connect` sets `write_lock`."""

    write_lock: WriteLock
    _held_lock: threading.Lock | None = None
    has_begun: bool = False  # a transaction, which only SQLite can have ended when `in_transaction` is false

    def acquire_write_lock(self) -> None:
        """Wait for the write lock before a transaction begins; the end of the transaction or connection releases it."""
        if self._held_lock is None:
            self._held_lock = self.write_lock.acquire()

    def check_transaction(self) -> None:
        """Raise sqlite3.OperationalError when SQLite has rolled back the transaction by itself.

        It does so after some errors of the disk. Later statements would be a transaction without its first half.
        """
        if self.has_begun and not self.in_transaction:
            error = sqlite3.OperationalError("SQLite has rolled this transaction back after an error")
            error.sqlite_errorcode = sqlite3.SQLITE_ABORT_ROLLBACK
            raise error

    def commit(self) -> None:
        """Commit. Raises sqlite3.OperationalError when SQLite has rolled back the transaction."""
        try:
            self.check_transaction()
            super().commit()
        finally:
            self.release_write_lock()

    def rollback(self) -> None:
        """Roll back."""
        try:
            super().rollback()
        finally:
            self.release_write_lock()

    def close(self) -> None:
        """Close the connection, which ends its transaction."""
        try:
            super().close()
        finally:
            self._release()

    def release_write_lock(self) -> None:
        """Release the write lock, unless this connection's transaction is open."""
        if not self.in_transaction:
            self.has_begun = False
            self._release()

    def _release(self) -> None:
        lock, self._held_lock = self._held_lock, None
        if lock is not None:
            lock.release()


def engine_options(busy_timeout_seconds: float) -> dict[str, Any]:
    """SQLAlchemy's engine options.

    Args:
        busy_timeout_seconds: how long a connection waits for another writer.
    """
    connect = partial(_connect, WriteLock(busy_timeout_seconds))
    return {"connect_args": {"timeout": busy_timeout_seconds, "check_same_thread": False, "factory": connect}}


class _Compiler(SQLiteCompiler):
    """Notes which statements lock rows: SQLite has no `FOR UPDATE`, but one lock for the whole database.

    It also renders hints of tables, such as `INDEXED BY`.
    """

    locks_rows = False

    def for_update_clause(self, select: Any, **options: Any) -> Literal[""]:
        self.locks_rows = True
        return super().for_update_clause(select, **options)

    def get_from_hint_text(self, table: Any, text: str | None) -> str | None:
        return text


def prepare_engine(engine: sa.Engine) -> None:
    """Register the setup of the connections of `engine`."""
    engine.dialect.statement_compiler = _Compiler
    event.listen(engine, "connect", _configure)
    event.listen(engine, "before_cursor_execute", _begin_if_needed)
    event.listen(engine, "after_cursor_execute", _read_to_the_end)


def _connect(write_lock: WriteLock, *args: Any, **options: Any) -> SerializedConnection:
    connection = SerializedConnection(*args, **options)
    connection.write_lock = write_lock
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
    driver.acquire_write_lock()
    try:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    except BaseException:
        driver.release_write_lock()
        raise
    driver.has_begun = True


def _read_to_the_end(
    connection: sa.Connection,
    cursor: DBAPICursor,
    statement: str,
    parameters: object,
    context: DefaultExecutionContext,
    *_: object,
) -> None:
    # Outside of a transaction, unfetched rows would keep a read open, after which a write could fail.
    if cursor.description is not None and not _driver_of(connection).in_transaction:
        context.cursor_fetch_strategy = FullyBufferedCursorFetchStrategy(cursor)
