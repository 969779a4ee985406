"""The definition of transient database errors, for web requests, workers, the scheduler and mail delivery.

A transient error is not a fault of the statement. The web responds with 503; a job or a mail is interrupted and uses no
attempt. Any other error (a constraint, a missing table, too many parameters) would occur again.
"""

from __future__ import annotations

import sqlite3

from sqlalchemy import exc
from sqlalchemy.exc import DBAPIError

# Errors that every statement gets, until the server, its host or an operator removes the cause.
AWAY_SQLSTATES = (
    "08",  # the connection failed
    "57P",  # the server stops, starts or ends the connection
    "25006",  # it is read-only: a standby, or the operator's default_transaction_read_only
    "53100",  # its disk is full
    "53200",  # its memory is full
    "53300",  # it has no connection left
    "58",  # an error of its disk or system
)
AWAY_SQLITE_CODES = frozenset(
    {
        sqlite3.SQLITE_ABORT,  # with SQLITE_ABORT_ROLLBACK: one of these errors has ended the transaction
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)
# A conflict with another transaction, or a timeout, which the statement itself may have caused.
CONFLICT_SQLSTATES = (
    "40",  # a deadlock, a serialization failure
    "55P03",  # lock_timeout
    "57014",  # statement_timeout, or the statement was cancelled
    "25P03",  # idle_in_transaction_session_timeout
)
UNDEFINED_SQLSTATES = ("42P01", "42703")  # a table or a column does not exist
CONFLICT_SQLITE_CODES = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


def is_transient(error: BaseException) -> bool:
    """Return whether the error is transient: the database is unavailable, or another transaction was in conflict."""
    return is_database_away(error) or _is_conflict(error)


def is_database_away(error: BaseException) -> bool:
    """Return whether the database is unavailable for all statements."""
    if not isinstance(error, DBAPIError):
        return False
    if isinstance(error.orig, sqlite3.Error):
        return _sqlite_code(error.orig) in AWAY_SQLITE_CODES
    if code := _sqlstate(error):
        return code.startswith(AWAY_SQLSTATES)
    # Without a code: the connection broke, or (no statement) could not be opened.
    return error.connection_invalidated or error.statement is None


def database_problem(error: DBAPIError) -> str:
    """Return the message of a database error for operators: one line with what to do."""
    reason = (str(error.orig).strip().splitlines() or [type(error.orig).__name__])[0]
    if is_database_away(error):
        return f"the database does not answer: check that it runs, and DATABASE_URL ({reason})"
    if _sqlstate(error) in UNDEFINED_SQLSTATES or reason.startswith(("no such table", "no such column")):
        return "the database is not migrated: run `flask --app wsgi db upgrade`"
    return f"the database refused a statement: {reason}"


def _is_conflict(error: BaseException) -> bool:
    if isinstance(error, exc.TimeoutError):  # of the pool: all connections of this process are in use
        return True
    if not isinstance(error, DBAPIError):
        return False
    if isinstance(error.orig, sqlite3.Error):
        return _sqlite_code(error.orig) in CONFLICT_SQLITE_CODES
    return _sqlstate(error).startswith(CONFLICT_SQLSTATES)


def _sqlite_code(error: sqlite3.Error) -> int | None:
    """SQLite's primary result code; None when the error is the driver's own."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _sqlstate(error: DBAPIError) -> str:
    """Return PostgreSQL's SQLSTATE of the error; empty when the server sent none."""
    return getattr(error.orig, "sqlstate", None) or ""
