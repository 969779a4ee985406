"""SQLite's writers within a process take turns: nobody sleeps and asks again, and a lost turn stops nobody for long."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from app import sqlite
from app.extensions import db
from app.sqlite import Turns, reading_only

WRITE = sa.text("INSERT INTO written DEFAULT VALUES")


@pytest.fixture
def engine(tmp_path):
    engine = sa.create_engine(f"sqlite:///{tmp_path}/turns.sqlite3", **sqlite.engine_options(busy_timeout_seconds=20))
    sqlite.prepare_engine(engine)
    # Once it is set up, a connection itself waits for nobody: "database is locked", at once.
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA busy_timeout = 0"))
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE written (id INTEGER PRIMARY KEY)"))
    yield engine
    engine.dispose()


def write(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(WRITE)


def written(engine: sa.Engine) -> int:
    token = reading_only.set(True)
    try:
        with engine.connect() as connection:
            return connection.scalar(sa.text("SELECT count(*) FROM written")) or 0
    finally:
        reading_only.reset(token)


def test_threads_that_write_at_once_never_find_the_database_busy(engine):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: [write(engine) for _ in range(25)], range(8)))
    assert written(engine) == 200


@pytest.mark.parametrize("end", ["commit", "rollback", "close", "invalidate"])
def test_however_a_transaction_ends_the_next_writer_has_its_turn(engine, end):
    connection = engine.connect()
    connection.execute(WRITE)
    others = threading.Thread(target=write, args=(engine,))
    others.start()
    getattr(connection, end)()
    others.join(timeout=10)
    assert not others.is_alive()
    assert written(engine) == (2 if end == "commit" else 1)
    connection.close()


def test_a_statement_that_fails_keeps_nobody_waiting(engine):
    with pytest.raises(OperationalError), engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO missing DEFAULT VALUES"))
    write(engine)
    assert written(engine) == 1


def test_readers_wait_for_no_turn(engine):
    with engine.begin() as connection:
        connection.execute(WRITE)
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(written, engine).result(timeout=10) == 0


def test_a_transaction_that_cannot_begin_gives_its_turn_back(engine, tmp_path):
    """Another process writes: here a connection that takes no turns."""
    stranger = sa.create_engine(f"sqlite:///{tmp_path}/turns.sqlite3")
    with stranger.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        with pytest.raises(OperationalError, match="locked"):
            write(engine)
    stranger.dispose()
    write(engine)
    assert written(engine) == 1


def test_a_turn_that_is_never_given_back_is_waited_for_once():
    turns = Turns(timeout_seconds=0.05)
    lost = turns.take()
    assert lost is not None
    assert turns.take() is None
    following = turns.take()
    assert following is not None
    assert following is not lost


def test_a_forked_process_does_not_wait_for_a_turn_of_its_parent():
    turns = Turns(timeout_seconds=10)
    assert turns.take() is not None
    child = os.fork()
    if child == 0:
        taken = turns._lock.acquire(blocking=False)
        os._exit(0 if taken else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_application_writes_in_turns(app):
    if db.engine.dialect.name != "sqlite":
        pytest.skip("only SQLite has one writer")
    with db.engine.connect() as connection:
        connection.execute(sa.text("SELECT 1"))
        assert isinstance(connection.connection.dbapi_connection, sqlite.TurnTakingConnection)
        assert connection.connection.dbapi_connection._turn is not None
