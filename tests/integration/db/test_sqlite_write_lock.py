"""When SQLite's transactions begin, and how the writers of a process share one write lock: no writer sleeps and tries
again, and a lock that is never released blocks no writer for long."""

from __future__ import annotations

import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError, OperationalError

from flask_belfry.db import db, sqlite
from flask_belfry.db.sqlite import WriteLock
from tests.domain import Ticket

WRITE = sa.text("INSERT INTO written DEFAULT VALUES")


@pytest.fixture
def engine(tmp_path):
    engine = sa.create_engine(f"sqlite:///{tmp_path}/turns.sqlite3", **sqlite.engine_options(busy_timeout_seconds=20))
    sqlite.prepare_engine(engine)
    # Once it is set up, a connection itself does not wait: "database is locked", immediately.
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA busy_timeout = 0"))
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE written (id INTEGER PRIMARY KEY)"))
    yield engine
    engine.dispose()


def write(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(WRITE)


def written(engine: sa.Engine) -> int:
    with engine.connect() as connection:
        return connection.scalar(sa.text("SELECT count(*) FROM written")) or 0


def takes_lock(engine: sa.Engine, statement: sa.Executable) -> bool:
    """Whether a connection that runs the statement keeps other writers out afterwards."""
    with engine.connect() as connection:
        connection.execute(statement)
        driver = connection.connection.dbapi_connection
        assert isinstance(driver, sqlite.SerializedConnection)
        assert driver.in_transaction == (driver._held_lock is not None)
        return driver.in_transaction


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


def test_a_statement_that_fails_keeps_no_writer_waiting(engine):
    with pytest.raises(OperationalError), engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO missing DEFAULT VALUES"))
    write(engine)
    assert written(engine) == 1


def test_readers_wait_for_no_turn(engine):
    with engine.begin() as connection:
        connection.execute(WRITE)
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(written, engine).result(timeout=10) == 0


def test_a_transaction_that_cannot_begin_releases_the_write_lock(engine, tmp_path):
    """Another process writes: here a connection without the write lock."""
    stranger = sa.create_engine(f"sqlite:///{tmp_path}/turns.sqlite3")
    with stranger.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        with pytest.raises(OperationalError, match="locked"):
            write(engine)
    stranger.dispose()
    write(engine)
    assert written(engine) == 1


def test_a_write_lock_that_is_never_released_is_waited_for_once():
    write_lock = WriteLock(timeout_seconds=0.05)
    lost = write_lock.acquire()
    assert lost is not None
    assert write_lock.acquire() is None
    following = write_lock.acquire()
    assert following is not None
    assert following is not lost


def test_a_forked_process_does_not_wait_for_the_write_lock_of_its_parent():
    write_lock = WriteLock(timeout_seconds=10)
    assert write_lock.acquire() is not None
    child = os.fork()
    if child == 0:
        taken = write_lock._lock.acquire(blocking=False)
        os._exit(0 if taken else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


TABLE = sa.table("written", sa.column("id"))


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        (sa.select(TABLE), False),
        (sa.text("SELECT id FROM written"), False),
        (sa.text(" with w AS (SELECT id FROM written) SELECT id FROM w"), False),
        (sa.text("PRAGMA table_info(written)"), False),
        (sa.text("EXPLAIN DELETE FROM written"), False),
        (sa.text("VACUUM"), False),
        (sa.select(TABLE).with_for_update(), True),
        (sa.select(sa.select(TABLE).with_for_update().subquery()), True),
        (sa.insert(TABLE), True),
        (sa.update(TABLE).values(id=1), True),
        (sa.delete(TABLE), True),
        (sa.text("WITH w AS (SELECT 1 AS id) DELETE FROM written WHERE id IN (SELECT id FROM w)"), True),
        (sa.text("-- why\nDELETE FROM written"), True),
        (sa.text("CREATE TABLE other (id INTEGER)"), True),
        (sa.text("SAVEPOINT half"), True),
    ],
    ids=str,
)
def test_a_transaction_begins_with_what_writes_or_locks_and_not_with_what_reads(engine, statement, expected):
    assert takes_lock(engine, statement) is expected


READS = {
    "text": (sa.text("SELECT id FROM written"), {}),
    "core": (sa.select(TABLE), {}),
    "streamed": (sa.select(TABLE), {"yield_per": 1}),
}


@pytest.mark.parametrize(("query", "options"), READS.values(), ids=READS)
@pytest.mark.parametrize("savepoint", [False, True], ids=["", "savepoint"])
def test_what_reads_and_waits_blocks_no_writer_and_can_write_later(engine, query, options, savepoint):
    for _ in range(3):
        write(engine)
    with engine.begin() as connection:
        result = connection.execute(query, execution_options=options)
        assert result.fetchone()  # and there are more
        write(engine)  # a neighbour
        assert connection.scalar(sa.text("SELECT count(*) FROM written")) == 4
        with connection.begin_nested() if savepoint else contextlib.nullcontext():
            connection.execute(WRITE)
        assert len(result.all()) == 2
    assert written(engine) == 5


def test_a_locked_row_is_read_as_it_is_when_the_lock_is_had(engine):
    write(engine)
    locked = sa.select(sa.func.count()).select_from(TABLE).with_for_update()
    with engine.begin() as connection:
        connection.execute(WRITE)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(lambda: engine.connect().scalar(locked))
            connection.commit()
            assert waiting.result(timeout=10) == 2


def test_of_a_transaction_that_sqlite_has_rolled_back_no_half_is_committed(engine):
    write(engine)
    with engine.connect() as connection:
        connection.execute(WRITE)
        with pytest.raises(IntegrityError):
            connection.execute(sa.text("INSERT OR ROLLBACK INTO written VALUES (1)"))  # as the disk's errors do
        write_on, read_on = partial(connection.execute, WRITE), partial(connection.execute, sa.select(TABLE))
        for go_on in (write_on, read_on, connection.commit):
            with pytest.raises(OperationalError, match="rolled this transaction back"):
                go_on()
        connection.rollback()
        connection.execute(WRITE)
        connection.commit()
    assert written(engine) == 2


def test_the_application_writes_in_turns(app):
    if db.engine.dialect.name != "sqlite":
        pytest.skip("only SQLite has one writer")
    with db.engine.connect() as connection:
        connection.execute(sa.text("SAVEPOINT half"))
        assert isinstance(connection.connection.dbapi_connection, sqlite.SerializedConnection)
        assert connection.connection.dbapi_connection._held_lock is not None


def test_a_session_that_has_loaded_a_row_keeps_no_writer_waiting_and_changes_it_later(app, session):
    session.add(Ticket(title="as it was"))
    session.commit()
    loaded = session.scalars(sa.select(Ticket)).one()
    with db.engine.begin() as neighbour:
        neighbour.execute(sa.insert(Ticket).values(title="the neighbour's"))
    loaded.title = "as it is"
    session.commit()
    assert sorted(session.scalars(sa.select(Ticket.title))) == ["as it is", "the neighbour's"]
