"""The engines of an application: their options, and the setup of their connections."""

from __future__ import annotations

import math
import os
import re
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import sqlalchemy as sa
from flask import Flask, has_request_context
from sqlalchemy import event
from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from flask_belfry.core import clock as database_time
from flask_belfry.db import sqlite, statement_time
from flask_belfry.db.session import db

# A host that fails does not close its connections: a client must not wait for a dead server, nor others for the locks
# of a dead client. Each side probes an idle connection, and closes it after 11 s without an acknowledgement.
KEEPALIVE = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 11_000,  # milliseconds; for what was sent and never acknowledged
}

# Errors about values that PostgreSQL cannot read; their messages contain the values.
DATA_EXCEPTIONS = "22"
QUOTED = re.compile(r'".*"', re.DOTALL)

# For the work of a process outside of its threads, such as claims and group commits.
OTHER_CONNECTIONS = 5
# An engine with one connection of its own, for heartbeats, which must not wait for a connection of the pool.
HEARTBEAT = "heartbeat"
# The same for progress and log lines of running jobs: a write that waits for a lock must not delay a heartbeat.
JOURNAL = "journal"

# A connection that was idle for longer is pinged before it is used.
PING_AFTER_SECONDS = 1.0


def init_app(app: Flask) -> None:
    """Bind `db` to `app`."""
    settings = app.config
    url, threads = settings["SQLALCHEMY_DATABASE_URI"], max(settings["WEB_THREADS"], settings["WORKER_THREADS"])
    options = engine_options(url, settings["SQLITE_BUSY_TIMEOUT_SECONDS"], threads)
    settings["SQLALCHEMY_ENGINE_OPTIONS"] = options
    own = {"url": url, **options, "pool_size": 1, "max_overflow": 0}
    settings["SQLALCHEMY_BINDS"] = {HEARTBEAT: own, JOURNAL: dict(own)}
    db.init_app(app)
    app.shell_context_processor(lambda: {"db": db})
    with app.app_context():
        for engine in db.engines.values():
            _prepare_engine(engine, settings)


def engine_options(uri: str, busy_timeout_seconds: float, threads: int) -> dict[str, Any]:
    """Return SQLAlchemy's engine options for a database URL.

    Args:
        uri: the SQLAlchemy URL.
        busy_timeout_seconds: how long a SQLite connection waits for another writer.
        threads: how many threads of a process use the database. Each may have two connections: one of its session and
            one for `check_cancelled`.
    """
    pool = {"pool_size": threads, "max_overflow": threads + OTHER_CONNECTIONS, "hide_parameters": True}
    if uri.startswith("sqlite"):
        return pool | sqlite.engine_options(busy_timeout_seconds)
    return pool | {"connect_args": {"connect_timeout": 5, **KEEPALIVE}}


@contextmanager
def heartbeat_context(app: Flask) -> Iterator[None]:
    """Enter an application context whose session has its own connection, also when the pool has none left."""
    with app.app_context():
        db.session(bind=db.engines[HEARTBEAT])  # the first call in a context makes its session
        yield


def journal_engine(app: Flask) -> sa.Engine:
    """Return the engine of the connection that writes progress and log lines."""
    with app.app_context():
        return db.engines[JOURNAL]


def _limits(settings: Mapping[str, Any], command: str) -> str:
    """Return the SQL that limits a request's statements on PostgreSQL: a waiting thread serves no other request."""
    lock, statement = settings["REQUEST_LOCK_TIMEOUT_SECONDS"], settings["REQUEST_STATEMENT_TIMEOUT_SECONDS"]
    milliseconds = {"lock_timeout": math.ceil(lock * 1000), "statement_timeout": math.ceil(statement * 1000)}
    return "; ".join(f"{command} {name} = {value}" for name, value in milliseconds.items())


def _prepare_engine(engine: sa.Engine, settings: Mapping[str, Any]) -> None:
    # A forked process must not use its parent's connections.
    drop = weakref.WeakMethod(engine.dispose)
    os.register_at_fork(after_in_child=lambda: (dispose := drop()) and dispose(close=False))
    database_time.listen(engine)
    statement_time.listen(engine)
    if engine.dialect.name == "sqlite":
        sqlite.prepare_engine(engine)
    else:
        event.listen(engine, "connect", _configure_postgresql)
        event.listen(engine, "checkin", _note_use)
        event.listen(engine, "checkout", partial(_check_out, engine.dialect, _limits(settings, "SET")))
        event.listen(engine, "begin", partial(_limit_transaction, _limits(settings, "SET LOCAL")))


def _note_use(connection: object, record: ConnectionPoolEntry) -> None:
    record.info["used_at"] = time.monotonic()


def _check_out(
    dialect: sa.Dialect,
    limits: str,
    connection: DBAPIConnection,
    record: ConnectionPoolEntry,
    _proxy: PoolProxiedConnection,
) -> None:
    try:
        _ping_if_idle(dialect, connection, record)
        if not record.info["is_pooled"]:
            _limit_session(limits, connection, record)
    except dialect.loaded_dbapi.Error as error:
        raise DisconnectionError("the connection was lost while it was idle") from error


def _ping_if_idle(dialect: sa.Dialect, connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
    """Ping an idle connection. Unlike SQLAlchemy's `pool_pre_ping`, this adds no round trip to every checkout: after a
    restart of the server only connections that were idle need it, those in use get an error."""
    idle_since = record.info.get("used_at")
    if idle_since is not None and time.monotonic() - idle_since > PING_AFTER_SECONDS:
        dialect.do_ping(connection)


@event.listens_for(sa.Engine, "handle_error")
def hide_values(context: ExceptionContext) -> None:
    """Reduce an error of PostgreSQL, which is logged and recorded with attempts, to its first line. `DETAIL` and
    `CONTEXT` show rows and parameters, which `hide_parameters` does not hide."""
    orig, wrapped = context.original_exception, context.sqlalchemy_exception
    diagnostics: Any = getattr(orig, "diag", None)
    if wrapped is None or diagnostics is None or diagnostics.message_primary is None:
        return
    message: str = diagnostics.message_primary
    if diagnostics.sqlstate.startswith(DATA_EXCEPTIONS):
        message = QUOTED.sub('"…"', message)
    orig.args = (message,)
    wrapped.args = (f"({type(orig).__module__}.{type(orig).__name__}) {message}",)


def _limit_session(limits: str, connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
    """Set the limits of a connection when a request uses it, and remove them when something else does. In a web process
    that happens once."""
    is_limited = has_request_context()
    if record.info.get("is_limited", False) is not is_limited:
        cursor = connection.cursor()
        cursor.execute(limits if is_limited else "RESET lock_timeout; RESET statement_timeout")
        cursor.close()
        connection.commit()
        record.info["is_limited"] = is_limited


def _limit_transaction(limits: str, connection: sa.Connection) -> None:
    if connection.info["is_pooled"] and has_request_context():
        connection.exec_driver_sql(limits)


def _configure_postgresql(connection: Any, record: ConnectionPoolEntry) -> None:
    """Set up a connection. Behind a pooler in transaction mode, each transaction may run on another connection of the
    server: neither settings nor prepared statements may be left on it. The backend that responds then differs from the
    one that the pooler named at the connection."""
    # Not as startup options, which PgBouncer refuses.
    names = [f"tcp_{name.removeprefix('tcp_')}" for name in KEEPALIVE]
    values = [str(value) for value in KEEPALIVE.values()]
    cursor = connection.cursor()
    cursor.execute(
        "SELECT set_config(n, v, false) FROM unnest(%s::text[], %s::text[]) s (n, v) WHERE pg_backend_pid() = %s",
        (names, values, connection.info.backend_pid),
    )
    record.info["is_pooled"] = cursor.rowcount == 0
    if record.info["is_pooled"]:
        connection.prepare_threshold = None
    cursor.close()
    connection.commit()
