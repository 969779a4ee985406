"""Which errors of the database pass by themselves."""

from __future__ import annotations

import sqlite3

import psycopg
import pytest
from sqlalchemy import exc

from flask_belfry.core.database_errors import is_database_away, is_transient

AWAY, CONFLICT, WRONG = (True, True), (False, True), (False, False)


def postgres_error(sqlstate: str) -> exc.DBAPIError:
    return exc.DBAPIError("SELECT 1", {}, psycopg.errors.lookup(sqlstate)("what the server said"))


def sqlite_error(code: int) -> exc.DBAPIError:
    error = sqlite3.OperationalError("what SQLite said")
    error.sqlite_errorcode = code
    return exc.OperationalError("SELECT 1", {}, error)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (postgres_error("08006"), AWAY),
        (postgres_error("57P01"), AWAY),
        (postgres_error("25006"), AWAY),  # read-only
        (postgres_error("53100"), AWAY),  # disk full
        (postgres_error("53300"), AWAY),  # too many connections
        (postgres_error("58030"), AWAY),  # an error of the disk
        (exc.OperationalError("SELECT 1", {}, psycopg.OperationalError("gone"), connection_invalidated=True), AWAY),
        (exc.OperationalError(None, None, psycopg.OperationalError("cannot connect")), AWAY),
        (postgres_error("40P01"), CONFLICT),  # deadlock
        (postgres_error("55P03"), CONFLICT),  # lock_timeout
        (postgres_error("57014"), CONFLICT),  # statement_timeout
        (postgres_error("25P03"), CONFLICT),  # idle_in_transaction_session_timeout
        (postgres_error("23505"), WRONG),  # unique
        (postgres_error("42P01"), WRONG),  # no such table
        (postgres_error("53400"), WRONG),  # the statement's own temporary files
        (sqlite_error(sqlite3.SQLITE_IOERR_WRITE), AWAY),
        (sqlite_error(sqlite3.SQLITE_FULL), AWAY),
        (sqlite_error(sqlite3.SQLITE_CANTOPEN), AWAY),
        (sqlite_error(sqlite3.SQLITE_READONLY), AWAY),
        (sqlite_error(sqlite3.SQLITE_ABORT_ROLLBACK), AWAY),
        (sqlite_error(sqlite3.SQLITE_BUSY), CONFLICT),
        (sqlite_error(sqlite3.SQLITE_BUSY_SNAPSHOT), CONFLICT),
        (sqlite_error(sqlite3.SQLITE_LOCKED_SHAREDCACHE), CONFLICT),
        (sqlite_error(sqlite3.SQLITE_ERROR), WRONG),
        (sqlite_error(sqlite3.SQLITE_CONSTRAINT_UNIQUE), WRONG),
        (exc.InterfaceError("SELECT 1", {}, sqlite3.InterfaceError("the driver's own")), WRONG),
        (exc.TimeoutError("no connection left"), CONFLICT),
        (ValueError("no error of the database"), WRONG),
    ],
    ids=str,
)
def test_an_error_is_recognised_by_its_code(error, expected):
    assert (is_database_away(error), is_transient(error)) == expected
